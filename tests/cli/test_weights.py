"""`weights convert` and `weights fetch`, through the command."""

import torch

from emu2_lit.model import Emu2ForConditionalGeneration, Emu2Processor


def test_convert_to_bfloat16(emu2_lit, weights):
    status, out, _ = emu2_lit("weights", "convert", weights, "half")
    assert (status, out) == (0, "half\n")
    half = Emu2ForConditionalGeneration.from_pretrained("half").state_dict()
    full = Emu2ForConditionalGeneration.from_pretrained(weights).state_dict()
    assert all(torch.equal(half[name], tensor.to(torch.bfloat16)) for name, tensor in full.items())
    assert Emu2Processor.from_pretrained("half").tokenizer.chat


def test_nothing_to_convert(emu2_lit, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = emu2_lit("weights", "convert", "empty", "half")
    assert status == 2 and "empty" in err
    assert not (tmp_path / "half").exists()


def test_name_that_no_hub_has(emu2_lit):
    status, _, err = emu2_lit("weights", "fetch", "no such name")
    assert status == 2 and "no such name" in err and "Traceback" not in err

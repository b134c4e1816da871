"""The adapter for lmms-eval: real requests where lmms-eval is installed, the boxes' form everywhere."""

from importlib.metadata import entry_points

import pytest
from PIL import Image

from emu2_lit.model.boxes import written_boxes


def test_boxes_are_written_as_numbers():
    corners = "".join(f"<patch_index_{value:04d}>" for value in (56, 0, 168, 112))
    text = f"<phrase>a dog</phrase><object>{corners}</object> and a cat"
    assert written_boxes(text) == "a dog [0.250, 0.000, 0.750, 0.500] and a cat"
    assert written_boxes("no box") == "no box"


def test_the_entry_point_names_the_adapter():
    (found,) = entry_points(group="lmms_eval.models", name="emu2")
    assert found.value == "emu2_lit.lmms_eval:manifest"


def test_requests_are_answered(tmp_path):
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: it needs torchvision")
    import torch
    from lmms_eval.api.instance import Instance

    from emu2_lit.lmms_eval import Emu2
    from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor

    torch.manual_seed(0)
    config = Emu2Config.preset("tiny").with_role_tokens()
    Emu2ForConditionalGeneration(config).save_pretrained(tmp_path, processor=Emu2Processor.for_config(config))
    model = Emu2(str(tmp_path), dtype="float32", device_map="cpu")
    model.task_dict = {"vqa": {"val": [{"image": Image.new("RGB", (20, 20), "red")}]}}
    settings = {"max_new_tokens": 4, "until": ["\n"]}
    arguments = ("what is it?", settings, lambda doc: [doc["image"]], 0, "vqa", "val")
    request = Instance("generate_until", arguments, 0, {"task": "vqa", "doc_id": 0, "repeats": 1})
    (answer,) = model.generate_until([request])
    assert isinstance(answer, str) and "\n" not in answer
    assert model.generate_until([request]) == [answer]

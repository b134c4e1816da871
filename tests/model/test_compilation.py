"""Compiled blocks: the same figures, the same names, in training only."""

from functools import partial

import torch
from torch._dynamo.utils import counters

from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration
from emu2_lit.model.compilation import compile_blocks

IDS = torch.tensor([[1, 5, 9, 11, 40, 33, 2]])


def gradients(model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_compiled_blocks_give_the_same_gradients_under_the_same_names(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # C++ would take longer
    torch._dynamo.reset()
    counters.clear()
    model = Emu2ForConditionalGeneration(Emu2Config.preset("tiny")).train()
    names, plain = list(model.state_dict()), gradients(model)
    compile_blocks(model)
    assert list(model.state_dict()) == names
    with torch.no_grad():
        model.eval()(IDS)
    assert not counters["stats"]["unique_graphs"]  # evaluation runs as it did
    compiled = gradients(model.train())
    assert counters["stats"]["unique_graphs"] == 1  # all blocks share one
    torch.testing.assert_close(compiled, plain)

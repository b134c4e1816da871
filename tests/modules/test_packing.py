"""Samples that share a row are learned as if each had a row of its own."""

import pytest
import torch
from torch.testing import assert_close

from datamodules.chat import ChatDataModule
from datamodules.collate import target_counts
from datamodules.dataset import SampleDataset
from emu2_lit.model import Emu2Config, Emu2Processor, packing
from emu2_lit.modules import ChatTuning
from emu2_lit.settings import LoraSettings, SourceSettings
from tests.modules.runs import chat_run
from tests.modules.test_chat import same_training

LENGTH = 480


@pytest.fixture(scope="module")
def processor():
    return Emu2Processor.for_config(Emu2Config.preset("tiny").with_role_tokens())


def data_module(digits, processor):
    source = SourceSettings(path=str(digits / "chat_train.json"), limit=40, system_message="concise")
    return ChatDataModule([source], processor, packing=True, max_length=LENGTH)


def tuned(processor, checkpointing=False):
    """A module whose adapters do something, all of them without dropout."""
    module = ChatTuning(
        Emu2Config.preset("tiny"), processor, lora=LoraSettings(rank=4, dropout=0.0),
        activation_checkpointing=checkpointing,
    )  # fmt: skip
    module.configure_model()
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return module


def learned(module, batches):
    """Loss of all batches together, as training weighs it, and its gradients."""
    module.zero_grad()
    total = sum(target_counts(batch)[0] for batch in batches)
    whole = 0.0
    for batch in batches:
        loss, targets = module.losses(batch)["text"]
        share = loss * targets / total
        share.backward()
        whole += share.item()
    return whole, {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_loss_and_gradients_are_those_of_single_samples(dtype, rounding, digits, processor):
    data, module = data_module(digits, processor), tuned(processor, checkpointing=True).to(dtype)
    samples = SampleDataset(data.sources, data.order, processor, LENGTH)
    collate, rows = data._collator(), [data.packed(row) for row in range(5)]
    assert all(len(row) > 1 for row in rows)
    packed = [collate([samples[row] for row in rows[:2]]), collate([samples[row] for row in rows[2:]])]
    alone = [collate([samples[position]]) for row in rows for position in row]
    assert "pixel_values" in alone[0] and "segment_ids" not in alone[0]
    (loss, gradients), (expected, wanted) = learned(module, packed), learned(module, alone)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert 0 < gradient.norm() and (gradients[name] - gradient).norm() < rounding * gradient.norm(), name


def test_a_neighbour_changes_nothing(digits, processor):
    """Hidden states of a sample do not depend on what stands before it or behind."""
    data, module = data_module(digits, processor), tuned(processor)
    samples = SampleDataset(data.sources, data.order, processor, LENGTH)
    collate, row = data._collator(), data.packed(0)

    def states(positions, place):
        batch = collate([samples[positions]])
        hidden = module.model(**module.inputs(batch)).last_hidden_state
        return hidden[batch["segment_ids"] == place + 1]

    for place, position in enumerate(row):
        assert_close(states(row, place), states([position], 0), rtol=1e-5, atol=1e-5)


def test_what_a_token_sees_and_where_it_stands():
    segments = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 2, 0, 0, 0, 0]])
    assert packing.positions(segments).tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 2, 3]]
    seen = packing.attention(segments)
    assert seen.shape == (2, 1, 6, 6) and seen.any(-1).all()
    expected = [[1], [1, 1], [0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]]
    assert [line[: place + 1] for place, line in enumerate(seen[0, 0].long().tolist())] == expected
    assert not seen.triu(1).any()


def test_any_split_of_the_rows_gives_one_update(digits, tmp_path):
    """Over ranks: tests/run/test_resume.py."""
    whole = chat_run(digits, tmp_path / "whole", micro=4, accumulate=1, packing=True)
    same_training(whole, chat_run(digits, tmp_path, micro=1, accumulate=4, packing=True), rtol=1e-3, atol=2e-5)

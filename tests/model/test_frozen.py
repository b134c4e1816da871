"""What is frozen gets no gradient and keeps nothing for one."""

import torch

from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration
from emu2_lit.model.lora import apply_lora
from emu2_lit.model.parts import freeze
from emu2_lit.settings import LoraSettings


def saved_bytes(model, **inputs) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # so that no address is used twice
        return tensor

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**inputs)
    loss.backward()
    return sum(kept.values())


class Tower(torch.nn.Module):
    """The pooled tower of a model, projected up, as a loss."""

    def __init__(self, model):
        super().__init__()
        self.network = model

    def forward(self, pixel_values):
        return self.network.project_up(self.network.encode_image(pixel_values)).square().mean()


def test_a_frozen_tower_keeps_no_activations():
    model = Emu2ForConditionalGeneration(Emu2Config.preset("tiny")).train()
    pixels = torch.randn(2, 3, 56, 56)
    trained = saved_bytes(Tower(model), pixel_values=pixels)
    assert all(parameter.grad is not None for parameter in model.visual.parameters())
    model.zero_grad()
    freeze(model, ["visual"])
    frozen = saved_bytes(Tower(model), pixel_values=pixels)
    pooled = 2 * model.config.n_query * 64 * 4  # what project_up needs, and two results of project_up for the loss
    projected = 2 * model.config.n_query * 128 * 4
    assert frozen <= pooled + 2 * projected < trained / 20
    assert all(parameter.grad is None for parameter in model.visual.parameters())
    assert model.project_up.weight.grad is not None


def test_with_adapters_no_frozen_weight_gets_a_gradient():
    wrapped = apply_lora(Emu2ForConditionalGeneration(Emu2Config.preset("tiny")), LoraSettings(rank=2)).train()
    ids = torch.tensor([[1, 5, 9, 11, 40, 2]])
    wrapped(input_ids=ids, labels=ids).loss.backward()
    with_gradient = {name for name, parameter in wrapped.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in wrapped.named_parameters() if "lora_" in name}

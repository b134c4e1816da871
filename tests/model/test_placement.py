"""A model over several places gives what it gives in one."""

import pytest
import torch

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2ForConditionalGeneration
from emu2_lit.model.placement import auto_device_map, stored_bytes
from tests.model.weight_cases import tiny_model

IDS = torch.tensor([[1, 5, 9, 11]])
LAYERS = "model.decoder.lm.model.layers"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_model().save_pretrained(path)
    return path


def inputs(model) -> dict:
    """A prompt with one picture."""
    special = model.config.special_ids
    slots = [special["[IMG]"], *[special["<image>"]] * model.config.n_query, special["[/IMG]"]]
    size = model.config.vision_config.image_size
    pixels = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
    return dict(input_ids=torch.tensor([[1, *slots, 5, 9]]), pixel_values=pixels)


def test_map_by_name_in_main_memory(folder):
    plain = Emu2ForConditionalGeneration.from_pretrained(folder)
    split = Emu2ForConditionalGeneration.from_pretrained(folder, device_map={"model": "cpu", "": "cpu"})
    with torch.no_grad():
        assert torch.equal(split(IDS).logits, plain(IDS).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_on_disk(folder, tmp_path, dtype):
    device_map = {"": "cpu", f"{LAYERS}.1": "disk", f"{LAYERS}.3": "disk", "model.visual.blocks.2": "disk"}
    plain = Emu2ForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    split = Emu2ForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, device_map=device_map, offload_folder=tmp_path / "offload"
    )
    waiting = {name for name, parameter in split.named_parameters() if parameter.is_meta}
    assert {name.rpartition(".self_attn")[0] for name in waiting if "q_proj" in name} == {f"{LAYERS}.1", f"{LAYERS}.3"}
    assert any(name.startswith("model.visual.blocks.2.") for name in waiting)
    assert (tmp_path / "offload" / f"{LAYERS}.1.mlp.up_proj.weight.dat").stat().st_size > 0
    batch = inputs(plain)
    with torch.no_grad():
        assert torch.equal(split(**batch).logits, plain(**batch).logits)
        arguments = dict(max_new_tokens=4, do_sample=False)
        assert torch.equal(split.generate(**batch, **arguments), plain.generate(**batch, **arguments))
        assert torch.equal(split.generate_image(IDS), plain.generate_image(IDS))
    with pytest.raises(UserError, match="offloaded"):
        split.save_pretrained(tmp_path / "out")


def test_temporary_offload_folder_goes_with_the_model(folder, tmp_path, monkeypatch):
    import gc
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = Emu2ForConditionalGeneration.from_pretrained(folder, device_map={"": "cpu", f"{LAYERS}.0": "disk"})
    assert [entry.name.startswith("emu2-offload-") for entry in tmp_path.iterdir()] == [True]
    del model
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_auto_is_one_place_when_all_fits(folder):
    assert auto_device_map(tiny_model(), max_memory={0: 10**9, "cpu": 10**9}) == {"": 0}
    model = Emu2ForConditionalGeneration.from_pretrained(folder, device_map="auto")
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_auto_fills_devices_in_order():
    model = tiny_model()
    blocks = {
        name: sum(stored_bytes(p, None) for p in module.parameters())
        for name, module in model.named_modules()
        if type(module).__name__ in ("Block", "LlamaDecoderLayer")
    }
    outside = sum(stored_bytes(p, None) for p in model.parameters()) - sum(blocks.values())
    layer = blocks[f"{LAYERS}.0"]
    tower = sum(size for name, size in blocks.items() if "visual" in name)
    memory = {0: outside + tower + 2 * layer + 100, 1: layer + 100, "cpu": layer + 100}
    device_map = auto_device_map(model, max_memory={k: int(v / 0.9) + 2 for k, v in memory.items()})
    # room for one block at a time is kept on the first device, since some are offloaded
    assert [device_map[f"{LAYERS}.{i}"] for i in range(4)] == [0, 1, "cpu", "disk"]
    assert {device for name, device in device_map.items() if name not in blocks} == {0}
    assert {"model.visual.cls_token", "model.visual.patch_embed.proj", "project_up"} <= device_map.keys()
    with pytest.raises(UserError, match="too small"):
        auto_device_map(model, max_memory={0: outside // 2, "cpu": 10**9})


def test_bfloat16_needs_half():
    model = tiny_model()
    assert stored_bytes(model.project_up.weight, torch.bfloat16) * 2 == stored_bytes(model.project_up.weight, None)


def test_wrong_maps(folder):
    divided = {"": "cpu", f"{LAYERS}.0.mlp": "disk"}
    cases = (("balanced", "unknown value"), ({"model.visual": "cpu"}, "no device for"), (divided, "cannot be divided"))
    for device_map, said in cases:
        with pytest.raises(UserError, match=said):
            Emu2ForConditionalGeneration.from_pretrained(folder, device_map=device_map)


def test_packed_layers_are_not_offloaded(folder):
    pytest.importorskip("bitsandbytes", reason="the qlora extra is not installed")
    with pytest.raises(UserError, match="held in 4 bits and cannot wait"):
        Emu2ForConditionalGeneration.from_pretrained(
            folder, device_map={"": "cpu", f"{LAYERS}.0": "disk"}, quantization="nf4"
        )

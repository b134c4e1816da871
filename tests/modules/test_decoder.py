"""Training of the visual decoder: the loss by hand, what is drawn at random, what trains, exact resume."""

import json

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("diffusers", reason="the visual decoder's library is not installed (extra `generation`)")

from datamodules import PictureDataModule
from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2DecoderConfig, Emu2ForConditionalGeneration, Emu2Processor, Emu2VisualDecoder
from emu2_lit.model.detokenizer import Draws, Emu2Detokenizer
from emu2_lit.modules import AutoencoderTuning, DecoderTuning
from emu2_lit.settings import LoraSettings, OptimizerSettings, PictureSettings, SourceSettings
from tests.distributed import run_ranks
from tests.modules.runs import STEPS, run

TINY, DECODER = Emu2Config.preset("tiny"), Emu2DecoderConfig.preset("tiny")


def network(**settings) -> Emu2Detokenizer:
    module = DecoderTuning(TINY, decoder=DECODER, **settings)
    module.configure_model()
    return module.model


def pictures(count):
    return torch.rand(count, 3, 56, 56), torch.rand(count, 3, 56, 56) * 2 - 1, torch.tensor([[90.0, 60, 0, 7, 56, 56]])


# -- the objective ---------------------------------------------------------------------------------------------
def test_loss_by_hand():
    model = network()
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 4, 14, 14), torch.randn(2, 4, 14, 14)
    embeds, times = torch.randn(2, 4, 64), torch.tensor([3, 950])
    sizes = torch.tensor([[90.0, 60, 0, 7, 56, 56], [56, 56, 0, 0, 56, 56]])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[times].float()[:, None, None, None]
    with torch.no_grad():
        predicted = model.decoder.unet(
            kept.sqrt() * latents + (1 - kept).sqrt() * noise, times, encoder_hidden_states=embeds,
            added_cond_kwargs={"text_embeds": embeds.mean(1), "time_ids": sizes},
        ).sample  # fmt: skip
        loss = model.loss(latents, embeds, sizes, Draws(noise, times, torch.zeros(2, dtype=torch.bool)))
        other = model.loss(latents, embeds, sizes + 20, Draws(noise, times, torch.zeros(2, dtype=torch.bool)))
    assert_close(loss, ((predicted - noise) ** 2).mean(), rtol=1e-5, atol=1e-6)
    assert abs(other - loss) > 1e-5  # the sizes are seen


def test_latents_are_scaled_and_frozen():
    model = network()
    _, target, _ = pictures(2)
    posterior = model.decoder.vae.encode(target).latent_dist
    torch.manual_seed(1)
    expected = posterior.sample() * 0.18215
    torch.manual_seed(1)
    latents = model.latents(target)
    assert not latents.requires_grad and latents.shape == (2, 4, 14, 14)
    assert_close(latents, expected.detach())
    assert not torch.allclose(latents, posterior.mode() * 0.18215, atol=1e-2)


def test_noise_has_an_offset_that_channels_share():
    torch.manual_seed(0)
    noise = network(noise_offset=0.5).draws(torch.zeros(4000, 4, 8, 8)).noise
    assert noise.mean(dim=(2, 3)).var().item() == pytest.approx(0.25 + 1 / 64, rel=0.05)
    assert (noise - noise.mean(dim=(2, 3), keepdim=True)).var().item() == pytest.approx(63 / 64, rel=0.02)


def test_times_are_uniform_and_conditions_dropped_in_training_alone():
    torch.manual_seed(0)
    model = network(condition_drop=0.1)
    drawn = model.draws(torch.zeros(20000, 1, 1, 1))
    assert (drawn.times.min(), drawn.times.max()) == (0, 999)
    assert torch.histc(drawn.times.float(), 10).std() < 150
    assert drawn.dropped.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert not model.eval().draws(torch.zeros(1000, 1, 1, 1)).dropped.any()


def test_a_dropped_condition_is_that_of_the_empty_picture():
    whole = Emu2ForConditionalGeneration(TINY).eval()
    module = DecoderTuning(whole, decoder=DECODER)
    module.configure_model()
    seen, *_ = pictures(2)
    with torch.no_grad():
        conditions = module.model.conditions(seen, torch.tensor([False, True]))
        assert_close(conditions[:1], whole.encode_image(seen[:1]))
        assert_close(conditions[1:], whole.encode_image(torch.zeros(1, 3, 56, 56)))


def test_decoders_that_do_not_fit_are_refused():
    other = Emu2DecoderConfig.preset("tiny")
    other.unet.update(cross_attention_dim=32, projection_class_embeddings_input_dim=80)
    with pytest.raises(UserError, match="width 64, the decoder draws those of 32"):
        DecoderTuning(TINY, decoder=other).configure_model()
    other = Emu2DecoderConfig.preset("tiny")
    other.scheduler["prediction_type"] = "v_prediction"
    with pytest.raises(UserError, match="v_prediction"):
        DecoderTuning(TINY, decoder=other).configure_model()
    with pytest.raises(UserError, match="method: full"):
        DecoderTuning(TINY, decoder=DECODER, lora=LoraSettings())


# -- weights ---------------------------------------------------------------------------------------------------
def test_only_the_tower_of_a_model_is_read(tmp_path):
    torch.manual_seed(0)
    whole = Emu2ForConditionalGeneration(TINY).eval()
    whole.save_pretrained(tmp_path / "model", processor=Emu2Processor.for_config(TINY))
    module = DecoderTuning(tmp_path / "model", decoder=DECODER)
    module.configure_model()
    names = {name for name, _ in module.model.tower.named_parameters()}
    assert names == {name for name, _ in whole.named_parameters() if name.startswith("model.visual.")}
    seen, *_ = pictures(2)
    assert_close(module.model.tower.encode_image(seen), whole.encode_image(seen))


@pytest.mark.parametrize(("objective", "part"), [(DecoderTuning, "unet"), (AutoencoderTuning, "vae")])
def test_only_one_part_trains(objective, part):
    module = objective(TINY, decoder=DECODER)
    module.configure_model()
    modes = {row["part"]: row["mode"] for row in module.parameter_parts()}
    assert modes.pop(part) == "full" and set(modes.values()) == {"frozen"}
    assert all(name.startswith(f"model.decoder.{part}.") for name in module.trainable_names())


def test_a_folder_is_tuned_on(tmp_path):
    torch.manual_seed(0)
    Emu2VisualDecoder(DECODER).save_pretrained(tmp_path / "decoder")
    module = DecoderTuning(TINY, decoder=tmp_path / "decoder", dtype=torch.bfloat16)
    module.configure_model()
    stored = Emu2VisualDecoder.from_pretrained(tmp_path / "decoder")
    name = "conv_in.weight"
    assert_close(module.model.decoder.unet.get_parameter(name), stored.unet.get_parameter(name), rtol=1e-2, atol=1e-2)
    assert module.model.decoder.unet.dtype == module.model.decoder.vae.dtype == torch.float32
    assert module.model.tower.model.visual.cls_token.dtype == torch.bfloat16
    module.save_decoder(tmp_path / "tuned", torch.bfloat16)
    assert Emu2VisualDecoder.from_pretrained(tmp_path / "tuned").unet.dtype == torch.bfloat16


def test_sdxl_becomes_a_decoder(tmp_path):
    sdxl = Emu2DecoderConfig.preset("tiny")
    sdxl.unet.update(cross_attention_dim=32, projection_class_embeddings_input_dim=24 + 6 * 8)  # pooled text: 24
    torch.manual_seed(0)
    Emu2VisualDecoder(sdxl).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="draws those of 32"):
        DecoderTuning(TINY, decoder=tmp_path).configure_model()
    modules = [DecoderTuning(TINY, decoder=tmp_path, new_conditions=True) for _ in range(2)]
    for module in modules:
        module.configure_model()
    old, new = Emu2VisualDecoder.from_pretrained(tmp_path).state_dict(), modules[0].model.decoder.state_dict()
    anew = {name for name, tensor in old.items() if not torch.equal(tensor, new[name])}
    reading = ("attn2.to_k.weight", "attn2.to_v.weight", "add_embedding.linear_1.weight")
    assert anew == {name for name in old if name.endswith(reading)}
    assert all(torch.equal(tensor, modules[1].model.decoder.state_dict()[name]) for name, tensor in new.items())
    assert 0.05 < new["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].std() < 0.1
    modules[0].save_decoder(tmp_path / "tuned")
    assert Emu2VisualDecoder.from_pretrained(tmp_path / "tuned").config.condition_width == 64


# -- runs ------------------------------------------------------------------------------------------------------
def decoder_run(digits, root, objective=DecoderTuning, micro=4, lr=2e-3, sources=None, **how):
    module = objective(
        TINY, Emu2Processor.for_config(TINY), decoder=DECODER, optimizer=OptimizerSettings(lr=lr, warmup_steps=2)
    )
    datamodule = PictureDataModule(
        sources=[SourceSettings(path=str(sources or digits / "captions_train.json"))], processor=module.processor,
        micro_batch_size=micro, pictures=PictureSettings(size=56, max_scale=1.2), bad_budget=1.0,
    )  # fmt: skip
    return run(module, datamodule, root, **how)


@pytest.mark.parametrize("objective", [DecoderTuning, AutoencoderTuning])
def test_resume_is_bit_identical(objective, digits, tmp_path):
    straight = decoder_run(digits, tmp_path / "straight", objective, accumulate=2)
    half = decoder_run(digits, tmp_path / "half", objective, accumulate=2, stop=STEPS // 2)
    resumed = decoder_run(digits, tmp_path / "half", objective, accumulate=2, resume=half.checkpoint)
    assert {**half.losses, **resumed.losses} == straight.losses
    assert all(torch.equal(tensor, resumed.trained[name]) for name, tensor in straight.trained.items())


def test_checkpoints_hold_what_trains(digits, tmp_path):
    ran = decoder_run(digits, tmp_path, stop=1)
    saved = torch.load(ran.checkpoint, weights_only=True)["state_dict"]
    assert saved.keys() == ran.trained.keys() and all("decoder.unet." in name for name in saved)


def test_a_micro_batch_without_pictures_counts_nothing(digits, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "no picture"}\n' * 8)
    ran = decoder_run(digits, tmp_path, sources=texts, stop=2)
    assert set(ran.losses.values()) == {0.0}
    assert all(tensor.isfinite().all() for tensor in ran.trained.values())


def test_ranks_agree_also_where_one_has_no_picture(digits, tmp_path):
    lines = json.loads((digits / "captions_train.json").read_text())[:4]
    rows = [row | {"image": str(digits / row["image"])} for row in lines] + [{"text": "no picture"}] * 4
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = run_ranks(_rank_run, 2, digits, tmp_path, mixed)
    assert first.losses == second.losses and len(first.losses) == 4
    assert all(torch.equal(tensor, second.trained[name]) for name, tensor in first.trained.items())


def _rank_run(digits, root, mixed):
    return decoder_run(digits, root, micro=1, sources=mixed, stop=4)


@pytest.mark.parametrize(("objective", "share"), [(DecoderTuning, 0.85), (AutoencoderTuning, 0.5)])
def test_few_steps_lower_the_loss(objective, share, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.modules.runs.STEPS", 16)
    losses = decoder_run(digits, tmp_path, objective, micro=8, stop=16).losses
    assert min(losses[15], losses[16]) < share * losses[1]

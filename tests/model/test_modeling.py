"""What the network promises beside parity."""

import pytest
import torch
from torch.testing import assert_close

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration
from emu2_lit.model.objective import unified_targets
from tests.golden_data import golden


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Emu2ForConditionalGeneration(Emu2Config.preset("tiny"))


def sample(model, pictures=1):
    ids = model.config.special_ids
    picture = [ids["[IMG]"], *[ids["<image>"]] * model.config.n_query, ids["[/IMG]"]]
    tokens = torch.tensor([[1, *picture * pictures, 5, 6, 7, 2]])
    size = model.config.vision_config.image_size
    return dict(input_ids=tokens, attention_mask=torch.ones_like(tokens)) | (
        dict(pixel_values=torch.randn(pictures, 3, size, size)) if pictures else {}
    )


@pytest.mark.parametrize(
    ("name", "parameters"), [("emu2", 36_906_627_840), ("emu2-chat", 36_906_654_464), ("emu2-gen", 36_906_627_840)]
)
def test_published_sizes(name, parameters):
    with torch.device("meta"):
        model = Emu2ForConditionalGeneration(Emu2Config.preset(name))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == 772 + 543 + 2


def test_small_is_about_100_million():
    with torch.device("meta"):
        model = Emu2ForConditionalGeneration(Emu2Config.preset("small"))
    assert 80e6 < sum(p.numel() for p in model.parameters()) < 130e6


def test_visual_embeds_stand_in_for_pixels(tiny):
    batch = sample(tiny)
    live = tiny.eval()(**batch)
    pixels = batch.pop("pixel_values")
    assert_close(tiny(**batch, visual_embeds=tiny.encode_image(pixels)).logits, live.logits)


def test_logits_at_learned_positions_are_those_of_all_positions(tiny):
    batch = sample(tiny.eval())
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -2:] = batch["input_ids"][0, -2:]
    few, all_of_them = tiny(**batch, labels=labels), tiny(**batch, labels=labels, all_logits=True)
    assert few.logits.shape[0] == 2
    assert_close(all_of_them.logits[0, -3:-1], few.logits)
    assert_close(few.loss, all_of_them.loss)


def test_key_bias_of_the_tower_stays_zero_while_it_trains(tiny):
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=1e-2, weight_decay=0.1)
    before = tiny.visual.blocks[0].attn.qkv.bias.detach().clone()
    for _ in range(3):
        batch = sample(tiny)
        tiny(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
    q, k, v = tiny.visual.blocks[0].attn.qkv.bias.chunk(3)
    assert k.abs().max() == 0
    assert not torch.equal(q, before.chunk(3)[0]) and not torch.equal(v, before.chunk(3)[2])


def test_a_batch_without_pictures_reaches_the_same_parameters(tiny):
    batch = sample(tiny.train(), pictures=0)
    tiny(**batch, labels=batch["input_ids"]).loss.backward()
    missing = [n for n, p in tiny.named_parameters() if p.grad is None and not n.startswith("project_down")]
    assert missing == []
    assert tiny.project_up.weight.grad.abs().max() == 0


def test_a_batch_without_targets_has_a_loss_of_zero_that_reaches_the_model(tiny):
    batch = sample(tiny)
    nothing = torch.full_like(batch["input_ids"], -100)
    output = tiny(**batch, labels=nothing, visual_targets_mask=torch.zeros_like(nothing, dtype=torch.bool))
    output.loss.backward()
    assert float(output.loss) == 0 and int(output.text_targets) == int(output.visual_targets) == 0
    assert tiny.lm.model.layers[0].mlp.up_proj.weight.grad is not None


def test_activation_checkpointing_changes_no_gradient(tiny):
    batch = sample(tiny)
    labels, slots = unified_targets(batch["input_ids"], batch["attention_mask"], tiny.config.special_ids)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            tiny.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        tiny.zero_grad()
        tiny.train()(**batch, labels=labels, visual_targets_mask=slots).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in tiny.named_parameters() if p.grad is not None})
    assert tiny.visual.blocks[0].gradient_checkpointing
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradient, gradients[1][name], msg=name)


def test_a_frozen_tower_runs_without_gradient(tiny):
    tiny.visual.requires_grad_(False)
    assert not tiny.encode_image(sample(tiny)["pixel_values"]).requires_grad
    tiny.visual.requires_grad_(True)
    assert tiny.encode_image(sample(tiny)["pixel_values"]).requires_grad


def test_right_padding_changes_nothing(tiny):
    batch = sample(tiny.eval())
    alone = tiny(**batch).logits
    pad = torch.full((1, 3), tiny.config.pad_token_id)
    padded = dict(
        batch,
        input_ids=torch.cat([batch["input_ids"], pad], 1),
        attention_mask=torch.cat([batch["attention_mask"], torch.zeros_like(pad)], 1),
    )
    assert_close(tiny(**padded).logits[:, : alone.shape[1]], alone, atol=1e-5, rtol=1e-5)


def test_generate_matches_argmax_without_a_cache(tiny):
    batch = sample(tiny.eval())
    new = tiny.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=None)
    ids = batch["input_ids"]
    for _ in range(4):
        logits = tiny(input_ids=ids, pixel_values=batch["pixel_values"]).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    assert new.tolist() == ids[:, -4:].tolist()


@pytest.mark.parametrize(("n_query", "image_size"), [(5, 56), (9, 56), (0, 56)])
def test_n_query_must_fit_the_patch_grid(n_query, image_size):
    with pytest.raises(UserError, match="n_query"):
        Emu2Config(vision_config=dict(image_size=image_size), text_config=dict(vocab_size=32272), n_query=n_query)


def test_unknown_preset_lists_the_known():
    with pytest.raises(UserError, match="emu2-chat"):
        Emu2Config.preset("emu3")


def test_config_round_trip_keeps_everything():
    for config in (Emu2Config.preset("emu2-chat"), golden("base").config, golden("chat").config):
        again = Emu2Config.from_dict(config.to_dict())
        assert again.to_dict() == config.to_dict()
        assert again.special_ids == config.special_ids


def test_the_flat_published_config_gives_the_preset():
    for name in ("emu2", "emu2-chat"):
        preset = Emu2Config.preset(name)
        read = Emu2Config.from_dict(preset.baai_dict())
        assert read.special_ids == preset.special_ids
        assert read.vision_config.to_dict() == preset.vision_config.to_dict()
        assert (read.n_query, read.v_query) == (preset.n_query, preset.v_query)
        assert read.text_config.to_dict() == preset.text_config.to_dict()


def test_a_slot_that_the_model_writes_is_a_word():
    torch.manual_seed(0)
    model = Emu2ForConditionalGeneration(Emu2Config.preset("tiny")).eval()
    slot = model.config.special_ids["<image>"]
    with torch.no_grad():
        model.lm.model.norm.weight.zero_()
        model.lm.lm_head = torch.nn.Linear(model.lm.lm_head.in_features, model.lm.lm_head.out_features)
        model.lm.lm_head.bias.zero_()[slot] = 1.0
    ids = torch.tensor([[1, 5, 6]])
    for beams in (1, 3):
        assert model.generate(ids, max_new_tokens=4, num_beams=beams).tolist() == [[slot] * 4]

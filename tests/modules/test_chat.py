"""The chat module: one update for any split of a batch, exact resume, what trains, what is saved."""

import pytest
import torch
from lightning import Trainer
from torch.testing import assert_close
from torch.utils.data import DataLoader

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.modules import CaptionTuning, ChatTuning
from emu2_lit.settings import LoraSettings, OptimizerSettings
from tests.distributed import run_ranks
from tests.modules.runs import STEPS, chat_run


def same_training(one, other, **tolerance):
    assert one.losses.keys() == other.losses.keys()
    for step, loss in one.losses.items():
        assert loss == pytest.approx(other.losses[step], rel=1e-5), f"step {step}"
    for name, tensor in one.trained.items():
        assert_close(tensor, other.trained[name], msg=name, **tolerance)


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """The run that others are compared with: 8 samples at once, all parameters but the frozen ones."""
    return chat_run(digits, tmp_path_factory.mktemp("whole"), micro=8, accumulate=1, lora=False)


@pytest.mark.parametrize(("micro", "accumulate"), [(1, 8), (4, 2)])
def test_accumulation_gives_the_update_of_the_big_batch(whole, digits, tmp_path, micro, accumulate):
    split = chat_run(digits, tmp_path, micro=micro, accumulate=accumulate, lora=False)
    same_training(whole, split, rtol=1e-3, atol=2e-5)


def test_two_ranks_give_the_update_of_one(whole, digits, tmp_path):
    ranks = run_ranks(_rank_run, 2, digits, tmp_path)
    for ran in ranks:
        same_training(whole, ran, rtol=1e-3, atol=2e-5)


def _rank_run(digits, root):
    return chat_run(digits, root, micro=2, accumulate=2, lora=False)


def test_activation_checkpointing_trains_lora_alike(digits, tmp_path):
    plain = chat_run(digits, tmp_path / "plain")
    checkpointed = chat_run(digits, tmp_path / "checkpointed", checkpointing=True)
    same_training(plain, checkpointed)
    assert any(tensor.abs().max() > 0 for name, tensor in plain.trained.items() if "lora_B" in name)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_bit_identical(digits, tmp_path, workers):
    straight = chat_run(digits, tmp_path / "straight", dropout=0.1, workers=workers)
    half = chat_run(digits, tmp_path / "half", stop=STEPS // 2, dropout=0.1, workers=workers)
    resumed = chat_run(digits, tmp_path / "half", resume=half.checkpoint, dropout=0.1, workers=workers)
    assert {**half.losses, **resumed.losses} == straight.losses
    for name, tensor in straight.trained.items():
        assert torch.equal(tensor, resumed.trained[name]), name


def test_checkpoints_hold_only_what_trains(digits, tmp_path):
    ran = chat_run(digits, tmp_path, stop=1)
    saved = torch.load(ran.checkpoint, weights_only=True)["state_dict"]
    assert saved.keys() == ran.trained.keys()
    assert all("lora_" in name or "trainable_tokens" in name for name in saved)


def test_a_checkpoint_of_another_tuning_is_refused(digits, tmp_path):
    ran = chat_run(digits, tmp_path, stop=1)
    with pytest.raises(UserError, match="Resume with the recipe that wrote it"):
        chat_run(digits, tmp_path, resume=ran.checkpoint, lora=False)


def built(module):
    module.configure_model()
    return module


def parts(module):
    return {(row["part"], row["mode"]) for row in built(module).parameter_parts()}


def chat_processor():
    return Emu2Processor.for_config(Emu2Config.preset("tiny").with_role_tokens())


def test_what_trains_by_part():
    tiny = Emu2Config.preset("tiny")
    lora = parts(ChatTuning(tiny, chat_processor(), lora=LoraSettings()))
    assert {("visual", "frozen"), ("lm", "lora"), ("lm", "frozen"), ("embeddings", "tokens")} <= lora
    assert not any(mode == "full" for _, mode in lora)
    full = parts(ChatTuning(tiny, chat_processor()))
    assert ("visual", "frozen") in full and ("project_down", "frozen") in full and ("lm", "full") in full
    assert ("visual", "full") in parts(CaptionTuning(tiny))


def test_lora_on_the_tower_needs_an_unfrozen_tower():
    settings = LoraSettings(targets=["attn.qkv", "q_proj"])
    with pytest.raises(UserError, match="attn.qkv belongs to `visual`"):
        ChatTuning(Emu2Config.preset("tiny"), chat_processor(), lora=settings)
    module = ChatTuning(Emu2Config.preset("tiny"), chat_processor(), lora=settings, frozen=[])
    assert ("visual", "lora") in parts(module)


def test_unknown_targets_and_parts_name_the_legal_ones():
    with pytest.raises(UserError, match="q_proj"):
        built(ChatTuning(Emu2Config.preset("tiny"), chat_processor(), lora=LoraSettings(targets=["proj"])))
    with pytest.raises(UserError, match="project_up"):
        ChatTuning(Emu2Config.preset("tiny"), chat_processor(), frozen=["tower"])


def test_role_tokens_are_added_once_and_start_alike():
    model = Emu2ForConditionalGeneration(Emu2Config.preset("tiny"))
    rows = model.config.text_config.vocab_size
    mean = model.get_input_embeddings().weight.mean(0)
    built(ChatTuning(model, chat_processor()))
    assert model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0] == rows + 2
    assert_close(model.get_input_embeddings().weight[-1], mean)
    built(ChatTuning(model, chat_processor()))
    assert model.config.text_config.vocab_size == rows + 2


def test_a_processor_without_role_tokens_is_refused():
    tiny = Emu2Config.preset("tiny")
    with pytest.raises(UserError, match="chat=True"):
        built(ChatTuning(tiny, Emu2Processor.for_config(tiny)))


def test_trained_weights_are_float32_and_frozen_ones_as_asked():
    module = built(ChatTuning(Emu2Config.preset("tiny"), chat_processor(), lora=LoraSettings(), dtype=torch.bfloat16))
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in module.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_batches_of_any_other_loader_count_for_themselves(tmp_path):
    module = ChatTuning(Emu2Config.preset("tiny"), chat_processor(), optimizer=OptimizerSettings(lr=1e-3))
    ids = torch.tensor([1, *range(10, 20), 2])
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
    trainer = Trainer(
        max_steps=3, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch] * 12, batch_size=2))
    assert trainer.global_step == 3
    assert 4 < float(trainer.callback_metrics["train/loss"]) < 7  # near log(754) before the first update

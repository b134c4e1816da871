"""A recipe from end to end, on the tiny preset."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.run import fit, load_run
from tests.distributed import run_ranks
from tests.run.conftest import chat_recipe, short


def test_a_finished_run_leaves_what_the_design_promises(chat_result):
    folder = chat_result.directory
    assert chat_result.status == "finished"
    for name in ("recipe.yaml", "summary.json", "report.html", "adapter/adapter_config.json", "answers.jsonl"):
        assert (folder / name).is_file(), name
    summary = json.loads((folder / "summary.json").read_text())
    for key in (
        "steps", "consumed_samples", "consumed_tokens", "skipped_samples", "wall_seconds", "tokens_per_second",
        "peak_memory_bytes", "trainable_parameters", "total_parameters", "val/loss", "val/exact_match",
        "val/exact_match_base",
    ):  # fmt: skip
        assert key in summary, key
    assert summary["steps"] == 6 and summary["consumed_samples"] == 48
    assert 0 < summary["trainable_parameters"] < summary["total_parameters"]


def test_the_adapter_folder_holds_adapter_and_tokenizer_only(chat_result):
    adapter = chat_result.directory / "adapter"
    names = set(load_file(adapter / "adapter_model.safetensors"))
    assert names and all("lora_" in name or "token_adapter" in name or "embed_tokens" in name for name in names)
    assert (adapter / "tokenizer.model").is_file()


def test_tensorboard_holds_curves_and_pictures(chat_result):
    events = EventAccumulator(str(chat_result.directory / "tensorboard")).Reload()
    assert {"train/loss", "train/lr", "val/loss", "val/exact_match"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["val/answers"]


def test_the_same_command_again_says_that_it_is_done(chat_result, chat_folder, caption_model):
    again = fit(chat_recipe(chat_folder, caption_model))
    assert again.status == "already finished"
    assert again.summary == json.loads((chat_result.directory / "summary.json").read_text())


def test_more_steps_go_on_from_where_it_stands(chat_result, tmp_path, caption_model):
    shutil.copytree(chat_result.directory.parent, tmp_path / "copy")
    more = fit(chat_recipe(tmp_path / "copy", caption_model, "trainer.max_steps=8"))
    assert (more.status, more.summary["steps"], more.summary["consumed_samples"]) == ("finished", 8, 64)


def test_the_resolved_recipe_gives_the_run_again(chat_result):
    saved = recipes.load(str(chat_result.directory / "recipe.yaml"))
    assert saved.trainer.max_steps == 6 and saved.run.dir == str(chat_result.directory)


def test_never_resuming_does_not_overwrite(chat_result, chat_folder, caption_model):
    with pytest.raises(UserError, match="choose another run.dir"):
        fit(chat_recipe(chat_folder, caption_model, "resume=never"))


def test_a_tuned_run_is_talked_to_and_tuned_further(chat_result, tmp_path):
    model, processor = load_run(chat_result.directory)
    assert processor.tokenizer.chat and not model.training
    further = fit(chat_recipe(tmp_path, chat_result.directory, "trainer.max_steps=2"))
    assert further.status == "finished"
    again, _ = load_run(further.directory)
    batch = processor(text=["[USER]: hello [ASSISTANT]:"])
    with torch.no_grad():
        assert not torch.equal(model(**batch).logits, again(**batch).logits)


def test_an_adapter_goes_on(chat_result, caption_model, tmp_path):
    start = f"model.adapter={chat_result.directory / 'adapter'}"
    went_on = fit(chat_recipe(tmp_path, caption_model, start, "trainer.max_steps=2"))
    before = load_file(chat_result.directory / "adapter" / "adapter_model.safetensors")
    after = load_file(went_on.directory / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    name = next(name for name in before if "lora_B" in name)
    assert before[name].abs().max() > 0 and not torch.equal(before[name], after[name])


def test_a_recipe_as_weights_runs_first_and_once(tmp_path):
    base = tmp_path / "base_recipe.yaml"
    caption = short("quickstart/caption", tmp_path, "trainer.max_steps=2", "data.validation_limit=4")
    recipes.save(caption, base)
    overrides = (f"model.weights={base}", "trainer.max_steps=1", "trainer.val_check_interval=null")
    result = fit(chat_recipe(tmp_path, base, *overrides))
    model = result.directory / "base" / "model" / "model.safetensors"
    written = model.stat().st_mtime_ns
    assert result.status == "finished" and load_run(result.directory)[1].tokenizer.chat
    fit(chat_recipe(tmp_path, base, *overrides, "trainer.max_steps=2"))
    assert model.stat().st_mtime_ns == written


def test_a_dry_run_saves_nothing(tmp_path):
    result = fit(short("debug/dry_run", tmp_path))
    assert (result.status, result.summary["steps"]) == ("dry run", 2)
    assert not (tmp_path / "run").exists()


def test_epochs_become_steps(tmp_path, caption_model):
    data = tmp_path / "few.jsonl"
    source = json.loads((caption_model.parent / "data" / "digits" / "chat_train.json").read_text())[:20]
    data.write_text("".join(json.dumps(sample) + "\n" for sample in source))
    recipe = chat_recipe(
        tmp_path, caption_model, "trainer.max_steps=null", "trainer.max_epochs=2", "trainer.val_check_interval=null",
        f"data.sources.0.path={data}", f"data.sources.0.root={caption_model.parent / 'data' / 'digits'}",
        "callbacks.answers=null",
    )  # fmt: skip
    assert fit(recipe).summary["steps"] == 5


def test_global_batch_that_does_not_divide(tmp_path, caption_model):
    with pytest.raises(UserError, match="global_batch_size"):
        fit(chat_recipe(tmp_path, caption_model, "data.global_batch_size=9"))


def test_unfinished_runs_and_absent_weights_say_what_to_do(tmp_path):
    recipes.save(short("debug/dry_run", tmp_path), tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match="not finished"):
        load_run(tmp_path)
    with pytest.raises(UserError, match="weights fetch"):
        load_run("BAAI/Emu2-Chat")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_saves_exits_with_130_and_goes_on(tmp_path, caption_model, number):
    recipe = chat_recipe(
        tmp_path, caption_model, "trainer.max_steps=400", "trainer.val_check_interval=null",
        "callbacks.answers=null", "callbacks.checkpoint_every_n_steps=1000", "data.workers=1",
    )  # fmt: skip
    recipes.save(recipe, tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "emu2_lit", "fit", str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("step "):
            os.killpg(process.pid, number)  # as Ctrl-C and schedulers do: data workers get it too
            break
    output = "".join(seen) + process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "the same command goes on" in output and "Traceback" not in output
    saved = list((tmp_path / "run" / "checkpoints").glob("step=*.ckpt"))
    assert len(saved) == 1
    step = int(saved[0].stem.split("=")[1])
    assert 0 < step < 400
    went_on = fit(chat_recipe(tmp_path, caption_model, f"trainer.max_steps={step + 1}", "callbacks.answers=null",
                              "trainer.val_check_interval=null"))  # fmt: skip
    assert went_on.summary["steps"] == step + 1


def _fit_a_rank(folder, base):
    recipe = chat_recipe(folder, base, "trainer.devices=2", "trainer.strategy=ddp", "data.micro_batch_size=2")
    return fit(recipe)


def test_two_ranks_hand_over_as_one(tmp_path, caption_model, chat_result):
    first, second = run_ranks(_fit_a_rank, 2, tmp_path, caption_model)
    assert first.summary == second.summary and first.describe() == second.describe()
    for key in ("steps", "consumed_samples", "consumed_tokens", "val/exact_match", "skipped_samples"):
        assert first.summary[key] == chat_result.summary[key], key
    assert first.summary["val/loss"] == pytest.approx(chat_result.summary["val/loss"], rel=1e-3)

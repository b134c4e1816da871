"""What a finished run leaves can be moved, exported, loaded by others and tuned further."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.export import export
from emu2_lit.model import Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.lora import load_adapter
from emu2_lit.run import fit, load_run
from tests.run.conftest import chat_recipe

EMBEDDING, HEAD = "model.decoder.lm.model.embed_tokens.weight", "model.decoder.lm.lm_head.weight"


@torch.inference_mode()
def logits(model, processor: Emu2Processor) -> torch.Tensor:
    text = processor.apply_chat_template([{"role": "user", "content": "which digit is written here?"}])
    return model.eval()(**processor(text=[text])).logits


@pytest.fixture(scope="module")
def expected(chat_result) -> torch.Tensor:
    return logits(*load_run(chat_result.directory))


@pytest.fixture(scope="module")
def merged(chat_result, tmp_path_factory):
    """The run, exported as a Hugging Face folder."""
    return export(chat_result.directory, out=tmp_path_factory.mktemp("export") / "hf")


@pytest.fixture(scope="module")
def further(chat_result, tmp_path_factory):
    """A run on top of the run."""
    folder = tmp_path_factory.mktemp("further")
    changes = ("trainer.max_steps=2", "trainer.val_check_interval=null", "callbacks.answers=null")
    return fit(chat_recipe(folder, chat_result.directory, *changes)).directory


def record(adapter) -> str:
    return json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_a_merged_export_holds_the_new_tokens_as_trained(chat_result, caption_model, merged):
    base, tuned = (load_file(folder / "model.safetensors") for folder in (caption_model / "model", merged))
    for name in (EMBEDDING, HEAD):
        assert len(tuned[name]) == len(base[name]) + 2
        mean = base[name].mean(dim=0)
        moved = [not torch.allclose(row, mean, atol=1e-6) for row in tuned[name][-2:]]
        assert moved == [name == EMBEDDING] * 2
    config = json.loads((merged / "config.json").read_text())
    assert config["model_version"] == "chat" and config["vocab_size"] == len(tuned[EMBEDDING])
    assert {"num_key_value_heads", "d_model", "vision_config", "rope_theta"} <= config.keys()
    assert Emu2Processor.from_pretrained(merged).tokenizer.chat


def test_a_merged_export_says_what_the_adapter_on_its_base_says(chat_result, caption_model, merged, expected):
    processor = Emu2Processor.from_pretrained(merged)
    base = Emu2ForConditionalGeneration.from_pretrained(caption_model / "model")
    for model in (Emu2ForConditionalGeneration.from_pretrained(merged),
                  load_adapter(base, chat_result.directory / "adapter")):  # fmt: skip
        torch.testing.assert_close(logits(model, processor), expected, atol=1e-5, rtol=1e-5)


def test_a_merged_export_is_tuned_further(merged, tmp_path):
    changes = ("trainer.max_steps=1", "trainer.val_check_interval=null", "callbacks.answers=null")
    result = fit(chat_recipe(tmp_path, merged, *changes))
    assert result.status == "finished" and record(result.directory / "adapter") == str(merged)


@pytest.mark.filterwarnings("error:Could not find a config file")  # PEFT asked the hub for one
def test_an_adapter_alone_is_loaded_on_all_that_it_was_tuned_on(chat_result, caption_model, further, tmp_path):
    assert record(chat_result.directory / "adapter") == str(caption_model / "model")
    assert record(further / "adapter") == str(chat_result.directory)
    alone = export(further, to="adapter", out=tmp_path / "alone")
    torch.testing.assert_close(logits(*load_run(alone)), logits(*load_run(further)))
    assert str(chat_result.directory) in (alone / "README.md").read_text()


def test_a_run_moved_with_its_base_still_loads(chat_result, caption_model, expected, tmp_path, monkeypatch):
    moved = shutil.copytree(chat_result.directory, tmp_path / "elsewhere" / "run")
    shutil.copytree(caption_model, moved / "base")
    recipe = recipes.load(str(moved / "recipe.yaml"), ["run.dir=runs/chat", "model.weights=runs/chat/base"])
    recipes.save(recipe, moved / "recipe.yaml")
    absent = json.loads((moved / "adapter" / "adapter_config.json").read_text()) | {"base_model_name_or_path": "gone"}
    (moved / "adapter" / "adapter_config.json").write_text(json.dumps(absent))
    monkeypatch.chdir(tmp_path)
    for path in ("elsewhere/run", "elsewhere/run/adapter"):
        torch.testing.assert_close(logits(*load_run(path)), expected)


def test_another_current_folder(chat_result, caption_model, expected, tmp_path, monkeypatch):
    run = shutil.copytree(chat_result.directory, tmp_path / "run")
    recipes.save(recipes.load(str(run / "recipe.yaml"), ["model.weights=weights/base"]), run / "recipe.yaml")
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(logits(*load_run("run")), expected)


def test_a_base_that_is_gone_can_be_named(chat_result, caption_model, expected, tmp_path):
    alone = export(chat_result.directory, to="adapter", out=tmp_path / "alone")
    gone = json.loads((alone / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/no/such/base"}
    (alone / "adapter_config.json").write_text(json.dumps(gone))
    with pytest.raises(UserError, match=r"alone was tuned on top of /no/such/base.*--base"):
        load_run(alone)
    torch.testing.assert_close(logits(*load_run(alone, base=str(caption_model))), expected)


def test_a_native_file_is_loaded_by_its_preset(chat_result, expected, tmp_path):
    file = export(chat_result.directory, to="native", out=tmp_path / "tuned.safetensors")
    torch.testing.assert_close(logits(*load_run(file, preset="tiny")), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="--preset"):
        load_run(file)

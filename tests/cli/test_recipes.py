"""`recipes`, `show`, `validate`: looking before running."""

import json
import subprocess
import sys

import yaml

from emu2_lit.recipe import catalog

SOUND = "model: {preset: tiny}\ntrainer: {max_steps: 1}\ndata: {sources: [{path: a.json}]}\n"


def test_recipes_are_listed(emu2_lit):
    status, out, _ = emu2_lit("recipes")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == catalog.names()
    assert catalog.description("chat/lora") in out


def test_recipes_as_json(emu2_lit):
    listed = json.loads(emu2_lit("recipes", "--json")[1])
    assert [recipe["name"] for recipe in listed] == catalog.names()
    assert all(recipe["hardware"] and recipe["commands"] for recipe in listed)


def test_show_prints_yaml_with_notes_and_overrides(emu2_lit):
    status, out, _ = emu2_lit("show", "chat/lora", "optimizer.lr=3e-4")
    assert status == 0
    shown = yaml.safe_load(out)
    assert shown["optimizer"]["lr"] == 3e-4
    assert shown["data"]["sources"][0]["path"] == "???"
    assert "# peak learning rate" in out
    assert json.loads(emu2_lit("show", "chat/lora", "optimizer.lr=3e-4", "--json")[1]) == shown


def test_what_show_prints_is_a_recipe(emu2_lit, tmp_path):
    (tmp_path / "mine.yaml").write_text(emu2_lit("show", "debug/overfit")[1])
    assert emu2_lit("show", "mine.yaml")[1] == emu2_lit("show", "debug/overfit")[1]


def test_validate_tells_everything(emu2_lit, tmp_path):
    (tmp_path / "good.yaml").write_text(SOUND)
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "bad.yaml").write_text(SOUND + "optimizer: {lr: fast}\nrnu: {}\n")
    status, out, _ = emu2_lit("validate", "good.yaml", "bad.yaml", "chat/lora", "absent.yaml")
    assert status == 2
    assert "good.yaml: ok\n" in out
    assert "bad.yaml: 2 error(s)" in out
    assert "bad.yaml: optimizer.lr: expected a number, got 'fast'" in out and "did you mean run?" in out
    assert "chat/lora: ok once you give data.sources.0.path=..." in out
    assert "no recipe file absent.yaml" in out


def test_validate_names_missing_files(emu2_lit, tmp_path):
    (tmp_path / "mine.yaml").write_text(SOUND)
    status, out, _ = emu2_lit("validate", "mine.yaml")
    assert status == 2 and "data.sources.0.path: no such file or folder: a.json" in out
    assert emu2_lit("validate", "mine.yaml", "data.sources.0.path=mine.yaml")[0] == 0


def test_validate_as_json(emu2_lit):
    status, out, _ = emu2_lit("validate", "--json", "chat/lora", "quickstart/chat")
    assert status == 0
    assert json.loads(out)[0] == {"recipe": "chat/lora", "errors": [], "required": ["data.sources.0.path"]}


def test_a_users_mistake_is_one_message(emu2_lit):
    status, out, err = emu2_lit("show", "chat/lorra")
    assert (status, out) == (2, "")
    assert err.startswith("emu2-lit: no recipe 'chat/lorra'; did you mean chat/lora?") and "Traceback" not in err


def test_looking_needs_no_heavy_library(tmp_path):
    code = "import sys; from emu2_lit.cli import main; main(['recipes']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def test_output_that_nobody_reads(tmp_path):
    command = f"{sys.executable} -m emu2_lit show chat/lora | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "model:\n" and "Traceback" not in done.stderr

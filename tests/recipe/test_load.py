"""Recipes become typed values; a mistake is one message that names file, key and what is legal."""

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError


def error(path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        recipes.load(path, overrides)
    return str(caught.value)


def test_defaults_are_the_papers(recipe_file):
    recipe = recipes.load(recipe_file())
    assert (recipe.optimizer.lr, recipe.optimizer.betas, recipe.optimizer.eps) == (1e-5, [0.9, 0.98], 1e-6)
    assert recipe.trainer.gradient_clip_val == 5.0
    assert recipe.data.max_length == 2048
    assert recipe.data.sources == [recipes.SourceSection(path="chats.json")]


def test_the_run_is_named_after_the_recipe(recipe_file, tmp_path):
    recipe = recipes.load(recipe_file())
    assert (recipe.name, recipe.run.dir) == ("mine", "runs/mine")
    (tmp_path / "deep").mkdir()
    assert recipes.load(recipe_file().rename("deep/other.yaml")).run.dir == "runs/deep/other"


def test_run_name_and_folder_can_be_given(recipe_file):
    assert recipes.load(recipe_file("run: {name: try}\n")).run.dir == "runs/try"
    assert recipes.load(recipe_file("run: {dir: here}\n")).run.dir == "here"


def test_references_are_resolved_with_overrides(recipe_file):
    file = recipe_file(text="model: {preset: tiny}\ntrainer: {max_steps: 1}\ndata: {sources: [{path: '${run.dir}/a'}]}")
    assert recipes.load(file, ["run.dir=x"]).data.sources[0].path == "x/a"


def test_reference_to_nothing(recipe_file):
    assert "no_such_key" in error(recipe_file(), "run.dir=${no_such_key}")


def test_empty_section_means_its_defaults(recipe_file):
    assert recipes.load(recipe_file("optimizer:\n")).optimizer == recipes.OptimizerSection()


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("trainer.max_stepz", "trainer.max_steps"),
        ("trainr.max_steps", "trainer"),
        ("tuning.lora.rang", "tuning.lora.rank"),
        ("data.sources.0.paht", "data.sources.0.path"),
        ("trainer.lr", "optimizer.lr"),
    ],
)
def test_unknown_key_names_the_nearest(recipe_file, key, nearest):
    message = error(recipe_file(), f"{key}=1")
    assert message.startswith("command line: ")
    assert f"did you mean {nearest}?" in message


def test_unknown_key_in_a_file_names_the_file(recipe_file):
    message = error(recipe_file("optimizer: {learning_rats: 1}\n"))
    assert message.startswith(
        "mine.yaml: optimizer.learning_rats: is not a key of a recipe; legal here: name, lr, part_lr"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainer.max_steps=many", "expected a whole number or null, got 'many' (text)"),
        ("trainer.max_steps=2.5", "expected a whole number or null, got 2.5 (a number)"),
        ("trainer.deterministic=1", "expected true or false, got 1 (a whole number)"),
        ("optimizer.lr=[1]", "expected a number, got [1] (a list)"),
        ("tuning.frozen=visual", "expected a list, each item one of visual, project_up"),
        ("data.sources=chats.json", "expected a list, each item a section with keys path, format"),
        ("trainer=3", "expected a section with keys max_steps"),
        ("optimizer.lr=null", "expected a number, got null"),
    ],
)
def test_wrong_type_says_what_was_expected_and_given(recipe_file, override, expected):
    key = override.split("=")[0]
    message = error(recipe_file(), override)
    assert message.startswith(f"command line: {key}: {expected}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tuning.method=lorra", "expected one of lora, full, got 'lorra' (text); did you mean lora?"),
        ("model.preset=huge", "expected one of emu2, emu2-chat, emu2-gen, small, tiny or null"),
        ("tuning.frozen=[visuel]", "did you mean visual?"),
        ("data.micro_batch_size=0", "expected at least 1, got 0"),
        ("tuning.lora.dropout=2", "expected a number from 0 to 1, got 2"),
        ("data.sources.0.weight=-1", "expected at least 0, got -1"),
    ],
)
def test_illegal_value_names_the_legal_ones(recipe_file, override, expected):
    assert expected in error(recipe_file(), override)


def test_all_mistakes_are_told_at_once(recipe_file):
    lines = error(recipe_file("optimizer: {lr: fast}\n"), "trainer.max_stepz=1").splitlines()
    assert {line.split(": ")[0] for line in lines} == {"mine.yaml", "command line"}


def test_value_that_is_still_to_be_given(recipe_file):
    file = recipe_file(text="model: {preset: tiny}\ntrainer: {max_steps: 1}\ndata: {sources: [{path: '???'}]}")
    assert "data.sources.0.path=..." in error(file)
    assert recipes.required_keys(recipes.read(file)) == ["data.sources.0.path"]
    assert recipes.load(file, ["data.sources.0.path=a.json"]).data.sources[0].path == "a.json"


def test_broken_yaml_names_the_place(recipe_file):
    message = error(recipe_file(text="model:\n  preset: [tiny\ndata: 1\n"))
    assert message.startswith("mine.yaml, line 3, column 5: not valid YAML")


def test_key_given_twice(recipe_file):
    assert "mine.yaml, line " in error(recipe_file("trainer: {max_steps: 5}\n"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n"])
def test_recipe_that_is_no_mapping(recipe_file, text):
    assert error(recipe_file(text=text)).startswith("mine.yaml: ")


def test_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no recipe file absent.yaml" in error("absent.yaml")


def test_unknown_name_names_the_nearest():
    assert "did you mean chat/lora?" in error("chat/lorra")

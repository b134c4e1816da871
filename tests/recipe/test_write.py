"""A recipe that is written reads back as an equal one."""

import pytest

from emu2_lit import recipe as recipes


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["callbacks.answers=null", "run.logger=[]", "data.sources.1.path='b: #c.json'", "run.name='12'"],
        ["data.validation.0.path=ü.json", "trainer.devices='0'", 'data.sources.0.system_message="a:\\n\\n b\\n#c"'],
    ],
)
def test_round_trip(recipe_file, overrides, tmp_path):
    recipe = recipes.load(recipe_file(), overrides)
    saved = tmp_path / "run" / "recipe.yaml"
    recipes.save(recipe, saved)
    assert recipes.load(saved) == recipe
    assert [file.name for file in saved.parent.iterdir()] == ["recipe.yaml"]

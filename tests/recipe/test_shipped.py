"""Every recipe that comes with the kit, found by walking the folder."""

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.recipe import catalog

SHIPPED = catalog.names()


def test_there_are_recipes():
    assert {"quickstart/chat", "chat/lora", "chat/full", "debug/overfit", "debug/dry_run"} <= set(SHIPPED)
    assert len(SHIPPED) == len(list(catalog.folder().rglob("*.y*ml")))


@pytest.mark.parametrize("name", SHIPPED)
def test_loads(name):
    required = recipes.required_keys(recipes.read(name))
    recipe = recipes.load(name, [f"{key}=given" for key in required])
    assert recipe.name == name
    assert recipe.run.dir == f"runs/{name}"
    if recipes.is_recipe(recipe.model.weights or ""):
        recipes.load(recipe.model.weights)


@pytest.mark.parametrize("name", SHIPPED)
def test_header_says_how_to_run_it_and_where(name):
    assert len(catalog.description(name)) > 20
    commands = (f"fit {name}", f"submit {name}", f"evaluate {name}", "make quickstart")
    assert any(command in line for line in catalog.commands(name) for command in commands)
    assert catalog.hardware(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_path_means_the_same_recipe(name):
    assert recipes.read(catalog.path(name)) == recipes.read(name)

"""The schema explains every key, and agrees with the code that it describes."""

from dataclasses import asdict
from typing import get_args, get_type_hints

from emu2_lit import recipe as recipes
from emu2_lit.model import PRESETS
from emu2_lit.model.parts import PARTS
from emu2_lit.modules import OBJECTIVES
from emu2_lit.modules.optimization import SCHEDULES
from emu2_lit.recipe.check import section_of
from emu2_lit.recipe.schema import RANGES, Part, Preset, Recipe, notes


def test_every_key_is_explained():
    def unexplained(section: type):
        for name, hint in get_type_hints(section).items():
            if inner := section_of(hint):
                yield from unexplained(inner)
            elif name not in notes(section):
                yield f"{section.__name__}.{name}"

    assert list(unexplained(Recipe)) == []


def test_ranges_name_keys_of_the_schema():
    for key in RANGES:
        source = [recipes.SourceSection()]
        data = recipes.DataSection(sources=source, validation=source, types=[recipes.TypeSection()])
        evaluation = recipes.EvaluationSection(benchmarks=[recipes.BenchmarkSection()])
        prompt = recipes.PromptSection(parts=[recipes.PromptPartSection()])
        watched = recipes.CallbacksSection(drawings=recipes.DrawingsSection(prompts=[prompt]))
        section = asdict(Recipe(data=data, evaluation=evaluation, callbacks=watched))
        for name in key.split("."):
            section = section[0] if isinstance(section, list) else section
            assert name in section, key
            section = section[name]


def test_choices_are_those_of_the_code():
    assert get_args(Preset) == tuple(PRESETS)
    assert get_args(Part) == tuple(PARTS)
    assert set(get_args(get_type_hints(recipes.TuningSection)["objective"])) == set(OBJECTIVES)
    assert recipes.OptimizerSection().schedule in SCHEDULES

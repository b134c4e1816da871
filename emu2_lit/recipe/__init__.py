"""Recipes: what a run is, as a typed document."""

from emu2_lit.recipe import catalog
from emu2_lit.recipe.catalog import is_recipe, names
from emu2_lit.recipe.check import required_keys
from emu2_lit.recipe.load import load, read
from emu2_lit.recipe.rules import missing_files
from emu2_lit.recipe.schema import (
    AnswersSection,
    BenchmarkSection,
    CallbacksSection,
    DataSection,
    DrawingSection,
    DrawingsSection,
    EncoderSection,
    EvaluationSection,
    GenerationSection,
    LoraSection,
    ModelSection,
    OptimizerSection,
    PictureSection,
    PromptPartSection,
    PromptSection,
    Recipe,
    ResumeSection,
    RunSection,
    SlurmSection,
    SourceSection,
    TrainerSection,
    TuningSection,
    TypeSection,
)
from emu2_lit.recipe.write import save, to_yaml

__all__ = [
    "AnswersSection",
    "BenchmarkSection",
    "CallbacksSection",
    "DataSection",
    "DrawingSection",
    "DrawingsSection",
    "EncoderSection",
    "EvaluationSection",
    "GenerationSection",
    "LoraSection",
    "ModelSection",
    "OptimizerSection",
    "PictureSection",
    "PromptPartSection",
    "PromptSection",
    "Recipe",
    "ResumeSection",
    "RunSection",
    "SlurmSection",
    "SourceSection",
    "TrainerSection",
    "TuningSection",
    "TypeSection",
    "catalog",
    "is_recipe",
    "load",
    "missing_files",
    "names",
    "read",
    "required_keys",
    "save",
    "to_yaml",
]

"""`evaluate`: the few-shot scores of a recipe's model, to read, to compare with the paper's, and to submit."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.progress import track

from callbacks.in_context_pictures import curves, episodes
from callbacks.report import write_report
from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.benchmarks import open_benchmark
from emu2_lit.evaluation.confidence import mean_interval
from emu2_lit.evaluation.demonstrations import Features
from emu2_lit.evaluation.pictures import Pictures
from emu2_lit.evaluation.predictions import PredictionFiles
from emu2_lit.evaluation.prompts import shots_name
from emu2_lit.evaluation.published import published
from emu2_lit.evaluation.runner import predict
from emu2_lit.recipe.schema import EvaluationSection, Recipe
from emu2_lit.run.base import base_run
from emu2_lit.run.result import load_run
from emu2_lit.samples.seeding import hash_seed

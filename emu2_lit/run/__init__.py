"""How a recipe becomes a run."""

from emu2_lit.run.assemble import build_callbacks, build_datamodule, build_module, build_origin, build_trainer
from emu2_lit.run.fit import RunResult, fit
from emu2_lit.run.result import load_run

__all__ = [
    "RunResult", "build_callbacks", "build_datamodule", "build_module", "build_origin", "build_trainer", "fit",
    "load_run",
]  # fmt: skip

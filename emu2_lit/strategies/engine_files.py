"""Folders that DeepSpeed has written, read without its engine."""

import argparse
import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from torch import Tensor

ABOUT = "engine.json"  # of which stage, from how many ranks, and what trains
TAG = "checkpoint"  # Lightning's name for the folder inside


def read_about_engine(folder: Path) -> dict[str, Any] | None:
    """How a checkpoint was written; None where it was not DeepSpeed."""
    file = folder / ABOUT
    return json.loads(file.read_text()) if file.is_file() else None


def read_trained(folder: Path) -> dict[str, Tensor]:
    """Whole tensors of what trains, by name, float32, in main memory."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        found = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
    names = read_about_engine(folder)["trained"]
    return {name: found[name] for name in names}


def convert(folder: Path, target: Path) -> None:
    """Write DeepSpeed's universal form, which any number of ranks reads."""
    from deepspeed.checkpoint.ds_to_universal import main

    target.mkdir(parents=True, exist_ok=True)
    wanted = argparse.Namespace(
        input_folder=str(folder / TAG), output_folder=str(target / TAG), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        main(wanted)

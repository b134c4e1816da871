"""The least memory of every shipped training recipe, by number of devices."""

from collections.abc import Sequence
from typing import Any

from emu2_lit import recipe as recipes
from emu2_lit.plan import size
from emu2_lit.run.plan import Circumstances, open_recipe, plan, plannable

_SMALL = 8 * 2**30  # a run that needs no more is not divided over devices


def rows(counts: Sequence[int], names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """By shipped training recipe what a device needs (bytes, and in words), reserve included; on several devices with
    FSDP. None where one device is enough by far, or quantised weights cannot be divided."""
    return [_row(name, counts) for name in names or recipes.names() if plannable(open_recipe(name))]


def _row(name: str, counts: Sequence[int]) -> dict[str, Any]:
    recipe = open_recipe(name)
    needed: list[int | None] = [plan(recipe, Circumstances(devices=1, strategy="auto")).needed]
    for count in counts[1:]:
        alone = needed[0] < _SMALL or recipe.model.quantization
        needed.append(None if alone else plan(recipe, Circumstances(devices=count, strategy="fsdp")).needed)
    cells = ["-" if one is None else size(one) for one in needed]
    return {"recipe": name, "devices": list(counts), "bytes": needed, "cells": cells}

"""Metrics and answer normalisers: pure functions, no Lightning."""

from emu2_lit.evaluation.exact_match import exact_match, normalise
from emu2_lit.evaluation.short_answer import short_answer

__all__ = ["exact_match", "normalise", "short_answer"]

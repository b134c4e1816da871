"""CoBSAT (https://arxiv.org/abs/2402.01293): does a generated picture show what the text and the examples ask for?

The shown word (the text) and the latent one (inferred from the examples) are judged apart; the picture is right where
both are. Which of the two is the object and which its attribute differs by task and makes no difference here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from emu2_lit.evaluation.vl_icl import Judge, judge_question

EXPANSIONS = {"3d": "wireframe", "park": "amusement park"}  # what short words of the data mean
Choose = Callable[[Any, Sequence[str]], str]  # (picture, options) -> the option it shows


@dataclass(frozen=True)
class Verdict:
    """What a picture shows of what it should."""

    latent: bool
    non_latent: bool

    @property
    def total(self) -> bool:
        return self.latent and self.non_latent


def expand(word: str) -> str:
    """The word as a judge is asked about it."""
    return EXPANSIONS.get(word.strip().lower(), word)


def judge_picture(picture: Any, latent: str, non_latent: str, judge: Judge) -> Verdict:
    """Two questions to be answered with yes or no, as VL-ICL Bench asks them."""
    return Verdict(*(bool(judge(picture, judge_question(expand(word)))) for word in (latent, non_latent)))


def judge_by_choice(
    picture: Any,
    latent: str,
    non_latent: str,
    latent_options: Sequence[str],
    non_latent_options: Sequence[str],
    choose: Choose,
) -> Verdict:
    """Two questions of multiple choice, as CoBSAT asks them, with the task's ten values as options of each.

    Args:
        picture: or, in its text track, the description.
        choose: is given the options expanded and returns one of them.
    """

    def shows(word: str, options: Sequence[str]) -> bool:
        return choose(picture, [expand(option) for option in options]) == expand(word)

    return Verdict(shows(latent, latent_options), shows(non_latent, non_latent_options))


def cobsat_scores(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Shares of pictures that are right in all, in the latent and in the shown word, 0..1; nan for no pictures."""
    return {
        name: sum(getattr(verdict, name) for verdict in verdicts) / len(verdicts) if verdicts else math.nan
        for name in ("total", "latent", "non_latent")
    }

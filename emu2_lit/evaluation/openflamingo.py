"""Post-processing of generated answers and captions in OpenFlamingo's evaluation (https://arxiv.org/abs/2308.01390).

Its prompts are "Question:{q} Short answer:{a}" and "Output:{caption}"; a model that goes on writes these words again.
"""

import re

_NEXT_QUESTION = re.compile("Question|Answer|Short")


def openflamingo_answer(text: str) -> str:
    """What stands before the next "Question", "Answer" or "Short", and of that before the first comma and space."""
    return _NEXT_QUESTION.split(text, maxsplit=1)[0].split(", ", 1)[0].strip()


def openflamingo_caption(text: str) -> str:
    """What stands before the next "Output", without double quotes."""
    return text.split("Output", 1)[0].replace('"', "").strip()

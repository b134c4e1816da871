"""Texts as sentences: the pieces that documents may lose, and never a part of one."""

import re

_SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’)\]]*\s+|[。！？]+\s*|\n\s*|\Z)", re.DOTALL)


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text, each with the space behind it: joined they are the text, stripped at the left.

    An abbreviation counts as the end of a sentence.
    """
    return _SENTENCE.findall(text)

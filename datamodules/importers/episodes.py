"""In-context episodes: {support: [{image, name}, ...], query: {image, name}}; names that came before are learned.

A pair may have a `text` in place of its image. Source: fast concept binding (Tsimpoukelli et al. 2021, "Multimodal
Few-Shot Learning with Frozen Language Models"): pictures with made-up names, of which the last can only be told from
those before it. Pictures are learned as well, for objectives that regress them.
"""

from typing import Any

from datamodules.context import Context
from datamodules.turns import as_list
from emu2_lit.samples.sample import BadSample, Part, Sample


def detect(record: dict[str, Any]) -> bool:
    return {"support", "query"} <= record.keys()


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    parts, seen = [], set()
    for pair in [*as_list(record["support"]), record["query"]]:
        if not isinstance(pair, dict) or not isinstance(pair.get("name"), str) or not pair["name"].strip():
            raise BadSample(f"an episode is made of pairs with a name, not of {pair!r}")
        name = pair["name"].strip()
        parts += [_shown(pair, context, first=not parts), Part("text", f"{name}.", learn=name in seen)]
        seen.add(name)
    if not parts[-1].learn:
        raise BadSample("the name of the query is none of the support's, so nothing can tell it")
    return Sample(context.sample_id(record), tuple(parts), as_is=True)


def _shown(pair: dict[str, Any], context: Context, first: bool) -> Part:
    """What the name stands for: a picture, or a text set off from what surrounds it."""
    if not isinstance(pair.get("text"), str):
        return Part("image", context.image(pair.get("image")), learn=True)
    return Part("text", f"{'' if first else ' '}{pair['text'].strip()}: ")

"""How many tokens each sample of a source has: what goes into one row must be known before anything is read."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.cached import cache_folder, cached
from datamodules.sources import Source
from emu2_lit.errors import UserError
from emu2_lit.samples.encoding import token_length
from emu2_lit.samples.sample import BadSample, stamp_of
from emu2_lit.samples.seeding import hash_seed

LENGTHS_VERSION = 1


def lengths_of(source: Source, processor: Any, max_length: int, cache: Path | None = None) -> np.ndarray:
    """(samples,) int32: tokens of each sample as it is learned, at most `max_length`; no picture is read.

    What is bad has 1, the token that keeps its place. What is no conversation is drawn anew in every epoch and may fill
    a row, so it has `max_length`. Measured once for each state of the files; kept in `cache`.
    """
    tokenizer = processor.tokenizer
    files = [(path.resolve(), stamp_of(path)) for path in source.paths]
    words = hashlib.sha256(tokenizer.model_bytes).hexdigest(), tokenizer.chat, processor.n_query, processor.v_query
    key = hash_seed(LENGTHS_VERSION, files, asdict(source.settings), words, max_length)

    def measure() -> dict[str, np.ndarray]:
        rank_zero_info(f"data.packing: measuring the {len(source)} samples of {source.name}, which is done once")
        lengths = [_length(source, index, processor, max_length) for index in range(len(source))]
        return {"lengths": np.array(lengths, np.int32)}

    return cached(cache or cache_folder("lengths"), key, measure)["lengths"]


def _length(source: Source, index: int, processor: Any, max_length: int) -> int:
    try:
        sample = source[index]
        return token_length(sample, processor, max_length) if sample.is_chat else max_length
    except BadSample:
        return 1


def digest_of(lengths: Sequence[np.ndarray], max_length: int) -> str:
    """What the packing of these samples depends on, in 16 hexadecimal digits."""
    hashed = hashlib.sha256(str(max_length).encode())
    for column in lengths:
        hashed.update(column.tobytes())
    return hashed.hexdigest()[:16]


def check_alike(digests: Sequence[str]) -> None:
    """Raises UserError where ranks have measured other lengths: they would plan other rows."""
    if len(set(digests)) > 1:
        raise UserError(
            "data.packing: the devices have measured other lengths of the same samples, so their files differ; make "
            f"the data alike on all machines and delete {cache_folder('lengths')} on each"
        )

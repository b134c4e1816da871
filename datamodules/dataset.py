"""A map-style dataset over positions of the order: what runs inside the loader's workers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.budget import Skipped
from datamodules.cached import cache_folder
from datamodules.collate import Draw
from datamodules.documents import DocumentRules
from datamodules.generation import GenerationRules
from datamodules.pictures import PictureRules
from datamodules.sources import Source
from emu2_lit.errors import UserError
from emu2_lit.samples.encoding import Encoded, encode
from emu2_lit.samples.sample import BadSample

Position = int | tuple[int, int]  # in the order; where data have types, the type and the position in its order


class SampleDataset(Dataset):
    """`dataset[position]` draws, imports and encodes one sample; a bad one becomes a Skipped in its slot. Where data
    have types, positions are pairs of type and position in the type's order; a list of positions gives the draws of a
    row that several samples share. `rules` make what is learned of documents or, where pictures are drawn, of all
    samples. `lengths`, where rows are shared: the tokens that each sample has its place for, by source.
    """

    def __init__(
        self,
        sources: list[Source],
        order: Callable[[Position], tuple[int, int, int] | None],
        processor: Any,
        max_length: int,
        rules: DocumentRules | GenerationRules | PictureRules | None = None,
        lengths: Sequence[np.ndarray] | None = None,
    ):
        self.sources, self.order, self.processor, self.max_length = sources, order, processor, max_length
        self.rules = rules or DocumentRules(processor, max_length)
        self.lengths = lengths

    def __getitem__(self, position: Position | list[Position]) -> Draw | UserError | list[Draw | UserError]:
        if isinstance(position, list):
            return [self[one] for one in position]
        drawn = self.order(position)
        if drawn is None:
            return Draw("", 0, None, position)
        place, index, epoch = drawn
        source = self.sources[place]
        sample = None
        try:
            sample = source[index]
            sample = self.rules(sample, source.settings, epoch)
            item = encode(sample, self.processor, self.max_length)
            self._check_length(item, place, index)
            return Draw(source.name, epoch, item, position)
        except BadSample as error:
            id = sample.id if sample else source.sample_id(index)
            place_in_order = position if isinstance(position, int) else position[1]
            skipped = Skipped(source.name, id, str(error), place_in_order, epoch, index)
            return Draw(source.name, epoch, skipped, position)
        except UserError as error:
            return error

    def _check_length(self, item: Encoded, place: int, index: int) -> None:
        """Raises BadSample where a sample would take the room of its neighbours."""
        if self.lengths is not None and len(item.input_ids) > self.lengths[place][index]:
            raise BadSample(
                f"{len(item.input_ids)} tokens, but {self.lengths[place][index]} when it was measured: what it refers "
                f"to has changed since; delete {cache_folder('lengths')} to measure anew"
            )

    def name(self, position: Position) -> tuple[str, str]:
        """Source and id of the sample that is drawn at a position."""
        place, index, _ = self.order(position)
        return self.sources[place].name, self.sources[place].sample_id(index)

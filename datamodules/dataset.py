"""A map-style dataset over positions of the order: what runs inside the loader's workers."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset

from datamodules.budget import Skipped
from datamodules.collate import Draw
from datamodules.documents import DocumentRules
from datamodules.generation import GenerationRules
from datamodules.pictures import PictureRules
from datamodules.sources import Source
from emu2_lit.errors import UserError
from emu2_lit.samples.encoding import encode
from emu2_lit.samples.sample import BadSample


class SampleDataset(Dataset):
    """`dataset[position]` draws, imports and encodes one sample; a bad one becomes a Skipped in its slot. Where data
    have types, positions are pairs of type and position in the type's order. `rules` make what is learned of documents
    or, where pictures are drawn, of all samples."""

    def __init__(
        self,
        sources: list[Source],
        order: Callable[[Any], tuple[int, int, int] | None],
        processor: Any,
        max_length: int,
        rules: DocumentRules | GenerationRules | PictureRules | None = None,
    ):
        self.sources, self.order, self.processor, self.max_length = sources, order, processor, max_length
        self.rules = rules or DocumentRules(processor, max_length)

    def __getitem__(self, position: int | tuple[int, int]) -> Draw | UserError:
        drawn = self.order(position)
        if drawn is None:
            return Draw("", 0, None, position)
        place, index, epoch = drawn
        source = self.sources[place]
        sample = None
        try:
            sample = source[index]
            sample = self.rules(sample, source.settings, epoch)
            return Draw(source.name, epoch, encode(sample, self.processor, self.max_length), position)
        except BadSample as error:
            id = sample.id if sample else source.sample_id(index)
            place_in_order = position if isinstance(position, int) else position[1]
            return Draw(source.name, epoch, Skipped(source.name, id, str(error), place_in_order, epoch), position)
        except UserError as error:
            return error

"""Conversations and documents for training: sources in, batches out, one counter as state."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from lightning import LightningDataModule

from datamodules.budget import Budget
from datamodules.collate import Collator
from datamodules.dataset import SampleDataset
from datamodules.documents import DocumentRules
from datamodules.generation import GenerationRules, rules_for
from datamodules.lengths import check_alike, digest_of, lengths_of
from datamodules.loader import ValidationLoader, WindowLoader
from datamodules.order import GlobalOrder, TypedOrder, permutation
from datamodules.packing import PackedOrder
from datamodules.pictures import PictureRules
from datamodules.sources import Source, open_sources
from datamodules.split import Split, TypedSplit
from datamodules.types import check_types, typed_split
from emu2_lit.errors import UserError
from emu2_lit.ranks import data_place, gathered
from emu2_lit.samples.sample import BadSample, Sample
from emu2_lit.samples.seeding import hash_seed
from emu2_lit.settings import GenerationSettings, PictureSettings, SourceSettings, TypeSettings

_NOTHING_BAD = {"drawn": {}, "bad": {}, "reasons": {}}


class ChatDataModule(LightningDataModule):
    """Samples in a global order that is a pure function of (seed, sources, weights).

    An optimizer step always holds the next `global_batch_size` samples of that order, however they are split
    into micro-batches and ranks; the stream has no end. With `types`, sources of one type make an order of their own,
    and a step holds the batch of one type (`alternate`) or of all (`together`). With `packing`, conversations share
    rows of up to `max_length` tokens, and batches count rows; which share one follows from the order and their lengths.
    The state is the count of samples, or of rows, that completed steps have consumed, so a resume is exact at any step,
    with any number of ranks and workers.

    Args:
        processor: an Emu2Processor.
        global_batch_size: samples of one optimizer step; by default micro_batch_size x accumulation x ranks.
        packing: rows hold as many conversations as fit (training alone; validation has one in a row).
        max_length: tokens of a sample at most; conversations lose trailing turns, other samples are skipped.
        types: the data types that `source.type` names, with their batch sizes; none: one stream.
        mixing: how types share steps.
        learn_pictures: documents are learned with their pictures (the unified objective).
        generation: samples end in the picture that is to be drawn, and are varied so (generation tuning).
        pictures: of any sample its last picture alone is learned, cut so (the visual decoder); `size` is given.
        validation_limit: validation samples used at most, a fixed choice.
        bad_budget: share of a source that may be bad before the run is stopped.
        may_change: of seed, types, fingerprints, weights and packing, what may differ from the checkpoint's.
        digests: batches carry a digest of each sample, for the callback that notes what was consumed.
    """

    def __init__(
        self,
        sources: list[SourceSettings],
        processor: Any,
        validation: list[SourceSettings] = (),
        global_batch_size: int | None = None,
        micro_batch_size: int = 1,
        max_length: int = 2048,
        seed: int = 0,
        workers: int = 0,
        validation_limit: int | None = None,
        bad_budget: float = 0.01,
        types: list[TypeSettings] = (),
        mixing: Literal["alternate", "together"] = "alternate",
        learn_pictures: bool = False,
        generation: GenerationSettings | None = None,
        pictures: PictureSettings | None = None,
        digests: bool = False,
        may_change: Sequence[str] = (),
        packing: bool = False,
    ):
        super().__init__()
        if packing and (types or learn_pictures or generation or pictures):
            raise UserError(
                "data.packing: only conversations are packed, and without data.types; remove data.packing, or what "
                "makes types, documents or pictures of the data"
            )
        self.source_settings, self.validation_settings = list(sources), list(validation)
        self.processor, self.max_length, self.seed, self.workers = processor, max_length, seed, workers
        self.global_batch_size, self.micro_batch_size = global_batch_size, micro_batch_size
        self.validation_limit, self.bad_budget = validation_limit, bad_budget
        self.types, self.mixing, self.packing = list(types), mixing, packing
        self.learn_pictures, self.generation, self.pictures = learn_pictures, generation, pictures
        self.digests, self.may_change = digests, set(may_change)
        self._start: list[int] | None = None  # samples of each type consumed when the run started
        self._start_step: int | None = None
        self._budget: Budget | None = None
        self._budget_start: dict[str, Any] = _NOTHING_BAD

    @cached_property
    def sources(self) -> list[Source]:
        """The training sources. Raises UserError for files that are missing, unreadable or empty."""
        if not self.source_settings:
            raise UserError("data.sources is empty: name at least one file to train on")
        check_types(self.types, self.source_settings)
        return open_sources(self.source_settings)

    @cached_property
    def validation_sources(self) -> list[Source]:
        return open_sources(self.validation_settings)

    @cached_property
    def order(self) -> GlobalOrder | TypedOrder:
        if not self.types:
            return self._order(self.sources, self.seed)
        groups = [
            [place for place, source in enumerate(self.sources) if source.settings.type == kind.name]
            for kind in self.types
        ]
        orders = [
            self._order([self.sources[place] for place in group], hash_seed(self.seed, "type", kind.name))
            for kind, group in zip(self.types, groups, strict=True)
        ]
        return TypedOrder(groups, orders)

    @cached_property
    def lengths(self) -> list[np.ndarray] | None:
        """The tokens of every sample, by source; only packing asks for them."""
        if not self.packing:
            return None
        return [lengths_of(source, self.processor, self.max_length) for source in self.sources]

    @cached_property
    def packed(self) -> PackedOrder | None:
        """What each row holds, where samples share rows."""
        return PackedOrder(self.order, self.lengths, self.max_length, self.seed) if self.packing else None

    @property
    def pass_length(self) -> int:
        """Samples, or packed rows, of one pass over the training data."""
        samples = sum(map(len, self.sources))
        return self.packed.rows_of(samples) if self.packed else samples

    @staticmethod
    def _order(sources: list[Source], seed: int) -> GlobalOrder:
        weights = [source.settings.weight for source in sources]
        return GlobalOrder([len(source) for source in sources], None if None in weights else weights, seed)

    def setup(self, stage: str) -> None:
        """Open the files, so that a user's mistake shows before anything is trained."""
        if stage == "fit":
            self._start, self._start_step, self._budget_start = None, None, _NOTHING_BAD
            self.order, self.lengths  # noqa: B018
        self.validation_sources  # noqa: B018

    def train_dataloader(self) -> WindowLoader:
        if self.packing:
            check_alike(gathered([digest_of(self.lengths, self.max_length)]))
        split = self._split()
        rules = self._rules(self.seed)
        dataset = SampleDataset(self.sources, self.order, self.processor, self.max_length, rules, self.lengths)
        self._budget = Budget(self.bad_budget, {source.name: len(source) for source in self.sources})
        self._budget.load_state_dict(self._budget_start)
        steps, collate = self._steps_per_pass(split), self._collator(self.digests)
        leads = data_place(self.trainer).leads
        return WindowLoader(dataset, collate, split, steps, self._begin, self._budget, self.workers, self.packed, leads)

    def val_dataloader(self) -> ValidationLoader | list:
        """Every validation sample once over all ranks, in a fixed order, as many batches on each rank."""
        places = self._validation_places()
        if not places:
            return []
        place = data_place(self.trainer)
        split = Split(self.micro_batch_size, 1, place.size, place.rank)
        sampler = split.once_over(len(places))
        order, rules = _FixedOrder(places), self._rules(hash_seed("validation"))
        dataset = SampleDataset(self.validation_sources, order, self.processor, self.max_length, rules)
        sizes = Counter(self.validation_sources[source].name for source, _ in places)
        return ValidationLoader(
            dataset, sampler, self._collator(), lambda: Budget(self.bad_budget, dict(sizes)), self.workers, place.leads
        )

    def validation_samples(self) -> list[Sample]:
        """The validation samples that can be imported, in the order of the validation loader."""
        samples = []
        for source, index in self._validation_places():
            try:
                samples.append(self.validation_sources[source][index])
            except BadSample:
                continue  # the validation loader reports it
        return samples

    @property
    def consumed(self) -> int:
        """Samples, or packed rows, that completed optimizer steps have used."""
        return sum(self._consumed())

    def _consumed(self) -> list[int]:
        """The same by type; one number where there are no types."""
        split = self._split()
        start = self._start or [0] * max(len(self.types), 1)
        if self._start_step is None:
            return start
        drawn = split.drawn(self._start_step, self.trainer.global_step)
        return [sum(pair) for pair in zip(start, drawn, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        budget = self._budget.state_dict() if self._budget else self._budget_start
        return {"consumed": self._consumed(), "budget": budget, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the samples of the checkpoint. Raises UserError when the data are not the same."""
        for key, value in self._identity().items():
            if state.get(key) != value and key not in self.may_change:
                raise UserError(
                    f"the checkpoint was made with other data ({key}: {state.get(key)}, now {value}): its "
                    "place in the order means nothing here. Restore the data, start anew with another run.dir, or "
                    "go on knowingly with resume.allow=[data]."
                )
        if len(state["consumed"]) != max(len(self.types), 1):
            raise UserError("data.types: their number cannot change while a run lasts; start anew with another run.dir")
        self._start, self._start_step = state["consumed"], None
        self._budget_start = state["budget"]

    def _identity(self) -> dict[str, Any]:
        """What the order depends on."""
        return {
            "seed": self.seed,
            "types": [vars(kind) | {"mixing": self.mixing} for kind in self.types],
            "fingerprints": [source.fingerprint for source in self.sources],
            "weights": [source.settings.weight for source in self.sources],
            "packing": digest_of(self.lengths, self.max_length) if self.packing else None,
        }

    def _begin(self) -> tuple[int, list[int]]:
        """Where an iteration starts; the first one fixes which step the starting position belongs to."""
        if self._start_step is None:
            self._start_step = self.trainer.global_step
        return self.trainer.global_step, self._consumed()

    def _split(self) -> Split | TypedSplit:
        place, passes = data_place(self.trainer), self.trainer.accumulate_grad_batches
        if self.types:
            split = typed_split(self.types, self.mixing, self.micro_batch_size, place.size, place.rank)
            if split.accumulation != passes:
                raise UserError(f"accumulate_grad_batches is {passes}; data.types need {split.accumulation}")
            return split
        split = Split(self.micro_batch_size, passes, place.size, place.rank)
        if self.global_batch_size not in (None, split.global_batch_size):
            raise UserError(
                f"data.global_batch_size is {self.global_batch_size}, but micro_batch_size "
                f"{split.micro_batch_size} x accumulate_grad_batches {split.accumulation} x "
                f"{split.world_size} share(s) of the data is {split.global_batch_size}"
            )
        return split

    def _steps_per_pass(self, split: Split | TypedSplit) -> int:
        """The whole run where max_steps is given, else one epoch: its last samples flow into the next one."""
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps
        if self.types:
            raise UserError("max_steps must be given with data.types: their sources have no common end")
        return max(1, self.pass_length // split.global_batch_size)

    def _validation_places(self) -> list[tuple[int, int]]:
        """(source, index) of the validation samples: all, or a choice that does not depend on the seed."""
        places = [(i, index) for i, source in enumerate(self.validation_sources) for index in range(len(source))]
        if self.validation_limit is None or self.validation_limit >= len(places):
            return places
        chosen = permutation(hash_seed("validation"), len(places))[: self.validation_limit]
        return [places[place] for place in sorted(chosen)]

    def _rules(self, seed: int) -> DocumentRules | GenerationRules | PictureRules:
        return rules_for(self.processor, self.max_length, seed, self.learn_pictures, self.generation, self.pictures)

    def _collator(self, digests: bool = False) -> Collator:
        return Collator(self.processor.tokenizer.bos_id, self.processor.tokenizer.pad_id, digests)


class _FixedOrder:
    """An order of given places; positions behind their end are empty (ranks need as many batches)."""

    def __init__(self, places: list[tuple[int, int]]):
        self.places = places

    def __call__(self, position: int) -> tuple[int, int, int] | None:
        return (*self.places[position], 0) if position < len(self.places) else None

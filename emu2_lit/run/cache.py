"""`data cache`: every picture that a recipe can show to its frozen tower, through the tower once."""

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.generation import GenerationRules, rules_for
from emu2_lit.errors import UserError
from emu2_lit.evaluation.question import Question
from emu2_lit.model.images import square_pixels
from emu2_lit.model.weight_writing import require_space
from emu2_lit.recipe.schema import Recipe
from emu2_lit.run.assemble import build_datamodule, build_module, build_origin, open_benchmarks
from emu2_lit.run.features import MIXED, TRUE, feature_folder
from emu2_lit.run.origin import Origin
from emu2_lit.samples.encoding import frames_of, images_of, read_picture
from emu2_lit.samples.features import FeatureStore, finest, picture_id, room_for, write_shard
from emu2_lit.samples.sample import BadSample, Sample
from emu2_lit.samples.seeding import hash_seed

SHARD_BYTES = 2**26  # what a kill may cost each process
_MOST = 256  # pictures of a shard
_AT_ONCE = 16  # pictures in one pass of the tower
_READERS = 4  # threads that read and decode

Seen = tuple[Any, int]  # an image value, and how many visual tokens are made of it
Item = tuple[bytes, Any, int]  # the same with the picture's id


@dataclass(frozen=True)
class Cached:
    """What was found and done; `folder` holds the features of this tower."""

    folder: Path
    pictures: int
    new: int
    bad: int
    bytes: int
    seconds: float

    def describe(self) -> str:
        """What the user is told."""
        rate = f", {self.new / self.seconds:.1f} pictures/s" if self.new else ""
        return (
            f"{self.pictures} different pictures: {self.pictures - self.new} were there, {self.new - self.bad} are "
            f"new, {self.bad} cannot be read{rate}; {self.bytes / 1e6:.1f} MB written to {self.folder}\n"
            f"Train with data.features={self.folder.parent}"
        )


def cache(
    recipe: Recipe, processes: int | None = None, progress: Callable[[Iterable[int], int], Iterable[int]] | None = None
) -> Cached:
    """Write what the recipe's training, validation and in-context pictures become, under `data.features`.

    What is there already stays; stopped at any moment, the same call goes on. Processes share the pictures; each takes
    the next GPU, if there are any and `trainer.accelerator` is not cpu.

    Args:
        processes: default one for each GPU.
        progress: wraps the counts of pictures that are done (counts, pictures in all).
    Raises:
        UserError: features cannot be cached for this recipe, the data are wrong, or the disk is too full.
    """
    live = copy.deepcopy(recipe)
    live.data.features = None
    origin = build_origin(live)
    build_module(recipe, origin)  # refuses a tower that trains
    open_benchmarks(recipe)  # and benchmarks that draw
    folder = feature_folder(live, origin, recipe.data.features)
    folder.mkdir(parents=True, exist_ok=True)
    store = FeatureStore(folder)
    asked = _asked(live, origin)
    missing = {key for key in asked if not store.knows(*key)}
    width, dtype = origin.config.vision_config.hidden_size, getattr(torch, live.model.dtype)
    size = room_for(Counter(n_query for _, n_query in missing), width, dtype)
    require_space(folder, size, f"caching {len(missing)} pictures")
    start, count = time.monotonic(), len(missing)
    rows = min(_MOST, max(1, SHARD_BYTES // room_for({max((n for _, n in missing), default=1): 1}, width, dtype)))
    finished = _written(live, folder, _shards(live, origin, missing, rows), processes or max(1, len(_gpus(live))))
    read = sum(progress(finished, count) if progress else finished) if missing else 0
    return Cached(folder, len(asked), count, count - read, size, time.monotonic() - start)


# -- which pictures ------------------------------------------------------------------------------------------
def _asked(recipe: Recipe, origin: Origin) -> set[tuple[bytes, int]]:
    """Ids of the pictures, each with the finest number of visual tokens that is asked for."""
    tokens: dict[bytes, set[int]] = {}
    for id, _, n_query in _named(_seen(recipe, origin)):
        tokens.setdefault(id, set()).add(n_query)
    return {(id, n_query) for id, some in tokens.items() for n_query in finest(some)}


def _named(seen: Iterator[Seen]) -> Iterator[Item]:
    """With the pictures' ids; what cannot even be read is left to the run, which tells of it."""
    with ThreadPoolExecutor(_READERS) as readers:
        while some := list(islice(seen, 64)):
            ids = readers.map(_id_or_none, (value for value, _ in some))
            yield from ((id, *one) for id, one in zip(ids, some, strict=True) if id is not None)


def _id_or_none(value: Any) -> bytes | None:
    try:
        return picture_id(value)
    except BadSample:
        return None


def _seen(recipe: Recipe, origin: Origin) -> Iterator[Seen]:
    """Everything that training, validation and in-context benchmarks may show."""
    datamodule, processor = build_datamodule(recipe, origin), origin.processor
    generation = recipe.data.generation if recipe.tuning.objective == "generation" else None
    rules = partial(rules_for, processor, recipe.data.max_length, generation=generation)
    for source in datamodule.sources:
        for index in range(len(source)):
            try:
                yield from _of_sample(source[index], rules(seed=recipe.data.seed), processor)
            except BadSample:
                continue
    for sample in datamodule.validation_samples():
        try:
            yield from _of_sample(sample, rules(seed=hash_seed("validation")), processor)
        except BadSample:
            continue
    n_query = recipe.evaluation.n_query or min(64, processor.n_query)
    for benchmark in open_benchmarks(recipe):
        for question in (*benchmark.queries, *benchmark.support):
            yield from ((image, n_query) for image in _of_question(question))


def _of_sample(sample: Sample, rules: Any, processor: Any) -> Iterator[Seen]:
    if isinstance(rules, GenerationRules):
        yield from ((value, processor.n_query) for value in rules.every_picture(sample))
        return
    if not sample.is_chat and not sample.as_is and any(part.kind == "video" for part in sample.parts):
        raise UserError(
            f"data.features: frames of videos in documents are drawn anew in every epoch ({sample.id}); train them "
            "live, without data.features"
        )
    yield from ((value, processor.n_query) for value in images_of(sample))
    yield from ((value, processor.v_query) for value in frames_of(sample))


def _of_question(question: Question) -> Iterator[Any]:
    yield from question.images
    for demonstration in question.demonstrations:
        yield from _of_question(demonstration)


# -- through the tower ---------------------------------------------------------------------------------------
def _shards(recipe: Recipe, origin: Origin, missing: set[tuple[bytes, int]], rows: int) -> Iterator[list[Item]]:
    """What is missing, read once more, in portions of one number of visual tokens."""
    left, portions = set(missing), {}
    for id, value, n_query in _named(_seen(recipe, origin)):
        if (id, n_query) in left:
            left.remove((id, n_query))
            portion = portions.setdefault(n_query, [])
            portion.append((id, value, n_query))
            if len(portion) == rows:
                yield portions.pop(n_query)
        if not left:
            break
    yield from portions.values()


def _written(recipe: Recipe, folder: Path, shards: Iterator[list[Item]], processes: int) -> Iterator[int]:
    """Of each portion, when it stands on the disk, how many pictures could be read."""
    if processes == 1:
        yield from map(TowerPass(recipe, folder).write, shards)
        return
    spawn = get_context("spawn")
    places = spawn.Queue()
    for place in range(processes):
        places.put(place)
    with ProcessPoolExecutor(processes, spawn, _start, (recipe, folder, places)) as pool:
        running = {pool.submit(_write, shard) for shard in islice(shards, 2 * processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_write, shard) for shard in islice(shards, len(done))}
            yield from (one.result() for one in done)


def _gpus(recipe: Recipe) -> list[str]:
    return [] if recipe.trainer.accelerator == "cpu" else [f"cuda:{i}" for i in range(torch.cuda.device_count())]


class TowerPass:
    """Pictures to pooled features in the arithmetic of the recipe's run, kept in the type of its weights."""

    def __init__(self, recipe: Recipe, folder: Path, place: int = 0):
        origin, devices = build_origin(recipe), _gpus(recipe) or ["cpu"]
        self.folder, self.device = folder, torch.device(devices[place % len(devices)])
        self.size, self.dtype = origin.processor.image_size, getattr(torch, recipe.model.dtype)
        self.tower = build_module(recipe, origin).build_tower(self.device).eval()
        if (precision := recipe.trainer.precision) in TRUE:
            self.tower.to(TRUE[precision])
        mixed = MIXED.get(precision)
        self.arithmetic = torch.autocast(self.device.type, mixed) if mixed else nullcontext()

    def write(self, items: list[Item]) -> int:
        """Write one shard; how many of its pictures could be read."""
        features, bad = {}, {}
        for start in range(0, len(items), _AT_ONCE):
            some = items[start : start + _AT_ONCE]
            with ThreadPoolExecutor(_READERS) as readers:
                pixels = list(readers.map(self._pixels, (value for _, value, _ in some)))
            bad |= {id: read for (id, _, _), read in zip(some, pixels, strict=True) if isinstance(read, str)}
            good = {id: read for (id, _, _), read in zip(some, pixels, strict=True) if not isinstance(read, str)}
            if good:
                features |= dict(zip(good, self.encode(torch.stack(list(good.values())), some[0][2]), strict=True))
        write_shard(self.folder, features, bad)
        return len(features)

    @torch.no_grad()
    def encode(self, pixels: Tensor, n_query: int) -> Tensor:
        """(pictures, n_query, width) of pixels, on the CPU."""
        with self.arithmetic:
            return self.tower.encode_image(pixels.to(self.device), n_query).to("cpu", self.dtype)

    def _pixels(self, value: Any) -> Tensor | str:
        try:
            return square_pixels(read_picture(value), self.size)
        except BadSample as error:
            return str(error)


_pass: TowerPass | None = None  # of this process


def _start(recipe: Recipe, folder: Path, places: Any) -> None:
    global _pass
    _pass = TowerPass(recipe, folder, places.get())


def _write(items: list[Item]) -> int:
    return _pass.write(items)

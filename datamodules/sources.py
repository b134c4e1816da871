"""One source of samples: files (paths, globs, brace lists) behind one index."""

import glob
import hashlib
import re
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from datamodules.context import Context
from datamodules.folders import SEEDS, EditPairs, subject_records
from datamodules.importers import check_format, import_record
from datamodules.quality import KeptRecords
from datamodules.records import READERS
from datamodules.tars import TarRecords
from emu2_lit.errors import UserError
from emu2_lit.model.chat_template import SYSTEM_MESSAGES
from emu2_lit.samples.sample import BadSample, Part, Sample
from emu2_lit.settings import SourceSettings

_READERS = {**READERS, ".tar": TarRecords}
_BRACES = re.compile(r"\{([^{}]*)\}")
_PROBE_BYTES = 1 << 16


class Source:
    """An indexable source: `source[i]` is a Sample, or raises BadSample with the reason."""

    def __init__(self, settings: SourceSettings):
        check_format(settings.format)
        self.settings = settings
        self.name = settings.name or Path(settings.path).name
        self.paths = find_files(settings.path)
        opened = [_open(path, settings) for path in self.paths]
        self.files = [_kept(file, settings) for file in opened]
        self.left_out = sum(map(len, opened)) - sum(map(len, self.files))
        self.ends = list(accumulate(len(file) for file in self.files))
        if not len(self):
            raise UserError(f"data source {self.name}: {settings.path} holds no samples")
        self.fingerprint = _fingerprint(self.paths, self.ends)

    def __len__(self) -> int:
        """Samples; the first `limit` of the files."""
        return min(self.ends[-1], self.settings.limit or self.ends[-1])

    def __getitem__(self, index: int) -> Sample:
        file, place = self._locate(index)
        context = self._context(index)
        is_tar = self.paths[file].suffix.lower() == ".tar"
        sample = import_record(self.files[file][place], context, "webdataset" if is_tar else context.format)
        return replace(self._with_system_message(sample), source=self.name)

    def sample_id(self, index: int) -> str:
        """The id of a sample, also of one that cannot be imported: its own where it has one, else its label."""
        file, place = self._locate(index)
        try:
            record = self.files[file][place]
        except BadSample:
            record = None
        return self._context(index).sample_id(record) if isinstance(record, dict) else self.label(index)

    def label(self, index: int) -> str:
        """Where a sample stands: "line 17", with the file's name where the source has several files."""
        file, place = self._locate(index)
        label = self.files[file].label(place)
        return label if len(self.files) == 1 else f"{self.paths[file].name}: {label}"

    def _context(self, index: int) -> Context:
        file, _ = self._locate(index)
        root = Path(self.settings.root) if self.settings.root else self.paths[file].parent
        format = "auto" if self.settings.format == "webdataset" else self.settings.format
        settings = self.settings
        return Context(
            root,
            self.label(index),
            num_frames=settings.num_frames,
            format=format,
            min_similarity=settings.min_similarity,
            min_score=settings.min_score,
        )

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect_right(self.ends, index)
        return file, index - (self.ends[file - 1] if file else 0)

    def _with_system_message(self, sample: Sample) -> Sample:
        message = self.settings.system_message
        if message is None or not sample.is_chat or any(part.role == "system" for part in sample.parts):
            return sample
        text = "" if message == "none" else SYSTEM_MESSAGES.get(message, message)
        return replace(sample, parts=(Part("text", text, "system"), *sample.parts))


def open_sources(settings: list[SourceSettings]) -> list[Source]:
    """All sources of a mixture. UserError for weights that only some have or that are not positive."""
    weights = [item.weight for item in settings]
    if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
        raise UserError("give every data source a weight, or none of them")
    for item in settings:
        if item.weight is not None and not item.weight > 0:
            raise UserError(f"data source {item.name or item.path}: weight must be positive, not {item.weight}")
    sources = [Source(item) for item in settings]
    return _with_own_names(sources)


def _with_own_names(sources: list[Source]) -> list[Source]:
    """Sources are counted by name: names that occur twice get their place added."""
    names = [source.name for source in sources]
    for place, source in enumerate(sources):
        if names.count(source.name) > 1:
            source.name = f"{source.name} #{place + 1}"
    return sources


def find_files(pattern: str) -> list[Path]:
    """The files behind a path, glob or brace list, in sorted order per pattern; none is a UserError."""
    found: list[Path] = []
    for name in expand_braces(pattern):
        path = Path(name).expanduser()
        matches = [path] if path.exists() else _matches(path, name)
        if not matches:
            raise UserError(f"data file not found: {name}" + (f" (from {pattern})" if name != pattern else ""))
        found += [path / SEEDS if (path / SEEDS).is_file() else path for path in matches]
    return found


def _matches(path: Path, name: str) -> list[Path]:
    """What a pattern matches; one that ends in / folders alone."""
    pattern = str(path) + "/" * name.endswith("/")
    return [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]


def expand_braces(pattern: str) -> list[str]:
    """Shell-like braces: "a-{00..02}.tar" and "{a,b}.json"."""
    match = _BRACES.search(pattern)
    if not match:
        return [pattern]
    first, dots, last = match.group(1).partition("..")
    if dots and first.isdigit() and last.isdigit():
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        choices = match.group(1).split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [whole for choice in choices for whole in expand_braces(head + choice + tail)]


def _open(path: Path, settings: SourceSettings) -> Any:
    if path.name == SEEDS:
        return EditPairs(path)
    if path.is_dir():
        return subject_records(path, settings)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"cannot read {path}: known file types are {', '.join(_READERS)}")
    return reader(path)


def _kept(file: Any, settings: SourceSettings) -> Any:
    return file if settings.min_quality is None else KeptRecords(file, settings.min_quality)


def _fingerprint(paths: list[Path], ends: list[int]) -> str:
    """Names, sizes, counts, and the first and last bytes of the files: enough to notice data that changed."""
    digest = hashlib.blake2b(digest_size=16)
    for path, end in zip(paths, ends, strict=True):
        if path.is_dir():
            digest.update(repr([(file.name, file.stat().st_size) for file in sorted(path.iterdir())]).encode())
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:{end}:".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_PROBE_BYTES))
            file.seek(max(0, size - _PROBE_BYTES))
            digest.update(file.read(_PROBE_BYTES))
    return digest.hexdigest()

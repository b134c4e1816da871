"""Reading the official files of benchmarks: what is missing or malformed is said once, with its name."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from emu2_lit.errors import UserError

T = TypeVar("T")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def need(folder: Path, *names: str, benchmark: str) -> list[Path]:
    """The named files or folders. Raises UserError that lists all that are missing."""
    paths = [folder / name for name in names]
    if missing := [path.name for path in paths if not path.exists()]:
        raise UserError(
            f"benchmark {benchmark}: {folder} lacks {', '.join(missing)}; expected are {', '.join(names)} "
            "(the official names)"
        )
    return paths


def first_of(folder: Path, *patterns: str, benchmark: str) -> Path:
    """The first file that fits one of the patterns. Raises UserError where there is none."""
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise UserError(f"benchmark {benchmark}: {folder} has none of {', '.join(patterns)}")


def pictures_in(folder: Path, pattern: str = "*") -> list[Path]:
    """Files of pictures in order of their names, by their endings; hidden ones are left out.

    Args:
        pattern: `**/*` searches in depth.
    """
    found = (file for file in folder.glob(pattern) if file.suffix.lower() in PICTURES)
    return sorted(file for file in found if not file.name.startswith("."))


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error


def read_lines(path: Path) -> list[Any]:
    """The records of a JSONL file, or of a JSON file that holds a list."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        return read_json(path)
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: is not JSON ({error})") from error
    return records


def each(records: Sequence[Any], make: Callable[[Any], T], path: Path) -> Iterator[T]:
    """`make` of every record. Raises UserError that names the record which lacks something."""
    for number, record in enumerate(records, 1):
        try:
            yield make(record)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            told = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
            raise UserError(f"{path}, record {number}: {told}") from error

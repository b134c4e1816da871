"""Indexable files of records (JSON lists, JSON lines, Parquet), held as bytes and offsets."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emu2_lit.errors import UserError
from emu2_lit.samples.sample import BadSample, FileSlice


def parse_json(text: bytes | str) -> Any:
    """A JSON value. Raises ValueError for everything that is none, also what Python gives other errors for."""
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"not valid JSON: {error.msg} at {where}column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise ValueError(f"not readable JSON: {error}") from error


class PackedRecords:
    """Records as one blob of JSON with offsets: forked workers share it, and would copy a list of dicts."""

    def __init__(self, blob: bytes, ends: np.ndarray):
        self.blob, self.ends = blob, ends

    @classmethod
    def pack(cls, records: Iterable[Any]) -> "PackedRecords":
        encoded = [json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") for record in records]
        return cls(b"".join(encoded), np.cumsum([len(item) for item in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Any:
        start = self.ends[index - 1] if index else 0
        return json.loads(self.blob[start : self.ends[index]].decode("utf-8", "surrogatepass"))

    def label(self, index: int) -> str:
        """How messages call a record that has no id."""
        return f"record {index}"


class JsonLines:
    """A JSON-lines file, read by offset. Blank lines are left out; a broken one is a BadSample."""

    def __init__(self, path: Path):
        self.path = str(path)
        starts, sizes, numbers, offset = [], [], [], 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    starts.append(offset), sizes.append(len(line)), numbers.append(number)
                offset += len(line)
        self.starts, self.sizes, self.numbers = (np.array(column, np.int64) for column in (starts, sizes, numbers))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Any:
        line = FileSlice(self.path, int(self.starts[index]), int(self.sizes[index]), self.label(index)).read()
        try:
            return parse_json(line.strip())
        except ValueError as error:
            raise BadSample(f"{self.label(index)} is {error}") from error

    def label(self, index: int) -> str:
        return f"line {self.numbers[index]}"


class ParquetRecords:
    """A Parquet file (extra `parquet`); image columns of `datasets` arrive as {bytes, path}."""

    def __init__(self, path: Path):
        try:
            from pyarrow import ArrowInvalid, parquet
        except ImportError as error:
            raise UserError(f"{path}: Parquet files need the extra `parquet`: pip install emu2-lit[parquet]") from error
        try:
            self.table = parquet.read_table(path, memory_map=True)
        except ArrowInvalid as error:
            raise UserError(f"{path} is not a readable Parquet file: {error}") from error

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> list[Any]:
        """One column of all rows, None where there is none."""
        return self.table.column(name).to_pylist() if name in self.table.column_names else [None] * len(self)

    def __getitem__(self, index: int) -> Any:
        row = self.table.slice(index, 1).to_pylist()[0]
        return {key: value for key, value in row.items() if value is not None}

    def label(self, index: int) -> str:
        return f"row {index}"


def read_json(path: Path) -> PackedRecords | JsonLines:
    """A JSON list of records; a `.json` file that in truth holds JSON lines is read as such."""
    content = path.read_bytes()
    if not content.strip():
        raise UserError(f"{path} is empty")
    try:
        records = parse_json(content)
    except ValueError as error:
        if _is_object(content.lstrip().split(b"\n", 1)[0]):
            return JsonLines(path)
        raise UserError(f"{path} is {error}") from error
    if isinstance(records, dict):
        records = [records]
    if not isinstance(records, list):
        raise UserError(f"{path} holds a {type(records).__name__}, not a list of samples")
    return PackedRecords.pack(records)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


READERS = {".json": read_json, ".jsonl": JsonLines, ".ndjson": JsonLines, ".parquet": ParquetRecords}

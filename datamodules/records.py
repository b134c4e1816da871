"""Indexable files of records (JSON lists, JSON lines, Parquet), held as bytes and offsets."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emu2_lit.errors import UserError
from emu2_lit.samples.sample import BadSample, FileSlice


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
            return json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            raise BadSample(f"{self.label(index)} is not JSON: {error}") from error

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

    def __getitem__(self, index: int) -> Any:
        row = self.table.slice(index, 1).to_pylist()[0]
        return {key: value for key, value in row.items() if value is not None}

    def label(self, index: int) -> str:
        return f"row {index}"


def read_json(path: Path) -> PackedRecords | JsonLines:
    """A JSON list of records; a `.json` file that in truth holds JSON lines is read as such."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error
    if not text.strip():
        raise UserError(f"{path} is empty")
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        if _is_object(text.lstrip().split("\n", 1)[0]):
            return JsonLines(path)
        raise UserError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    if isinstance(records, dict):
        records = [records]
    if not isinstance(records, list):
        raise UserError(f"{path} holds a {type(records).__name__}, not a list of samples")
    return PackedRecords.pack(records)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


READERS = {".json": read_json, ".jsonl": JsonLines, ".ndjson": JsonLines, ".parquet": ParquetRecords}

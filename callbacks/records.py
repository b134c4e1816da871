"""Files of the run folder that grow while it trains."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class StepRecords:
    """A JSON-lines file whose records say at which `step` they were made.

    A run that is resumed from an earlier step makes some records again: `rewind` drops those first.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def read(self) -> list[dict[str, Any]]:
        """All records; a last line that was cut off by a crash is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [record for record in map(_parse, lines) if record is not None]

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(map(json_line, records))

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Keep only the records made at `step` or before, and return them."""
        records = [record for record in self.read() if record["step"] <= step]
        if self.path.exists():
            write_text(self.path, "".join(map(json_line, records)))
        return records


def json_line(record: dict[str, Any]) -> str:
    """A record as one line, readable in any language; escaped is what breaks lines (U+2028), or half an emoji, which
    is no text at all."""
    text = json.dumps(record, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: a reader, or a crash, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(partial, path)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None

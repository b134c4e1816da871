"""Records that are left out before anything is drawn, since a judge scored them low (Subjects200K)."""

from typing import Any

from datamodules.records import ParquetRecords, parse_json
from emu2_lit.samples.sample import BadSample

COLUMN = "quality_assessment"


class KeptRecords:
    """The records that score `least` in every respect, or that cannot be read: those are reported when drawn."""

    def __init__(self, records: Any, least: float):
        self.records = records
        self.places = [place for place, scores in enumerate(_scores(records)) if _is_good(scores, least)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        return self.records[self.places[index]]

    def label(self, index: int) -> str:
        return self.records.label(self.places[index])


def _scores(records: Any) -> list[Any]:
    """The assessments of all records; `True` for records that cannot be read."""
    if isinstance(records, ParquetRecords):
        return records.column(COLUMN)
    found = []
    for place in range(len(records)):
        try:
            record = records[place]
            if isinstance(record, dict) and "json" in record.get("members", {}):
                record = parse_json(record["members"]["json"].read())
            found.append(record.get(COLUMN) if isinstance(record, dict) else True)
        except (BadSample, ValueError):
            found.append(True)
    return found


def _is_good(scores: Any, least: float) -> bool:
    if not isinstance(scores, dict):
        return scores is True
    return bool(scores) and all(isinstance(value, int | float) and value >= least for value in scores.values())

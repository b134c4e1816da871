"""Predictions on disk, so that an evaluation that was killed goes on."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from emu2_lit.evaluation.benchmark import Prediction
from emu2_lit.ranks import place


class PredictionFiles:
    """A folder of JSON lines, one file per rank, for one model, benchmark and number of shots.

    `predict(..., done=files.read(), on_batch=files.append)` goes on where an earlier call was killed, on any number
    of ranks.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def read(self) -> dict[str, Prediction]:
        """Id -> prediction; a line that was cut off is made anew."""
        found: dict[str, Prediction] = {}
        for path in sorted(self.folder.glob("rank*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                found[record["id"]] = Prediction(**record | {"scores": tuple(record["scores"])})
        return found

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Write them at once, to this rank's file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank{place()[0]}.jsonl"
        with path.open("a", encoding="utf-8") as file:  # the line break first: the last line may be torn
            file.write("".join("\n" + json.dumps(asdict(one)) for one in predictions) + "\n")

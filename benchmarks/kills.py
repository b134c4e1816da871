"""What kills at random moments cost a run that is started again each time: `python -m benchmarks.kills`."""

import contextlib
import json
import math
import os
import random
import signal
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing import Process
from pathlib import Path

import torch

from benchmarks.measure import keep
from callbacks import find_last_checkpoint
from emu2_lit.recipe import Recipe, load
from emu2_lit.run import fit
from tests.distributed import start_child

KILLS, STEPS, INTERVAL = 20, 400, 10


@dataclass
class Kills:
    """What happened to a run: how often it was killed, of these during a save, how often it went on from a checkpoint,
    steps that were made again, seconds from the first start to the end."""

    kills: int = 0
    during_saves: int = 0
    resumes: int = 0
    lost_steps: int = 0
    seconds: float = 0.0


def kill_repeatedly(recipe: Recipe, kills: int, seconds: float = 4, seed: int = 0) -> Kills:
    """SIGKILL the run `kills` times, then let it end.

    Every other kill strikes during a save, the others at random moments of the first `seconds` of a start. None waits
    longer than for its share of the steps, so that there is something left to kill on a fast machine too.
    """
    rng, found, started = random.Random(seed), Kills(), time.perf_counter()
    folder = Path(recipe.run.dir)
    for number in range(kills):
        process = start_child(fit, recipe)
        left_behind = _staged(folder)
        share = recipe.trainer.max_steps * (number + 1) // (kills + 1)
        deadline = math.inf if number % 2 else time.monotonic() + rng.uniform(0, seconds)
        while process.is_alive() and _last_step(folder) < share and time.monotonic() < deadline:
            if number % 2 and _stopped_while_saving(process, folder, left_behind):
                break
            time.sleep(0.0005)
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, process.exitcode
            break
        found.kills += 1
        found.during_saves += bool(_staged(folder) - left_behind)
    process = start_child(fit, recipe)
    process.join()
    assert process.exitcode == 0, process.exitcode
    found.seconds = time.perf_counter() - started
    records = _records(folder)
    found.resumes = sum(record.get("resumed", 0) > 0 for record in records)
    found.lost_steps = sum("step" in record for record in records) - recipe.trainer.max_steps
    return found


def _stopped_while_saving(process: Process, folder: Path, left_behind: set[int]) -> bool:
    """Stops the process if it is saving; it goes on if the save ended while it was being looked at."""
    if not _staged(folder) - left_behind:
        return False
    os.kill(process.pid, signal.SIGSTOP)
    if _staged(folder) - left_behind:
        return True
    os.kill(process.pid, signal.SIGCONT)
    return False


def _staged(folder: Path) -> set[int]:
    """What a save has begun and not yet put in place; what a kill left behind is there until the run cleans up."""
    staging = folder / "checkpoints" / ".partial"
    with contextlib.suppress(FileNotFoundError):
        return {entry.inode() for entry in os.scandir(staging)}
    return set()


def _last_step(folder: Path) -> int:
    """Parses no more than the last lines: it is asked again and again while the run is timed."""
    return next((record["step"] for record in map(json.loads, reversed(_lines(folder))) if "step" in record), 0)


def _records(folder: Path) -> list[dict]:
    """What the run has noted of its steps and resumes."""
    return [json.loads(line) for line in _lines(folder)]


def _lines(folder: Path) -> list[str]:
    """Whole lines only."""
    path = folder / "batches" / "rank_0.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.endswith("}")]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        runs = {}
        for name, kills, steps in (("untimed", 0, 1), ("never killed", 0, STEPS), ("killed", KILLS, STEPS)):
            recipe = load(
                "quickstart/caption",
                [
                    f"run.dir={root}/{name}", f"data.folder={root}/data", f"trainer.max_steps={steps}",
                    f"callbacks.checkpoint_every_n_steps={INTERVAL}", "trainer.val_check_interval=null",
                ],
            )  # fmt: skip
            runs[name] = kill_repeatedly(recipe, kills)
            print(f"{name:14}", *(f"{value:8.1f} {key}" for key, value in asdict(runs[name]).items()))
        weights = [_weights(Path(root) / name) for name in ("never killed", "killed")]
        assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    keep(
        "kills", "python -m benchmarks.kills", steps=STEPS, checkpoint_every_n_steps=INTERVAL, same_weights=True,
        overhead=round(runs["killed"].seconds / runs["never killed"].seconds, 2),
        **{name: {k: round(v, 1) for k, v in asdict(runs[name]).items()} for name in ("never killed", "killed")},
    )  # fmt: skip


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(find_last_checkpoint(folder / "checkpoints"), weights_only=True)["state_dict"]


if __name__ == "__main__":
    main()

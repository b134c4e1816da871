"""Where a run goes on, and whether what has changed since may change."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks import find_last_checkpoint
from emu2_lit.errors import UserError
from emu2_lit.job import Job
from emu2_lit.recipe.changes import changes, needs_consent
from emu2_lit.recipe.overrides import covers
from emu2_lit.recipe.schema import Recipe
from emu2_lit.strategies import read_about


def find_checkpoint(recipe: Recipe, folder: Path) -> Path | None:
    """The checkpoint to go on from, if there is one to go on from. Raises UserError where the recipe forbids it."""
    wanted, last = recipe.resume.checkpoint, find_last_checkpoint(folder / "checkpoints")
    if wanted == "never" and last is not None:
        raise UserError(
            f"resume=never, but {folder} holds checkpoints of an earlier run: choose another run.dir, or delete it"
        )
    if wanted not in ("auto", "never") and not Path(wanted).exists():
        raise UserError(f"resume={wanted}: there is no such checkpoint")
    if recipe.trainer.fast_dev_run or wanted == "never":
        return None
    if wanted != "auto":
        return Path(wanted)
    if last is not None:
        rank_zero_info(f"Going on from {last}")
    return last


def check_changes(checkpoint: Path, recipe: dict[str, Any], allow: list[str]) -> None:
    """Tell how the recipe differs from the checkpoint's.

    Raises:
        UserError: names the changes that would silently give another result and are not allowed.
    """
    try:
        before = read_about(checkpoint).get("recipe")
    except Exception:  # whatever is wrong with it is told when it is loaded
        return
    changed = changes(before, recipe) if before else {}
    if not changed:
        return
    lines = {key: f"  {key}: {old} -> {new}" for key, (old, new) in changed.items()}
    refused = [key for key in changed if needs_consent(key) and not covers(allow, key)]
    if refused:
        told = "\n".join(lines[key] for key in refused)
        raise UserError(
            f"{checkpoint} was made with another recipe; to go on with this one would give the result of neither:\n"
            f"{told}\nRestore what was, start anew with another run.dir, or go on knowingly with "
            f"'resume.allow=[{','.join(refused)}]'"
        )
    rank_zero_info("The recipe has changed since the checkpoint:\n" + "\n".join(lines.values()))


def stay_with_own(job: Job, recipe: Recipe, folder: Path) -> None:
    """A job that was started again goes on with its own checkpoints, also where it first began with another's."""
    last = find_last_checkpoint(folder / "checkpoints")
    if last is not None and job.is_of_this_job(last):
        recipe.resume.checkpoint = "auto"


def begin(job: Job, folder: Path, limit: int) -> None:
    """Note where this start of a job goes on. UserError: so many in a row have got no further."""
    last = find_last_checkpoint(folder / "checkpoints")
    step = int(last.stem.split("=")[1]) if last else 0
    job.begin(folder, step, limit)
    if job.restarts:
        rank_zero_info(f"Restart {job.restarts} of this job: {folder} stands at step {step}")


def about_run(recipe: Recipe) -> dict[str, Any]:
    """What every checkpoint tells about its run."""
    return {"recipe": asdict(recipe)}

"""From a recipe to a waiting job: everything is checked and written down before SLURM hears of it."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.job import clear_triggers
from emu2_lit.recipe.schema import Recipe
from emu2_lit.slurm import commands, site
from emu2_lit.slurm.folder import array_elements, job_id_of, progress_of, works_without_job
from emu2_lit.slurm.layout import Layout, layout, placed
from emu2_lit.slurm.script import batch_script

_OF_A_RUN = {"max_restarts_without_progress"}  # what each run of an array may have of its own
_EARLIER = ("attempts.jsonl", "next", "job_id")  # files of an earlier job in the same folder


@dataclass(frozen=True)
class Submission:
    """A job that could be submitted: its script, and the recipe of each run in it, by the run's folder."""

    run: Path
    script: str
    runs: dict[Path, Recipe]
    layout: Layout


def prepare(name: str, overrides: Sequence[str] = ()) -> Submission:
    """Check a recipe and make its job; nothing is written.

    Raises:
        UserError: something is wrong with the recipe, the site's defaults, or what they ask of SLURM.
    """
    defaults = site.defaults()
    recipe = _checked(name, recipes.load(name, overrides, defaults))
    run, wanted = Path(recipe.run.dir).expanduser().absolute(), layout(recipe)
    if "%" in str(run) or "\n" in str(run):
        raise UserError(f"run.dir={recipe.run.dir}: SLURM reads % in the name of a log; choose another folder")
    settings = replace(recipe.slurm, dependency=_dependency(recipe.slurm.dependency))
    script = batch_script(recipe.name, run, Path.cwd(), settings, wanted, sys.executable)
    runs = {run: placed(recipe)}
    if settings.array:
        runs = {run / str(i): _element(name, overrides, i, recipe, defaults) for i in range(len(settings.array))}
    return Submission(run, script, runs, wanted)


def submit(job: Submission) -> str:
    """Write what the job needs and hand it to SLURM; its id is returned.

    Raises:
        UserError: SLURM refuses it, the folder cannot be written, or a job works in it already.
    """
    _refuse_two_at_work(job)
    script = job.run / "slurm" / "job.sh"
    try:
        _write(job, script)
    except OSError as error:
        raise UserError(f"run.dir={str(job.run)!r}: cannot be written to ({error.strerror})") from error
    job_id = commands.call("sbatch", "--parsable", str(script)).strip().split(";")[0]
    for run in {job.run, *job.runs}:
        element = "" if run == job.run else f"_{run.name}"
        (run / "slurm" / "job_id").write_text(f"{job_id}{element}\n", encoding="utf-8")
    return job_id


def _write(job: Submission, script: Path) -> None:
    for run, recipe in job.runs.items():
        recipes.save(recipe, run / "slurm" / "recipe.yaml")
        clear_triggers(run)
    for run in _folders(job):
        (run / "slurm").mkdir(parents=True, exist_ok=True)
        for name in _EARLIER:
            (run / "slurm" / name).unlink(missing_ok=True)
    script.write_text(job.script, encoding="utf-8")


def _checked(name: str, recipe: Recipe) -> Recipe:
    if missing := recipes.missing_files(recipe):
        raise UserError("\n".join(f"{name}: {message}" for message in missing))
    return recipe


def _element(name: str, overrides: Sequence[str], index: int, whole: Recipe, defaults: dict) -> Recipe:
    """One run of an array."""
    own = shlex.split(whole.slurm.array[index])
    element = _checked(name, recipes.load(name, [*overrides, *own], defaults))
    if layout(element) != layout(whole):
        raise UserError(f"slurm.array.{index}: all runs of an array get the same machines; this one asks for others")
    differing = {key for key, value in vars(element.slurm).items() if value != getattr(whole.slurm, key)} - _OF_A_RUN
    if differing:
        key = min(differing)
        raise UserError(f"slurm.array.{index}: slurm.{key} is that of the whole array; give it outside of the array")
    folder = Path(whole.run.dir) / str(index)
    return placed(replace(element, run=replace(element.run, dir=str(folder), name=f"{whole.name}/{index}")))


def _dependency(text: str | None) -> str | None:
    """SLURM's notation, where folders of runs stand for their jobs."""
    return text and re.sub(r"(?<=:)[^:,?]+", lambda found: _named_job(found[0]), text)


def _named_job(name: str) -> str:
    if re.fullmatch(r"[\d_+*]+", name):
        return name
    if job_id := job_id_of(Path(name)):
        return job_id
    raise UserError(f"slurm.dependency: {name} is neither a job's number nor the folder of a submitted run")


def _folders(job: Submission) -> set[Path]:
    """Where the job's runs are, and those of an earlier array in the same folder, which may have had more of them."""
    return {job.run, *job.runs, *array_elements(job.run)}


def _refuse_two_at_work(job: Submission) -> None:
    for run in sorted(_folders(job)):
        if who := _at_work(run):
            raise UserError(
                f"{run}: {who} works there already; `emu2-lit stop {run}` ends it with a save. For another run beside "
                "it give another run.dir"
            )


def _at_work(run: Path) -> str | None:
    job_id = job_id_of(run)
    state = commands.job(job_id).get("JobState", "") if job_id else ""
    if commands.is_alive(state):
        return f"job {job_id} ({state})"
    return "a run outside SLURM" if works_without_job(progress_of(run)) else None

"""The batch script, a function of the recipe's settings alone."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from os.path import expanduser
from pathlib import Path

from emu2_lit.errors import UserError
from emu2_lit.job import REQUEUE, STOP
from emu2_lit.job import VARIABLE as JOB
from emu2_lit.settings import SlurmSettings
from emu2_lit.slurm.layout import Layout, format_time

_BODY = """\
# Written by `emu2-lit submit`, which also wrote the recipe that this runs.

export {job}={run}/slurm
failed() {{
    [ ${{#BASH_SOURCE[@]}} -gt 2 ] && return  # inside of a file that is sourced, which may know how to go on
    echo "emu2-lit: not started: slurm.setup or slurm.venv has failed (exit status $1): $(sed -n "$2p" "$0")" >&2
    exit 1
}}
trap 'failed $? $LINENO' ERR
{setup}
trap - ERR
rm -f "${job}/next"
srun {srun} \\
    {python} -u -m emu2_lit fit "${job}/recipe.yaml"
status=$?

# What follows is the run's word, given when it has saved. A job that was cancelled never comes here: SLURM ends this
# script as well, so it stays cancelled; a preempted or warned one does.
case "$(cat "${job}/next" 2> /dev/null)" in
    {requeue}) ;;
    {stop}) exit 130 ;;
    *) exit $status ;;
esac
[ -e "${job}/../{stop}" ] && exit 130

# One element of an array goes by both numbers: the last one's own is that of the whole array.
job=$SLURM_JOB_ID
element=$SLURM_ARRAY_TASK_ID
if scontrol requeue "${{element:+${{SLURM_ARRAY_JOB_ID}}_}}${{element:-$job}}"; then
    sleep 300  # SLURM ends this script, and starts it again: often after two minutes
    exit 1
fi

# Requeueing is not allowed here: another job goes on after this one. It must inherit none of SLURM's variables.
unset $(compgen -e | grep -E '^(SLURM|SBATCH|SRUN|PMIX?)_' | grep -v '^SLURM_CONF$')
next=$(sbatch --parsable --dependency=afterany:"$job" ${{element:+--array=$element}} {file}) || exit 1
echo "${{next%%;*}}${{element:+_$element}}" > "${job}/job_id"
echo "job ${{next%%;*}} goes on"
"""


def batch_script(name: str, run: Path, folder: Path, settings: SlurmSettings, layout: Layout, python: str) -> str:
    """The script of a job.

    Args:
        name: of the job.
        run: the run's folder, absolute; the job's own files are in `run/slurm`. Each run of an array has a folder in
            it, named by its number.
        folder: absolute, where the job runs: the recipe's relative paths begin there.
        python: the interpreter, where the settings name no other.
    Raises:
        UserError: the settings name a variable as no shell does.
    """
    settings = _with_home(settings)
    head = "".join(f"#SBATCH {option}\n" for option in _options(name, run, folder, settings, layout))
    body = _BODY.format(
        run=shlex.quote(str(run)) + ("/$SLURM_ARRAY_TASK_ID" if settings.array else ""),
        job=JOB, requeue=REQUEUE, stop=STOP, file=shlex.quote(str(run / "slurm" / "job.sh")),
        setup="".join(f"{line}\n" for line in _setup(settings)),
        srun=" ".join(["--kill-on-bad-exit=1", f"--cpus-per-task={layout.cpus}", *_pyxis(settings, folder)]),
        python=" ".join(_interpreter(settings, layout, folder, python)),
    )  # fmt: skip
    return f"#!/bin/bash\n{head}{body}"


def _with_home(settings: SlurmSettings) -> SlurmSettings:
    """Paths are quoted in the script, where no shell replaces a ~."""
    mounts = [expanduser(mount) for mount in settings.container_mounts]
    image, venv = (path and expanduser(path) for path in (settings.container, settings.venv))
    return replace(settings, container=image, container_mounts=mounts, venv=venv)


def _options(name: str, run: Path, folder: Path, settings: SlurmSettings, layout: Layout) -> Iterator[str]:
    yield f"--job-name={_quoted(name)}"
    yield f"--nodes={layout.nodes}"
    yield f"--ntasks-per-node={layout.tasks}"
    yield f"--cpus-per-task={layout.cpus}"
    if layout.gpus:
        yield f"--gpus-per-node={layout.gpus}"
    if layout.seconds is not None:
        yield f"--time={format_time(layout.seconds)}"
    for key in ("partition", "account", "qos", "constraint", "mem"):
        if value := getattr(settings, key):
            yield f"--{key}={_quoted(value)}"
    if settings.dependency:
        yield f"--dependency={_quoted(settings.dependency)}"
    if settings.array:
        most = f"%{settings.array_parallel}" if settings.array_parallel else ""
        yield f"--array=0-{len(settings.array) - 1}{most}"
    yield f"--signal={settings.signal}@{settings.signal_lead}"
    yield "--requeue" if settings.requeue else "--no-requeue"
    yield "--open-mode=append"
    yield f"--chdir={_quoted(folder)}"
    yield f"--output={_quoted(run / 'slurm' / ('%A_%a.log' if settings.array else '%j.log'))}"
    yield from settings.extra


def _setup(settings: SlurmSettings) -> Iterator[str]:
    yield from settings.setup
    if settings.venv:
        yield f"source {shlex.quote(settings.venv)}/bin/activate"
    for name, value in settings.environment.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(
                f"slurm.environment.{name}: {name!r} cannot name a variable: letters, digits and _ can, and no digit "
                "may come first"
            )
        yield f"export {name}={shlex.quote(value)}"


def _interpreter(settings: SlurmSettings, layout: Layout, folder: Path, python: str) -> Iterator[str]:
    """srun starts Python itself, or what becomes it: a shell in between would die of the warning."""
    if settings.container and settings.container_runtime == "apptainer":
        yield "apptainer exec"
        if layout.gpus:
            yield "--nv"
        for mount in (str(folder), *settings.container_mounts):
            yield f"--bind {shlex.quote(mount)}"
        yield shlex.quote(settings.container)
    yield "python" if settings.container or settings.venv else shlex.quote(python)


def _pyxis(settings: SlurmSettings, folder: Path) -> Iterator[str]:
    if not settings.container or settings.container_runtime != "pyxis":
        return
    folders = (str(folder), *settings.container_mounts)
    mounts = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in folders)
    yield f"--container-image={shlex.quote(settings.container)}"
    yield f"--container-mounts={shlex.quote(mounts)}"
    yield f"--container-workdir={shlex.quote(str(folder))}"


def _quoted(value: object) -> str:
    """As sbatch reads its options in a script: no shell does."""
    text = str(value)
    return f'"{text}"' if any(mark in text for mark in " \t'#") else text

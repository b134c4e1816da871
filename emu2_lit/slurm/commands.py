"""SLURM's own commands, and what they say of a job."""

import os
import re
import shutil
import subprocess

from emu2_lit.errors import UserError

_LEFTOVERS = ("SLURM_", "SBATCH_", "SRUN_", "PMI_", "PMIX_")
_NOW = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "STOPPED")


def available() -> bool:
    """Whether this machine can submit jobs."""
    return shutil.which("sbatch") is not None


def call(*command: str) -> str:
    """The output of one of SLURM's commands.

    A job that is submitted from inside another would inherit that one's variables, and read them as options: they
    are left out.

    Raises:
        UserError: what SLURM said against it.
    """
    clean = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not _is_leftover(name)}
    try:
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise UserError(
            f"{command[0]}: there is no SLURM on this machine; `emu2-lit submit ... --dry-run` prints the batch script"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} has not answered for a minute; is SLURM's controller up?") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().replace("sbatch: error: ", "") or f"exit status {done.returncode}"
        raise UserError(f"SLURM refused `{' '.join(command[:2])}`: {said}{_hint(said)}")
    return done.stdout


def job(job_id: str) -> dict[str, str]:
    """What SLURM knows of a job, by the names of `scontrol show job`; empty where it has forgotten it."""
    try:
        line = call("scontrol", "--oneliner", "show", "job", job_id).splitlines()[0]
        return dict(re.findall(r"(\w+)=(\S*)", line))
    except (UserError, IndexError):
        return _from_accounting(job_id)


def is_alive(state: str) -> bool:
    """Whether a job in this state runs, or will."""
    return state in _NOW


def _from_accounting(job_id: str) -> dict[str, str]:
    """Where the site keeps accounts, ended jobs are found in them."""
    try:
        lines = call("sacct", "-X", "-n", "-P", "-j", job_id, "-o", "State,ExitCode,Elapsed,NodeList").splitlines()
    except UserError:
        return {}
    fields = lines[-1].split("|") if lines else []
    names = ("JobState", "ExitCode", "RunTime", "NodeList")
    known = dict(zip(names, fields, strict=False))
    return known | {"JobState": known["JobState"].split()[0]} if known.get("JobState") else {}


def _is_leftover(name: str) -> bool:
    return name.startswith(_LEFTOVERS)


def _hint(said: str) -> str:
    if "generic resource" in said or "gres" in said:
        return "\n(slurm.gpus=0 asks for no GPUs; slurm.extra=[--gres=...] asks for them in another way)"
    return ""

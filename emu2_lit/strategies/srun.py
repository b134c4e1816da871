"""Ranks that SLURM's srun has started."""

import os
import re
import signal
import socket
from typing import Any

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from emu2_lit.errors import UserError


def started_by_srun() -> bool:
    """Whether each rank of this run is a task of a SLURM step. A step of one task is as good as no SLURM: devices of
    one machine are then driven from here."""
    return "SLURM_STEP_ID" in os.environ and _tasks() > 1


def cluster_environment(devices: Any, num_nodes: int) -> ClusterEnvironment | None:
    """How the ranks of a run find each other; None leaves that to Lightning, outside SLURM and under torchrun.

    Args:
        devices: processes per node that the run is to have: a number, a list of ids, or "auto".

    Raises:
        UserError: the job has not as many tasks as the run wants, or they were not started.
    """
    if "SLURM_JOB_ID" not in os.environ or TorchElasticEnvironment.detect():
        return None
    tasks, wanted = _tasks(), _count(devices)
    if "SLURM_STEP_ID" not in os.environ and tasks > 1:
        raise UserError(
            f"this SLURM job has {tasks} tasks, but srun has not started them: put `srun` before the command "
            "(`emu2-lit submit` does), or ask for one task and let the kit start its processes"
        )
    if wanted and tasks != wanted * num_nodes and (tasks > 1 or num_nodes > 1):
        raise UserError(
            f"SLURM has started {tasks} task(s), but the run is to have trainer.devices={devices} on "
            f"trainer.num_nodes={num_nodes}: ask for --nodes={num_nodes} --ntasks-per-node={wanted}"
        )
    if tasks == 1:
        return LightningEnvironment()
    _refuse_leftovers(tasks)
    return SrunEnvironment()


class SrunEnvironment(SLURMEnvironment):
    """The step's own variables, and nothing of Lightning's that happens inside signal handlers.

    `callbacks.GracefulStop` saves, and the batch script of `emu2-lit submit` requeues.
    """

    def __init__(self):
        self.auto_requeue, self.requeue_signal = False, signal.SIGUSR1

    @property
    def main_address(self) -> str:
        """MASTER_ADDR, or the step's first node, or where that has no address, the one that srun was called on."""
        if "MASTER_ADDR" not in os.environ:
            names = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "127.0.0.1")
            os.environ["MASTER_ADDR"] = _address(first_node(names))
        return os.environ["MASTER_ADDR"]

    def world_size(self) -> int:
        return _tasks()


def check_devices(devices: int, num_nodes: int) -> None:
    """Refuse other numbers of processes than srun has started, where `devices: auto` has become a number by now."""
    if started_by_srun() and devices * num_nodes != _tasks() and not TorchElasticEnvironment.detect():
        raise UserError(
            f"SLURM has started {_tasks()} tasks, but the run finds {devices} device(s) on each of {num_nodes} "
            "node(s): make --nodes and --ntasks-per-node agree with trainer.num_nodes and trainer.devices"
        )


def first_node(names: str) -> str:
    """The first host of SLURM's notation: `gpu[07-09,12],login` is gpu07, `g[1-2]-ib[3-4]` is g1-ib3."""
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", names).split(",")[0]


def _address(host: str) -> str:
    try:
        socket.gethostbyname(host)
    except OSError:
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", host)
    return host


def _tasks() -> int:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or 1)


def _count(devices: Any) -> int | None:
    """Processes per node; None where that is only known later."""
    if isinstance(devices, str) and not devices.isdigit():
        ids = [one for one in devices.split(",") if one.strip()]
        return len(ids) if all(one.strip().isdigit() for one in ids) else None
    return len(devices) if isinstance(devices, list | tuple) else int(devices) if int(devices) > 0 else None


def _refuse_leftovers(tasks: int) -> None:
    """Variables of an outer job leak into jobs that are submitted from inside it."""
    per_node, nodes = os.environ.get("SLURM_NTASKS_PER_NODE"), os.environ.get("SLURM_STEP_NUM_NODES")
    rank = int(os.environ.get("SLURM_PROCID", 0))
    disagree = per_node and nodes and per_node.isdigit() and int(per_node) * int(nodes) != tasks
    if disagree or rank >= tasks:
        raise UserError(
            f"SLURM's variables contradict each other ({tasks} tasks, rank {rank}, SLURM_NTASKS_PER_NODE={per_node} on "
            f"{nodes} node(s)): some are left over from another job. Submit from a shell outside any job, or with "
            "`emu2-lit submit`, which drops them"
        )

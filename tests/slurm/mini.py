"""A real SLURM on this machine: its controller and two nodes, in one temporary folder, for as long as the tests run."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DAEMONS = ("slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "scontrol", "scancel")
INSTALL = "`make test-slurm` installs them on Debian, as root: slurmctld slurmd slurm-client munge"

# Two nodes that are this machine twice. No munge, no accounts, no groups of processes: it runs as any user. A requeued
# job waits `cred_expire` seconds and one (120 by default), and the scheduler looks every second.
_CONFIGURATION = """\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=300
MailProg=/bin/true
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=4000 State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
"""


def missing() -> list[str]:
    """What of SLURM is not installed."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=path) is None]


class MiniSlurm:
    """Starts with `start`; the clients find it by SLURM_CONF."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: sockets lie in it
        self.configuration = self.folder / "slurm.conf"
        self.daemons: list[subprocess.Popen] = []
        for name in ("run", "log", "state", "spool/n0", "spool/n1"):
            (self.folder / name).mkdir(parents=True)

    def start(self) -> None:
        text = _CONFIGURATION.format(
            host=socket.gethostname().split(".")[0], user=getpass.getuser(), folder=self.folder, ports=_free_ports(3)
        )
        self.configuration.write_text(text)
        self._daemon("slurmctld")
        self._daemon("slurmd", "-N", "n0")
        self._daemon("slurmd", "-N", "n1")
        wait_for(self._is_ready, 30, self.logs)

    def stop(self) -> None:
        subprocess.run(["scancel", "-u", getpass.getuser()], env=self._environment(), capture_output=True, timeout=30)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def show(self, job: str) -> dict[str, str]:
        """`scontrol show job`, by name."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        return self.show(job)["JobState"]

    def resume(self, node: str) -> None:
        """Make a node that was taken down work again. It may have come back by itself, which SLURM refuses to do twice,
        and may still be clearing up after its job."""
        wait_for(lambda: self._is_resumed(node), 60, self.logs)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in (self.folder / "log").iterdir())

    def _daemon(self, name: str, *arguments: str) -> None:
        command = [name, "-D", "-f", str(self.configuration), *arguments]
        self.daemons.append(
            subprocess.Popen(command, env=self._environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    def _is_ready(self) -> bool:
        command = ["sinfo", "-h", "-N", "-p", "debug", "-o", "%T"]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=30)
        return done.stdout.split() == ["idle", "idle"]

    def _is_resumed(self, node: str) -> bool:
        state = self.call("sinfo", "-h", "-p", "debug", "-n", node, "-o", "%T").strip()
        if state.startswith("down"):
            command = ["scontrol", "update", f"nodename={node}", "state=resume"]
            subprocess.run(command, env=self._environment(), capture_output=True, timeout=30)
        return state in ("idle", "mixed", "allocated")

    def _environment(self) -> dict[str, str]:
        """Without what an outer SLURM may have set."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return clean | {"SLURM_CONF": str(self.configuration), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


def wait_for(condition: Callable[[], Any], seconds: float, told: Callable[[], str] = str) -> Any:
    """Poll until `condition()` is true, and return that; fail with `told()` after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, told()
        time.sleep(0.1)
    return found


def _free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports

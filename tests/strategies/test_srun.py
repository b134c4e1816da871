"""Ranks under SLURM, told by the environment of a step."""

import os

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from emu2_lit.errors import UserError
from emu2_lit.strategies import check_devices, cluster_environment, started_by_srun
from emu2_lit.strategies.srun import SrunEnvironment, first_node

STEP = {
    "SLURM_JOB_ID": "120042", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_NAME": "bash",
}  # fmt: skip


@pytest.fixture
def slurm(monkeypatch):
    """Sets exactly these variables of SLURM."""
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
            monkeypatch.delenv(name)

    def use(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_PORT", "1")  # set and taken away again: Lightning writes them
        monkeypatch.delenv("MASTER_PORT")
        monkeypatch.setenv("MASTER_ADDR", "x")
        monkeypatch.delenv("MASTER_ADDR")

    return use


def test_ranks_of_a_step(slurm):
    slurm(**STEP)
    found = cluster_environment(2, 2)
    assert isinstance(found, SrunEnvironment) and started_by_srun()
    place = found.world_size(), found.global_rank(), found.local_rank(), found.node_rank()
    assert place == (4, 3, 1, 1) and found.creates_processes_externally
    assert (found.main_address, found.main_port) == ("localhost", 15042)


def test_lightning_neither_saves_nor_requeues(slurm):
    slurm(**STEP)
    found = cluster_environment("0,1", 2)
    assert isinstance(found, SLURMEnvironment) and found.auto_requeue is False


def test_nodes_without_an_address_are_found_by_where_srun_was_called(slurm):
    slurm(**STEP | {"SLURM_STEP_NODELIST": "no-such-host-[1-2]", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"})
    assert cluster_environment(2, 2).main_address == "10.0.0.7"


@pytest.mark.parametrize(
    ("names", "first"),
    [("n1", "n1"), ("n[07-09,12],m1", "n07"), ("a,b", "a"), ("g[1-2]-ib[3-4]", "g1-ib3"), ("n[3,5]", "n3")],
)
def test_first_node(names, first):
    assert first_node(names) == first


def test_outside_slurm_and_under_torchrun_lightning_decides(slurm, monkeypatch):
    slurm()
    assert cluster_environment(2, 1) is None
    slurm(**STEP)
    for name in ("TORCHELASTIC_RUN_ID", "GROUP_RANK", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    assert cluster_environment(8, 1) is None


@pytest.mark.parametrize("step", [{}, {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}])
def test_one_task_is_as_good_as_no_slurm(slurm, step):
    slurm(SLURM_JOB_ID="1", SLURM_NTASKS="1", **step)
    assert isinstance(cluster_environment(4, 1), LightningEnvironment) and not started_by_srun()


def test_srun_forgotten(slurm):
    slurm(SLURM_JOB_ID="1", SLURM_NTASKS="4")
    with pytest.raises(UserError, match="4 tasks, but srun has not started them"):
        cluster_environment(4, 1)


@pytest.mark.parametrize(("devices", "nodes"), [(4, 2), (2, 1), ("0,1,2", 2), ([0], 2)])
def test_other_numbers_than_the_run_wants(slurm, devices, nodes):
    slurm(**STEP)
    with pytest.raises(UserError, match="SLURM has started 4 task"):
        cluster_environment(devices, nodes)


def test_one_task_for_several_nodes(slurm):
    slurm(SLURM_JOB_ID="1", SLURM_NTASKS="1")
    with pytest.raises(UserError, match="--nodes=2 --ntasks-per-node=1"):
        cluster_environment(1, 2)


def test_devices_that_only_the_machine_can_tell(slurm):
    slurm(**STEP)
    assert isinstance(cluster_environment("auto", 2), SrunEnvironment)
    check_devices(2, 2)
    with pytest.raises(UserError, match="the run finds 1 device"):
        check_devices(1, 2)


@pytest.mark.parametrize("leaked", [{"SLURM_NTASKS_PER_NODE": "7"}, {"SLURM_PROCID": "9"}])
def test_variables_left_over_from_another_job(slurm, leaked):
    slurm(**STEP | leaked)
    with pytest.raises(UserError, match="left over from another job"):
        cluster_environment(2, 2)

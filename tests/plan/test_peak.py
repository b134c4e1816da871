"""The predicted peak against the allocator's, within a tenth, over what is tuned and how much of it at once."""

import os
import re
import subprocess
import sys

import pytest

from emu2_lit.plan import Workload
from tests.plan.measuring import Case, measured, planned

TEXT, SHORT, LONG = (
    Workload(samples=1, length=64, images=0),
    Workload(samples=4, length=50, images=1),
    Workload(samples=2, length=200, images=3, learned=20, padded=False),
)
CASES = [
    (Case("tiny"), TEXT),
    (Case("tiny", mixed=True), LONG),
    (Case("tiny", mixed=True, accumulates=True), SHORT),
    (Case("tiny", checkpointing=True), SHORT),
    (Case("tiny", checkpointing=True, mixed=True), LONG),
    (Case("tiny", lora=False), LONG),
    (Case("tiny", lora=False, accumulates=True), TEXT),
    (Case("tiny", lora=False, mixed=True), SHORT),
    (Case("tiny", lora=False, checkpointing=True), SHORT),
    (Case("tiny", lora=False, checkpointing=True, mixed=True), TEXT),
    (Case("tiny", "caption", lora=False), SHORT),
    (Case("tiny", "caption", lora=False, checkpointing=True, mixed=True), SHORT),
    (Case("tiny", "unified", lora=False), Workload(2, 100, images=2, regressed=2)),
    (Case("tiny", "generation", lora=False), Workload(2, 100, images=3, regressed=1)),
    (Case("tiny", lora=False, frozen=("lm", "visual", "project_down")), SHORT),
    (Case("small"), TEXT),
    (Case("small", lora=False, checkpointing=True, mixed=True), Workload(2, 96, images=1)),
]


@pytest.mark.parametrize(("case", "load"), CASES, ids=str)
def test_peak(case, load):
    assert planned(case, load).peak.total == pytest.approx(measured(case, load), rel=0.1)


GROWTH = """
import sys
from dataclasses import replace
import torch
from tests.plan.measuring import steps
from tests.plan.test_peak import GROWN
from emu2_lit.run.room import give_back_freed_memory

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

torch.set_num_threads(1)
case, load = GROWN[int(sys.argv[1])]
_, _, small = steps(replace(case, preset="tiny"), replace(load, length=100))
small()  # what is imported with the first step is there before
give_back_freed_memory()
before = status("VmRSS")
_, _, step = steps(case, load)
step()
step()
print("growth", status("VmHWM") - before)
"""
GROWN = [
    (Case("small", lora=False), Workload(2, 96, images=0)),
    (Case("small"), Workload(2, 512, images=1)),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", range(len(GROWN)))
def test_growth_of_the_process(number):
    run = [sys.executable, "-c", GROWTH, str(number)]
    told = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    growth = int(re.search(r"growth (\d+)", told.stdout)[1])
    assert planned(*GROWN[number]).peak.total == pytest.approx(growth, rel=0.1)

"""The fullest micro-batch, before the first step: nothing changes by it, and what does not fit fails there."""

import json
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.run import fit
from tests.run.resume_cases import assert_identical, final_state, quiet


def test_a_run_is_the_same_after_it(tmp_path, caption_model):
    ends = []
    for rehearse in (True, False):
        recipe = quiet(tmp_path / str(rehearse), caption_model)
        recipe.trainer.rehearse = rehearse
        ends.append(final_state(fit(recipe).directory))
    assert_identical(*ends)


def test_cosines_count_only_what_was_learned(tmp_path, drawings):
    """Generation tuning keeps a metric while it trains."""
    told = []
    for rehearse in (True, False):
        few = ["trainer.max_steps=2", "trainer.log_every_n_steps=1", "data.types.0.batch_size=2",
               "data.types.1.batch_size=2", "data.micro_batch_size=2", "data.validation=[]", "evaluation.benchmarks=[]",
               "data.workers=0", f"data.folder={drawings.parent}", f"run.dir={tmp_path / str(rehearse)}",
               f"trainer.rehearse={str(rehearse).lower()}"]  # fmt: skip
        result = fit(recipes.load("quickstart/generation", few))
        lines = (result.directory / "metrics.jsonl").read_text().splitlines()
        told.append([cosine for line in lines if (cosine := json.loads(line).get("train/cosine"))])
    assert len(told[0]) == 2 and told[0] == told[1]


@contextmanager
def little_memory(spare: int):
    """This process may have `spare` bytes more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_what_does_not_fit_fails_before_the_first_step(tmp_path, caption_model):
    recipe = quiet(tmp_path, caption_model)
    recipe.trainer.rehearse, recipe.trainer.check_memory = True, False
    recipe.data.max_length, recipe.data.micro_batch_size, recipe.data.global_batch_size = 512, 512, 512
    with little_memory(2**28), pytest.raises(UserError, match="Out of memory in the rehearsal(.|\n)*data.micro_batch"):
        fit(recipe)
    assert not (tmp_path / "checkpoints").exists()

"""Memory that runs out: one message with what to change, and the run goes on from its last checkpoint."""

import pytest
import torch
from lightning import Callback

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.run import fit
from emu2_lit.run.memory import advice, ran_out
from tests.run.resume_cases import assert_identical, final_state, fit_with, quiet


class Greedy(Callback):
    """Asks for more memory than there is, in a backward pass or where a model is validated."""

    def __init__(self, step: int):
        self.step = step

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step:
            torch.empty(1 << 55)


def test_the_message_and_the_state(tmp_path, caption_model):
    straight = fit(quiet(tmp_path / "straight", caption_model)).directory
    recipe = quiet(tmp_path / "other", caption_model)
    with pytest.raises(UserError) as caught:
        fit_with(recipe, Greedy(3))
    told = str(caught.value)
    assert told.startswith("Out of memory in step 4, with the samples ") and "chat_train" in told.splitlines()[0]
    assert "data.micro_batch_size=2 (now 4)" in told and "goes on" in told.splitlines()[-1]
    assert_identical(final_state(straight), final_state(fit(recipe).directory))


class TooBig(Callback):
    def setup(self, trainer, pl_module, stage):
        bytearray(1 << 60)


def test_before_there_is_a_model(tmp_path, caption_model):
    with pytest.raises(UserError, match="Out of memory while the model was made"):
        fit_with(quiet(tmp_path, caption_model), TooBig())


def test_advice_follows_the_recipe():
    saving = recipes.load("quickstart/chat", ["data.micro_batch_size=1", "tuning.activation_checkpointing=true"])
    assert "micro_batch_size" not in advice(saving) and "checkpointing" not in advice(saving)
    assert "data.max_length" in advice(saving)
    full = recipes.load("quickstart/caption")
    assert "tuning.method=lora (now full)" in advice(full) and "nf4" not in advice(full)


def test_every_key_of_the_advice_is_a_key():
    names = ["model.dtype=float32", "trainer.precision=32-true"]
    lines = advice(recipes.load("quickstart/chat", names)).splitlines()[1:]
    assert recipes.load("quickstart/chat", [line.split()[0] for line in lines])


def test_errors_of_all_kinds():
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")) and ran_out(MemoryError())
    assert ran_out(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not ran_out(RuntimeError("shape '[2]' is invalid for input of size 3"))

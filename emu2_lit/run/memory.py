"""What to tell when memory runs out: what to change in this very recipe."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Trainer

from callbacks import FaultCallback, Rehearsal
from callbacks.faults import listed
from emu2_lit.errors import UserError
from emu2_lit.recipe.schema import Recipe

_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "ALLOC_FAILED")


@contextmanager
def memory_advice(recipe: Recipe, trainer: Trainer) -> Iterator[None]:
    """Raises UserError where memory runs out, on the device or the host, saying when and what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise UserError(
            f"Out of memory {_when(trainer)}: {str(error).splitlines()[0] if str(error) else 'no reason given'}\n"
            f"{advice(recipe)}\n"
            "Checkpoints that were written stand: the same command goes on from the last one."
        ) from error


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out; torch says so by a type on GPUs, and in words elsewhere."""
    told = any(sign in str(error) for sign in _SIGNS)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or told


def advice(recipe: Recipe) -> str:
    """One line for each key that would save memory, what helps most first, with the present values."""
    data, model, tuning, trainer = recipe.data, recipe.model, recipe.tuning, recipe.trainer
    lines = []
    if data.micro_batch_size > 1:
        lines.append(
            f"data.micro_batch_size={data.micro_batch_size // 2} (now {data.micro_batch_size}): the updates stay the "
            "same, in more passes"
        )
    if not tuning.activation_checkpointing:
        lines.append("tuning.activation_checkpointing=true (now false): about a third slower")
    lines.append(f"data.max_length={data.max_length // 2} (now {data.max_length}): longer samples lose trailing turns")
    if tuning.method == "full":
        lines.append("tuning.method=lora (now full): no optimizer state for the model itself")
    elif not model.quantization:
        lines.append("model.quantization=nf4 (now null): the language model in a quarter of the memory")
    if model.dtype == "float32":
        lines.append("model.dtype=bfloat16 (now float32): frozen weights in half the memory")
    if trainer.precision == "32-true":
        lines.append("trainer.precision=bf16-mixed (now 32-true): activations in half the memory")
    if recipe.callbacks.answers:
        size = recipe.callbacks.answers.batch_size
        lines.append(f"callbacks.answers.batch_size={max(size // 2, 1)} (now {size}): where answers are generated")
    return "\n".join(["What helps, most first:", *(f"  {line}" for line in lines)])


def _when(trainer: Trainer) -> str:
    """The step, and the samples of the micro-batch that was in work."""
    if any(isinstance(callback, Rehearsal) and callback.running for callback in trainer.callbacks):
        return "in the rehearsal of the fullest micro-batch, before the first step"
    watching = [callback for callback in trainer.callbacks if isinstance(callback, FaultCallback)]
    if trainer.lightning_module is None or trainer.lightning_module.model is None:
        return "while the model was made"
    if not watching or not watching[0].micro_batches:
        return f"after step {trainer.global_step}, outside of training steps"
    return f"in step {trainer.global_step + 1}, with the samples {listed(watching[0].micro_batches[-1])}"

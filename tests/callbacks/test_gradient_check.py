import pytest
import torch
from lightning import Callback

from callbacks import GradientCheck
from emu2_lit.errors import UserError
from tests.callbacks.toy import ACCUMULATION, Batches, ToyModule, make_trainer
from tests.distributed import run_ranks


class Tuned(ToyModule):
    """As after LoRA: `lora_A` gets no gradient at the first step, the tower none without pictures."""

    def __init__(self, detached: bool = False, broken: bool = False):
        super().__init__()
        self.model = torch.nn.Module()
        self.model.lm = torch.nn.Linear(4, 4).requires_grad_(False)
        self.model.lora_A = torch.nn.Linear(4, 2, bias=False)
        self.model.lora_B = torch.nn.Linear(2, 4, bias=False)
        torch.nn.init.zeros_(self.model.lora_B.weight)
        self.model.project_up = torch.nn.Linear(4, 4, bias=False)
        self.detached, self.broken = detached, broken

    def loss(self, batch):
        inputs = batch["inputs"]
        if batch.get("pixel_values") is not None:
            inputs = inputs + self.model.project_up(batch["pixel_values"])
        low = self.model.lora_A(inputs)
        update = self.model.lora_B(low.detach() if self.detached else low)
        loss = (self.model.lm(inputs) + update - 1).square().mean()
        return loss * float("nan") if self.broken else loss


def fit(folder, module, loader, steps: int = 4, **settings) -> None:
    make_trainer(folder, loader.steps, GradientCheck(steps=steps), **settings).fit(module, loader)


def pictures_at(*steps: int) -> dict:
    return {"pixel_values": lambda place: torch.ones(2, 4) if place // ACCUMULATION in steps else None}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_healthy_run_passes(tmp_path, precision):
    fit(tmp_path, Tuned(), Batches(6, **pictures_at(*range(6))), precision=precision)


def test_one_step_is_too_early_to_judge_adapters(tmp_path):
    with pytest.raises(UserError, match="lora_A"):
        fit(tmp_path, Tuned(), Batches(2), steps=1)
    fit(tmp_path, Tuned(), Batches(2), steps=2)


def test_a_tensor_cut_off_from_the_loss_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        fit(tmp_path, Tuned(detached=True), Batches(6, **pictures_at(*range(6))))
    message = str(caught.value)
    assert "After 4 steps 1 of 3 trained tensors" in message and "\n  model.lora_A.weight\n" in message
    assert "project_up" not in message and "tuning.frozen" in message


def test_gradients_that_are_never_finite_stop_the_run(tmp_path):
    with pytest.raises(UserError, match="2 of 3 trained tensors"):
        fit(tmp_path, Tuned(broken=True), Batches(6))


def test_visual_parts_are_judged_once_enough_steps_had_pictures(tmp_path):
    class Blind(Tuned):
        def loss(self, batch):
            return super().loss({"inputs": batch["inputs"]})

    fit(tmp_path, Blind(), Batches(8))
    fit(tmp_path, Blind(), Batches(8, **pictures_at(3)))
    with pytest.raises(UserError, match="After 8 steps 1 of 3"):
        fit(tmp_path, Blind(), Batches(9, **pictures_at(3, 4, 5, 6)))


def test_a_run_without_targets_stops(tmp_path):
    with pytest.raises(UserError, match="first 4 steps had no target"):
        fit(tmp_path, Tuned(), Batches(6, targets=0))


def test_a_few_steps_without_targets_are_fine(tmp_path):
    windows = {"window": lambda place: dict(text_targets=5 * (place >= 6), visual_targets=0)}
    fit(tmp_path, Tuned(), Batches(6, **windows))


def test_zero_switches_it_off(tmp_path):
    fit(tmp_path, Tuned(detached=True), Batches(6, targets=0), steps=0)


def test_it_judges_after_a_resume_too(tmp_path):
    saved = tmp_path / "two.ckpt"
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(Tuned(), Batches(2))
    trainer.save_checkpoint(saved)

    class Counted(Callback):
        def on_exception(self, trainer, pl_module, exception):
            self.step = trainer.global_step

    counted = Counted()
    trainer = make_trainer(tmp_path, 9, GradientCheck(steps=4), counted)
    with pytest.raises(UserError):
        trainer.fit(Tuned(detached=True), Batches(9), ckpt_path=saved)
    assert counted.step == 6


def fit_on_two_ranks(folder, detached: bool) -> str:
    """Only rank 1 sees pictures and targets."""
    from os import environ

    second = environ["RANK"] == "1"
    loader = Batches(5, targets=3 if second else 0, **(pictures_at(*range(5)) if second else {}))
    try:
        fit(folder, Tuned(detached), loader, devices=2, strategy="ddp_find_unused_parameters_true")
    except UserError as error:
        return str(error)
    return "passed"


def test_two_ranks_judge_alike(tmp_path):
    assert run_ranks(fit_on_two_ranks, 2, tmp_path, False) == ["passed", "passed"]
    first, second = run_ranks(fit_on_two_ranks, 2, tmp_path, True)
    assert first == second and "lora_A" in first

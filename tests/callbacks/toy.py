"""A small LightningModule and its batches, with everything that the callbacks read."""

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

ACCUMULATION = 2


class ToyModule(LightningModule):
    """Two layers, the same in every test."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.ModuleDict({"lm": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})

    def parameter_parts(self) -> list[dict]:
        return [
            dict(part="lm", mode="lora", lr=2e-4, parameters=1_500),
            dict(part="visual", mode="frozen", lr=None, parameters=8_500),
        ]

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), batch_size=1)

    def loss(self, batch: dict) -> Tensor:
        hidden = self.model["lm"](batch["inputs"])
        return self.model["norm"](hidden).square().mean() + hidden.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=1e-2)


class Batches:
    """A sized loader of `steps` windows of ACCUMULATION micro-batches each."""

    def __init__(self, steps: int, **extra):
        self.steps, self.extra = steps, extra

    def __len__(self) -> int:
        return self.steps * ACCUMULATION

    def __iter__(self):
        for place in range(len(self)):
            yield make_batch(place, **self.extra)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def make_batch(place: int, targets: int = 3, **extra) -> dict:
    generator = torch.Generator().manual_seed(place)
    labels = torch.full((2, 5), -100)
    labels[0, :targets] = 7
    attention_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    window = dict(
        text_targets=ACCUMULATION * targets, visual_targets=0, micro_batches=ACCUMULATION,
        step=place // ACCUMULATION, micro_batch=place % ACCUMULATION,
    )  # fmt: skip
    batch = dict(
        inputs=torch.randn(2, 4, generator=generator), attention_mask=attention_mask, labels=labels,
        sample_ids=[f"sample {2 * place}", f"sample {2 * place + 1}"], skipped=[], window=window,
    )  # fmt: skip
    return batch | {name: value(place) if callable(value) else value for name, value in extra.items()}


def make_trainer(folder, steps: int, *callbacks, **settings) -> Trainer:
    defaults = dict(
        default_root_dir=folder, max_steps=steps, accumulate_grad_batches=ACCUMULATION, callbacks=list(callbacks),
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, check_val_every_n_epoch=None, num_sanity_val_steps=0, log_every_n_steps=1,
        use_distributed_sampler=False,
    )  # fmt: skip
    return Trainer(**(defaults | settings))

"""What every objective shares: building the model, what trains, the optimizer, exact loss weights, checkpoints."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.loading import load_model
from emu2_lit.model.lora import apply_lora, load_adapter, merge_adapters, target_part
from emu2_lit.model.objective import IGNORE
from emu2_lit.model.parts import check_parts, freeze, part_of, tuning_mode
from emu2_lit.model.vocabulary import add_role_tokens
from emu2_lit.modules.optimization import parameter_groups, schedule
from emu2_lit.samples.seeding import hash_seed
from emu2_lit.settings import LoraSettings, OptimizerSettings

MODEL_INPUTS = (
    "input_ids", "attention_mask", "pixel_values", "video_pixel_values", "visual_embeds", "video_embeds",
)  # fmt: skip


class TuningModule(LightningModule):
    """Base of the objectives.

    Args:
        model: a model, a configuration (random weights) or a folder of weights; the last two are built in
            `configure_model`, so that nothing is held twice.
        processor: turns samples into tensors; chat objectives give its tokenizer the role tokens if they lack.
        lora: adapters to train; None tunes the model itself.
        frozen: parts that do not train (see model/parts.py).
        config: of the weights, where their folder or file has none (native files).
        merged_adapters: PEFT folders that are folded into the weights before anything else.
        adapter: a PEFT folder to go on from.
        seed: of random weights and of the generators, which are set anew before every micro-batch.
    """

    needs_role_tokens = False
    default_frozen: Sequence[str] = ()

    def __init__(
        self,
        model: Emu2ForConditionalGeneration | Emu2Config | str | Path,
        processor: Emu2Processor | None = None,
        *,
        lora: LoraSettings | None = None,
        frozen: Sequence[str] | None = None,
        optimizer: OptimizerSettings | None = None,
        config: Emu2Config | None = None,
        merged_adapters: Sequence[str | Path] = (),
        adapter: str | Path | None = None,
        train_new_tokens: bool = True,
        activation_checkpointing: bool = False,
        dtype: torch.dtype | None = None,
        quantization: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.strict_loading = False  # checkpoints hold what trains; `on_load_checkpoint` checks that it is all there
        self.source = model
        self.model: nn.Module | None = None
        self.processor = processor
        self.lora = lora
        self.frozen = list(self.default_frozen if frozen is None else frozen)
        self.optimizer = optimizer or OptimizerSettings()
        self.config = config
        self.merged_adapters = list(merged_adapters)
        self.adapter = adapter
        self.train_new_tokens = train_new_tokens
        self.activation_checkpointing = activation_checkpointing
        self.weights_dtype = dtype
        self.quantization = quantization
        self.seed = seed
        self._window_loss: Tensor | float = 0.0
        self._check()

    def _check(self) -> None:
        check_parts(self.frozen)
        for target in self.lora.targets if self.lora else ():
            if target_part(target) in self.frozen:
                raise UserError(
                    f"tuning.lora.targets: {target} belongs to `{target_part(target)}`, which tuning.frozen lists; "
                    "take it out of one of them"
                )
        if self.quantization and not self.lora:
            raise UserError("model.quantization: quantised weights cannot be tuned in full; set tuning.method: lora")

    # -- the model -------------------------------------------------------------------------------------------
    def configure_model(self) -> None:
        """Build the model once; Lightning calls this before every run."""
        if self.model is not None:
            return
        model = self._build()
        if self.processor is None:
            self.processor = Emu2Processor.for_config(model.config)
        if self.needs_role_tokens and not self.processor.tokenizer.chat:
            raise UserError("The processor has no role tokens: make it with chat=True")
        new_tokens = add_role_tokens(model) if self.processor.tokenizer.chat else []
        model = merge_adapters(model, self.merged_adapters)
        if self.lora:
            self.model = self._with_adapters(model, new_tokens)
        else:
            freeze(model, self.frozen)
            self.model = model
        self.model.train()  # loading leaves it in evaluation mode, without dropout
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # updates of 1e-5 are lost in the 8 bits of a bfloat16 weight
                parameter.data = parameter.data.float()
        if self.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def _build(self) -> Emu2ForConditionalGeneration:
        if isinstance(self.source, Emu2ForConditionalGeneration):
            return self.source
        if isinstance(self.source, Emu2Config):
            with torch.random.fork_rng():
                torch.manual_seed(hash_seed(self.seed, "random weights") % 2**63)
                return Emu2ForConditionalGeneration(self.source).to(self.weights_dtype or torch.float32)
        return load_model(
            Emu2ForConditionalGeneration, self.source, config=self.config, dtype=self.weights_dtype,
            quantization=self.quantization, device=self.trainer.strategy.root_device if self._trainer else "cpu",
        )  # fmt: skip

    def _with_adapters(self, model: Emu2ForConditionalGeneration, new_tokens: list[int]) -> nn.Module:
        if self.adapter:
            return load_adapter(model, self.adapter, trainable=True)
        with torch.random.fork_rng():
            torch.manual_seed(hash_seed(self.seed, "adapters") % 2**63)
            wrapped = apply_lora(model, self.lora, new_tokens if self.train_new_tokens else ())
        return wrapped

    def parameter_parts(self) -> list[dict[str, Any]]:
        """What trains: rows of part, mode (`full`, `lora`, `tokens`, `frozen`), lr and number of parameters."""
        sizes: dict[tuple[str, str], int] = defaultdict(int)
        for name, parameter in self.model.named_parameters():
            key = part_of(name), tuning_mode(name, parameter.requires_grad)
            sizes[key] += getattr(parameter, "ds_numel", parameter.numel())
        return [
            dict(part=part, mode=mode, lr=None if mode == "frozen" else self.optimizer.lr, parameters=size)
            for (part, mode), size in sizes.items()
        ]

    # -- steps -----------------------------------------------------------------------------------------------
    def losses(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The summed loss of a batch and its number of targets. Each objective gives its own."""
        raise NotImplementedError

    def inputs(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What the network reads of a batch."""
        return {key: batch[key] for key in MODEL_INPUTS if batch.get(key) is not None}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        window = batch.get("window") or self._lone_window(batch, batch_idx)
        self._seed_generators(window)
        loss_sum, _ = self.losses(batch)
        share = loss_sum / max(self.targets_of(window), 1)
        self._log_window(share.detach(), window)
        # Lightning divides by the accumulation, the strategy averages over ranks: both are undone here, so that the
        # update is the mean over all targets of the global batch however it is split.
        return share * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def targets_of(self, window: dict[str, int]) -> int:
        """The targets in the global batch that this objective averages over."""
        return window["text_targets"]

    def _lone_window(self, batch: dict[str, Any], batch_idx: int) -> dict[str, int]:
        """For loaders other than the kit's: each micro-batch weighs the same, whatever its targets."""
        passes = self.trainer.accumulate_grad_batches
        targets = int((batch["labels"][:, 1:] != IGNORE).sum()) * passes * self.trainer.world_size
        return dict(
            text_targets=targets, visual_targets=0, step=self.global_step, micro_batch=batch_idx % passes,
            micro_batches=passes,
        )  # fmt: skip

    def _seed_generators(self, window: dict[str, int]) -> None:
        """Dropout of a micro-batch depends on nothing that ran before it, so a resumed run draws the same."""
        torch.manual_seed(
            hash_seed(self.seed, "step", window["step"], window["micro_batch"], self.global_rank) % 2**63
        )

    def _log_window(self, share: Tensor, window: dict[str, int]) -> None:
        """Log the loss of the whole global batch, once, at its last micro-batch."""
        self._window_loss = share + (self._window_loss if window["micro_batch"] else 0.0)
        if window["micro_batch"] == window["micro_batches"] - 1:
            loss = self.trainer.strategy.reduce(self._window_loss, reduce_op="sum")
            self._check_loss(loss)
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/lr", self.optimizers().param_groups[0]["lr"])

    def _check_loss(self, loss: Tensor) -> None:
        """Raises UserError if the loss is lost. Looks only where it is logged and at the end, for that takes time."""
        step, interval = self.global_step + 1, max(self.trainer.log_every_n_steps, 1)
        if (step % interval == 0 or step == self.trainer.max_steps) and not loss.isfinite():
            raise UserError(
                f"step {step}: the loss is {loss.item()}, and nothing can be learned from here on. Lower optimizer.lr "
                "or lengthen optimizer.warmup_steps; with 16-bit floats, take trainer.precision=bf16-mixed"
            )

    def on_before_optimizer_step(self, optimizer) -> None:
        if self.global_step % max(self.trainer.log_every_n_steps, 1) == 0:
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    # -- optimizer -------------------------------------------------------------------------------------------
    def configure_optimizers(self):
        settings = self.optimizer
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, settings.weight_decay),
            lr=settings.lr, betas=tuple(settings.betas), eps=settings.eps, fused=settings.fused or None,
        )  # fmt: skip
        scheduler = schedule(optimizer, settings, total_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # -- checkpoints -----------------------------------------------------------------------------------------
    def trainable_names(self) -> list[str]:
        """Names, in this module's state dict, of what trains."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what trains: the frozen rest is read from where it came from."""
        keep = set(self.trainable_names())
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keep}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError unless the checkpoint holds what trains, all of it and nothing else, in the same shapes."""
        saved = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
        wanted = {name: tuple(p.shape) for name, p in self.named_parameters() if p.requires_grad}
        if differing := sorted(name for name, _ in saved.items() ^ wanted.items()):
            examples = list(dict.fromkeys(differing))
            raise UserError(
                f"The checkpoint holds {len(saved)} trained tensors, this run trains {len(wanted)}; they differ in "
                f"{len(examples)}, such as {', '.join(examples[:5])}. Resume with the recipe that wrote it, or "
                "start anew with another run.dir"
            )

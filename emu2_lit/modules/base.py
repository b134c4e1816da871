"""What every objective shares: building the model, what trains, the optimizer, exact loss weights, checkpoints."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.compilation import compile_blocks
from emu2_lit.model.loading import TOWER, iterate_tensors, load_model
from emu2_lit.model.lora import apply_lora, load_adapter, merge_adapters, target_part
from emu2_lit.model.objective import IGNORE
from emu2_lit.model.parts import PARTS, check_parts, freeze, part_of, tuning_mode
from emu2_lit.model.streaming import Stream, drawn_tensors, empty_model, grown
from emu2_lit.model.tower import Emu2Tower
from emu2_lit.model.vocabulary import add_role_tokens
from emu2_lit.modules.optimization import apply_settings, make_optimizer, parameter_groups, schedule
from emu2_lit.ranks import data_place
from emu2_lit.samples.seeding import hash_seed
from emu2_lit.settings import LoraSettings, OptimizerSettings
from emu2_lit.strategies.partition import build_partitions
from emu2_lit.strategies.shard import build_shards, clip, on_one_mesh, own_piece, total_norm

MODEL_INPUTS = (
    "input_ids", "attention_mask", "pixel_values", "video_pixel_values", "visual_embeds", "video_embeds",
    "segment_ids",
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
        tower: False trains without the visual encoder: pictures come as features, which a `FeatureStore` holds.
        seed: of random weights and of the generators, which are set anew before every micro-batch.
    """

    kinds: Sequence[str] = ("text",)  # of targets: text, visual
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
        compiled: bool = False,
        tower: bool = True,
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
        self.compiled = compiled
        self.tower = tower
        self.seed = seed
        self._window_losses: dict[str, Tensor] = {}
        self.validation_losses = nn.ModuleDict({kind: MeanMetric() for kind in self.kinds})
        self.validated_at: int | None = None  # the step of the last validation
        self.update_skipped = False  # a callback has taken the gradients of the present step away
        self._check()

    def _check(self) -> None:
        check_parts(self.frozen)
        for target in self.lora.targets if self.lora else ():
            if target_part(target) in self.frozen:
                raise UserError(
                    f"tuning.lora.targets: {target} belongs to `{target_part(target)}`, which tuning.frozen lists; "
                    "take it out of one of them"
                )
        trained = (target_part(target) for target in self.lora.targets) if self.lora else {*PARTS} - {*self.frozen}
        if not self.tower and "visual" in trained:
            raise UserError(
                "data.features: the tower trains, so what it makes of pictures changes; put visual into tuning.frozen "
                "and no target in the tower, or remove data.features"
            )
        if self.quantization and not self.lora:
            raise UserError("model.quantization: quantised weights cannot be tuned in full; set tuning.method: lora")

    # -- the model -------------------------------------------------------------------------------------------
    def configure_model(self) -> None:
        """Build the model once; Lightning calls this before every run."""
        if self.model is not None:
            return
        model = self._build_empty() if self.device_mesh is not None or self._partitions else self._build()
        if not self.tower:
            model.drop_tower()
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
                parameter.data = parameter.data.to(self._engine_dtype or torch.float32)
        if self.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.compiled:
            compile_blocks(model)
        if self.device_mesh is not None:
            precision, device = self.trainer.precision, self.trainer.strategy.root_device
            build_shards(self.model, model, self._source(model), self.device_mesh, precision, device)
        elif self._partitions:
            strategy = self.trainer.strategy
            source, dtype = self._source(model), self._engine_dtype
            build_partitions(self.model, model, source, strategy.config, dtype, strategy.root_device)

    @property
    def _partitions(self) -> bool:
        """Whether DeepSpeed takes the weights apart (ZeRO-3)."""
        return self._trainer is not None and getattr(self.trainer.strategy, "zero_stage_3", False)

    @property
    def _engine_dtype(self) -> torch.dtype | None:
        """In what DeepSpeed holds all weights, where it computes in 16 bits; it keeps float32 copies of what trains."""
        if self._trainer is None or not self.trainer.strategy.handles_gradient_accumulation:
            return None
        return {"bf16": torch.bfloat16, "16": torch.float16}.get(self.trainer.precision.partition("-")[0])

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
            tower=self.tower,
        )  # fmt: skip

    def _build_empty(self) -> Emu2ForConditionalGeneration:
        """Raises UserError for what needs whole weights."""
        dora = self.lora and self.lora.use_dora
        for wanted, what in ((self.merged_adapters, "weights tuned with an adapter (`emu2-lit export` merges them)"),
                             (self.quantization, "model.quantization"), (dora, "tuning.lora.use_dora"),
                             (self.adapter, "model.adapter")):  # fmt: skip
            if wanted:
                raise UserError(f"trainer.strategy: a sharded model cannot have {what}; take ddp, or do without")
        if isinstance(self.source, Emu2ForConditionalGeneration):
            return self.source
        return empty_model(self.source, self.config, self.weights_dtype)

    def _source(self, model: Emu2ForConditionalGeneration) -> Stream | None:
        """The weights of a model from `_build_empty`; None where it was given with them."""
        if isinstance(self.source, Emu2ForConditionalGeneration):
            return None
        if isinstance(self.source, Emu2Config):
            seed = hash_seed(self.seed, "random weights") % 2**63
            mesh = self.device_mesh
            piece = partial(own_piece, mesh=mesh) if mesh is not None else lambda tensor: tensor
            tensors = drawn_tensors(self.source, seed, piece)
        else:
            tensors = iterate_tensors(self.source)
        if not self.tower:
            tensors = (one for one in tensors if not one[0].startswith(TOWER))
        return grown(tensors, model.config.text_config.vocab_size)

    def build_tower(self, device: str | torch.device = "cpu") -> Emu2Tower:
        """The tower alone; the language model is not even read."""
        if isinstance(self.source, Emu2ForConditionalGeneration | Emu2Config):
            tower = Emu2Tower(self.source if isinstance(self.source, Emu2Config) else self.source.config)
            tower.model.visual = self._build().visual
            return tower.to(device)
        return load_model(
            Emu2Tower, self.source, config=self.config, dtype=self.weights_dtype, device=device, only=TOWER
        )

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
            dict(part=part, mode=mode, lr=None if mode == "frozen" else self._peak_rate(part), parameters=size)
            for (part, mode), size in sizes.items()
        ]

    def _peak_rate(self, part: str) -> float:
        return self.optimizer.part_lr.given().get(part, self.optimizer.lr)

    def learning_rates(self) -> dict[str, float]:
        """The present rate by part; "" stands for all parts without a rate of their own."""
        return {group["part"]: group["lr"] for group in self.optimizers().param_groups}

    # -- steps -----------------------------------------------------------------------------------------------
    def losses(self, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each kind of target (`text`, `visual`) the mean loss of a batch and how many there are. Each objective
        gives its own."""
        raise NotImplementedError

    def loss_weight(self, kind: str) -> float:
        """How much the loss of one kind of target counts."""
        return 1.0

    def inputs(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What the network reads of a batch."""
        return {key: batch[key] for key in MODEL_INPUTS if batch.get(key) is not None}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        window = batch.get("window") or self._lone_window(batch, batch_idx)
        self._seed_generators(window)
        shares = {
            kind: loss * targets / max(window[f"{kind}_targets"], 1)
            for kind, (loss, targets) in self.losses(batch).items()
        }
        self._log_window({kind: share.detach() for kind, share in shares.items()}, window)
        # Lightning divides by the accumulation, the strategy averages over ranks: both are undone here, so that the
        # update is the mean over all targets of the global batch however it is split.
        return self._weighed(shares) * self.trainer.accumulate_grad_batches * data_place(self.trainer).size

    def _weighed(self, losses: dict[str, Tensor]) -> Tensor:
        return sum(self.loss_weight(kind) * loss for kind, loss in losses.items())

    def _lone_window(self, batch: dict[str, Any], batch_idx: int) -> dict[str, int]:
        """For loaders other than the kit's: each micro-batch weighs the same, whatever its targets."""
        passes, shares = self.trainer.accumulate_grad_batches, data_place(self.trainer).size
        learned = {"text": batch["labels"] != IGNORE, "visual": batch.get("visual_targets_mask")}
        counts = {f"{kind}_targets": int(learned[kind][:, 1:].sum()) * passes * shares for kind in self.kinds}
        return dict(counts, step=self.global_step, micro_batch=batch_idx % passes, micro_batches=passes)

    def _seed_generators(self, window: dict[str, int]) -> None:
        """Dropout of a micro-batch depends on nothing that ran before it, so a resumed run draws the same."""
        place = data_place(self.trainer).rank
        torch.manual_seed(hash_seed(self.seed, "step", window["step"], window["micro_batch"], place) % 2**63)

    def _log_window(self, shares: dict[str, Tensor], window: dict[str, int]) -> None:
        """Log the losses of the whole global batch, once, at its last micro-batch."""
        before = self._window_losses if window["micro_batch"] else {}
        self._window_losses = {kind: share + before.get(kind, 0.0) for kind, share in shares.items()}
        if window["micro_batch"] < window["micro_batches"] - 1:
            return
        losses = {kind: self.summed(loss) for kind, loss in self._window_losses.items()}
        loss = self._weighed(losses)
        self.log("train/loss", loss, prog_bar=True)
        if window.get("type"):
            self.log(f"train/loss_{window['type']}", loss)
        for kind, value in losses.items() if len(losses) > 1 else ():
            if window[f"{kind}_targets"]:
                self.log(f"train/{kind}_loss", value)
        for part, lr in self.learning_rates().items():
            self.log(f"train/lr_{part}" if part else "train/lr", lr)

    def summed(self, value: Tensor) -> Tensor:
        """The sum over the shares of the data; ranks that work on the same one have the same value. Every rank must
        call it."""
        return self.trainer.strategy.reduce(value) * data_place(self.trainer).size

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        for kind, (loss, targets) in self.losses(batch).items():
            self.validation_losses[kind].update(loss, weight=targets)

    def on_validation_epoch_end(self) -> None:
        """Log the mean over all validation targets of all ranks, by kind."""
        losses = {kind: metric.compute() for kind, metric in self.validation_losses.items() if metric.update_called}
        losses = {kind: loss for kind, loss in losses.items() if not loss.isnan()}  # no such target anywhere
        for metric in self.validation_losses.values():
            metric.reset()
        if losses:
            self.log("val/loss", self._weighed(losses), prog_bar=True)
        for kind, loss in losses.items() if len(losses) > 1 else ():
            self.log(f"val/{kind}_loss", loss)

    def on_validation_end(self) -> None:
        self.validated_at = self.global_step

    def on_before_optimizer_step(self, optimizer) -> None:
        if self.global_step % max(self.trainer.log_every_n_steps, 1) == 0:
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            if not gradients:  # DeepSpeed's, see `optimizer_step`
                return
            self.log("train/grad_norm", total_norm(gradients))

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """An engine that makes the step itself knows the norm afterwards."""
        super().optimizer_step(*arguments, **options)
        engine = self.trainer.strategy.handles_gradient_accumulation
        if engine and self.completes_step() and self.global_step % max(self.trainer.log_every_n_steps, 1) == 0:
            self.log("train/grad_norm", float(self.trainer.model.get_global_grad_norm()))

    def completes_step(self) -> bool:
        """Whether the present micro-batch is the last of its optimizer step; engines that accumulate call the hooks of
        the optimizer at each."""
        return not self.trainer.fit_loop._should_accumulate()

    # -- optimizer -------------------------------------------------------------------------------------------
    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Of gradients that lie on different meshes as well, of which torch's own clipping takes one at a time."""
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_val is None or on_one_mesh(trained):
            return super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        clip(trained, gradient_clip_val)

    def configure_optimizers(self):
        optimizer = make_optimizer(self.model, self.optimizer)
        scheduler = schedule(optimizer, self.optimizer, total_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """The schedule goes on with the updates that were made."""
        if not self.update_skipped:
            super().lr_scheduler_step(scheduler, metric)

    def on_train_start(self) -> None:
        if self.global_step:
            groups = parameter_groups(self.model, self.optimizer)
            apply_settings(self.optimizers(), self.lr_schedulers(), self.optimizer, groups)

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
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        wanted = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in trained}
        if differing := sorted(name for name, _ in saved.items() ^ wanted.items()):
            examples = list(dict.fromkeys(differing))
            raise UserError(
                f"The checkpoint holds {len(saved)} trained tensors, this run trains {len(wanted)}; they differ in "
                f"{len(examples)}, such as {', '.join(examples[:5])}. Resume with the recipe that wrote it, or "
                "start anew with another run.dir"
            )
        for state in checkpoint.get("optimizer_states", ()):
            if len(state["param_groups"]) != len(parameter_groups(self.model, self.optimizer)):
                raise UserError("optimizer.part_lr: other parts have rates of their own than in the checkpoint")
            moments = {name for of_one in state["state"].values() for name in of_one}
            if moments and ("exp_avg" in moments) != (self.optimizer.name == "adamw"):
                raise UserError("optimizer.name: the checkpoint holds the moments of another one; start anew with "
                                "another run.dir")  # fmt: skip

"""Emu2: the EVA tower, two linear projections and LLaMA, as one transformers model.

The state dict has the names of the published Hugging Face weights.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LlamaForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput

from emu2_lit.model import loading, objective, packing, saving
from emu2_lit.model.configuration import Emu2Config
from emu2_lit.model.generation import ImageGeneration
from emu2_lit.model.vision import Emu2VisionModel, pool


@dataclass
class Emu2Output(ModelOutput):
    """What one pass gives.

    Attributes:
        loss: text_loss + visual_loss, of those that have a target.
        text_loss: mean cross-entropy over the learned tokens; text_targets: how many there are.
        visual_loss: mean squared error over regressed slots and dimensions; visual_targets: how many slots.
        logits: (batch, length, vocabulary); with labels (text_targets, vocabulary), with a visual_targets_mask alone
            none, unless all are asked for.
        regression: (batch, length, visual width), project_down of the last hidden state; with a
            visual_targets_mask (visual_targets, visual width), the predictions of the regressed slots in order, and
            regression_targets, what they should be.
        last_hidden_state: (batch, length, hidden_size), after the final norm.
        hidden_states: tuple; the last is after the final norm.
    """

    loss: Tensor | None = None
    text_loss: Tensor | None = None
    text_targets: Tensor | None = None
    visual_loss: Tensor | None = None
    visual_targets: Tensor | None = None
    logits: Tensor | None = None
    regression: Tensor | None = None
    regression_targets: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    past_key_values: object | None = None


class Emu2Decoder(nn.Module):
    """Holds the language model under its published name, `decoder.lm`."""

    def __init__(self, config: Emu2Config):
        super().__init__()
        self.lm = LlamaForCausalLM(config.text_config)


class Emu2Model(nn.Module):
    """Tower and language model under their published names."""

    def __init__(self, config: Emu2Config):
        super().__init__()
        self.visual = Emu2VisionModel(config.vision_config)
        self.decoder = Emu2Decoder(config)


class Emu2ForConditionalGeneration(ImageGeneration, PreTrainedModel, GenerationMixin):
    """Reads text, pictures and video frames; writes text and regresses pictures."""

    config_class = Emu2Config
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block", "LlamaDecoderLayer"]
    in_step = False  # its blocks are sharded: every pass goes through all of them on every rank

    def __init__(self, config: Emu2Config):
        super().__init__(config)
        self.model = Emu2Model(config)
        width, visual_width = config.text_config.hidden_size, config.vision_config.hidden_size
        self.project_down = nn.Linear(width, visual_width, bias=False)
        self.project_up = nn.Linear(visual_width, width, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Emu2VisionModel):
            for parameter in (module.cls_token, module.pos_embed):
                nn.init.trunc_normal_(parameter, std=self.config.initializer_range)

    # -- parts -----------------------------------------------------------------------------------------------
    @property
    def lm(self) -> LlamaForCausalLM:
        """The language model."""
        return self.model.decoder.lm

    @property
    def visual(self) -> Emu2VisionModel | None:
        """The visual encoder; None where it was dropped."""
        return self.model.visual

    def drop_tower(self) -> None:
        """Do without the visual encoder: pictures are given as `visual_embeds` and `video_embeds` alone."""
        self.model.visual = None

    def get_input_embeddings(self) -> nn.Module:
        return self.lm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.lm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm.lm_head = value

    # -- inputs ----------------------------------------------------------------------------------------------
    def encode_image(self, pixel_values: Tensor, n_query: int | None = None) -> Tensor:
        """Pooled tower features, the space in which pictures are regressed.

        Args:
            pixel_values: (images, 3, image_size, image_size).
            n_query: visual tokens per picture; default that of stills.
        Returns:
            (images, n_query, visual width). Without gradient where no parameter of the tower trains.
        Raises:
            ValueError: the tower was dropped.
        """
        return pool(self._features(pixel_values), n_query or self.config.n_query)

    def _features(self, pixel_values: Tensor) -> Tensor:
        if self.visual is None:
            raise ValueError("this model holds no tower: give visual_embeds or video_embeds in the place of pixels")
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.visual.parameters())
        with torch.set_grad_enabled(trains):
            return self.visual(pixel_values)

    def _encode(self, stills: Tensor | None, frames: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Pooled features of stills and frames, in one pass of the tower: where it is sharded, every rank must make
        as many passes, whatever is in its batch."""
        given = [pixels for pixels in (stills, frames) if pixels is not None]
        if not given:
            return None, None
        parts = iter(self._features(torch.cat(given)).split([len(pixels) for pixels in given]))
        return (
            None if stills is None else pool(next(parts), self.config.n_query),
            None if frames is None else pool(next(parts), self.config.v_query),
        )

    def embed_inputs(
        self,
        input_ids: Tensor,
        pixel_values=None,
        video_pixel_values=None,
        visual_embeds=None,
        video_embeds=None,
        written: bool = False,
    ) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """Token embeddings with every visual slot filled.

        Args:
            written: by the model itself, token by token: what looks like a slot is a word like any other.
        Returns:
            (batch, length, hidden_size) and, for stills and frames, (slot id, (pictures, n, visual width)).
        Raises:
            ValueError: the number of slots is not that of the embeddings.
        """
        embeds = self.get_input_embeddings()(input_ids)
        stills, frames = self._encode(
            pixel_values if visual_embeds is None else None, video_pixel_values if video_embeds is None else None
        )
        visuals = [
            (self.config.special_ids["<image>"], stills if visual_embeds is None else visual_embeds),
            (self.config.special_ids["[gIMG]"], frames if video_embeds is None else video_embeds),
        ]
        for slot_id, visual in () if written else visuals:
            slots = input_ids == slot_id
            given = 0 if visual is None else visual.shape[0] * visual.shape[1]
            if int(slots.sum()) != given:
                raise ValueError(f"{int(slots.sum())} visual slots in the text, {given} visual embeddings given")
            if given:
                values = self.project_up(visual.to(self.project_up.weight.dtype)).to(embeds)
                embeds = embeds.masked_scatter(slots.unsqueeze(-1), values)
        present = [(slot_id, visual) for slot_id, visual in visuals if visual is not None]
        if (self.training and not present) or (self.in_step and stills is None and frames is None):
            embeds = embeds + self._unused_visual_parts(embeds)
        return embeds, present

    def _unused_visual_parts(self, embeds: Tensor) -> Tensor | float:
        """Zero times a pass over the visual parts that train, so that a batch without pictures reaches the same
        parameters as one with: other ranks wait for their gradients."""
        parts = [part for part in (self.visual, self.project_up) if part is not None]
        if not self.in_step and not any(p.requires_grad for part in parts for p in part.parameters()):
            return 0.0
        size, width = self.config.vision_config.image_size, self.config.vision_config.hidden_size
        features = self._features(embeds.new_zeros(1, 3, size, size)) if self.visual else embeds.new_zeros(1, width)
        return self.project_up(features.to(self.project_up.weight.dtype)).sum().to(embeds.dtype) * 0.0

    # -- passes ----------------------------------------------------------------------------------------------
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        video_pixel_values: Tensor | None = None,
        visual_embeds: Tensor | None = None,
        video_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        visual_targets_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values=None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        all_logits: bool = False,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> Emu2Output:
        """One pass over a batch.

        Args:
            input_ids, attention_mask: (batch, length); padding on either side.
            pixel_values: (images, 3, size, size) for the `<image>` slots, in reading order over the batch;
                `visual_embeds` (images, n_query, visual width) may stand in for them. `video_pixel_values` and
                `video_embeds` likewise for the `[gIMG]` slots of video frames.
            labels: (batch, length), aligned with input_ids, -100 not learned, shifted inside.
            visual_targets_mask: (batch, length) bool, the slots to regress; their targets are the pooled embeddings.
            segment_ids: (batch, length), for rows that hold several samples: which one a token belongs to, from 1; 0
                is padding (see model/packing.py). Takes the place of attention_mask and position_ids.
            all_logits: with labels or a mask, compute logits at every position, not only the learned ones.
        Raises:
            ValueError: slots and visual embeddings do not agree in number.
        """
        visuals = []
        if inputs_embeds is None:
            pictures = pixel_values, video_pixel_values, visual_embeds, video_embeds
            written = past_key_values is not None and all(given is None for given in pictures)
            inputs_embeds, visuals = self.embed_inputs(input_ids, *pictures, written=written)
        if segment_ids is not None:
            attention_mask, position_ids = packing.attention(segment_ids), packing.positions(segment_ids)
        if position_ids is None and attention_mask is not None and past_key_values is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        training_pass = labels is not None or visual_targets_mask is not None
        passed = self.lm.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=False if training_pass else use_cache,
            output_hidden_states=output_hidden_states,
        )
        hidden = passed.last_hidden_state
        output = Emu2Output(
            last_hidden_state=hidden, hidden_states=passed.hidden_states, past_key_values=passed.past_key_values
        )
        if labels is not None:
            self._text_objective(output, hidden, labels, all_logits)
        elif visual_targets_mask is None or all_logits:
            output.logits = self.lm.lm_head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        if visual_targets_mask is not None:
            self._visual_objective(output, hidden, input_ids, visual_targets_mask, visuals)
        elif not training_pass and past_key_values is None and not use_cache:
            output.regression = self.project_down(hidden)
        losses = [loss for loss in (output.text_loss, output.visual_loss) if loss is not None]
        output.loss = sum(losses) if losses else None
        return output

    def _text_objective(self, output: Emu2Output, hidden: Tensor, labels: Tensor, all_logits: bool) -> None:
        states, targets = objective.text_states(hidden, labels)
        learned = self.lm.lm_head(states)
        output.text_loss, output.text_targets = objective.text_loss(learned, targets), objective.count(targets)
        output.logits = self.lm.lm_head(hidden) if all_logits else learned

    def _visual_objective(self, output, hidden, input_ids, visual_targets_mask, visuals) -> None:
        values = hidden.new_zeros(*input_ids.shape, self.config.vision_config.hidden_size)
        for slot_id, visual in visuals:
            slots = (input_ids == slot_id).unsqueeze(-1)
            values = values.masked_scatter(slots, visual.detach().to(values.dtype))
        targets = values[:, 1:][visual_targets_mask[:, 1:]]
        output.regression_targets = targets
        output.regression = self.project_down(objective.visual_states(hidden, visual_targets_mask))
        output.visual_loss = objective.visual_loss(output.regression, targets)
        output.visual_targets = objective.count(targets)

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, pixel_values=None,
        video_pixel_values=None, visual_embeds=None, video_embeds=None, **kwargs,
    ) -> Tensor:  # fmt: skip
        """Text after a left-padded batch of prompts; arguments of transformers' `generate`.

        Returns:
            (batch, new tokens): new token ids only.
        """
        embeds, _ = self.embed_inputs(input_ids, pixel_values, video_pixel_values, visual_embeds, video_embeds)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        kwargs.setdefault("pad_token_id", self.config.pad_token_id)
        return super().generate(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)

    # -- weights ---------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs):
        """Read a Hugging Face folder, published or ours, streaming and strict: `dtype`, `device_map`, `quantization`
        and more as in `loading.load_model`."""
        return loading.load_model(cls, folder, **kwargs)

    @classmethod
    def from_native(cls, file: str | Path, config: Emu2Config, dtype=None, **kwargs):
        """Read one file of the native (non Hugging Face) form; see `loading.load_model`."""
        return loading.load_model(cls, file, config=config, dtype=dtype, **kwargs)

    def save_pretrained(self, folder: str | Path, **kwargs) -> None:
        """Write a Hugging Face folder; see `saving.save_pretrained`."""
        saving.save_pretrained(self, folder, **kwargs)

    def save_native(self, file: str | Path, rotary_buffers: bool = False, **kwargs) -> None:
        """Write one file of the native form; see `saving.save_native`."""
        saving.save_native(self, file, rotary_buffers=rotary_buffers, **kwargs)

"""Pictures out of the language model: visual embeddings regressed one after another (paper section 2.2)."""

import torch
from torch import Tensor
from transformers import DynamicCache


class ImageGeneration:
    """Adds `generate_image` to the model."""

    @torch.no_grad()
    def generate_image(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, pixel_values=None, video_pixel_values=None,
        visual_embeds=None, video_embeds=None, n_query: int | None = None, **kwargs,
    ) -> Tensor:  # fmt: skip
        """Regress one picture after each prompt; `[IMG]` is appended here.

        With a key-value cache: one pass over the prompts, then one position per visual token.

        Args:
            input_ids, attention_mask: (batch, length), left padded.
        Returns:
            (batch, n_query, visual width): the condition of the visual decoder.
        """
        begin = input_ids.new_full((len(input_ids), 1), self.config.special_ids["[IMG]"])
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        mask = torch.cat([attention_mask, torch.ones_like(begin)], dim=1)
        step, _ = self.embed_inputs(
            torch.cat([input_ids, begin], dim=1), pixel_values, video_pixel_values, visual_embeds, video_embeds
        )
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.config.text_config)
        embeddings = []
        for _ in range(n_query or self.config.n_query):
            hidden = self.lm.model(
                inputs_embeds=step, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1:]
            embeddings.append(self.project_down(hidden))
            step = self.project_up(embeddings[-1])
            mask = torch.cat([mask, torch.ones_like(begin)], dim=1)
            positions = positions[:, -1:] + 1
        return torch.cat(embeddings, dim=1)

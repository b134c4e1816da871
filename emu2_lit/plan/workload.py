"""What a step is planned for: so many samples of so many tokens and pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config
from emu2_lit.model.objective import IGNORE

_FIRST_WORD = 3  # an ordinary token: 0 to 2 are <unk>, <s>, </s>


@dataclass(frozen=True)
class Workload:
    """One micro-batch.

    Attributes:
        samples: rows.
        length: tokens of each, visual slots among them.
        images: still pictures of each sample.
        learned: text tokens of each sample that are learned; None: all of its text.
        padded: one row is a token shorter than the others, so that attention needs a mask.
        regressed: pictures of each sample that are targets, its last ones; None: no picture is ever one.
        cached: pictures come as features, without the tower.
        packed: what is called a sample here is a row that several share, so none is shorter.
    """

    samples: int
    length: int
    images: int = 1
    learned: int | None = None
    padded: bool = True
    regressed: int | None = None
    cached: bool = False
    packed: bool = False

    @property
    def tokens(self) -> int:
        return self.samples * self.length

    def batch(self, config: Emu2Config) -> dict[str, Tensor]:
        """Real ids and masks, as a collator makes them; pictures, which are large, are made apart.

        Raises:
            UserError: the pictures leave no room for text.
        """
        slots = self.images * (config.n_query + 2)
        if slots + 2 > self.length:
            raise UserError(
                f"{self.images} picture(s) of {config.n_query} visual tokens do not fit into {self.length} tokens: "
                "raise data.max_length, or plan for fewer with --images"
            )
        ids = torch.full((self.samples, self.length), _FIRST_WORD)
        begin, slot, end = (config.special_ids[token] for token in ("[IMG]", "<image>", "[/IMG]"))
        picture = torch.tensor([begin, *[slot] * config.n_query, end])
        ids[:, 1 : 1 + slots] = picture.repeat(self.images)
        mask = torch.ones_like(ids)
        mask[-1, -1] = 0 if self.padded else 1
        text = self.length - 1 - slots
        learned = text if self.learned is None else min(self.learned, text)
        labels = torch.full_like(ids, IGNORE)
        labels[:, self.length - learned :] = ids[:, self.length - learned :]
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        if self.packed:
            batch["segment_ids"] = mask
        if self.regressed is not None:
            mask = ids == slot
            mask[:, : 1 + slots - self.regressed * len(picture)] = False
            batch["visual_targets_mask"] = mask
        return batch

    def pictures(self, config: Emu2Config) -> dict[str, tuple[int, ...]]:
        """The shape of the pictures, by the name in the batch; empty where there are none."""
        size, count = config.vision_config.image_size, self.samples * self.images
        if self.cached:
            return {"visual_embeds": (count, config.n_query, config.vision_config.hidden_size)} if count else {}
        return {"pixel_values": (count, 3, size, size)} if count else {}

"""A conversation with a model: keeps the turns and their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Processor
from emu2_lit.model.chat_template import chat_segments, messages_to_turns
from emu2_lit.model.images import ImageError, load_image, pixel_values
from emu2_lit.model.segments import Segment
from emu2_lit.model.video import read_frames


@dataclass
class Conversation:
    """Turns asked and answered so far.

    Special strings in what the user types (`</s>`, `[IMG]`) are plain text: the prompt is built of segments, never
    of one string.

    Args:
        system: a system message; None is the checkpoint's own, by `grounding`.
        grounding: ask for answers with boxes; their location tokens stay in the answers.
        generation: arguments of `generate`.
    """

    model: nn.Module
    processor: Emu2Processor
    system: str | None = None
    grounding: bool = False
    generation: dict = field(default_factory=dict)
    messages: list[dict] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)

    def ask(
        self, text: str, images: Sequence[str | Path] = (), video: str | Path | None = None, n_frames: int = 8
    ) -> str:
        """The answer to a question; pictures, then frames, stand before its text.

        Raises:
            UserError: a picture or the video cannot be read.
        """
        try:
            stills = [self._pixels(image) for image in images]
            frames = [self._pixels(frame) for frame in read_frames(video, n_frames)] if video else []
        except ImageError as error:
            raise UserError(str(error)) from error
        content = [{"type": "image"} for _ in stills]
        content += [{"type": "video", "frames": len(frames)}] if frames else []
        question = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        answer = self._answer([*self.messages, question], self.images + stills, self.frames + frames)
        self.messages += [question, {"role": "assistant", "content": answer}]
        self.images += stills
        self.frames += frames
        return answer

    def segments(self, messages: list[dict]) -> list[Segment]:
        """The prompt of these messages, the system message before them."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return chat_segments(messages_to_turns(system + messages), grounding=self.grounding)

    def reset(self) -> None:
        """Forget all turns."""
        self.messages, self.images, self.frames = [], [], []

    def _pixels(self, image: Any) -> Tensor:
        return pixel_values(load_image(image), self.processor.image_size)

    def _answer(self, messages: list[dict], images: list[Tensor], frames: list[Tensor]) -> str:
        ids, _ = self.processor.encode_segments(self.segments(messages))
        device = self.model.device
        batch = {"input_ids": torch.tensor([ids], device=device)}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        for name, pictures in (("pixel_values", images), ("video_pixel_values", frames)):
            if pictures:
                batch[name] = torch.stack(pictures).to(device)
        with torch.inference_mode():
            new = self.model.generate(**batch, **self.generation)
        return self.processor.batch_decode(new, skip_special_tokens=not self.grounding)[0].strip()

"""Emu2 under lmms-eval: `python -m lmms_eval --model emu2 --model_args pretrained=runs/chat/lora --tasks vqav2_val`.

lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval, version 0.7 or newer) finds `manifest` by the entry point
`lmms_eval.models`; nothing else imports this module. Questions are asked in Emu2-Chat's template, and boxes come back
as lmms-eval's referring tasks read them: `[x1, y1, x2, y2]` in 0..1.
"""

from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from emu2_lit.cli.conversation import Conversation
from emu2_lit.errors import UserError
from emu2_lit.model.boxes import written_boxes
from emu2_lit.run.result import load_run

_ASKS_FOR_BOXES = "refcoco"
manifest = ModelManifest(model_id="emu2", simple_class_path="emu2_lit.lmms_eval.Emu2")


class Emu2(lmms):
    """A run, an adapter or weights that answer lmms-eval's requests.

    Args:
        pretrained: what `emu2-lit chat` takes.
        dtype, quantization, device_map: as in `load_run`.
        system: the system message; default the concise one, as the paper's short answers had.
    """

    is_simple = True

    def __init__(
        self, pretrained: str, dtype: str = "bfloat16", quantization: str | None = None, device_map: str | None = None,
        system: str | None = None, batch_size: int | str = 1, **_: Any,
    ):  # fmt: skip
        super().__init__()
        default = "auto" if torch.cuda.is_available() else "cpu"
        chosen = device_map or default
        self.model, self.processor = load_run(
            pretrained, dtype=getattr(torch, dtype), quantization=quantization,
            device_map="auto" if chosen == "auto" else {"": chosen},
        )  # fmt: skip
        if not self.processor.tokenizer.chat:
            raise UserError(f"{pretrained}: a base model, without the role tokens of conversations")
        self.system = system

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """One answer for each request: (context, generation settings, doc_to_visual, doc id, task, split)."""
        return [self._answer(*request.args) for request in requests]

    def _answer(self, context: str, settings: dict, doc_to_visual: Any, doc_id: Any, task: str, split: str) -> str:
        pictures = [one for one in doc_to_visual(self.task_dict[task][split][doc_id]) or [] if one is not None]
        grounding = _ASKS_FOR_BOXES in task and "bbox" in task
        generation = {
            "max_new_tokens": settings.get("max_new_tokens", 128), "num_beams": settings.get("num_beams") or 1,
            "do_sample": False,
        }  # fmt: skip
        conversation = Conversation(self.model, self.processor, self.system, grounding, generation)
        answer = written_boxes(conversation.ask(context.strip(), pictures))
        for stop in settings.get("until") or []:
            answer = answer.split(stop, 1)[0] if stop else answer
        return answer

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Raises UserError: tasks that compare likelihoods are `emu2-lit evaluate`'s."""
        raise UserError("emu2 under lmms-eval generates; for tasks by likelihood take `emu2-lit evaluate`")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Raises UserError: conversations of several rounds are not asked here."""
        raise UserError("emu2 under lmms-eval answers single questions")

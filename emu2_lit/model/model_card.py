"""The README.md that goes with saved weights."""

from emu2_lit.model.configuration import Emu2Config

_CARD = """---
library_name: emu2-lit
pipeline_tag: {task}
license: other
license_name: llama-1-non-commercial
tags: [emu2, multimodal]
---

# Emu2 weights ({form})

{parameters:,} parameters in {dtype}: an EVA-CLIP tower of {blocks} blocks, a LLaMA of {layers} layers, {n_query} visual
tokens per picture and {v_query} per video frame, {vocabulary} tokens.

```python
from emu2_lit.model import Emu2ForConditionalGeneration, Emu2Processor

model = Emu2ForConditionalGeneration.from_pretrained("this/folder")
processor = Emu2Processor.from_pretrained("this/folder")
```

Names and `config.json` are those of the published Emu2 checkpoints (`BAAI/Emu2`, `BAAI/Emu2-Chat`), with the keys that
their own code needs.

## Licence

Weights derived from the published Emu2 weights follow the terms of LLaMA-1, from which they were made: **non-commercial
use only**, and the same holds for what is tuned from them. The code that wrote this folder is under Apache-2.0, which
does not extend to the weights. Weights trained from random values are not bound by these terms; then change this note.
"""

_ADAPTER_CARD = """---
library_name: peft
pipeline_tag: image-text-to-text
license: other
license_name: llama-1-non-commercial
tags: [emu2, multimodal, lora]
---

# LoRA adapter for Emu2

Goes on top of `{base}`.

```python
from emu2_lit.run import load_run

model, processor = load_run("this/folder")  # base="...", where the base lies elsewhere
```

or, as with every PEFT folder:

```python
from emu2_lit.model import Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.vocabulary import add_role_tokens
from peft import PeftModel

model = Emu2ForConditionalGeneration.from_pretrained("the/base")
add_role_tokens(model)  # a base without [USER] and [ASSISTANT] is given them
model = PeftModel.from_pretrained(model, "this/folder")
processor = Emu2Processor.from_pretrained("this/folder")
```
""" + _CARD[_CARD.index("\n## Licence") :]


def model_card(config: Emu2Config, parameters: int, dtypes: list[str]) -> str:
    """The text of a model card, with the note on the weights' licence.

    Args:
        parameters: how many the weights have.
        dtypes: names of the types that they are written in.
    """
    return _CARD.format(
        task="image-text-to-text",
        form="chat" if config.chat else "base",
        parameters=parameters,
        dtype=" and ".join(dtypes),
        blocks=config.vision_config.num_hidden_layers,
        layers=config.text_config.num_hidden_layers,
        n_query=config.n_query,
        v_query=config.v_query,
        vocabulary=config.text_config.vocab_size,
    )


def adapter_card(base: str | None) -> str:
    """The text of the card of an adapter that goes on top of `base`."""
    return _ADAPTER_CARD.format(base=base or "random weights, which were not kept")

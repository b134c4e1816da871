"""What it saves to compute the frozen tower once: `python -m benchmarks.feature_cache`.

A training step (forward, backward, update) of the small preset with LoRA on the language model, with pictures as pixels
and as cached features, side by side; and how fast features are written, and how large they are.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from benchmarks.measure import compare, keep
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.images import pixel_values
from emu2_lit.model.lora import apply_lora
from emu2_lit.samples.features import FeatureStore, as_rows, picture_id, write_shard
from emu2_lit.settings import LoraSettings

SAMPLES, WORDS = 8, 32
COMMAND = "python -m benchmarks.feature_cache"


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> float:
    """One update; its loss."""
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def main() -> None:
    torch.manual_seed(0)
    config = Emu2Config.preset("small")
    model, processor = Emu2ForConditionalGeneration(config), Emu2Processor.for_config(config)
    size, n_query = processor.image_size, processor.n_query
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.png") for number in range(SAMPLES)]
        for number, file in enumerate(files):
            Image.effect_noise((size, size), 20 + number).convert("RGB").save(file)
        with torch.no_grad():
            start = time.perf_counter()
            features = model.encode_image(torch.stack([pixel_values(Image.open(file), size) for file in files]))
            write_shard(Path(folder, "out"), dict(zip(map(picture_id, files), features, strict=True)))
            seconds = time.perf_counter() - start
        written = sum(file.stat().st_size for file in Path(folder, "out").iterdir())
        store = FeatureStore(Path(folder, "out"))
        prompts = processor(text=["[<IMG_PLH>]" + "a " * WORDS] * SAMPLES, images=[Image.open(file) for file in files])
        text = {"input_ids": prompts["input_ids"], "attention_mask": prompts["attention_mask"]}
        text["labels"] = text["input_ids"].masked_fill(text["input_ids"] == config.special_ids["<image>"], -100)
        model = apply_lora(model.requires_grad_(False), LoraSettings(), ())
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)

        def live() -> float:
            """From the files on, as the loader's workers and the model share the work."""
            pixels = torch.stack([pixel_values(Image.open(file), size) for file in files])
            return step(model, optimizer, text | {"pixel_values": pixels})

        def cached() -> float:
            return step(model, optimizer, text | {"visual_embeds": as_rows(store, files, n_query)})

        model.eval()  # without dropout, both give one loss
        assert abs(live() - cached()) < 1e-4
        model.train()
        figures = compare("feature_cache", COMMAND, {"live tower": live, "cached features": cached})
    figures |= {"pictures_per_second_written": round(SAMPLES / seconds, 2), "bytes_per_picture": written // SAMPLES}
    print(f"{SAMPLES / seconds:.2f} pictures/s written, {written // SAMPLES} bytes each")
    figures.pop("name"), figures.pop("command")
    keep("feature_cache", COMMAND, **{k: v for k, v in figures.items() if k not in ("torch", "threads", "machine")})


if __name__ == "__main__":
    main()

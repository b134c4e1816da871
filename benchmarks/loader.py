"""The training loader against the pictures alone: `python -m benchmarks.loader`.

The limit is a loader with the same workers that decodes the same JPEG files and resizes them to the tower's 448 pixels;
once it hands nothing over, once the pixels as uint8 tensors. The goal is 0.9 of its samples/s, for all that the kit
adds: importing a conversation, the template, tokens, the digest. Photos are those of scikit-learn, 640 x 427 pixels.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from lightning import Trainer
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import compare
from datamodules.chat import ChatDataModule
from emu2_lit.model import Emu2Config, Emu2Processor
from emu2_lit.settings import SourceSettings

SIZE = 448


def write(folder: Path, count: int) -> Path:
    """A file of LLaVA conversations about photos, each in a file of its own."""
    photos = []
    for name in ("china.jpg", "flower.jpg"):
        kept = io.BytesIO()
        Image.fromarray(load_sample_image(name)).save(kept, "JPEG", quality=90)
        photos.append(kept.getvalue())
    records = []
    for place in range(count):
        (folder / f"{place}.jpg").write_bytes(photos[place % 2])
        asked = {"from": "human", "value": "<image>\nWhat is in this picture?"}
        told = {"from": "gpt", "value": "A temple roof, or a flower; that depends on the number of the picture."}
        records.append({"id": place, "image": f"{place}.jpg", "conversations": [asked, told]})
    file = folder / "chats.json"
    file.write_text(json.dumps(records))
    return file


class Bare(Dataset):
    """Decodes and resizes; what it gives is the pixels, or nothing."""

    def __init__(self, folder: Path, count: int, hand_over: bool):
        self.folder, self.count, self.hand_over = folder, count, hand_over

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> np.ndarray | int:
        with Image.open(self.folder / f"{place}.jpg") as image:
            resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        return np.array(resized) if self.hand_over else 0


def kit(file: Path, count: int, batch: int, workers: int) -> ChatDataModule:
    config = Emu2Config.preset("tiny").with_role_tokens()
    config.vision_config.image_size = SIZE
    data = ChatDataModule(
        [SourceSettings(path=str(file))], Emu2Processor.for_config(config), global_batch_size=batch,
        micro_batch_size=batch, workers=workers, digests=True,
    )  # fmt: skip
    data.trainer = Trainer(max_steps=count // batch, logger=False, enable_checkpointing=False, accelerator="cpu")
    data.setup("fit")
    return data


def main(words: list[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--samples", type=int, default=384, help="in one timed pass")
    arguments.add_argument("--workers", type=int, default=1)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--repeats", type=int, default=9)
    given = arguments.parse_args(words)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        file = write(folder, given.samples)
        ours = kit(file, given.samples, given.batch, given.workers).train_dataloader()

        def bare(hand_over: bool) -> DataLoader:
            data = Bare(folder, given.samples, hand_over)
            return DataLoader(data, batch_size=given.batch, num_workers=given.workers)

        ways = {"decode, resize": bare(False), "decode, resize, hand over": bare(True), "kit": ours}
        made = compare(
            "loader", f"python -m benchmarks.loader --workers {given.workers}",
            {way: partial(drain, loader) for way, loader in ways.items()},
            repeats=given.repeats, clock="perf_counter" if given.workers else "process_time", workers=given.workers,
            samples=given.samples,
        )  # fmt: skip
    for way, seconds in made["seconds"].items():
        print(f"{way:32} {given.samples / seconds:9.1f} samples/s")


def drain(loader: Iterable) -> int:
    return sum(1 for _ in loader)


if __name__ == "__main__":
    main()

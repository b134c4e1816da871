"""Conversations that share rows, against batches padded to their longest: `python -m benchmarks.packing`.

Forward and backward of LoRA tuning in float32, without dropout, over the same conversations: half of them questions
about a picture with a short answer, a quarter descriptions of a picture, a quarter long dialogues (`MIX`), at random as
training has them. Padded batches hold 8 samples, packed ones a row of 1024 tokens. Of this mix padding takes 29, 48, 59
and 65% of padded batches of 2, 4, 8 and 16 samples. One sample at a time needs no padding, but leaves a GPU idle, which
a CPU does not show.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from benchmarks.measure import compare, keep
from datamodules.chat import ChatDataModule
from datamodules.collate import target_counts
from datamodules.dataset import SampleDataset
from emu2_lit.model import Emu2Config, Emu2Processor
from emu2_lit.modules import ChatTuning, TuningModule
from emu2_lit.settings import LoraSettings, SourceSettings

Batch = dict[str, Any]
COMMAND = "python -m benchmarks.packing"
WORDS = ("a", "red", "house", "by", "the", "sea")
MIX = {  # share; words asked, of which some stand for the 64 tokens of a picture; words answered, least and most
    "short": (2, 60, 2, 8), "description": (1, 60, 60, 180), "dialogue": (1, 40, 180, 640),
}  # fmt: skip
PADDED = 8  # samples of a batch


def write(folder: Path, count: int) -> Path:
    """A file of LLaVA conversations in the proportions of MIX."""
    random, kinds = Random(0), [kind for kind, (share, *_) in MIX.items() for _ in range(share)]
    Image.new("RGB", (32, 32), (200, 100, 0)).save(folder / "a.png")
    records = []
    for place in range(count):
        kind = kinds[place % len(kinds)]
        _, asked, least, most = MIX[kind]
        picture = {} if kind == "dialogue" else {"image": "a.png"}
        question, answer = (" ".join(random.choices(WORDS, k=k)) for k in (asked, random.randint(least, most)))
        said = [{"from": "human", "value": "<image>\n" * len(picture) + question}, {"from": "gpt", "value": answer}]
        records.append({"id": place, **picture, "conversations": said})
    file = folder / "chats.json"
    file.write_text(json.dumps(records))
    return file


def network(processor: Emu2Processor, width: int) -> TuningModule:
    config = Emu2Config.preset("tiny")
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = width, 3 * width, 4
    module = ChatTuning(config, processor, lora=LoraSettings(dropout=0.0))
    module.configure_model()
    return module


def batches(file: Path, processor: Emu2Processor, count: int, length: int) -> dict[str, list[Batch]]:
    """One pass over the samples, collated in each way."""
    source = SourceSettings(path=str(file), system_message="none")
    data = ChatDataModule([source], processor, packing=True, max_length=length)
    samples, collate = SampleDataset(data.sources, data.order, processor, length), data._collator()
    drawn = [samples[position] for position in range(count)]
    rows = [data.packed(row) for row in range(data.pass_length)]
    return {
        "padded to the longest": [collate(drawn[start : start + PADDED]) for start in range(0, count, PADDED)],
        "one at a time": [collate([one]) for one in drawn],
        "packed": [collate([[drawn[position] for position in row]]) for row in rows],
    }


def passing(module: TuningModule, some: list[Batch]) -> Callable[[], float]:
    """Makes one pass; gives the loss over all its targets."""
    total = sum(target_counts(batch)[0] for batch in some)

    def run() -> float:
        module.zero_grad()
        whole = 0.0
        for batch in some:
            loss, targets = module.losses(batch)["text"]
            share = loss * targets / total
            share.backward()
            whole += share.item()
        return whole

    return run


def main(words: list[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--samples", type=int, default=48)
    arguments.add_argument("--width", type=int, default=512)
    arguments.add_argument("--repeats", type=int, default=5)
    given, length = arguments.parse_args(words), 1024
    torch.set_num_threads(1)
    torch.manual_seed(0)
    processor = Emu2Processor.for_config(Emu2Config.preset("tiny").with_role_tokens())
    module = network(processor, given.width)
    with tempfile.TemporaryDirectory() as folder:
        made = batches(write(Path(folder), given.samples), processor, given.samples, length)
    ways = {way: passing(module, some) for way, some in made.items()}
    losses = [run() for run in ways.values()]
    assert max(losses) - min(losses) < 1e-4, losses
    masks = {way: [batch["attention_mask"] for batch in some] for way, some in made.items()}
    useful = sum(int(mask.sum()) for mask in masks["packed"])
    lengths = sorted(int(mask.sum()) for mask in masks["one at a time"])
    padding = {way: round(1 - useful / sum(mask.numel() for mask in some), 3) for way, some in masks.items()}
    figures = compare("packing", COMMAND, ways, repeats=given.repeats, clock="process_time")
    rates = {way: round(useful / seconds) for way, seconds in figures["seconds"].items()}
    for way, rate in rates.items():
        print(f"{way:32} {rate:9,} useful tokens/s   {padding[way]:.1%} padding")
    kept = {name: figures[name] for name in ("repeats", "clock", "seconds", "times_faster")}
    keep(
        "packing", COMMAND, **kept, samples=given.samples, width=given.width, row=length, useful_tokens=useful,
        lengths={f"{share:.0%}": lengths[int(share * (len(lengths) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)},
        useful_tokens_per_second=rates, padding=padding,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""How much it saves to read shared demonstrations once: `python -m benchmarks.shared_demonstrations`."""

import tempfile
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks.measure import compare
from emu2_lit.evaluation.benchmarks import open_benchmark
from emu2_lit.evaluation.pictures import Pictures
from emu2_lit.evaluation.runner import predict
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor

SHOTS, QUESTIONS = 8, 16


def write(folder: Path) -> Path:
    """A benchmark of coloured pictures with a support of its own."""
    for name, count, blue in (("queries", QUESTIONS, 0), ("support", SHOTS, 200)):
        lines = []
        for number in range(count):
            Image.new("RGB", (32, 32), (15 * number, 99, blue)).save(folder / f"{name}{number}.png")
            lines.append(f'{{"id": "{name}{number}", "image": "{name}{number}.png", "question": "what colour?", '
                         f'"answers": ["red"]}}')  # fmt: skip
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def main() -> None:
    torch.manual_seed(0)
    config = Emu2Config.preset("small")
    model, processor = Emu2ForConditionalGeneration(config).eval(), Emu2Processor.for_config(config)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = open_benchmark("custom", write(Path(folder)))
        pictures = Pictures(model, processor)
        ask = partial(
            predict, model, processor, benchmark, SHOTS, how="fixed", num_beams=1, batch_size=8, pictures=pictures
        )
        apart, shared = ask(share_prefix=False), ask()
        assert [one.raw for one in apart] == [one.raw for one in shared]
        ways = {"every prompt whole": lambda: ask(share_prefix=False), "demonstrations read once": ask}
        compare("shared_demonstrations", "python -m benchmarks.shared_demonstrations", ways)


if __name__ == "__main__":
    main()

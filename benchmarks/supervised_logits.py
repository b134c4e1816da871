"""Logits only where something is learned, against all of them: `python -m benchmarks.supervised_logits`.

The published vocabulary (32,274 tokens) on a narrow language model, forward and backward over one sample of 1024
tokens of which a quarter is learned, in float32.
"""

import argparse

import torch
from torch.nn import functional as F

from benchmarks.measure import compare
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration
from emu2_lit.model.objective import IGNORE
from tests.plan.measuring import allocated

VOCABULARY = 32_274


def network(width: int, layers: int) -> Emu2ForConditionalGeneration:
    config = Emu2Config.preset("tiny")
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = width, 3 * width, layers
    text.vocab_size = VOCABULARY
    return Emu2ForConditionalGeneration(config).train()


def main(words: list[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--length", type=int, default=1024)
    arguments.add_argument("--width", type=int, default=512)
    given = arguments.parse_args(words)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = network(given.width, layers=4)
    ids = torch.randint(3, 300, (1, given.length))
    labels = ids.clone()
    labels[:, : 3 * given.length // 4] = IGNORE

    def everywhere() -> torch.Tensor:
        """As most models are trained: all logits, and a loss that passes over what is not learned."""
        logits = model.lm(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits[0, :-1].float(), labels[0, 1:], ignore_index=IGNORE)

    def where_learned() -> torch.Tensor:
        return model(ids, labels=labels).loss

    def step(loss) -> None:
        model.zero_grad()
        loss().backward()

    torch.testing.assert_close(everywhere(), where_learned())
    ways = {"all logits": lambda: step(everywhere), "only where learned": lambda: step(where_learned)}
    memory = {}
    for way, action in ways.items():
        model.zero_grad()
        memory[way] = round(allocated(action) / 2**20)
        print(f"{way:32} {memory[way]:9,} MiB")
    compare(
        "supervised_logits", "python -m benchmarks.supervised_logits", ways, repeats=7, clock="process_time",
        learned=f"{int((labels != IGNORE).sum())} of {given.length} tokens", width=given.width, peak_mib=memory,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""How much a key-value cache saves when a picture is regressed: `python -m benchmarks.generate_image`.

The 64 visual tokens of a picture after a prompt of 200 tokens, each by a pass over the whole sequence or by one over
the last position: how many positions the language model evaluates, and how long that takes.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.measure import compare
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration

PROMPT, TOKENS = 200, 64


@torch.no_grad()
def full_passes(model: Emu2ForConditionalGeneration, input_ids: torch.Tensor) -> torch.Tensor:
    """Every visual token by a pass over the whole sequence, as the published code does."""
    begin = input_ids.new_full((len(input_ids), 1), model.config.special_ids["[IMG]"])
    embeds, _ = model.embed_inputs(torch.cat([input_ids, begin], dim=1))
    found = []
    for _ in range(model.config.n_query):
        hidden = model.lm.model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, -1:]
        found.append(model.project_down(hidden))
        embeds = torch.cat([embeds, model.project_up(found[-1])], dim=1)
    return torch.cat(found, dim=1)


def positions(model: Emu2ForConditionalGeneration, draw: Callable[[], object]) -> int:
    """How many positions the language model evaluates in it."""
    counted = []
    hook = model.lm.model.register_forward_pre_hook(
        lambda module, arguments, given: counted.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    draw()
    hook.remove()
    return sum(counted)


def main(words: list[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--preset", default="small")
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args(words)
    torch.manual_seed(0)
    config = Emu2Config.preset(given.preset)
    config.n_query = TOKENS
    model = Emu2ForConditionalGeneration(config).eval()
    batch = {"input_ids": torch.randint(3, 200, (1, PROMPT)), "attention_mask": torch.ones(1, PROMPT, dtype=torch.long)}
    ways = {
        "full passes": lambda: full_passes(model, batch["input_ids"]),
        "generate_image (cached)": lambda: model.generate_image(**batch),
    }
    slow, fast = (draw() for draw in ways.values())
    torch.testing.assert_close(slow, fast, atol=1e-4, rtol=1e-3)
    counted = {way: positions(model, draw) for way, draw in ways.items()}
    for way, count in counted.items():
        print(f"{way:32} {count:9,} positions of the language model")
    fewer = round(counted["full passes"] / counted["generate_image (cached)"], 1)
    print(f"{'':32} {fewer:9} times fewer")
    compare(
        "generate_image", "python -m benchmarks.generate_image", ways, repeats=given.repeats, prompt_tokens=PROMPT,
        visual_tokens=TOKENS, positions=counted, times_fewer_positions=fewer,
    )  # fmt: skip


if __name__ == "__main__":
    main()

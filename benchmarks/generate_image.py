"""How much a key-value cache saves when a picture is regressed: `python -m benchmarks.generate_image`."""

import torch

from benchmarks.measure import compare
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor


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


def main() -> None:
    torch.manual_seed(0)
    config = Emu2Config.preset("small")
    model = Emu2ForConditionalGeneration(config).eval()
    batch = Emu2Processor.for_config(config)(text=["a photo of a dog and a cat on the grass, next to a tree"])
    slow, fast = full_passes(model, batch["input_ids"]), model.generate_image(**batch)
    torch.testing.assert_close(slow, fast, atol=1e-4, rtol=1e-3)
    ways = {
        "full passes": lambda: full_passes(model, batch["input_ids"]),
        "generate_image (cached)": lambda: model.generate_image(**batch),
    }
    compare("generate_image", "python -m benchmarks.generate_image", ways)


if __name__ == "__main__":
    main()

"""LoRA and QLoRA at the published size, random weights, one device: `python -m benchmarks.published_size`.

Tokens/s, MFU (4 operations a weight and token: what the model's step takes), HFU (6: with what activation
checkpointing makes again) and peak memory beside the plan's prediction. Both rates are shares of what matrix products
of the model's own shape reach on this device, measured here, and of what its maker states. `--preset small` goes
through the same on a CPU.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import nn

from benchmarks.measure import keep
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration
from emu2_lit.model.loading import compute_buffers
from emu2_lit.model.placement import Placement
from emu2_lit.model.quantization import quantize_linears
from emu2_lit.modules import ChatTuning
from emu2_lit.modules.optimization import make_optimizer
from emu2_lit.plan import GIB, Workload, gpu_rate
from emu2_lit.recipe import Recipe
from emu2_lit.run.plan import Circumstances, open_recipe, plan, work_of_samples
from tests.plan.measuring import allocated

WAYS = {"LoRA": "chat/lora", "QLoRA": "chat/qlora"}


def random_model(config: Emu2Config, quantization: str | None, device: torch.device) -> Emu2ForConditionalGeneration:
    """Filled tensor by tensor, so that nothing is held twice: what is packed is never there in 16 bits as a whole."""
    with torch.device("meta"):
        model = Emu2ForConditionalGeneration(config)
    if quantization:
        quantize_linears(model, quantization, compute_dtype=torch.bfloat16)
    placement = Placement(model, {"": device}, torch.bfloat16, None)
    for name, parameter in list(model.named_parameters()):
        deviation = 0.0 if name.endswith("bias") else 0.02
        value = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device).normal_(std=deviation)
        placement.put(name, value + 1 if "norm" in name and name.endswith("weight") else value)
    compute_buffers(model, placement.resident_device)
    return model


def product_rate(config: Emu2Config, tokens: int, device: torch.device, repeats: int) -> float:
    """FLOP/s of bf16 products of the shape of the language model's feed-forward layers: median."""
    width, inner = config.text_config.hidden_size, config.text_config.intermediate_size
    left = torch.randn(tokens, width, device=device, dtype=torch.bfloat16)
    right = torch.randn(width, inner, device=device, dtype=torch.bfloat16)
    times = [timed(lambda: left @ right, device) for _ in range(max(repeats, 5) + 1)][1:]
    return 2 * tokens * width * inner / statistics.median(times)


def timed(action: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(recipe: Recipe, config: Emu2Config, load: Workload, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds of an optimizer step over one micro-batch, and the peak memory in bytes."""
    processor = SimpleNamespace(tokenizer=SimpleNamespace(chat=True))  # all that the module asks of it
    model = random_model(config, recipe.model.quantization, device)
    module = ChatTuning(
        model, processor, lora=recipe.tuning.lora, frozen=recipe.tuning.frozen, optimizer=recipe.optimizer,
        activation_checkpointing=True, quantization=recipe.model.quantization,
    )  # fmt: skip
    module.configure_model()
    module.to(device)
    grown = config.with_role_tokens()
    batch = {name: tensor.to(device) for name, tensor in load.batch(grown).items()}
    batch |= {n: torch.zeros(shape, dtype=torch.uint8, device=device) for n, shape in load.pictures(grown).items()}
    optimizer = make_optimizer(module.model, recipe.optimizer)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            ((loss, _),) = module.losses(batch).values()
        loss.backward()
        nn.utils.clip_grad_norm_(module.model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        peak = torch.cuda.max_memory_allocated(device)
    else:
        held = (*module.parameters(), *module.buffers(), *batch.values())
        moments = (tensor for state in optimizer.state.values() for tensor in state.values())
        peak = sum(tensor.nbytes for tensor in (*held, *moments)) + allocated(step)
    return {"seconds": statistics.median(timed(step, device) for _ in range(repeats)), "peak": peak}


def main(words: list[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--preset", choices=("tiny", "small", "emu2"), help="default: emu2 on a GPU, else small")
    arguments.add_argument("--length", type=int, help="tokens of a sample; default 2048, on a CPU 256")
    arguments.add_argument("--samples", type=int, default=1, help="in a micro-batch")
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = given.preset or ("emu2" if device.type == "cuda" else "small")
    network = "emu2-chat" if preset == "emu2" else preset
    length = given.length or (2048 if device.type == "cuda" else 256)
    config = Emu2Config.preset(network)
    rate = product_rate(config, given.samples * length, device, given.repeats)
    stated = gpu_rate(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    of = f" of {stated / 1e12:.0f} stated" if stated else ""
    print(f"{preset} on {device}: bf16 products {rate / 1e12:.3g} TFLOP/s{of}")
    rows = {}
    for way, name in WAYS.items():
        changes = [f"model.preset={network}", "model.weights=null", f"data.max_length={length}"]
        changes += [f"data.{kind}_batch_size={given.samples}" for kind in ("micro", "global")]
        recipe = open_recipe(name, changes)
        planned = plan(recipe, Circumstances(gpu=device.type == "cuda", images=1))
        load = replace(planned.workload, padded=False)
        found = measure(recipe, config, load, device, given.repeats)
        learned = int((load.batch(config)["labels"] >= 0).sum())
        work = work_of_samples(recipe).of(load.tokens, load.samples * length**2, load.samples, learned)
        rows[way] = {
            "tokens_per_second": round(load.tokens / found["seconds"], 1),
            "mfu_of_measured": round(work / found["seconds"] / rate, 3),
            "hfu_of_measured": round((work + planned.work.recomputed) / found["seconds"] / rate, 3),
            "mfu_of_stated": round(work / found["seconds"] / stated, 3) if stated else None,
            "peak_gib": round(found["peak"] / GIB, 3),
            "planned_gib": round(planned.peak / GIB, 3),
        }
        print(f"{way:8}", *(f"{key} {value}" for key, value in rows[way].items() if value is not None), sep="   ")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    ratio = rows["QLoRA"]["tokens_per_second"] / rows["LoRA"]["tokens_per_second"]
    print(f"QLoRA / LoRA: {ratio:.2f} of the tokens/s")
    keep(
        "published_size", f"python -m benchmarks.published_size --preset {preset}", preset=preset, length=length,
        samples=given.samples, device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        product_tflops=round(rate / 1e12, 3), **rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()

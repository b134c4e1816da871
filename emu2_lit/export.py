"""Hand a result on: Hugging Face folder, native file, or adapter."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from peft import PeftModel

from emu2_lit.errors import UserError
from emu2_lit.model.weight_writing import require_space
from emu2_lit.run import load_run, merging
from emu2_lit.run.restore import is_checkpoint, write_result

FORMS = ("hf", "native", "adapter")


def export(
    source: str | Path,
    to: str = "hf",
    out: str | Path | None = None,
    merge: bool = True,
    merge_error: bool = True,
    dtype: str | None = None,
    rotary_buffers: bool = False,
    **weights: str | None,
) -> Path:
    """Write a run's result in another form and return where.

    Args:
        source: a run's folder, one of its checkpoints, an adapter's folder, or weights.
        to: `hf`, a folder with the published Hugging Face names; `native`, one file with the native names;
            `adapter`, an ordinary PEFT folder.
        out: the folder or file to write; default `export/hf`, `export/model.safetensors` or `export/adapter` in the
            run's folder.
        merge: add the adapter to the weights. An adapter is merged into the base as it was published, also where it
            was tuned on a 4-bit copy.
        merge_error: of an adapter that was tuned on a 4-bit copy, say how far its logits move by that. Both forms
            of the model are run once, one after the other, on the CPU.
        dtype: of the weights written; default as they are.
        rotary_buffers: native only; with the buffers that the first release's strict loading wants.
        weights: `base`, `preset` and `tokenizer` of `load_run`.
    Raises:
        UserError: no such source, nothing to export in that form, or `out` is taken.
    """
    if to not in FORMS:
        raise UserError(f"export: unknown form {to!r}; one of {', '.join(FORMS)}")
    source = Path(source)
    run = source.absolute().parents[1] if is_checkpoint(source) else source
    out = _free(Path(out) if out else _default_out(run, to))
    if is_checkpoint(source):
        with TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
            write_result(source, Path(folder) / "result")
            return export(Path(folder) / "result", to, out, merge, dtype, rotary_buffers, **weights)
    if to == "adapter":
        return _copy_adapter(source, out)
    if adapter_folder(source) and not merge:
        raise UserError(f"{source}: without --merge a tuned adapter has no weights of its own; use --to adapter")
    model, processor = _merged(source, weights, merge_error)
    dtype = getattr(torch, dtype) if dtype else None
    if to == "hf":
        model.save_pretrained(out, processor=processor, dtype=dtype)
    else:
        model.save_native(out, dtype=dtype, rotary_buffers=rotary_buffers)
    return out


def adapter_folder(source: Path) -> Path | None:
    """The PEFT folder of a run, or the source itself if it is one."""
    for folder in (source, source / "adapter"):
        if (folder / "adapter_config.json").is_file():
            return folder
    return None


def _merged(source: Path, weights: dict[str, str | None], merge_error: bool):
    """The model, adapters merged in, and its processor."""
    adapter = adapter_folder(source)
    tuned = merging.tuned_on(adapter) if adapter and merge_error else None
    before = merging.tuned_logits(source, tuned, weights) if tuned else None
    model, processor = load_run(source, **weights)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    if tuned:
        rank_zero_info(f"Merging error: {merging.compare(merging.prompt_logits(model, processor), before)}")
    return model, processor


def _copy_adapter(source: Path, out: Path) -> Path:
    folder = adapter_folder(source)
    if folder is None:
        raise UserError(f"{source}: no adapter here; --to hf or --to native write full weights")
    require_space(out, sum(file.stat().st_size for file in folder.iterdir()), f"writing {out}")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    partial.replace(out)
    return out


def _default_out(source: Path, to: str) -> Path:
    if not source.is_dir():
        raise UserError(f"export: {source} is not a run's folder; say where to write with --out")
    return source / "export" / ("model.safetensors" if to == "native" else to)


def _free(out: Path) -> Path:
    """`out`, its parent folder made. UserError if something is there already."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} exists already; remove it, or give another place with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out

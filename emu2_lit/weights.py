"""Published weights on this machine: fetched by hub name, and made into bf16 safetensors once."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import DryRunError, HfHubHTTPError, HFValidationError

from emu2_lit.errors import UserError
from emu2_lit.model.loading import iterate_tensors
from emu2_lit.model.weight_files import PICKLES, SUFFIXES, WeightSet, find_weights, is_index, model_folder
from emu2_lit.model.weight_writing import (
    SHARD_SIZE,
    layout_of,
    missing_bytes,
    require_space,
    write_json,
    write_shards,
)

PRETRAINED = Path(__file__).parent / "pretrained"  # small weights that come with the kit
_HUB_ERRORS = (DryRunError, HfHubHTTPError, HFValidationError, OSError)


def fetch(repo_id: str, folder: str | Path | None = None, revision: str | None = None) -> Path:
    """Download a repository of weights, after a look at the disk; what is there already is not fetched again.

    The hub's own settings hold (HF_ENDPOINT, HF_TOKEN, HF_HOME, ...).

    Args:
        repo_id: such as "BAAI/Emu2-Chat".
        folder: where to; default the hub's cache, where `model.weights: BAAI/Emu2-Chat` finds it.
        revision: branch, tag or commit.
    Returns:
        The folder of the files.
    Raises:
        UserError: no such repository, no connection, or too little disk.
    """
    try:
        planned = snapshot_download(repo_id, revision=revision, local_dir=folder, dry_run=True)
        doubled = _doubled_formats([file.filename for file in planned])
        size = sum(file.file_size for file in planned if file.will_download and not file.filename.endswith(doubled))
        require_space(Path(folder or constants.HF_HUB_CACHE), size, f"fetching {repo_id}")
        return Path(snapshot_download(repo_id, revision=revision, local_dir=folder, ignore_patterns=_patterns(doubled)))
    except _HUB_ERRORS as error:
        cause = error.__cause__ or error
        raise UserError(
            f"{repo_id}: cannot be fetched from the hub ({type(cause).__name__}: {str(cause).strip()}). Check the "
            "name, the connection (HF_ENDPOINT for a mirror) and, for closed repositories, HF_TOKEN"
        ) from error


def local_folder(name: str) -> Path:
    """The folder of weights that come with the kit (`tiny-in-context`), or that were fetched by hub name.

    Raises:
        UserError: they were not, or not completely.
    """
    if "/" not in name and (PRETRAINED / name).is_dir():
        return PRETRAINED / name
    for left_out in ((), PICKLES):  # complete as a whole, or but for the pickles that `fetch` leaves out
        with contextlib.suppress(*_HUB_ERRORS):
            return Path(snapshot_download(name, local_files_only=True, ignore_patterns=_patterns(left_out)))
    raise UserError(
        f"{name}: no such file or folder here, and not (completely) fetched from the hub. Published weights, once: "
        "`emu2-lit weights fetch BAAI/Emu2-Chat`, then `emu2-lit weights convert BAAI/Emu2-Chat FOLDER`"
    )


def convert(
    source: str | Path,
    target: str | Path,
    dtype: torch.dtype | str = torch.bfloat16,
    max_shard_size: int | str = SHARD_SIZE,
) -> Path:
    """Write weights of any published form as safetensors shards under the Hugging Face names.

    Streams: one tensor is in memory at a time, beside the pages of the file it comes from. Shards that an earlier,
    interrupted call has written are kept. The other files (configuration, tokenizer) are copied last.

    Args:
        source: folder, file or hub name; of Emu2-Gen the multimodal model is taken.
        target: folder to write.
        dtype: of floating tensors.
    Returns:
        The target.
    Raises:
        UserError: no weights in `source`, it was not fetched, it is also the target, or too little disk.
    """
    source, target = Path(source) if Path(source).exists() else local_folder(str(source)), Path(target)
    if source.resolve() == target.resolve():
        raise UserError(f"{target}: is the source itself; give another folder to write to")
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    mark = _fingerprint(find_weights(source))
    layout = layout_of(iterate_tensors(source), dtype)
    require_space(target, missing_bytes(target, layout, mark, max_shard_size), f"converting {source}")
    write_shards(target, layout, iterate_tensors(source), max_shard_size, source=mark)
    if source.is_dir():
        _copy_others(model_folder(source), target, dtype)
    return target


def _doubled_formats(files: list[str]) -> tuple[str, ...]:
    """Endings of pickles that a repository holds beside safetensors."""
    return PICKLES if any(file.endswith(".safetensors") for file in files) else ()


def _patterns(endings: tuple[str, ...]) -> list[str]:
    return [f"*{ending}" for ending in endings]


def _fingerprint(weights: WeightSet) -> str:
    """Of the weights' files: names, sizes and times."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weights.files]
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _copy_others(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Everything at the top of a folder but its weights; config.json last, with the new type in it."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix not in SUFFIXES and not is_index(file) and file.name != "config.json":
            shutil.copyfile(file, target / file.name)
    config = source / "config.json"
    if config.is_file():
        values = json.loads(config.read_text(encoding="utf-8"))
        changed = {key: str(dtype).removeprefix("torch.") for key in ("dtype", "torch_dtype") if key in values}
        write_json(target / "config.json", {**values, **changed})

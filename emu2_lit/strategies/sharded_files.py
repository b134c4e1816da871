"""Sharded checkpoint folders, read by one process without the ranks that wrote them."""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader

META = "meta.pt"  # Lightning's name for what is not divided


def read_outline(folder: Path) -> dict[str, Any]:
    """A checkpoint's plain values, and the trained tensors' names and shapes on the meta device."""
    tensors = FileSystemReader(folder).read_metadata().state_dict_metadata
    checkpoint = torch.load(folder / META, map_location="cpu", weights_only=True)
    checkpoint["state_dict"] = {
        name.removeprefix("state_dict."): torch.empty(told.size, device="meta")
        for name, told in tensors.items()
        if name.startswith("state_dict.")
    }
    return checkpoint


def read_whole(folder: Path) -> dict[str, Any]:
    """The checkpoint that one process would have written: whole tensors in main memory, optimizer states by number."""
    checkpoint = torch.load(folder / META, map_location="cpu", weights_only=True)
    stored = _tensors(folder)
    checkpoint["state_dict"] = stored.pop("state_dict")
    checkpoint["optimizer_states"] = [_numbered(stored[name]) for name in sorted(stored)]
    return checkpoint


def _tensors(folder: Path) -> dict[str, Any]:
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state: dict[str, Any] = {}
    _load_state_dict(state, FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return state


def _numbered(saved: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by the places of its parameters, where it was kept by their names."""
    names = [name for group in saved["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    groups = [group | {"params": [numbers[name] for name in group["params"]]} for group in saved["param_groups"]]
    return {"state": {numbers[name]: state for name, state in saved["state"].items()}, "param_groups": groups}

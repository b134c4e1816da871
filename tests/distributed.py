"""Several real processes over gloo, started as torchrun would start them.

The processes come from a fork server that has the heavy imports ready, with one thread each: a fork of a process
that has already run with more threads hangs.
"""

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing

_PRELOAD = ["torch", "lightning", "transformers", "peft", "emu2_lit.run", "torch.utils.tensorboard"]


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Call `function(*args)` on every rank and return what each gave, in order of ranks.

    The function must be importable (defined at the top of a module). An exception on any rank fails the call.
    """
    context = _context()
    port, results = free_port(), context.SimpleQueue()
    ranks = [
        context.Process(target=_rank, args=(results, function, rank, world_size, port, args))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    gathered: dict[int, Any] = {}
    while len(gathered) < world_size:
        rank, value, error = results.get()
        if error:
            for process in ranks:
                process.kill()  # a run takes SIGTERM as a wish to save first
            raise AssertionError(f"rank {rank} failed:\n{error}")
        gathered[rank] = pickle.loads(value)
    for process in ranks:
        process.join()
    return [gathered[rank] for rank in range(world_size)]


def start_child(function: Callable[..., Any], *args: Any) -> multiprocessing.Process:
    """A started process that runs `function(*args)`, which must be importable."""
    process = _context().Process(target=_child, args=(function, *args))
    process.start()
    return process


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def _child(function, *args: Any) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of its own children, as in a process of a user
    torch.set_num_threads(1)
    function(*args)


def _rank(results, function, rank: int, world_size: int, port: int, args: tuple) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
        GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    torch.set_num_threads(1)
    try:
        results.put((rank, pickle.dumps(function(*args)), None))  # torch would share memory that ends with the rank
    except BaseException:
        results.put((rank, None, traceback.format_exc()))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

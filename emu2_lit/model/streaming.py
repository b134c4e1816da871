"""Weights as a stream, for models of which a process holds only a piece.

The model is made without memory (meta device); its tensors then come one after another, read from the files or drawn at
random, and are dropped once each process has taken its piece.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import PreTrainedModel

from emu2_lit.model.configuration import Emu2Config
from emu2_lit.model.loading import check_shapes, iterate_tensors, read_config
from emu2_lit.model.modeling import Emu2ForConditionalGeneration
from emu2_lit.model.vocabulary import with_mean_rows

Stream = Iterator[tuple[str, Tensor]]


def empty_model(
    source: Emu2Config | str | Path, config: Emu2Config | None = None, dtype: torch.dtype | None = None
) -> Emu2ForConditionalGeneration:
    """A model on the meta device, of the types that its weights will have.

    Args:
        source: a configuration, or where the weights lie.
        config: of weights that have none beside them.
        dtype: of the weights; default as stored, float32 for random ones.
    Raises:
        UserError: the weights do not fit the configuration.
    """
    drawn = isinstance(source, Emu2Config)
    with torch.device("meta"):  # of a copy, for the configuration grows with the model's vocabulary
        model = Emu2ForConditionalGeneration(deepcopy(source if drawn else config or read_config(source)))
    stored = {} if drawn else {name: (tuple(t.shape), t.dtype) for name, t in iterate_tensors(source)}
    if not drawn:
        expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        check_shapes(source, {name: shape for name, (shape, _) in stored.items()}, expected)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtype or (torch.float32 if drawn else stored[name][1]))
    return model


def grown(tensors: Stream, rows: int) -> Stream:
    """The same tensors, with the rows of new tokens (see `add_role_tokens`) in those of the vocabulary.

    Args:
        rows: of the vocabulary of the model that takes them.
    """
    for name, tensor in tensors:
        short = name.endswith(("embed_tokens.weight", "lm_head.weight")) and len(tensor) < rows
        yield name, with_mean_rows(tensor, rows - len(tensor)) if short else tensor


def drawn_tensors(config: Emu2Config, seed: int, piece: Callable[[Tensor], Tensor]) -> Stream:
    """The random weights that `Emu2ForConditionalGeneration(config)` gets after `torch.manual_seed(seed)`, with one
    module in memory at a time.

    Args:
        piece: what is kept of a tensor. Those of the vocabulary are given whole: new tokens need their mean.
    """
    rows = config.text_config.vocab_size
    with torch.random.fork_rng(), _one_by_one(lambda tensor: tensor if len(tensor) == rows else piece(tensor)):
        torch.manual_seed(seed)
        twin = Emu2ForConditionalGeneration(config)
    yield from ((name, parameter.data) for name, parameter in twin.named_parameters())


@contextmanager
def _one_by_one(keep: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Models made in this block draw all their random numbers in the usual order, but a module's tensors are dropped
    as soon as it is built, and of those that it is initialised with only what `keep` gives stays."""
    initialize = PreTrainedModel._initialize_weights

    def keep_piece(self, module: nn.Module, *arguments, **options) -> None:
        if not getattr(module, "_is_hf_initialized", False):
            module.to_empty(device="cpu", recurse=False)
            initialize(self, module, *arguments, **options)
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(keep(parameter.data).clone(), requires_grad=False))

    hook = register_module_module_registration_hook(lambda parent, name, module: _drop(module))
    PreTrainedModel._initialize_weights = keep_piece
    try:
        yield
    finally:
        PreTrainedModel._initialize_weights = initialize
        hook.remove()


def _drop(built: nn.Module | None) -> None:
    for module in built.modules() if built is not None else ():
        if not getattr(module, "_is_hf_initialized", False):
            module._apply(lambda tensor: tensor.to("meta"), recurse=False)

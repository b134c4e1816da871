"""Leaves out what libraries remark on the terminal and a user of a recipe can do nothing about."""

import logging
import warnings

_SPEAKERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
    "DeepSpeed",
)
_REMARKS = (
    "GPU available", "TPU available", "litlogger", "litmodels", "`weights_only` was not set", "`Trainer.fit` stopped",
    "LOCAL_RANK", "module(s) in eval mode",
    "Setting accelerator to CPU", "zero_to_fp32",
)  # fmt: skip
_WARNINGS = (
    ".*isinstance\\(treespec, LeafSpec\\).*", ".*module\\(s\\) in eval mode.*", ".*is_gradient_checkpointing.*",
    ".*gradient_checkpointing_enable.*", ".*does not have many workers.*", ".*`ModelCheckpoint.*",
    ".*Detected KeyboardInterrupt.*", ".*fast_dev_run.*", ".*smaller than the logging interval.*",
    ".*Total length of `list` across ranks is zero.*",  # a run without validation
    ".*The `srun` command is available.*",  # on any machine of a cluster; what matters is checked by the kit
    ".*torch.distributed.*is deprecated.*",
    ".*When saving the DeepSpeed Stage 3 checkpoint.*",  # `emu2-lit export` makes one file of it
    ".*sync_dist=True.*",  # figures of a validation are over all ranks already
    ".*could be decompression bomb.*",  # refused by the kit itself, with the picture's name
)  # fmt: skip


def hush() -> None:
    """Call before the libraries are imported: some speak while they load."""
    for name in _SPEAKERS:
        logging.getLogger(name).addFilter(lambda record: not any(remark in record.getMessage() for remark in _REMARKS))
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)

"""Into how many shares the data are dealt."""

from emu2_lit.errors import UserError
from emu2_lit.recipe.schema import TrainerSection


def data_shares(trainer: TrainerSection, devices: int) -> int:
    """Devices that work on samples of their own; with tensor parallelism a group of them works on the same ones.

    Raises:
        UserError: the devices do not divide into groups.
    """
    shares, rest = divmod(devices, trainer.tensor_parallel)
    if rest:
        raise UserError(
            f"trainer.tensor_parallel={trainer.tensor_parallel}: {devices} device(s) do not divide into such groups; "
            "change it or trainer.devices"
        )
    return shares

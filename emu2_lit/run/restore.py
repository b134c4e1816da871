"""A checkpoint of a run as a result, before the run has ended and without the ranks that wrote it."""

from pathlib import Path

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.run.assemble import build_module, build_origin
from emu2_lit.run.fit import save_result
from emu2_lit.strategies import AtomicCheckpointIO
from emu2_lit.strategies.engine_files import read_about_engine, read_trained


def is_checkpoint(path: Path) -> bool:
    """Whether this is a checkpoint of a run, a file or a folder, or the link to the last one."""
    return path.resolve().suffix == ".ckpt" and path.exists()


def write_result(checkpoint: Path, folder: Path) -> None:
    """Write what the run would have left, had it ended here. All is put together in main memory, on no GPU.

    Raises:
        UserError: the checkpoint does not lie in its run's folder, or is damaged.
    """
    recipe_file = checkpoint.absolute().parents[1] / "recipe.yaml"
    if not recipe_file.is_file():
        raise UserError(f"{checkpoint}: a checkpoint is exported from its run's folder; there is no {recipe_file}")
    recipe = recipes.load(str(recipe_file))
    origin = build_origin(recipe)
    module = build_module(recipe, origin)
    module.configure_model()
    if read_about_engine(checkpoint):
        saved = {"state_dict": read_trained(checkpoint)}
    else:
        saved = AtomicCheckpointIO().load_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"], strict=False)
    save_result(module, recipe, origin.name, folder)

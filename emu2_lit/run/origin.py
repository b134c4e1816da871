"""Where a run's weights come from: a preset, a folder, a file, a hub name, a finished run, or another recipe."""

from dataclasses import dataclass, field
from pathlib import Path

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2Processor
from emu2_lit.model.loading import read_config
from emu2_lit.recipe.schema import ModelSection
from emu2_lit.weights import local_folder


@dataclass
class Origin:
    """What to build a model from.

    Attributes:
        source: a folder or file of weights; None where they are drawn at random.
        config: of the model that is built.
        name: what an adapter records as its base.
        merged: adapters folded into the weights, oldest first.
    """

    source: Path | None
    config: Emu2Config
    processor: Emu2Processor
    name: str | None = None
    merged: list[Path] = field(default_factory=list)


def resolve(model: ModelSection, roles: bool = False) -> Origin:
    """Find weights, configuration and processor.

    Args:
        roles: the objective needs the role tokens of chat models.
    Raises:
        UserError: nothing is there, or it lacks something; says what and where it looked.
    """
    origin = _from_weights(model) if model.weights else _from_preset(model)
    if roles and not origin.processor.tokenizer.chat:
        origin.processor = origin.processor.with_role_tokens()
    return origin


def _from_preset(model: ModelSection) -> Origin:
    if not model.preset:
        raise UserError("model: give `preset` (random weights), `weights`, or both")
    config = Emu2Config.preset(model.preset)
    return Origin(None, config, _processor(model, config, None), name=None)


def _from_weights(model: ModelSection) -> Origin:
    path = Path(model.weights)
    if (path / "recipe.yaml").is_file():
        return _from_run(path)
    if not path.exists():
        path = local_folder(model.weights)
    config = Emu2Config.preset(model.preset) if path.is_file() and model.preset else None
    if config is None:
        config = read_config(path)
    return Origin(path, config, _processor(model, config, path), name=model.weights)


def _from_run(run: Path) -> Origin:
    """A finished run: its model, or its adapter folded into the model that it was tuned from."""
    if (run / "model").is_dir():
        config = read_config(run / "model")
        return Origin(run / "model", config, Emu2Processor.from_pretrained(run / "model"), name=str(run / "model"))
    if not (run / "adapter").is_dir():
        raise UserError(f"{run}: this run has not finished: it holds neither model/ nor adapter/. Run it again first")
    origin = resolve(base_section(run))
    origin.processor = Emu2Processor.from_pretrained(run / "adapter")
    origin.merged.append(run / "adapter")
    return origin


def base_section(run: Path) -> ModelSection:
    """What a run started from; the recipe that it ran first is found in its `base` folder."""
    model = recipes.load(str(run / "recipe.yaml")).model
    if model.weights and recipes.is_recipe(model.weights):
        model.weights = str(run / "base")
    return model


def _processor(model: ModelSection, config: Emu2Config, path: Path | None) -> Emu2Processor:
    if model.tokenizer:
        return Emu2Processor.from_sentencepiece(model.tokenizer, config=config, chat=config.chat)
    if path is not None and path.is_dir():
        for folder in (path, path / "tokenizer"):  # Emu2-Gen keeps it apart
            if (folder / "tokenizer.model").is_file():
                return Emu2Processor.from_sentencepiece(folder, config=config)
    return Emu2Processor.for_config(config)

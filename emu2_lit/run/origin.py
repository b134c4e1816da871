"""Where a run's weights come from: a preset, a folder, a file, a hub name, a finished run, or another recipe."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config, Emu2Processor
from emu2_lit.model.loading import embedding_rows, read_config
from emu2_lit.model.weight_files import model_folder
from emu2_lit.recipe.schema import ModelSection
from emu2_lit.weights import local_folder


@dataclass
class Origin:
    """What to build a model from.

    Attributes:
        source: a folder or file of weights; None where they are drawn at random.
        config: of the model that is built.
        name: what an adapter records as its base: a hub name or an absolute path.
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
    path = Path(model.weights).expanduser()
    if (path / "recipe.yaml").is_file():
        return _from_run(path)
    name = str(path.absolute()) if path.exists() else model.weights
    if not path.exists():
        path = local_folder(model.weights)
    config = _config_of(path, model.preset)
    return Origin(path, config, _processor(model, config, path), name=name)


def _config_of(path: Path, preset: str | None) -> Emu2Config:
    """What is recorded with the weights, or else the preset."""
    if not preset or (model_folder(path) / "config.json").is_file():
        return read_config(path)
    config = Emu2Config.preset(preset)
    grown = config.with_role_tokens()
    return grown if embedding_rows(path) == grown.text_config.vocab_size else config


def _from_run(run: Path) -> Origin:
    """A finished run: its model, or its adapter folded into the model that it was tuned from."""
    if (run / "model").is_dir():
        config = read_config(run / "model")
        processor = Emu2Processor.from_pretrained(run / "model")
        return Origin(run / "model", config, processor, name=str((run / "model").absolute()))
    if not (run / "adapter").is_dir():
        raise UserError(f"{run}: this run has not finished: it holds neither model/ nor adapter/. Run it again first")
    origin = base_of(run / "adapter")
    origin.processor = Emu2Processor.from_pretrained(run / "adapter")
    origin.merged.append(run / "adapter")
    origin.name = str(run.absolute())  # its base alone is not what the next adapter goes on top of
    return origin


def base_of(adapter: Path, given: ModelSection | None = None) -> Origin:
    """What an adapter goes on top of.

    Args:
        given: goes before what is recorded, in the recipe of the run that the adapter lies in, or with the adapter.
    Raises:
        UserError: it is not there, or nothing says what it is.
    """
    section = _recorded_base(adapter)
    for key, value in vars(given or ModelSection()).items():
        if value != getattr(ModelSection(), key):
            setattr(section, key, value)
    if not section.weights and not section.preset:
        raise UserError(f"{adapter}: the adapter does not say which weights it belongs to; say so with --base")
    try:
        return resolve(section)
    except UserError as error:
        raise UserError(
            f"{adapter} was tuned on top of {section.weights}, which cannot be used here; if it lies elsewhere now, "
            f"say where with --base (in Python: base=...).\n{error}"
        ) from error


def _recorded_base(adapter: Path) -> ModelSection:
    """The recipe's own words hold where the run's folder moved along with its base, the adapter's (an absolute path)
    in another current folder."""
    run = adapter.parent
    model = _base_section(run) if (run / "recipe.yaml").is_file() else ModelSection()
    if not (model.weights and Path(model.weights).expanduser().exists()):
        record = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        model.weights = record.get("base_model_name_or_path") or model.weights
    return model


def _base_section(run: Path) -> ModelSection:
    """What a run started from; the recipe that it ran first is found in its `base` folder, wherever that is now."""
    recipe = recipes.load(str(run / "recipe.yaml"))
    weights = recipe.model.weights
    if weights and (recipes.is_recipe(weights) or Path(weights) == Path(recipe.run.dir) / "base"):
        recipe.model.weights = str(run / "base")
    return recipe.model


def _processor(model: ModelSection, config: Emu2Config, path: Path | None) -> Emu2Processor:
    if model.tokenizer:
        return Emu2Processor.from_sentencepiece(model.tokenizer, config=config, chat=config.chat)
    if path is not None and path.is_dir():
        for folder in (path, path / "tokenizer"):  # Emu2-Gen keeps it apart
            if (folder / "tokenizer.model").is_file():
                return Emu2Processor.from_sentencepiece(folder, config=config)
    return Emu2Processor.for_config(config)

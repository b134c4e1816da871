"""Folders that are data sources themselves: pictures of one subject, and InstructPix2Pix as published."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.records import PackedRecords, parse_json
from emu2_lit.errors import UserError
from emu2_lit.model.video import pictures_of
from emu2_lit.samples.sample import BadSample
from emu2_lit.settings import SourceSettings

SEEDS = "seeds.json"


class EditPairs:
    """The folder of a `seeds.json`, [[folder, [seed, ...]], ...]: {folder}/prompt.json {edit} and the pictures
    {seed}_0.jpg and {seed}_1.jpg (InstructPix2Pix, Brooks et al. 2023)."""

    def __init__(self, path: Path):
        self.root = path.parent
        try:
            rows = [(str(folder), int(seed)) for folder, seeds in parse_json(path.read_bytes()) for seed in seeds]
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is not a list of [folder, [seed, ...]]: {error}") from error
        self.folders, self.places = np.unique([folder for folder, _ in rows], return_inverse=True)
        self.seeds = np.array([seed for _, seed in rows], np.int64)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> dict[str, Any]:
        folder = self.root / self.folders[self.places[index]]
        file = folder / "prompt.json"
        try:
            prompt = parse_json(file.read_bytes())
        except OSError as error:
            raise BadSample(f"cannot read {file}: {error.strerror}") from error
        except ValueError as error:
            raise BadSample(f"{file} is {error}") from error
        if not isinstance(prompt, dict):
            raise BadSample(f"{file} holds a {type(prompt).__name__}, not an object")
        source, target = (str(folder / f"{self.seeds[index]}_{place}.jpg") for place in (0, 1))
        return {"id": self.label(index), "original_image": source, "edited_image": target, "edit": prompt.get("edit")}

    def label(self, index: int) -> str:
        return f"{self.folders[self.places[index]]}/{self.seeds[index]}"


def subject_records(folder: Path, settings: SourceSettings) -> PackedRecords:
    """The pictures of a subject, each to be drawn from the others, and those of `settings.prior`, each from its text.

    A text beside a picture (dog_1.txt for dog_1.jpg) is its caption.

    Raises:
        UserError: the folder has no pictures.
    """
    noun, pictures = settings.noun or noun_of(folder), _pictures(folder)
    records = [
        _record(picture, noun, [str(other) for other in pictures if other != picture] or [str(picture)])
        for picture in pictures
    ]
    if settings.prior:
        records += [_record(picture, noun, None) for picture in _pictures(Path(settings.prior).expanduser())]
    return PackedRecords.pack(records)


def noun_of(folder: Path) -> str:
    """What a folder's pictures show, from its name: `colorful_sneaker` and `dog6` as in DreamBench."""
    return folder.resolve().name.replace("_", " ").rstrip("0123456789 ") or folder.resolve().name


def _pictures(folder: Path) -> list[Path]:
    found = pictures_of(folder) if folder.is_dir() else []
    if not found:
        raise UserError(f"data source {folder} is a folder without pictures; name a file in it, or {folder}/*.tar")
    return found


def _record(picture: Path, noun: str, references: list[str] | None) -> dict[str, Any]:
    text = picture.with_suffix(".txt")
    record = {"id": f"{picture.parent.name}/{picture.name}", "image": str(picture.absolute())}
    if text.is_file():
        record["caption"] = text.read_text(encoding="utf-8", errors="replace").strip()
    if references is None:
        return {"caption": f"a photo of a {noun}", **record}
    return {**record, "noun": noun, "references": [str(Path(one).absolute()) for one in references]}

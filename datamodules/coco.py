"""Grounded samples from COCO's annotations: the records that the importer `grounded` reads."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.importers.grounded import corners_of
from datamodules.masks import polygons, run_lengths
from datamodules.records import parse_json
from emu2_lit.errors import UserError
from emu2_lit.samples.masks import Polygons
from emu2_lit.samples.sample import BadSample

MIN_SHARE = 0.01  # of the picture's area: COCO's small boxes show nothing once a picture is squashed to 448 pixels
DIGITS = 4  # of written shares: a twentieth of a pixel at 448


@dataclass
class Conversion:
    """What a conversion made, and what it left out: reasons with their counts."""

    samples: int = 0
    objects: int = 0
    masks: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def text(self, out: Path) -> str:
        """For people."""
        made = f"{out}: {self.samples} samples with {self.objects} objects, {self.masks} of them with a mask"
        return "\n".join([made, *(f"left out: {count} {reason}" for reason, count in self.left_out.most_common())])


def convert(
    annotations: Path, images: Path, out: Path, captions: Path | None = None, min_share: float = MIN_SHARE
) -> Conversion:
    """Write one JSON line for every picture that is there and has an object.

    The caption is the first one of the captions file, else it is made of the categories' names. Objects stand in the
    order of their size, the largest first.

    Args:
        annotations: a JSON file with images, annotations (bbox x, y, width, height in pixels; segmentation as
            outlines or run lengths) and categories. Crowds are left out.
        images: the folder of the pictures; where it lies beside `out`, they are named relative to that.
        captions: a JSON file whose annotations have a caption.
        min_share: boxes that cover less of their picture are left out.
    Raises:
        UserError: a file that is missing or damaged, or from which nothing comes.
    """
    found, report = _Annotations(annotations), Conversion()
    texts = _captions(captions) if captions else {}
    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder")
    records = [_record(image, found, images, texts, min_share, report) for image in found.images]
    report.left_out.update(found.orphans())
    records = [{**one, "image": _named(images / one["image"], out.parent)} for one in records if one is not None]
    if not records:
        raise UserError("\n".join([f"{annotations}: no sample can be made of it", *report.text(out).split("\n")[1:]]))
    objects = [one for record in records for one in record["objects"]]
    report.samples, report.objects, report.masks = len(records), len(objects), sum("mask" in one for one in objects)
    _write(out, records)
    return report


def _write(out: Path, records: list[dict[str, Any]]) -> None:
    """Whole or not at all."""
    partial = out.with_name(f"{out.name}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error


class _Annotations:
    """The three lists of an annotation file."""

    def __init__(self, path: Path):
        content = _read(path, "images", "annotations", "categories")
        self.images = content["images"]
        self.names = {_key(one, "id"): one.get("name") for one in content["categories"] if isinstance(one, dict)}
        self.objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for one in content["annotations"]:
            self.objects[_key(one, "image_id")].append(one)

    def orphans(self) -> dict[str, int]:
        """Annotations that belong to no picture, counted."""
        known = {_key(image, "id") for image in self.images} - {None}
        count = sum(len(objects) for key, objects in self.objects.items() if key not in known)
        return {"annotations of no picture in the list": count} if count else {}


def _key(one: Any, name: str) -> int | str | None:
    """What refers to another entry, or None where an entry is damaged."""
    key = one.get(name) if isinstance(one, dict) else None
    return key if isinstance(key, int | str) else None


def _read(path: Path, *keys: str) -> dict[str, list[Any]]:
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is {error}") from error
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise UserError(f"{path} is no annotation file of COCO: it has no list {', '.join(missing)}")
    return content


def _captions(path: Path) -> dict[Any, str]:
    """The first caption of each picture."""
    texts: dict[Any, str] = {}
    for one in _read(path, "annotations")["annotations"]:
        caption = one.get("caption") if isinstance(one, dict) else None
        if isinstance(caption, str) and caption.strip():
            texts.setdefault(_key(one, "image_id"), " ".join(caption.split()))
    if not texts:
        raise UserError(f"{path} holds no captions")
    return texts


def _record(
    image: Any, found: _Annotations, folder: Path, texts: dict[Any, str], min_share: float, report: Conversion
) -> dict[str, Any] | None:
    """The sample of one picture, or None, counted."""
    if not _is_picture(image):
        report.left_out["pictures without id, file_name, width or height"] += 1
        return None
    if not (folder / image["file_name"]).is_file():
        report.left_out["pictures that are not in the folder"] += 1
        return None
    objects = sorted(_objects(image, found, min_share, report), key=_area, reverse=True)
    if not objects:
        report.left_out["pictures without an object that is used"] += 1
        return None
    caption = texts.get(image["id"]) or caption_of_names([one["phrase"] for one in objects])
    return {"id": str(image["id"]), "image": image["file_name"], "caption": caption, "objects": objects}


def _is_picture(image: Any) -> bool:
    if _key(image, "id") is None:
        return False
    sides = [image.get("width"), image.get("height")]
    named = isinstance(image.get("file_name"), str) and bool(image["file_name"])
    return named and all(isinstance(side, int | float) and side > 0 for side in sides)


def _objects(image: dict, found: _Annotations, min_share: float, report: Conversion) -> Iterator[dict[str, Any]]:
    width, height = image["width"], image["height"]
    for one in found.objects.get(image["id"], []):  # each is an object: others have no image_id
        name = found.names.get(_key(one, "category_id"))
        if one.get("iscrowd"):
            report.left_out["objects that are crowds"] += 1
        elif not isinstance(name, str) or not name.strip():
            report.left_out["objects without a known category"] += 1
        elif (box := _box(one.get("bbox"), width, height)) is None:
            report.left_out["objects with a box that is damaged or outside its picture"] += 1
        elif _area({"box": box}) < min_share:
            report.left_out[f"objects smaller than {min_share:g} of their picture"] += 1
        else:
            yield {"phrase": name.strip(), "box": box, **_mask(one.get("segmentation"), width, height, report)}


def _box(bbox: Any, width: float, height: float) -> list[float] | None:
    """x, y, width, height in pixels to x1, y1, x2, y2 in 0..1, cut at the border."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, int | float) for value in bbox):
        return None
    x, y, wide, high = bbox
    edges = (x / width, y / height, (x + wide) / width, (y + high) / height)
    try:
        return list(corners_of([round(min(max(edge, 0.0), 1.0), DIGITS) for edge in edges]))
    except (BadSample, ValueError):  # no area, or no number
        return None


def _mask(segmentation: Any, width: float, height: float, report: Conversion) -> dict[str, Any]:
    """The mask as a field; none for a box alone or, counted, for a damaged one."""
    if not segmentation:
        return {}
    try:
        if isinstance(segmentation, dict):
            run_lengths(segmentation)
            return {"mask": {key: segmentation[key] for key in ("size", "counts")}}
        return {"mask": _written(polygons(segmentation, width, height))}
    except BadSample:
        report.left_out["masks that are damaged; their objects have a box alone"] += 1
        return {}


def _written(mask: Polygons) -> list[list[float]]:
    return [[round(value, DIGITS) for value in outline] for outline in mask.outlines]


def _area(one: dict[str, Any]) -> float:
    x1, y1, x2, y2 = one["box"]
    return (x2 - x1) * (y2 - y1)


def caption_of_names(names: list[str]) -> str:
    """What a picture shows, from the names of its objects: "a photo of a dog, an apple and a cat"."""
    nouns = [f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}" for name in dict.fromkeys(names)]
    return "a photo of " + " and ".join([", ".join(nouns[:-1]), nouns[-1]] if len(nouns) > 1 else nouns)


def _named(image: Path, beside: Path) -> str:
    """Relative where the records' folder holds the picture, so that both can move together."""
    image, beside = image.resolve(), beside.resolve()
    return str(image.relative_to(beside) if image.is_relative_to(beside) else image)

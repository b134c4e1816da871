"""MMC4: {text_list, image_info: [{image_name or image_base64, matched_text_index, matched_sim}], similarity_matrix}."""

from collections import defaultdict
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from datamodules.context import Context
from emu2_lit.samples.sample import BadSample, Part, Sample


def detect(record: dict[str, Any]) -> bool:
    return {"text_list", "image_info"} <= record.keys()


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    """Each picture stands before the sentence that it is matched with.

    Pictures whose match is below `min_similarity`, or is not known where a limit is set, are left out, and so are those
    that were never downloaded (neither name nor content).
    """
    texts, infos = record.get("text_list"), record.get("image_info")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadSample("`text_list` is not a list of sentences")
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        raise BadSample("`image_info` is not a list of objects")
    pictures = defaultdict(list)
    notes = []
    for info, (place, similarity) in zip(infos, _matches(record, infos, len(texts)), strict=True):
        picture = _picture(info, context)
        if picture is None:
            notes.append(f"{info.get('raw_url') or 'an image'} is left out: it has neither image_name nor image_base64")
        elif context.min_similarity <= 0 or (similarity is not None and similarity >= context.min_similarity):
            pictures[place].append(picture)
    parts: list[Part] = []
    for place, text in enumerate(texts):
        parts += [Part("image", picture, group=place) for picture in pictures[place]]
        parts += [Part("text", f"{text.strip()} ", learn=True, group=place)] if text.strip() else []
    if not parts:
        raise BadSample("the document is empty")
    return Sample(context.sample_id(record), tuple(parts), notes=tuple(notes))


def _picture(info: dict[str, Any], context: Context) -> Any:
    if info.get("image_base64"):
        return context.image(f"data:image;base64,{info['image_base64']}")
    return context.image(info["image_name"]) if info.get("image_name") else None


def _matches(record: dict[str, Any], infos: list[dict], sentences: int) -> list[tuple[int, float | None]]:
    """Sentence and similarity of each picture: as recorded, else from the matrix, by the best assignment in all."""
    places = [info.get("matched_text_index") for info in infos]
    complete = None not in places and all(info.get("matched_sim") is not None for info in infos)
    matrix = None if complete else _matrix(record, len(infos), sentences)
    if None in places:
        if matrix is None:
            raise BadSample("an image has no matched_text_index, and there is no similarity_matrix to match it by")
        rows, columns = linear_sum_assignment(matrix, maximize=True)
        assigned = dict(zip(rows.tolist(), columns.tolist(), strict=True))
        # With more pictures than sentences, the rest goes to the best sentence of each.
        places = [assigned.get(row, int(matrix[row].argmax())) for row in range(len(infos))]
    matches = []
    for row, (info, place) in enumerate(zip(infos, places, strict=True)):
        if not isinstance(place, int) or not 0 <= place < sentences:
            raise BadSample(f"matched_text_index {place!r} is none of the {sentences} sentences")
        similarity = info.get("matched_sim")
        if similarity is None and matrix is not None:
            similarity = float(matrix[row, place])
        if not isinstance(similarity, int | float | None):
            raise BadSample(f"matched_sim {similarity!r} is not a number")
        matches.append((place, similarity))
    return matches


def _matrix(record: dict[str, Any], images: int, sentences: int) -> np.ndarray | None:
    """Similarities, (images, sentences)."""
    if not record.get("similarity_matrix") or not images:
        return None
    try:
        matrix = np.array(record["similarity_matrix"], dtype=float)
    except (TypeError, ValueError) as error:
        raise BadSample(f"similarity_matrix is not a matrix of numbers: {error}") from error
    if matrix.shape != (images, sentences) or not np.isfinite(matrix).all():
        raise BadSample(f"similarity_matrix is {matrix.shape}, not finite numbers for {images} image(s) x {sentences}")
    return matrix

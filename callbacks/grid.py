"""Pictures with question, answer and prediction, on one sheet."""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_PICTURE = 168  # side of the square that a picture is fitted into, pixels
_SMALL = 112  # smaller pictures are enlarged at least to this, by whole factors, so that their pixels stay sharp
_MARGIN = 12
_COLUMNS = 6
_LINES = {"question": 4, "answer": 2, "prediction": 3}
_LINE = 16
_GREEN, _RED, _INK, _GREY, _PAPER = "#15803d", "#b91c1c", "#111827", "#6b7280", "#ffffff"


@dataclass(frozen=True)
class Cell:
    """One sample to draw; `image` is None for a question about no picture, `correct` of what nobody predicted (a
    demonstration)."""

    image: Image.Image | None
    question: str
    answer: str
    prediction: str
    correct: bool | None


def draw_grid(cells: Iterable[Cell], columns: int = _COLUMNS, side: int = _PICTURE) -> Image.Image:
    """One RGB sheet, row by row of `columns` cells with pictures of `side` pixels; a green tick or a red cross beside
    the prediction says whether it is right."""
    cells = list(cells)
    width = side + 2 * _MARGIN
    columns = max(1, min(columns, len(cells)))
    height = side + _LINE * _text_lines(cells) + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * width, -(-max(1, len(cells)) // columns) * height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for index, cell in enumerate(cells):
        _draw_cell(sheet, draw, font, cell, index % columns * width, index // columns * height, side)
    return sheet


def _text_lines(cells: list[Cell]) -> int:
    """Lines under each picture: those of the verdict only where there is one."""
    judged = not cells or any(cell.correct is not None for cell in cells)
    wanted = {"question": True, "answer": judged or any(cell.answer for cell in cells), "prediction": judged}
    return sum(lines for kind, lines in _LINES.items() if wanted[kind])


def _draw_cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, font, cell: Cell, left: int, top: int, side: int):
    left, top = left + _MARGIN, top + _MARGIN
    if cell.image is not None:
        picture = fit_picture(cell.image, side)
        sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
    if cell.image is not None or cell.question:  # else it only fills a row
        draw.rectangle((left - 1, top - 1, left + side, top + side), outline="#d1d5db")
    y = top + side + 6
    verdict = _GREEN if cell.correct else _RED
    expected = f"expected: {cell.answer}" if cell.correct is not None else cell.answer
    lines = [(cell.question, _LINES["question"], _GREY, 0), (expected, _LINES["answer"], _INK, 0)]
    if cell.correct is not None:
        lines.append((cell.prediction or "(nothing)", _LINES["prediction"], verdict, 18))
    for text, limit, colour, indent in lines:
        if indent:
            _draw_verdict(draw, cell.correct, left, y, verdict)
        for line in wrap(text, font, side - indent, limit):
            draw.text((left + indent, y), line, font=font, fill=colour)
            y += _LINE


def _draw_verdict(draw: ImageDraw.ImageDraw, correct: bool, x: int, y: int, colour: str) -> None:
    """Drawn, since fonts often have neither sign."""
    if correct:
        draw.line([(x, y + 8), (x + 4, y + 12), (x + 12, y + 3)], fill=colour, width=2)
    else:
        draw.line([(x + 1, y + 3), (x + 10, y + 12)], fill=colour, width=2)
        draw.line([(x + 1, y + 12), (x + 10, y + 3)], fill=colour, width=2)


def fit_picture(image: Image.Image, side: int = _PICTURE) -> Image.Image:
    """Into a square of `side` pixels: small ones enlarged by a whole factor, large ones reduced."""
    image = image.convert("RGB")
    longest = max(image.size)
    if longest < _SMALL:
        factor = max(1, side // longest)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if longest > side:
        image.thumbnail((side, side))
    return image


def wrap(text: str, font, width: int, lines: int) -> list[str]:
    """Break `text` into at most `lines` lines of `width` pixels; what does not fit ends in an ellipsis."""
    wrapped, line = [], ""
    for word in text.split():
        for piece in _pieces(word, font, width):
            longer = f"{line} {piece}" if line else piece
            if line and font.getlength(longer) > width:
                wrapped.append(line)
                longer = piece
            line = longer
    wrapped.append(line)
    if len(wrapped) <= lines:
        return wrapped
    last = wrapped[lines - 1]
    while last and font.getlength(last + "...") > width:
        last = last[:-1]
    return [*wrapped[: lines - 1], last + "..."]


def _pieces(word: str, font, width: int) -> list[str]:
    """A word that is wider than a line, cut."""
    pieces, piece = [], ""
    for letter in word:
        if piece and font.getlength(piece + letter) > width:
            pieces.append(piece)
            piece = ""
        piece += letter
    return [*pieces, piece]

"""Scores over shots as a picture, for loggers and reports."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from callbacks.curves import COLOURS, Axis, short_number, value_range

_WIDTH, _HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 34, 52
_COLUMNS = 3
_INK, _GREY, _PAPER = "#111827", "#d1d5db", "#ffffff"

Points = Sequence[tuple[int, float]]


def draw_shot_curves(panels: Mapping[str, Mapping[str, Points]]) -> Image.Image:
    """One panel per benchmark, one line per model.

    Args:
        panels: benchmark -> model -> (shots, score) in order of shots.
    Returns:
        An RGB picture.
    """
    columns = max(1, min(_COLUMNS, len(panels)))
    sheet = Image.new("RGB", (columns * _WIDTH, max(1, -(-len(panels) // columns)) * _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for number, (title, lines) in enumerate(panels.items()):
        _panel(draw, font, title, lines, number % columns * _WIDTH, number // columns * _HEIGHT)
    return sheet


def _panel(draw: ImageDraw.ImageDraw, font, title: str, lines: Mapping[str, Points], left: int, top: int) -> None:
    draw.text((left + _LEFT, top + 10), title, font=font, fill=_INK)
    points = [point for line in lines.values() for point in line]
    if not points:
        return
    shots = sorted({shot for shot, _ in points})
    x_axis = Axis(shots[0], max(shots[-1], shots[0] + 1), left + _LEFT, left + _WIDTH - _RIGHT)
    y_axis = Axis(*value_range([score for _, score in points]), top + _HEIGHT - _BOTTOM, top + _TOP)
    for value in y_axis.ticks():
        y = y_axis(value)
        draw.line([(left + _LEFT, y), (left + _WIDTH - _RIGHT, y)], fill=_GREY)
        draw.text((left + _LEFT - 6, y), short_number(value), font=font, fill=_INK, anchor="rm")
    for shot in shots:
        draw.text((x_axis(shot), top + _HEIGHT - _BOTTOM + 6), str(shot), font=font, fill=_INK, anchor="ma")
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [(x_axis(shot), y_axis(score)) for shot, score in line]
        draw.line(placed, fill=colour, width=2)
        for x, y in placed:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        x = left + _LEFT + 150 * number
        draw.rectangle((x, top + _HEIGHT - 22, x + 10, top + _HEIGHT - 12), fill=colour)
        draw.text((x + 16, top + _HEIGHT - 17), name, font=font, fill=_INK, anchor="lm")

"""Line charts as SVG text, for a page that needs no other file."""

import math
from collections.abc import Sequence
from html import escape

Series = Sequence[tuple[int, float]]

_WIDTH, _HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 30
COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea")
_MOST_POINTS = 800


def chart(series: dict[str, Series]) -> str:
    """An SVG of lines over steps, one colour each, with a legend; a series of one point is drawn as a dot.

    Args:
        series: name -> (step, value) in order of steps; values that are not finite are left out.
    """
    lines = {name: [p for p in points if math.isfinite(p[1])] for name, points in series.items()}
    lines = {name: _thin(points) for name, points in lines.items() if points}
    if not lines:
        return ""
    every = [point for points in lines.values() for point in points]
    x_axis = Axis(0, max(max(step for step, _ in every), 1), _LEFT, _WIDTH - _RIGHT)
    low, high = value_range([value for _, value in every])
    y_axis = Axis(low, high, _HEIGHT - _BOTTOM, _TOP)
    body = [_grid(x_axis, y_axis)]
    for index, (name, points) in enumerate(lines.items()):
        body.append(_line(points, x_axis, y_axis, COLOURS[index % len(COLOURS)]))
        body.append(_legend(index, name, points[-1][1]))
    height = _HEIGHT + 18 * len(lines)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'


class Axis:
    """Values of an interval to pixels, and round numbers to write beside it."""

    def __init__(self, low: float, high: float, start: float, end: float):
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        raw = (self.high - self.low) / 4
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def value_range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low >= 0 and low < high / 2:
        low = 0.0  # from zero, unless that would flatten the curve
    margin = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - margin), high + margin


def _thin(points: Series) -> Series:
    """Every n-th point, and always the last."""
    stride = -(-len(points) // _MOST_POINTS)
    return [*points[:-1][::stride], points[-1]]


def _grid(x_axis: Axis, y_axis: Axis) -> str:
    lines = []
    for value in y_axis.ticks():
        y = y_axis(value)
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short_number(value)}</text>')
    for value in (tick for tick in x_axis.ticks() if float(tick).is_integer()):
        x = x_axis(value)
        lines.append(f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{short_number(value)}</text>')
    return "".join(lines)


def _line(points: Series, x_axis: Axis, y_axis: Axis, colour: str) -> str:
    placed = [(x_axis(step), y_axis(value)) for step, value in points]
    x, y = placed[-1]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    )


def _legend(index: int, name: str, last: float) -> str:
    y = _HEIGHT + 12 + 18 * index
    return (
        f'<rect x="{_LEFT}" y="{y - 9}" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>'
        f'<text x="{_LEFT + 16}" y="{y}">{escape(name)}: {short_number(last)}</text>'
    )


def short_number(value: float) -> str:
    """Four significant digits; from ten thousand on in k, M, G."""
    if abs(value) < 1e4:
        return f"{value:.4g}"
    size, letter = next(unit for unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= unit[0])
    return f"{value / size:.4g}{letter}"

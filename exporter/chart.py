"""Small line charts as pictures: SVG by itself, PNG where Pillow is installed (the extra ``picture``).

A picture is a list of strokes and words, and each format is one way to draw those.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from exporter.errors import UsageError

PANEL_WIDTH, PANEL_HEIGHT = 400, 250
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 62, 16, 34, 40
_TITLE_HEIGHT = 34
_LEGEND_ROW_HEIGHT = 18
_COLUMNS = 2
_COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#8a3fa0", "#7a7a1f", "#a02f4f", "#3f8a93", "#555555")
_INK, _FAINT, _PAPER = "#222222", "#d8d8d8", "#ffffff"
_SHARPNESS = 2
"""Pixels of a PNG for each unit of the drawing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a panel."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes. The horizontal one shows settings, evenly spaced in their order."""

    title: str
    horizontal: str
    unit: str
    """``ratio`` shows percent."""
    series: tuple[Series, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Panels side by side."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through points."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float


@dataclass(frozen=True, slots=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    colour: str


@dataclass(frozen=True, slots=True)
class Words:
    """One line of text; ``anchor`` is start, middle or end."""

    x: float
    y: float
    text: str
    size: int
    anchor: str
    colour: str = _INK


Mark = Stroke | Dot | Words


def save(chart: Chart, file: Path) -> None:
    """Draw a chart into a .svg or .png file.

    Raises:
        UsageError: The file cannot be written, or PNG is asked for without Pillow.
    """
    try:
        if file.suffix.lower() == ".svg":
            file.write_text(svg(chart), encoding="utf-8")
        else:
            _png(chart, file)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error


def size_of(chart: Chart) -> tuple[int, int]:
    """Return width and height of a drawing."""
    columns = min(_COLUMNS, len(chart.panels))
    rows = -(-len(chart.panels) // _COLUMNS)
    return columns * PANEL_WIDTH, round(_top(chart)) + rows * PANEL_HEIGHT


def svg(chart: Chart) -> str:
    """Return a chart as SVG."""
    width, height = size_of(chart)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="DejaVu Sans, Verdana, sans-serif" role="img" aria-label="{escape(chart.title)}">'
        ),
        f'<rect width="{width}" height="{height}" fill="{_PAPER}"/>',
    ]
    for mark in marks(chart):
        match mark:
            case Stroke():
                points = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
                parts.append(
                    f'<polyline points="{points}" fill="none" stroke="{mark.colour}" stroke-width="{mark.width}"/>'
                )
            case Dot():
                parts.append(f'<circle cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="3" fill="{mark.colour}"/>')
            case Words():
                parts.append(
                    f'<text x="{mark.x:.1f}" y="{mark.y:.1f}" font-size="{mark.size}" text-anchor="{mark.anchor}" '
                    f'fill="{mark.colour}">{escape(mark.text)}</text>'
                )
    return "\n".join([*parts, "</svg>", ""])


def _png(chart: Chart, file: Path) -> None:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise UsageError(
            "--picture: PNG needs Pillow (pip install 'vllm-headroom[picture]'); .svg needs nothing"
        ) from None
    width, height = size_of(chart)
    image = Image.new("RGB", (width * _SHARPNESS, height * _SHARPNESS), _PAPER)
    draw: Any = ImageDraw.Draw(image)
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for mark in marks(chart):
        match mark:
            case Stroke():
                points = [(x * _SHARPNESS, y * _SHARPNESS) for x, y in mark.points]
                draw.line(points, fill=mark.colour, width=max(1, round(mark.width * _SHARPNESS)), joint="curve")
            case Dot():
                x, y, radius = mark.x * _SHARPNESS, mark.y * _SHARPNESS, 3 * _SHARPNESS
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=mark.colour)
            case Words():
                at = (mark.x * _SHARPNESS, mark.y * _SHARPNESS)
                font = ImageFont.load_default(mark.size * _SHARPNESS)
                draw.text(at, mark.text, fill=mark.colour, anchor=anchors[mark.anchor], font=font)
    image.save(file, format="PNG")


def marks(chart: Chart) -> Iterator[Mark]:
    """Yield everything there is to draw, bottom first."""
    width, _ = size_of(chart)
    yield Words(width / 2, 22, chart.title, 14, "middle")
    for x, y, name, colour in _legend(chart):
        yield Words(x, y, name, 11, "start", colour)
    for number, panel in enumerate(chart.panels):
        row, column = divmod(number, _COLUMNS)
        yield from _panel(panel, left=column * PANEL_WIDTH, top=_top(chart) + row * PANEL_HEIGHT)


def _panel(panel: Panel, *, left: float, top: float) -> Iterator[Mark]:
    places = sorted({x for series in panel.series for x, _ in series.points})
    highest = max((y for series in panel.series for _, y in series.points), default=0.0)
    x0, x1 = left + _MARGIN_LEFT, left + PANEL_WIDTH - _MARGIN_RIGHT
    y0, y1 = top + PANEL_HEIGHT - _MARGIN_BOTTOM, top + _MARGIN_TOP
    step = _tick(highest)
    ceiling = step * max(1, math.ceil(highest / step - 1e-9))

    def across(x: float) -> float:
        return (x0 + x1) / 2 if len(places) == 1 else x0 + (x1 - x0) * places.index(x) / (len(places) - 1)

    def up(y: float) -> float:
        return y0 + (y1 - y0) * y / ceiling

    yield Words(left + _MARGIN_LEFT, top + 14, panel.title, 12, "start")
    for count in range(round(ceiling / step) + 1):
        value = count * step
        yield Stroke(((x0, up(value)), (x1, up(value))), _FAINT if count else _INK, 1.0)
        yield Words(x0 - 6, up(value) + 4, _spelled(value, panel.unit), 10, "end")
    shown_every = -(-len(places) // 8)
    for number, place in enumerate(places):
        if number % shown_every == 0 or number == len(places) - 1:
            yield Words(across(place), y0 + 14, f"{place:,.0f}", 10, "middle")
    yield Words((x0 + x1) / 2, y0 + 30, panel.horizontal, 10, "middle")
    for number, series in enumerate(panel.series):
        colour = _COLOURS[number % len(_COLOURS)]
        points = tuple((across(x), up(y)) for x, y in series.points)
        if len(points) > 1:
            yield Stroke(points, colour, 2.0)
        for x, y in points:
            yield Dot(x, y, colour)


def _legend(chart: Chart) -> tuple[tuple[float, float, str, str], ...]:
    """Return (x, y, name, colour) of each line, in rows below the title; a single line needs no name."""
    names = list(dict.fromkeys(series.name for panel in chart.panels for series in panel.series))
    if len(names) < 2:
        return ()
    width = min(_COLUMNS, len(chart.panels)) * PANEL_WIDTH
    found = []
    x, y = float(_MARGIN_LEFT), float(_TITLE_HEIGHT + 6)
    for number, name in enumerate(names):
        needed = 7 * len(name) + 16
        if x > _MARGIN_LEFT and x + needed > width - _MARGIN_RIGHT:
            x, y = float(_MARGIN_LEFT), y + _LEGEND_ROW_HEIGHT
        found.append((x, y, name, _COLOURS[number % len(_COLOURS)]))
        x += needed
    return tuple(found)


def _top(chart: Chart) -> float:
    """Return where the panels begin."""
    legend = _legend(chart)
    return legend[-1][1] + _LEGEND_ROW_HEIGHT / 2 if legend else float(_TITLE_HEIGHT)


def _tick(highest: float) -> float:
    """Return a round distance that divides the axis into four or five."""
    if highest <= 0:
        return 1.0
    rough = highest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return float(next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999))


def _spelled(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{value:.0%}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"

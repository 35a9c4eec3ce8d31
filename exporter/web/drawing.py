"""Bars and small charts as inline SVG. Sizes are attributes, colours are classes: the page's policy forbids styles."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from advisor.units import spelled_seconds
from exporter.recent import SPACING_SECONDS
from exporter.web.html import Html, element

_WIDTH = 1000
_CHART_WIDTH, _CHART_HEIGHT = 240, 56
_SHORTEST_POINTS = 31
"""Five minutes: before that a chart would be a blot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A piece of a bar."""

    name: str
    """CSS class that colours it."""
    share: float
    """Of the bar's width, 0 to 1."""


def bar(segments: Sequence[Segment], *, label: str, band: tuple[float, float] | None = None) -> Html:
    """Return a bar of segments side by side.

    Args:
        segments: From left to right; what is too thin to see is left out.
        label: What a screen reader says.
        band: Shares between which a bracket below the bar shows bounds.
    """
    shapes: list[Html] = []
    left = 0.0
    for segment in segments:
        width = max(0.0, segment.share) * _WIDTH
        if width >= 1:
            shapes.append(
                element("rect", class_=f"c-{segment.name}", x=_short(left), y=0, width=_short(width), height=28)
            )
        left += width
    if band is not None:
        lower, upper = (_short(min(1.0, max(0.0, each)) * _WIDTH) for each in band)
        shapes.append(element("line", class_="band", x1=lower, x2=upper, y1=32, y2=32))
    height = 28 if band is None else 35
    return element(
        "svg",
        shapes,
        class_="bar",
        viewBox=f"0 0 {_WIDTH} {height}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def swatch(name: str) -> Html:
    """Return a piece of a bar's colour for its legend; ``band`` is the bracket of bounds."""
    piece = (
        element("line", class_="band", x1=0, x2=14, y1=11, y2=11)
        if name == "band"
        else element("rect", class_=f"c-{name}", width=14, height=14)
    )
    return element("svg", piece, class_="swatch", viewBox="0 0 14 14", aria_hidden="true")


def chart(
    title: str,
    lines: Sequence[tuple[str, Sequence[float]]],
    *,
    spelled: Callable[[float], str],
    highest: float | None = None,
) -> Html | None:
    """Return a small chart of the last hour, None before there are two points.

    Args:
        title: What it shows.
        lines: (what it is called, values from old to new, NaN where nothing is known); the second is dashed.
        spelled: How a value reads.
        highest: Upper end of the scale at least; None leaves it to the values.
    """
    known = [value for _, values in lines for value in values if not math.isnan(value)]
    if len(known) < 2 * len(lines):
        return None
    first = min(_first_known(values) for _, values in lines)
    first = min(first, max(0, len(lines[0][1]) - _SHORTEST_POINTS))
    bottom = min([*known, 0.0])
    top = max([*known, *([] if highest is None else [highest])])
    if top <= bottom:
        top = bottom + 1.0
    shown = [(name, list(values[first:])) for name, values in lines]
    shapes: list[Html] = []
    if bottom < 0 < top:
        zero = _short(_height_of(0.0, bottom, top))
        shapes.append(element("line", class_="zero", x1=0, x2=_CHART_WIDTH, y1=zero, y2=zero))
    for position, (_, values) in reversed(list(enumerate(shown))):
        shapes += [
            element("polyline", class_=f"line line{position}", points=points) for points in _runs(values, bottom, top)
        ]
    now = [(name, _last_known(values)) for name, values in shown]
    told = "; ".join(_told(name, values, spelled) for name, values in shown)
    span = spelled_seconds((len(shown[0][1]) - 1) * SPACING_SECONDS)
    legend = [
        element(
            "span",
            element("i", class_=f"key key{position}") if len(lines) > 1 else None,
            f"{name} " if name else "",
            element("b", spelled(value)),
        )
        for position, (name, value) in enumerate(now)
    ]
    return element(
        "figure",
        element("figcaption", element("span", title), legend),
        element(
            "svg",
            shapes,
            class_="chart",
            viewBox=f"0 -3 {_CHART_WIDTH} {_CHART_HEIGHT + 6}",
            preserveAspectRatio="none",
            role="img",
            aria_label=f"{title}, last {span}: {told}",
        ),
        element(
            "div",
            element("span", f"{span} ago"),
            element("span", f"{spelled(bottom)} to {spelled(top)}"),
            element("span", "now"),
            class_="axis",
            aria_hidden="true",
        ),
        class_="history",
    )


def _told(name: str, values: Sequence[float], spelled: Callable[[float], str]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return f"{name} not known".strip()
    return f"{name} now {spelled(known[-1])}, between {spelled(min(known))} and {spelled(max(known))}".strip()


def _first_known(values: Sequence[float]) -> int:
    return next((position for position, value in enumerate(values) if not math.isnan(value)), len(values))


def _last_known(values: Sequence[float]) -> float:
    return next((value for value in reversed(values) if not math.isnan(value)), math.nan)


def _height_of(value: float, bottom: float, top: float) -> float:
    return _CHART_HEIGHT * (1 - (value - bottom) / (top - bottom))


def _runs(values: Sequence[float], bottom: float, top: float) -> list[str]:
    """Return the points of each stretch without a gap; the newest slot may still be empty."""
    step = _CHART_WIDTH / max(1, len(values) - 1)
    runs: list[list[str]] = [[]]
    for position, value in enumerate(values):
        if math.isnan(value):
            if runs[-1]:
                runs.append([])
        else:
            runs[-1].append(f"{_short(position * step)},{_short(_height_of(value, bottom, top))}")
    return [" ".join(run) for run in runs if len(run) > 1]


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")

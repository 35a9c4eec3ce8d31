"""Any declared fact -> the text of its series. Knows no metric by name, so it never grows.

prometheus_client would write the same text in ten times the time: it does not know that labels, and most values, are
those of the page before. A test holds the two equal.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from operator import is_
from typing import Any

from prometheus_client.utils import floatToGoString

from advisor.facts import Fact, Kind, Metric, metrics_of, samples_of


class Pages:
    """Page after page: what is of the same facts as in the page before is not written anew.

    Facts never change, so those that are the same objects have the same text.
    """

    def __init__(self) -> None:
        """Start with no page."""
        self._before: dict[tuple[Any, bool], tuple[list[Fact], str]] = {}

    def text_of(self, facts: Iterable[Fact], *, openmetrics: bool) -> str:
        """Return the families of these facts in Prometheus' text format or in OpenMetrics, there without the ``# EOF``.

        A family without samples is left out.
        """
        by_type: dict[Any, list[Fact]] = {}
        for fact in facts:
            by_type.setdefault(type(fact), []).append(fact)
        parts = []
        for fact_type, group in by_type.items():
            before, text = self._before.get((fact_type, openmetrics), ((), ""))
            if len(before) != len(group) or not all(map(is_, before, group)):
                text = "".join(_lines(fact_type, group, openmetrics=openmetrics))
                self._before[fact_type, openmetrics] = (group, text)
            parts.append(text)
        return "".join(parts)


def _lines(fact_type: Any, group: Iterable[Fact], *, openmetrics: bool) -> Iterator[str]:
    start_of = _start_of(fact_type)
    lines: dict[str, list[str]] = defaultdict(list)
    for fact in group:
        for name, values, value in samples_of(fact):
            lines[name].append(start_of(name, values) + _number(value))
    for name, head in _heads(fact_type, openmetrics=openmetrics).items():
        if name in lines:
            yield head
            yield from lines[name]


@cache
def _heads(fact_type: Any, *, openmetrics: bool) -> dict[str, str]:
    """Return what stands above the samples of each metric, by its name."""
    return {metric.name: _head(metric, openmetrics=openmetrics) for metric in metrics_of(fact_type)}


@cache
def _start_of(fact_type: Any) -> Callable[[str, tuple[str, ...]], str]:
    """Return what says, for a metric's name and label values, how its sample's line begins."""
    labels = {metric.name: metric.labels for metric in metrics_of(fact_type)}

    @lru_cache(maxsize=8192)
    def start_of(name: str, values: tuple[str, ...]) -> str:
        return f"{name}{_label_text(labels[name], values)} "

    return start_of


def _number(value: float) -> str:
    """Return the end of a sample's line; 0 and -0, which are equal, are told apart."""
    return _number_but_zero(value) if value else _spelled(value)


def _spelled(value: float) -> str:
    return f"{floatToGoString(value)}\n"  # type: ignore[no-untyped-call]


# Those of the page before, or of a page of 64 engines in good part; each takes 220 bytes.
_number_but_zero = lru_cache(maxsize=2048)(_spelled)


def _head(metric: Metric, *, openmetrics: bool) -> str:
    family = metric.name.removesuffix("_total") if openmetrics and metric.kind is Kind.TOTAL else metric.name
    text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        text = text.replace('"', r"\"")
    return f"# HELP {family} {text}\n# TYPE {family} {'counter' if metric.kind is Kind.TOTAL else 'gauge'}\n"


def _label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Return ``{name="value",...}`` by name, as prometheus_client orders them."""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in sorted(zip(names, values, strict=True)))
    return "{" + ",".join(pairs) + "}" if names else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

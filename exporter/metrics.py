"""Any declared fact -> the text of its series. Knows no metric by name, so it never grows.

prometheus_client would write the same text in five times the time: it does not know that labels repeat. A test holds
the two equal.
"""

from collections.abc import Iterable
from functools import cache, lru_cache

from prometheus_client.utils import floatToGoString

from advisor.facts import Fact, Kind, Metric, metrics_of, samples_of


def text_of(facts: Iterable[Fact], *, openmetrics: bool) -> str:
    """Return the families of these facts in Prometheus' text format or in OpenMetrics, there without the ``# EOF``.

    A family without samples is left out.
    """
    by_type: dict[type[Fact], list[Fact]] = {}
    for fact in facts:
        by_type.setdefault(type(fact), []).append(fact)
    parts = []
    for fact_type, group in by_type.items():
        metrics = {metric.name: metric for metric in metrics_of(fact_type)}
        lines: dict[str, list[str]] = {}
        for fact in group:
            for name, values, value in samples_of(fact):
                labels = _label_text(metrics[name].labels, values)
                number = floatToGoString(value)  # type: ignore[no-untyped-call]
                lines.setdefault(name, []).append(f"{name}{labels} {number}\n")
        for name, metric in metrics.items():
            if name in lines:
                parts.append(_head(metric, openmetrics=openmetrics))
                parts += lines[name]
    return "".join(parts)


@cache
def _head(metric: Metric, *, openmetrics: bool) -> str:
    family = metric.name.removesuffix("_total") if openmetrics and metric.kind is Kind.TOTAL else metric.name
    text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        text = text.replace('"', r"\"")
    return f"# HELP {family} {text}\n# TYPE {family} {'counter' if metric.kind is Kind.TOTAL else 'gauge'}\n"


@lru_cache(maxsize=8192)
def _label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Return ``{name="value",...}`` by name, as prometheus_client orders them."""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in sorted(zip(names, values, strict=True)))
    return "{" + ",".join(pairs) + "}" if names else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

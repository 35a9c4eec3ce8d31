"""Any declared fact -> Prometheus families. Knows no metric by name, so it never grows."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from advisor.facts import Fact, Kind, metrics_of, samples_of


def families(facts: Iterable[Fact]) -> Iterator[Metric]:
    """Yield fresh families with the samples of these facts; a family without samples is not yielded."""
    by_type: dict[type[Fact], list[Fact]] = {}
    for fact in facts:
        by_type.setdefault(type(fact), []).append(fact)
    for fact_type, group in by_type.items():
        rows: dict[str, list[tuple[tuple[str, ...], float]]] = {}
        for fact in group:
            for name, labels, value in samples_of(fact):
                rows.setdefault(name, []).append((labels, value))
        for metric in metrics_of(fact_type):
            if metric.name not in rows:
                continue
            family_type = CounterMetricFamily if metric.kind is Kind.TOTAL else GaugeMetricFamily
            family = family_type(metric.name, metric.help, labels=metric.labels)
            for labels, value in rows[metric.name]:
                family.add_metric(labels, value)
            yield family


class FactCollector(Collector):
    """A registry's view of the facts of the moment."""

    def __init__(self, current: Callable[[], Iterable[Fact]]) -> None:
        """Take the callable that returns the facts to serve now."""
        self._current = current

    def collect(self) -> Iterable[Metric]:
        """Return the families of the facts of now."""
        return families(self._current())

    def describe(self) -> Iterable[Metric]:
        """Return nothing: otherwise registration would collect to learn the names."""
        return ()

"""The text of /metrics beside the text that prometheus_client writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics_exposition

from advisor.estimate import Origin
from advisor.facts import Fact, Kind, described, identity, level, metrics_of, samples_of, total
from exporter.metrics import Pages


def text_of(facts, *, openmetrics):
    return Pages().text_of(facts, openmetrics=openmetrics)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pump(Fact):
    subject: ClassVar[str] = "pump"
    pump: str = identity("Which pump.")
    house: str = identity("Where it stands.")
    maker: str | None = described('who made it, "by itself"')
    flow_bytes: float | None = level("How much \\ flows.\nOr flowed.", Origin.REPORTED)
    valves: Mapping[str, float] | None = level("Which valves are open.", Origin.REPORTED, by="kind")
    strokes_total: float | None = total("Strokes so far.", Origin.REPORTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sky(Fact):
    subject: ClassVar[str] = "sky"
    blue: float | None = level("How blue.", Origin.REPORTED)


def theirs(facts, *, openmetrics):
    class Collector:
        def collect(self):
            for fact_type in dict.fromkeys(map(type, facts)):
                samples = [each for fact in facts if type(fact) is fact_type for each in samples_of(fact)]
                for metric in metrics_of(fact_type):
                    kind = CounterMetricFamily if metric.kind is Kind.TOTAL else GaugeMetricFamily
                    family = kind(metric.name, metric.help, labels=metric.labels)
                    for name, labels, value in samples:
                        if name == metric.name:
                            family.add_metric(labels, value)
                    if family.samples:
                        yield family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    module = openmetrics_exposition if openmetrics else exposition
    return module.generate_latest(registry).decode().removesuffix("# EOF\n")


NUMBERS = st.none() | st.floats() | st.integers(0, 2**63).map(float)
FACTS = st.lists(
    st.builds(
        Pump,
        pump=st.text(),
        house=st.text(),
        maker=st.none() | st.text(),
        flow_bytes=NUMBERS,
        valves=st.none() | st.dictionaries(st.text(), st.floats()),
        strokes_total=NUMBERS,
    )
    | st.builds(Sky, blue=NUMBERS),
    max_size=4,
)


@pytest.mark.parametrize("openmetrics", [False, True])
@given(facts=FACTS)
def test_the_text_is_what_the_library_writes(facts, openmetrics):
    assert text_of(facts, openmetrics=openmetrics) == theirs(facts, openmetrics=openmetrics)


@pytest.mark.parametrize("openmetrics", [False, True])
@given(facts=FACTS, others=FACTS)
def test_what_was_written_before_changes_nothing_in_a_later_page(facts, others, openmetrics):
    pages = Pages()
    for each in (facts, others, facts, [*others, *facts], facts[:-1]):
        assert pages.text_of(each, openmetrics=openmetrics) == text_of(each, openmetrics=openmetrics)
        assert pages.text_of(each, openmetrics=not openmetrics) == text_of(each, openmetrics=not openmetrics)


def test_a_fact_without_a_number_leaves_no_family():
    assert text_of([Pump(pump="p", house="h")], openmetrics=False) == ""

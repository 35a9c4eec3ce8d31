import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from advisor.estimate import Origin
from advisor.facts import Fact, Former, Kind, described, identity, level, metrics_of, one_hot, samples_of, total
from exporter.reference import all_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Pump(Fact):
    subject: ClassVar[str] = "pump"
    pump: str = identity("Which pump.")
    maker: str | None = described("who made it")
    flow_bytes: float | None = level("How much flows.", Origin.REPORTED)
    valves_open: Mapping[str, int] | None = level("Which valves are open.", Origin.REPORTED, Origin.DERIVED, by="valve")
    strokes_total: int | None = total("Strokes so far.", Origin.REPORTED)


def test_a_name_is_prefix_subject_and_field():
    assert [(metric.name, metric.kind, metric.labels) for metric in metrics_of(Pump)] == [
        ("headroom_pump_info", Kind.LEVEL, ("pump", "maker")),
        ("headroom_pump_flow_bytes", Kind.LEVEL, ("pump",)),
        ("headroom_pump_valves_open", Kind.LEVEL, ("pump", "valve")),
        ("headroom_pump_strokes_total", Kind.TOTAL, ("pump",)),
    ]


def test_what_is_not_reported_yields_no_sample():
    assert list(samples_of(Pump(pump="p"))) == []


def test_each_reported_number_yields_its_samples():
    pump = Pump(pump="p", maker="m", flow_bytes=2.5, valves_open={"in": 1, "out": 0}, strokes_total=7)
    assert list(samples_of(pump)) == [
        ("headroom_pump_info", ("p", "m"), 1.0),
        ("headroom_pump_flow_bytes", ("p",), 2.5),
        ("headroom_pump_valves_open", ("p", "in"), 1.0),
        ("headroom_pump_valves_open", ("p", "out"), 0.0),
        ("headroom_pump_strokes_total", ("p",), 7.0),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tap(Fact):
    subject: ClassVar[str] = "tap"
    tap: str = identity("Which tap.")
    leak_bytes: Mapping[str, int] | None = level(
        "What leaks.", Origin.REPORTED, by="side", formerly=Former(field="drip_bytes", gone_in="0.3")
    )
    turns_total: int | None = total("Turns.", Origin.REPORTED, formerly=Former(field="twists_total", gone_in="0.4"))


def test_a_renamed_metric_is_shown_under_both_names_which_are_declared_as_one():
    assert list(samples_of(Tap(tap="t", leak_bytes={"left": 3}, turns_total=7))) == [
        ("headroom_tap_leak_bytes", ("t", "left"), 3.0),
        ("headroom_tap_drip_bytes", ("t", "left"), 3.0),
        ("headroom_tap_turns_total", ("t",), 7.0),
        ("headroom_tap_twists_total", ("t",), 7.0),
    ]
    new, old, *_ = metrics_of(Tap)
    assert (old.kind, old.labels, old.origins) == (new.kind, new.labels, new.origins)
    assert old.help == "The old name of headroom_tap_leak_bytes, gone in 0.3. What leaks."


def outlived(metrics, release):
    """The old names that a release should no longer have."""
    parts = lambda text: [int(part) for part in text.split(".")]  # noqa: E731 - a word for what is compared
    return [each.name for each in metrics if each.former and parts(each.former.gone_in) <= parts(release)]


def test_an_old_name_is_taken_away_in_the_release_that_says_so():
    assert outlived(metrics_of(Tap), "0.2.9") == []
    assert outlived(metrics_of(Tap), "0.3.0") == ["headroom_tap_drip_bytes"]
    assert outlived(metrics_of(Tap), "1.0.0") == ["headroom_tap_drip_bytes", "headroom_tap_twists_total"]
    release = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    assert outlived((metric for _, metric in all_metrics()), release) == []


def test_a_state_is_one_series_a_value():
    assert one_hot("b", ("a", "b")) == {"a": 0, "b": 1}
    with pytest.raises(ValueError, match="'c' is not one of a, b"):
        one_hot("c", ("a", "b"))


def test_every_declared_name_follows_prometheus_rules_and_carries_its_unit():
    seen = set()
    for _, metric in all_metrics():
        assert metric.name not in seen, f"{metric.name} is declared twice"
        seen.add(metric.name)
        assert re.fullmatch(r"headroom_[a-z][a-z0-9_]*[a-z0-9]", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.TOTAL), metric.name
        assert not re.search(r"_(mib|gib|mb|gb|percent|perc|ms|milliseconds|minutes)(_|$)", metric.name)
        assert metric.help.endswith(".") or metric.name.endswith("_info"), f"{metric.name}: help is a sentence"
        assert not {"pid", "user", "command", "hostname"} & set(metric.labels)

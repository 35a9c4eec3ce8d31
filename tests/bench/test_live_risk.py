"""What of the live run needs neither a daemon nor a Prometheus."""

import random

import pytest

from advisor.policy import Policy
from bench.live_risk.report import said
from bench.live_risk.rules import BASELINES, OURS, RESTART, rule_groups, seconds, spelled
from bench.live_risk.run import Outcome
from bench.live_risk.story import SHORT, Story


def rules(speed):
    (group,) = rule_groups(Policy(), speed=speed)["groups"]
    return {(rule["alert"], rule["labels"]["severity"]): rule for rule in group["rules"]}


def test_every_duration_of_a_rule_is_shortened_as_the_clock_runs():
    slow, fast = rules(1)[RESTART, "warning"], rules(60)[RESTART, "warning"]
    assert slow["expr"] == "max_over_time(headroom_engine_restart_fits[300000ms]) == 0"
    assert fast["expr"] == "max_over_time(headroom_engine_restart_fits[5000ms]) == 0"
    assert (slow["for"], fast["for"]) == ("600000ms", "10000ms")


def test_thresholds_are_in_the_daemons_seconds_and_stay():
    assert rules(60)[OURS, "warning"]["expr"] == rules(1)[OURS, "warning"]["expr"]
    assert "900" in rules(60)["HeadroomGpuMemoryEnds", "critical"]["expr"]


@pytest.mark.parametrize(("text", "expected"), [("15m", 900.0), ("250ms", 0.25), ("1d", 86400.0)])
def test_durations_are_read(text, expected):
    assert seconds(text) == expected
    assert seconds(spelled(expected)) == expected


def test_what_is_no_duration_is_refused():
    with pytest.raises(ValueError, match="'soon' is not a duration"):
        seconds("soon")


def outcome(*, ended, fired):
    story = Story(title="t", ends="out of memory" if ended else "nothing", seconds=3600.0, members=())
    return Outcome(
        name="n",
        story=story,
        ended_at_seconds=ended,
        fired=dict.fromkeys((OURS, RESTART, *BASELINES), ()) | {OURS: fired},
        factor=None,
        highest_risk_ratio=0.0,
    )


def test_a_lead_counts_from_the_alert_that_fires_at_the_end():
    assert said(outcome(ended=3000.0, fired=((600.0, 900.0), (2400.0, 3060.0))), OURS) == "10.0 min ahead"
    assert said(outcome(ended=3000.0, fired=((600.0, 900.0),)), OURS) == "silent"
    assert said(outcome(ended=3000.0, fired=((60.0, 3060.0),)), OURS) == "49.0 min ahead (from the start)"


def test_where_nothing_ends_every_minute_of_an_alert_is_false():
    assert said(outcome(ended=None, fired=((0.0, 600.0), (3000.0, 3700.0))), OURS) == "false for 20.0 min of 60.0 min"
    assert said(outcome(ended=None, fired=()), OURS) == "quiet"


def test_the_same_seed_tells_the_same_story():
    for name, teller in SHORT.items():
        first, second = (teller(random.Random(name)) for _ in range(2))
        for one, other in zip(first.members, second.members, strict=True):
            assert [one.level(now) for now in range(0, 3600, 300)] == [other.level(now) for now in range(0, 3600, 300)]

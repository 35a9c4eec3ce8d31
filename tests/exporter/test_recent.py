"""The last hour: what is kept, what is a gap, and that it does not grow."""

import math
import sys

from exporter.recent import MOST_SUBJECTS, SLOTS, SPACING_SECONDS, Recent


def known(values):
    return [value for value in values if not math.isnan(value)]


def test_the_newest_figure_stands_last():
    recent = Recent()
    for minute in range(5):
        recent.note(60.0 * minute, {("gpu", "a"): {"risk": float(minute)}})
    values = recent.of(("gpu", "a"), 240.0)["risk"]
    assert len(values) == SLOTS
    assert values[-1] == 4.0
    assert known(values) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_within_one_spacing_the_last_figure_counts():
    recent = Recent()
    recent.note(100.0, {("gpu", "a"): {"risk": 0.1}})
    recent.note(100.0 + SPACING_SECONDS / 2, {("gpu", "a"): {"risk": 0.5}})
    assert known(recent.of(("gpu", "a"), 105.0)["risk"]) == [0.5]


def test_a_silence_is_a_gap_and_a_slow_interval_is_none():
    recent = Recent()
    for now in (0.0, 30.0, 300.0):
        recent.note(now, {("gpu", "a"): {"risk": 0.5}}, holds_seconds=75.0)
    values = recent.of(("gpu", "a"), 300.0)["risk"]
    assert not any(math.isnan(value) for value in values[-31:-27]), "0 to 30 s: one reading after the other"
    assert all(math.isnan(value) for value in values[-27:-1]), "30 to 300 s: nobody knows"


def test_what_is_over_an_hour_old_is_gone():
    recent = Recent()
    recent.note(0.0, {("gpu", "a"): {"risk": 0.5}})
    assert known(recent.of(("gpu", "a"), SLOTS * SPACING_SECONDS)["risk"]) == []
    recent.note(10 * 3600.0, {("gpu", "a"): {"risk": 0.7}})
    assert len(known(recent.of(("gpu", "a"), 10 * 3600.0)["risk"])) == 1


def test_a_figure_that_is_not_reported_is_a_gap():
    recent = Recent()
    recent.note(0.0, {("gpu", "a"): {"risk": None, "slack": 1.0}})
    assert set(recent.of(("gpu", "a"), 0.0)) == {"slack"}
    assert recent.of(("gpu", "b"), 0.0) == {}


def test_it_holds_no_more_subjects_and_bytes_than_it_says():
    recent = Recent()
    for number in range(3 * MOST_SUBJECTS):
        figures = dict.fromkeys(("a", "b", "c", "d"), 1.0)
        recent.note(float(number), {("engine", str(number), "0"): figures})
    assert len(recent._rings) == MOST_SUBJECTS
    assert recent.of(("engine", "0", "0"), 400.0) == {}
    arrays = sum(sys.getsizeof(ring._values) for rings in recent._rings.values() for ring in rings.values())
    assert arrays < 800_000

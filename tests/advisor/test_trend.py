"""One process's use over time, as the risk model follows it. What becomes of it: test_risk.py."""

import math

import pytest

from advisor.trend import SPACINGS_SECONDS, begun, followed
from advisor.units import GIB, MIB

ALL = range(len(SPACINGS_SECONDS))


def climbing(*, step_bytes=100 * MIB, every_seconds=60.0, steps=120):
    """Return the trace of a process that took 10 GiB and then a step more at even intervals, and when that was."""
    trace, now = begun(0.0, 10 * GIB), 0.0
    for number in range(1, steps + 1):
        now = number * every_seconds
        trace = followed(trace, now, 10 * GIB + number * step_bytes)
    return trace, now


def test_growth_fades_once_a_step_is_overdue_by_half():
    trace, now = climbing()
    top = trace.level_bytes
    for late in (1.0, 1.5, 4.0):
        silent = followed(trace, now + 60.0 * late, top)
        for window in ALL:
            if (growth := silent.windows[window].growth) is None:
                continue
            steps_missed = 60.0 * late * growth.bytes_per_second / (100 * MIB)
            fading = math.exp(-max(0.0, steps_missed - 1.5))
            assert silent.growth_bytes_per_second(window) == pytest.approx(growth.bytes_per_second * fading)
    assert any(silent.windows[window].growth for window in ALL), "otherwise nothing was compared"


def test_one_huge_step_does_not_pass_for_the_usual_one():
    trace, now = climbing()
    assert trace.step_bytes == pytest.approx(100 * MIB)
    huge = followed(trace, now + 60.0, trace.level_bytes + 10 * GIB)
    assert huge.step_bytes == pytest.approx((0.8 + 0.2 * 4) * 100 * MIB)


@pytest.mark.parametrize(("left", "goes_on"), [(0.2, False), (0.3, True)])
def test_a_fall_by_more_than_three_quarters_of_a_rise_makes_it_a_tooth(left, goes_on):
    trace, now = climbing()
    rises = [trace.record_bytes - window.points[0] for window in trace.windows]
    rising = [window for window in ALL if trace.windows[window].growth is not None and trace.windows[window].lows]
    assert rising, "otherwise nothing is compared"
    for window in rising:
        low = min(trace.windows[window].lows)
        fallen = followed(trace, now + 1.0, low + left * rises[window])
        assert (fallen.windows[window].growth is not None) is goes_on, SPACINGS_SECONDS[window]


def test_what_was_found_rising_is_no_longer_when_it_paused_for_longer_than_its_steps_take():
    rate = 100 * MIB / 60.0
    rising, now = climbing(steps=20)
    assert rising.rises_since_first_look(rate)
    for pause, goes_on in ((180.0, True), (900.0, False)):
        trace, then = rising, now + pause
        trace = followed(trace, then, trace.level_bytes)
        for number in range(1, 6):
            trace = followed(trace, then + 60.0 * number, rising.level_bytes + number * 100 * MIB)
        assert trace.rises_since_first_look(rate) is goes_on, pause


@pytest.mark.parametrize(("part", "goes_on"), [(0.2, True), (0.3, False)])
def test_what_was_found_rising_is_no_longer_when_it_fell_by_a_quarter_of_its_rise(part, goes_on):
    rising, now = climbing(steps=20)
    fallen = followed(rising, now + 15.0, rising.level_bytes - part * 20 * 100 * MIB)
    assert fallen.rises_since_first_look(100 * MIB / 60.0) is goes_on


@pytest.mark.parametrize("every_seconds", [5.0, 15.0, 60.0])
def test_what_was_found_rising_is_a_tooth_once_it_was_emptied_however_often_one_looks(every_seconds):
    def looked_at(seconds):
        trace, now = begun(0.0, 10 * GIB), 0.0
        while now < seconds:
            now += every_seconds
            trace = followed(trace, now, 10 * GIB + now % 1200.0 * MIB + 0.2 * now * MIB)  # its floor rises
        return trace

    assert looked_at(1140.0).rises_since_first_look(1.2 * MIB)
    assert not looked_at(2340.0).rises_since_first_look(1.2 * MIB)

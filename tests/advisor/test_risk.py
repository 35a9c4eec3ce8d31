import dataclasses
import json
import math
from dataclasses import replace
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.estimate import Estimate, exactly
from advisor.risk import REMEDIES, Culprit, assess, time_to_oom
from advisor.risk_state import MOST_HOLDERS, GpuState, Holder, Observation, from_json, moved, observe, to_json
from advisor.trend import growth_of
from advisor.units import GIB, MIB

HORIZON = 900.0
HOUR = 3600.0


def engine(held, entitled=None, *, key="engine 1", busy=True):
    entitled = entitled or exactly(held * GIB)
    return Holder(key=key, kind="engine", name="127.0.0.1:8000", held_bytes=held * GIB, entitled=entitled, busy=busy)


def foreign(held_bytes, key="900"):
    return Holder(key=key, kind="foreign", name="", held_bytes=held_bytes)


def between(lower, expected, upper):
    return Estimate(lower=lower * GIB, expected=expected * GIB, upper=upper * GIB)


def lived(holders, *, capacity=80 * GIB, seconds=HOUR, every=15.0, state=None, since=0.0, **more):
    """Return the state after a life told by holders as a function of time, and the last moment."""
    state, now = state or GpuState(), since
    while now <= since + seconds:
        present = holders(now) if callable(holders) else holders
        free = capacity - sum(holder.held_bytes for holder in present)
        seen = Observation(now_seconds=now, free_bytes=max(0.0, free), holders=tuple(present), **more)
        state = observe(state, seen, horizon_seconds=HORIZON)
        now += every
    return state, seen


def said(holders, **more):
    state, seen = lived(holders, **more)
    return assess(state, seen, horizon_seconds=HORIZON)


def leak(rate_gib_an_hour, start=20.0):
    return lambda now: (foreign(start * GIB + rate_gib_an_hour * GIB * now / HOUR),)


def sawtooth(period_seconds, amplitude_bytes, base_bytes=20 * GIB):
    return lambda now: (foreign(base_bytes + amplitude_bytes * (now / period_seconds % 1.0)),)


# The plain cases.


@pytest.mark.parametrize("seconds", [0, 60, 600, HOUR, 24 * HOUR])
def test_lots_free_and_flat_is_no_risk(seconds):
    assert said((engine(30, between(30, 31, 32)),), seconds=seconds).risk_ratio < 0.05


@pytest.mark.parametrize("seconds", [0, 60, 600, HOUR, 24 * HOUR])
def test_less_free_than_an_engine_may_still_claim_is_more_likely_than_not(seconds):
    assert said((engine(75, between(79, 81, 83)),), seconds=seconds, every=60).risk_ratio > 0.5


@pytest.mark.parametrize("seconds", [0, HOUR])
def test_exhausted_is_certain(seconds):
    assessment = said((foreign(80 * GIB - 8 * MIB),), seconds=seconds)
    assert assessment.risk_ratio == 1.0
    assert assessment.factors["exhausted"] == 1.0
    assert assessment.time_to_oom_seconds == 0.0


@pytest.mark.parametrize("seconds", [0, 600, HOUR])
def test_95_percent_used_by_a_preallocated_pool_is_calm(seconds):
    assert said((engine(76.5, between(76.3, 76.5, 77)),), seconds=seconds).risk_ratio < 0.05


def test_every_factor_has_a_probability_and_a_sentence():
    assessment = said((engine(70), foreign(2 * GIB)))
    assert tuple(assessment.factors) == tuple(assessment.sentences) == tuple(REMEDIES)
    assert all(0 <= chance <= 1 for chance in assessment.factors.values())
    assert all(assessment.sentences.values())
    assert set(assessment.remedies) == set(REMEDIES)


# Trend.


def test_a_leak_is_measured_and_named():
    assessment = said(leak(2.0), seconds=2 * HOUR)
    assert assessment.growth_bytes_per_second == pytest.approx(2 * GIB / HOUR, rel=0.02)
    assert "2 GiB an hour" in assessment.sentences["trend"]
    assert "a process that is no vLLM engine" in assessment.sentences["trend"]


def test_a_leak_that_ends_memory_within_the_horizon_is_likely_and_blamed_on_who_leaks():
    assessment = said(leak(20.0, start=59.0), seconds=HOUR)
    assert assessment.risk_ratio > 0.7
    assert assessment.culprit == Culprit(kind="foreign", name="")
    assert assessment.time_to_oom_lower_seconds < assessment.time_to_oom_seconds < assessment.time_to_oom_upper_seconds
    assert assessment.time_to_oom_seconds == pytest.approx(180, rel=0.1)
    assert assessment.growth_lasted_seconds == HOUR


def test_a_rise_of_two_minutes_may_soon_be_over_and_the_time_that_it_leaves_says_how_short_it_was():
    """3 GiB a minute into 13 GiB that are free: four minutes, if it goes on for twice as long as it has."""

    def life(now):
        return (foreign(3 * GIB + max(0.0, now - HOUR) / 60 * 3 * GIB),)

    assessment = said(life, seconds=HOUR + 120, capacity=22 * GIB)
    assert assessment.time_to_oom_seconds == pytest.approx(260, rel=0.05)
    assert assessment.growth_lasted_seconds == 120
    assert assessment.risk_ratio < 120 / (120 + 260)
    assert assessment.sentences["trend"].endswith("what is left lasts 4 min if that goes on")


def test_an_engine_that_leaks_beyond_its_promise_is_named():
    def leaking(now):
        return (replace(engine(70), held_bytes=70 * GIB + 5 * GIB * now / HOUR, entitled=exactly(70 * GIB)),)

    assessment = said(leaking, seconds=HOUR, capacity=75.4 * GIB)
    assert assessment.culprit == Culprit(kind="engine", name="127.0.0.1:8000")
    assert assessment.culprit.spelled == "engine 127.0.0.1:8000"


def test_a_leak_that_leaves_days_is_told_and_no_risk_yet():
    assessment = said(leak(1 / 24), seconds=12 * HOUR)
    assert assessment.growth_bytes_per_second > 0
    assert assessment.risk_ratio < 0.05


def test_an_engine_that_grows_into_what_it_was_promised_does_not_leak():
    def filling(now):
        return (replace(engine(60), held_bytes=60 * GIB + min(10, now / 60) * GIB, entitled=exactly(72 * GIB)),)

    assert said(filling, seconds=800).growth_bytes_per_second == 0


def test_two_minutes_must_be_seen_before_a_trend_is_told():
    assert said(leak(5.0), seconds=100).growth_bytes_per_second is None
    assert said((engine(10),), seconds=130).growth_bytes_per_second == 0


def test_a_fast_leak_shows_within_two_minutes_of_a_calm_hour():
    def sudden(now):
        return (foreign(10 * GIB + max(0.0, now - HOUR) * 50 * MIB),)

    assert said(sudden, seconds=HOUR + 120).growth_bytes_per_second == pytest.approx(50 * MIB, rel=0.1)


@given(at=st.floats(60, 5 * HOUR), size_gib=st.floats(0.05, 30))
@settings(max_examples=20)
def test_a_single_step_is_no_growth(at, size_gib):
    def stepping(now):
        return (foreign((10 + (size_gib if now > at else 0)) * GIB),)

    assert said(stepping, seconds=6 * HOUR, every=60).growth_bytes_per_second == 0


def test_a_leak_is_measured_through_a_step():
    def both(now):
        return (foreign(10 * GIB + GIB * now / HOUR + (4 * GIB if now > 1800 else 0)),)

    assert said(both, seconds=HOUR).growth_bytes_per_second == pytest.approx(GIB / HOUR, rel=0.15)


def test_a_leak_that_stopped_is_over_within_minutes():
    def stopping(now):
        return (foreign(20 * GIB + 10 * GIB * min(now, HOUR) / HOUR),)

    assert said(stopping, seconds=HOUR).growth_bytes_per_second > GIB / HOUR
    assert said(stopping, seconds=HOUR + 600).growth_bytes_per_second < 0.01 * GIB / HOUR


@given(period=st.floats(90, 2 * HOUR), amplitude=st.floats(0.05, 8), cycles=st.floats(2.2, 6))
@settings(max_examples=40)
def test_a_sawtooth_that_was_seen_to_turn_never_counts_as_growth(period, amplitude, cycles):
    every = min(15.0, period / 30)
    state, seen = lived(sawtooth(period, amplitude * GIB), seconds=max(600.0, cycles * period), every=every)
    assessment = assess(state, seen, horizon_seconds=HORIZON)
    # The top is met at another sample each time, so its record may still creep by a sample's worth.
    assert assessment.growth_bytes_per_second <= 0.02 * amplitude * GIB / period
    assert assessment.factors["trend"] < 0.05


@given(amplitude=st.floats(0.5, 10), phase=st.floats(0, 1), hours=st.floats(25, 60))
@settings(max_examples=12)
def test_a_daily_wave_that_was_seen_for_a_day_never_counts_as_growth(amplitude, phase, hours):
    def wave(now):
        return (foreign((20 + amplitude * 0.5 * (1 - math.cos(math.tau * (now / 86_400 + phase)))) * GIB),)

    assessment = said(wave, seconds=hours * HOUR, every=60)
    assert assessment.growth_bytes_per_second == pytest.approx(0, abs=MIB / 60)
    assert assessment.factors["trend"] < 0.01


def test_a_leak_beneath_an_allocators_teeth_is_seen():
    def both(now):
        return (foreign(20 * GIB + 2 * GIB * (now / 900 % 1.0) + GIB * now / HOUR),)

    assert said(both, seconds=6 * HOUR).growth_bytes_per_second == pytest.approx(GIB / HOUR, rel=0.3)


def test_a_leak_has_only_what_recent_peaks_of_others_leave():
    """A neighbour that swings by 6 GiB is low now: of 7 GiB that are free, one is left to the leak."""

    def leaking_beside(swing):
        def life(now):
            peak = swing if now % 1800 < 900 else 0
            return (foreign(20 * GIB + GIB * now / HOUR), foreign(20 * GIB + peak, key="901"))

        return said(life, seconds=5.4 * HOUR, capacity=(20 + 5.4 + 20 + 7) * GIB).sentences["trend"]

    assert "what is left lasts 7.0 h if that goes on" in leaking_beside(0)
    assert "what is left lasts 105 min" in leaking_beside(6 * GIB)  # no less than a quarter of what is free


def test_growth_that_began_after_a_calm_is_believed_sooner_than_growth_that_was_there_at_the_first_look():
    """Twelve minutes of the same growth that leaves ten more: a cycle's flank, or a leak that began under our eyes."""

    def growing_from(start):
        return lambda now: (foreign(20 * GIB + max(0.0, now - start) * 2 * MIB),)

    room = 22 * 60 * 2 * MIB
    found = said(growing_from(0.0), seconds=720, capacity=20 * GIB + room)
    began = said(growing_from(900.0), seconds=900 + 720, capacity=20 * GIB + room)
    assert found.growth_bytes_per_second == pytest.approx(began.growth_bytes_per_second)
    assert found.factors["trend"] < 0.05
    assert began.factors["trend"] > 0.25


def test_a_process_that_came_under_our_eyes_was_not_found_rising():
    def guest(now):
        return (engine(60), *((foreign(GIB + (now - HOUR) * 2 * MIB, key="901"),) if now >= HOUR else ()))

    def there(now):
        return (engine(60), foreign(GIB + now * 2 * MIB, key="901"))

    room = 61 * GIB + 30 * 60 * 2 * MIB
    came, found = said(guest, seconds=HOUR + 1200, capacity=room), said(there, seconds=1200, capacity=room)
    assert came.factors["trend"] > found.factors["trend"] > 0


def test_a_leak_that_was_there_at_the_first_look_is_told_before_it_ends_memory():
    hour_long = leak(10.0)
    assert said(hour_long, seconds=HOUR - 330, capacity=30 * GIB).factors["trend"] > 0.5


def test_a_restart_resets_the_trend_of_the_process_that_restarted():
    state, seen = lived(leak(20.0, start=40.0), seconds=HOUR)
    assert assess(state, seen, horizon_seconds=HORIZON).growth_bytes_per_second > 0
    state, seen = lived((foreign(40 * GIB, key="901"),), state=state, since=HOUR + 15, seconds=15)
    after = assess(state, seen, horizon_seconds=HORIZON)
    assert after.growth_bytes_per_second == 0
    assert after.factors["trend"] == 0


def test_growth_needs_several_steps_and_leaves_out_the_largest():
    assert growth_of((0, 0, 0, 0, 100, 100, 100), 10, 3) is None
    assert growth_of((0, 10, 20, 30, 1030, 1040), 10, 3).bytes_per_second == 1
    assert growth_of((0, 10, 20, 30, 40, 40, 40), 10, 3) is None, "two steps without growth end it"


def test_after_a_gap_what_came_meanwhile_is_one_step():
    state, _ = lived((foreign(20 * GIB),), seconds=HOUR)
    state, seen = lived((foreign(23 * GIB),), state=state, since=HOUR + 1800, seconds=0)
    assert assess(state, seen, horizon_seconds=HORIZON).growth_bytes_per_second == 0


# Claims.


def test_claims_that_were_not_called_in_for_long_weigh_less():
    narrow = (engine(77, between(77, 78, 80.6)),)
    fresh, proven = (said(narrow, seconds=seconds).factors["claims"] for seconds in (0, 6 * HOUR))
    assert 0.05 < fresh < 0.4
    assert proven < fresh / 10


def test_claims_that_may_be_nothing_fade_with_the_hours_worked_and_those_that_are_sure_do_not():
    """Between 0 and 1.2 GiB where 0.4 are free: what is lacking is within the error of what an engine needs."""
    doubtful = (engine(79.6, between(79.4, 80.2, 80.8)),)
    sure = (engine(79.6, between(79.9, 80.2, 80.8)),)
    fresh, long = (said(doubtful, seconds=seconds).factors["claims"] for seconds in (0, 6 * HOUR))
    assert fresh > 0.5
    assert long < 0.1
    assert said(sure, seconds=6 * HOUR).factors["claims"] >= 0.5


def test_idle_time_proves_nothing_about_claims():
    idle = (engine(77, between(77, 78, 80.6), busy=False),)
    assert said(idle, seconds=6 * HOUR).factors["claims"] == said(idle, seconds=0).factors["claims"]


def test_two_engines_that_may_claim_more_than_there_is_are_over_committed():
    second = replace(engine(35, between(39, 40, 41), key="engine 2"), name="second")
    both = (engine(40, between(43, 44, 45)), second)
    assessment = said(both)
    assert assessment.factors["claims"] > 0.5
    assert assessment.culprit.kind == "engine"
    assert "may still claim 9.00 GiB" in assessment.sentences["claims"]
    assert "; second 5.00 GiB, 127.0.0.1:8000 4.00 GiB) of the 5.00 GiB" in assessment.sentences["claims"]


# Volatility and foreign processes.


def test_flat_use_earns_trust():
    little_free = (foreign(79.9 * GIB),)
    assert said(little_free, seconds=0).factors["volatility"] > 0.1
    assert said(little_free, seconds=24 * HOUR, every=60).factors["volatility"] < 0.01


def test_use_that_rose_by_what_is_free_before_may_do_so_again():
    def bursting(now):
        return (foreign((20 + (5 if 0 < now % 3000 < 300 else 0) + now // 3000) * GIB),)

    calm = said((foreign(29 * GIB),), seconds=9 * 3000 + 1000)
    wild = said(bursting, seconds=9 * 3000 + 1000, capacity=35 * GIB)
    assert wild.factors["volatility"] > 10 * calm.factors["volatility"]


def test_a_peak_that_a_neighbour_left_no_room_for_is_a_risk():
    def busy(now):
        return (*sawtooth(600, 6 * GIB)(now), *((foreign(56 * GIB, key="901"),) if now > 2 * HOUR else ()))

    assert said(busy, seconds=2 * HOUR + 30).factors["volatility"] > 0.5


def test_a_new_foreign_process_is_a_risk_until_it_settles():
    def guest(now):
        return (engine(60), *((foreign(10 * GIB, key="901"),) if now >= HOUR else ()))

    new, settled = (said(guest, seconds=HOUR + after).factors["foreign"] for after in (15, 590))
    assert new > 0.3
    assert settled < 0.01
    assert "came lately" in said(guest, seconds=HOUR + 15).sentences["foreign"]


def test_a_process_came_lately_for_ten_minutes():
    def guest(now):
        return (engine(60), *((foreign(GIB + (now - HOUR) * MIB, key="901"),) if now >= HOUR else ()))

    early, late = (said(guest, seconds=HOUR + after, capacity=63 * GIB) for after in (600, 615))
    assert "came lately" in early.sentences["foreign"]
    assert "came lately" not in late.sentences["foreign"]
    assert late.factors["foreign"] < early.factors["foreign"] / 10


def test_a_process_that_was_there_at_the_first_look_has_not_come():
    assert said((foreign(70 * GIB),), seconds=0).factors["foreign"] < 0.01


def test_a_process_list_that_fails_for_a_moment_brings_no_risk():
    def flickering(now):
        held = 70 * GIB
        if 1800 <= now < 1815:
            return (Holder(key="driver", kind="driver", name="", held_bytes=held),)
        return (foreign(held), Holder(key="driver", kind="driver", name="", held_bytes=0.0))

    for seconds in (1800, 1815, 1830, 2700, 3600):
        assert said(flickering, seconds=seconds).risk_ratio < 0.05


def test_guests_that_came_before_are_expected_again():
    def often(now):
        return (engine(60), *((foreign(15 * GIB, key=f"{now // HOUR}"),) if now % HOUR > 1800 else ()))

    calm = said((engine(60),), seconds=12 * HOUR, capacity=70 * GIB).factors["foreign"]
    state, _ = lived(often, seconds=12 * HOUR)
    crowded, seen = lived((engine(60),), state=state, since=12 * HOUR + 15, seconds=0, capacity=70 * GIB)
    assert assess(crowded, seen, horizon_seconds=HORIZON).factors["foreign"] > 10 * calm


# Events.


@pytest.mark.parametrize(
    ("xids", "least"), [({79: 1}, 0.4), ({94: 1}, 0.2), ({31: 1}, 0.01), ({}, 0.0)], ids=["lost", "ecc", "app", "none"]
)
def test_xid_errors_weigh_by_what_they_end(xids, least):
    chance = said((engine(30),), seconds=0, xid_errors=xids).factors["events"]
    assert least <= chance <= least * 2 + 0.05


def test_an_event_fades():
    now = said((engine(30),), seconds=0, xid_errors={79: 1}).factors["events"]
    later = said((engine(30),), seconds=2 * HOUR, xid_errors={79: 1}).factors["events"]
    assert later < now / 100


def test_ecc_errors_of_the_past_are_no_event_and_new_ones_are():
    state, seen = lived((engine(30),), seconds=0, ecc_uncorrected_errors=7)
    assert assess(state, seen, horizon_seconds=HORIZON).factors["events"] == 0
    state, seen = lived((engine(30),), state=state, since=15, seconds=0, ecc_uncorrected_errors=8)
    assessment = assess(state, seen, horizon_seconds=HORIZON)
    assert assessment.factors["events"] > 0.1
    assert assessment.sentences["events"] == "an uncorrected ECC error"


def test_the_first_xid_after_a_restart_of_the_daemon_is_news_whatever_the_one_before_had_counted():
    state, _ = lived((engine(30),), seconds=0, xid_errors={79: 1})
    (restored,) = from_json(to_json({"GPU-0": state})).values()
    calm, _ = lived((engine(30),), state=restored, since=2 * HOUR, seconds=0)
    state, seen = lived((engine(30),), state=calm, since=2 * HOUR + 15, seconds=0, xid_errors={79: 1})
    assert assess(state, seen, horizon_seconds=HORIZON).factors["events"] > 0.4


def test_the_host_memory_limit_is_near():
    assert said((engine(30),), seconds=0, host_memory_ratio=0.8).factors["events"] == 0
    near = said((engine(30),), seconds=0, host_memory_ratio=0.99)
    assert near.factors["events"] > 0.7
    assert "99%" in near.sentences["events"]
    assert near.remedies["events"].startswith("raise the memory limit of the engine's container")
    assert near.culprit is None, "the GPU's driver has nothing to do with it"


def test_row_remapping_is_told():
    assert "waits for a GPU reset" in said((engine(30),), seconds=0, row_remap_pending=True).sentences["events"]
    failed = said((engine(30),), seconds=0, row_remap_failed=True)
    assert failed.factors["events"] == pytest.approx(0.1)
    assert failed.remedies["events"].startswith("look at dmesg")
    assert failed.culprit == Culprit(kind="driver", name="")


# Time.


def test_time_to_oom_is_infinite_without_growth_and_unknown_before_a_trend_can_be_told():
    assert time_to_oom(GIB, GIB, 0.0) == (math.inf,) * 3
    assert time_to_oom(GIB, GIB, None) == (None,) * 3
    expected, lower, upper = time_to_oom(GIB, GIB / 2, MIB)
    assert expected == 512
    assert lower < expected < 2 * expected < upper


def test_the_bounds_of_time_to_oom_hold_nine_in_ten():
    largest = math.exp(0.2 * NormalDist().inv_cdf(0.95))  # of the rate over its expected value
    _, lower, upper = time_to_oom(GIB, GIB / 2, MIB, spread=0.2)
    assert lower == pytest.approx(512 / largest, rel=1e-3)
    assert upper == pytest.approx(1024 * largest, rel=1e-3)


def test_the_lowest_slack_is_kept_for_a_day_and_then_forgotten():
    def dip(now):
        return (foreign((70 if 900 < now < 1000 else 40) * GIB),)

    assert lived(dip, seconds=20 * HOUR, every=30)[0].lowest_slack_bytes == 10 * GIB
    assert lived(dip, seconds=50 * HOUR, every=30)[0].lowest_slack_bytes == 40 * GIB


# The state.


@st.composite
def lives(draw):
    """Return some GPU's life: engines and strangers that come, go, grow and shrink."""
    moments, now = [], 0.0
    for _ in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([5.0, 15.0, 60.0, 900.0, 40_000.0]))
        strangers = draw(st.dictionaries(st.sampled_from(["1", "2", "3"]), st.integers(0, 20).map(lambda n: n * GIB)))
        held = draw(st.floats(0, 40))
        holders = (
            engine(held, between(30, 32, 34)),
            *(foreign(size, key=key) for key, size in strangers.items()),
        )
        moments.append(Observation(now_seconds=now, free_bytes=draw(st.floats(0, 40 * GIB)), holders=holders))
    return moments


def folded(moments):
    state = GpuState()
    for seen in moments:
        state = observe(state, seen, horizon_seconds=HORIZON)
    return state


@given(life=lives(), more=st.floats(0, 40 * GIB))
@settings(max_examples=150)
def test_more_free_never_raises_risk(life, more):
    state, seen = folded(life), life[-1]
    less = assess(state, seen, horizon_seconds=HORIZON)
    roomier = assess(state, replace(seen, free_bytes=seen.free_bytes + more), horizon_seconds=HORIZON)
    assert 0 <= roomier.risk_ratio <= less.risk_ratio + 1e-9 <= 1 + 2e-9
    for factor in REMEDIES:
        assert roomier.factors[factor] <= less.factors[factor] + 1e-9


@given(life=lives())
@settings(max_examples=100)
def test_the_state_survives_being_written_and_read(life):
    state = folded(life)
    assert from_json(to_json({"GPU-0": state})) == {"GPU-0": state}


def test_a_state_that_never_saw_anything_survives_too():
    assert from_json(to_json({"GPU-0": GpuState()})) == {"GPU-0": GpuState()}


def test_a_clock_that_starts_anew_shifts_every_time():
    state, seen = lived(leak(20.0, start=59.0), seconds=HOUR)
    later = moved(state, 1e6)
    there = replace(seen, now_seconds=seen.now_seconds + 1e6)
    assert assess(later, there, horizon_seconds=HORIZON) == assess(state, seen, horizon_seconds=HORIZON)
    assert moved(later, -1e6) == state
    assert moved(GpuState(), 5.0) == GpuState()


def test_the_same_moment_twice_changes_nothing():
    state, seen = lived(leak(2.0))
    assert observe(state, seen, horizon_seconds=HORIZON) is state


def test_the_state_stays_small_however_long_and_crowded_the_life():
    crowd = tuple(foreign(1.234567e8 + number, key=str(4_000_000 + number)) for number in range(60))

    def crowded(now):
        return tuple(replace(each, held_bytes=each.held_bytes + now * 12345.6) for each in crowd)

    state, _ = lived(crowded, seconds=30 * HOUR, every=60)
    assert len(state.holders) == MOST_HOLDERS
    assert len(to_json({"GPU-0": state})) < 64 * 1024
    two, _ = lived((engine(70), foreign(2 * GIB)), seconds=30 * HOUR, every=60)
    assert len(to_json({"GPU-0": two})) < 8 * 1024


def damaged():
    """Yield what a good file can be made into by one change."""
    state, _ = lived((engine(70), foreign(2 * GIB)), seconds=1000)
    text = to_json({"GPU-0": state})
    yield ""
    yield "[]"
    yield "null"
    yield "[" * 5000
    yield text[: len(text) // 2]
    yield text.replace('"format":1', '"format":2')
    yield text.replace('"kind":"engine"', '"kind":"ghost"')
    yield text.replace('"arrived":false', '"arrived":3')
    yield text.replace('"level_bytes":', '"level_bytes":"x","was":', 1)
    yield text.replace('"free_bytes":', '"free_bytes":NaN,"was":')
    yield text.replace('"free_bytes":', '"free_bytes":1e999,"was":')
    for name in (each.name for each in dataclasses.fields(GpuState)):
        data = json.loads(text)
        del data["gpus"]["GPU-0"][name]
        yield json.dumps(data)
        data["gpus"]["GPU-0"][name] = [[[]]] if "bytes" in name else 7
        yield json.dumps({**data, "gpus": {"GPU-0": data["gpus"]["GPU-0"] if "seconds" not in name else 7}})
    data = json.loads(text)
    next(iter(data["gpus"]["GPU-0"]["holders"].values()))["trace"]["windows"] = []
    yield json.dumps(data)
    data = json.loads(text)
    next(iter(data["gpus"]["GPU-0"]["holders"].values()))["trace"]["windows"][0]["points"] = []
    yield json.dumps(data)


def test_a_damaged_state_is_refused():
    for text in damaged():
        with pytest.raises(ValueError, match=r"risk state"):
            from_json(text)


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_a_foreign_file_is_refused(text):
    with pytest.raises(ValueError, match=r"risk state"):
        from_json(text)

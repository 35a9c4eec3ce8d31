import random

import pytest

from advisor.policy import Policy
from advisor.units import GIB
from bench.backtest.report import report
from bench.backtest.rules import free_1_gib, predict_linear, used_95_percent
from bench.backtest.run import KINDS, run
from bench.backtest.scene import HOUR, Part, Scene, constant, ramp, stairs
from bench.backtest.score import KEEP_FIRING_SECONDS, _scored, episodes, judge, play

TIMES = [15.0 * number for number in range(100)]


def leaking(*, gib_an_hour, room_gib, seconds=6 * HOUR):
    scene = Scene(capacity_bytes=80 * GIB, seconds=seconds, cause_at_seconds=0.0)
    rate = gib_an_hour * GIB / HOUR
    scene.parts.append(Part(key="a", kind="foreign", level=lambda now: (80 - room_gib) * GIB + rate * now))
    return scene


def test_there_are_sixteen_kinds_or_more_and_each_starts_on_a_gpu_that_holds_it():
    assert len(KINDS) >= 16
    for name, kind in KINDS.items():
        assert any(not next(kind(random.Random(f"{name} {seed}")).moments())[1] for seed in range(5)), name


def test_memory_ends_when_more_is_wanted_than_there_is():
    moments = list(leaking(gib_an_hour=1, room_gib=2).moments())
    last, over = moments[-1]
    assert over
    assert last.now_seconds == pytest.approx(2 * HOUR, abs=60)
    assert not any(ended for _, ended in moments[:-1])


def test_in_a_gap_nothing_is_seen_but_memory_ends_all_the_same():
    scene = leaking(gib_an_hour=1, room_gib=2)
    scene.gaps.append((HOUR, 3 * HOUR))
    moments = list(scene.moments())
    assert moments[-2][0].now_seconds < HOUR
    assert moments[-1][0].now_seconds == pytest.approx(2 * HOUR, abs=60)


def test_stairs_leak_at_their_mean_rate():
    level = stairs(random.Random(1), constant(0), from_seconds=0, bytes_per_second=GIB / HOUR, stair_bytes=GIB / 200)
    for now in range(0, 36_000, 15):
        level(float(now))
    assert level(36_000.0) == pytest.approx(10 * GIB, rel=0.1)


def test_a_ramp_stays_where_it_ends():
    level = ramp(100, 50, 3 * GIB, start_bytes=GIB)
    assert [level(now) / GIB for now in (0, 100, 125, 150, 900)] == [1, 1, 2, 3, 3]


def test_an_alert_waits_for_its_duration_and_keeps_firing():
    truth = [10 <= number < 20 for number in range(100)]
    assert episodes(TIMES, truth, 60.0) == [(14 * 15.0, 19 * 15.0 + KEEP_FIRING_SECONDS)]
    assert episodes(TIMES, [number % 3 == 0 for number in range(100)], 60.0) == []


def test_a_pending_alert_forgets_over_a_gap():
    times = [0.0, 15.0, 1000.0, 1015.0]
    assert episodes(times, [1, 1, 1, 1], 30.0) == []


def test_an_alert_that_is_followed_by_nothing_is_false():
    score = _scored([(0.0, 700.0)], 7200.0, None, ended=False)
    assert (score.lead_seconds, score.false_alarms, score.false_seconds) == (None, 1, 700.0)


def test_an_alert_that_always_fires_recalls_and_is_false_until_there_is_a_cause():
    score = _scored([(0.0, 8000.0)], 7200.0, 5000.0, ended=True)
    assert (score.lead_seconds, score.false_alarms, score.false_seconds) == (7200.0, 1, 5000.0)


def test_an_alert_after_the_cause_is_not_false():
    assert _scored([(6000.0, 8000.0)], 7200.0, 5000.0, ended=True).false_alarms == 0


def test_predict_linear_extrapolates_a_straight_line():
    rule = predict_linear(3600, 900)
    rate = GIB / 1000
    fires = [now for now in range(0, 4000, 15) if rule(float(now), 4 * GIB - now * rate, 80 * GIB)]
    assert fires[0] == pytest.approx(3100, abs=15)


def test_the_simple_rules_hold_where_they_say():
    assert used_95_percent()(0, 3.9 * GIB, 80 * GIB)
    assert not used_95_percent()(0, 4.1 * GIB, 80 * GIB)
    assert free_1_gib()(0, 0.9 * GIB, 80 * GIB)
    assert not free_1_gib()(0, 1.1 * GIB, 80 * GIB)


def test_a_steady_leak_is_alerted_ahead_and_without_false_alarm():
    score = judge(leaking(gib_an_hour=2, room_gib=3), Policy())
    alert = score.alerts[str(Policy().oom_risk_warning_ratio)]
    assert score.ended
    assert score.visible
    assert 300 <= alert.lead_seconds <= 1800
    assert alert.false_alarms == 0


def test_the_same_seed_tells_the_same_history():
    policy = Policy()
    assert play(KINDS["fast_leak"], "7", policy) == play(KINDS["fast_leak"], "7", policy)


def test_the_report_has_every_kind_and_is_the_same_each_time():
    kinds = {name: KINDS[name] for name in ("fast_leak", "step")}
    first = report(run(kinds, seeds=2, processes=1, policy=Policy()), Policy())
    assert first == report(run(kinds, seeds=2, processes=1, policy=Policy()), Policy())
    assert "| fast leak * | 2 |" in first
    assert "| step | 2 |" in first

import itertools
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from advisor.load import EngineLoad
from advisor.pressure import Pressure, because, preemption_risk_ratio, pressure, time_to_kv_exhaustion_seconds
from advisor.tuning import Holding, holding
from tests.advisor.loads import conversation, fed, page, served, told

HORIZON = 300.0


def now(
    *,
    running=16.0,
    waiting=0.0,
    used=9_600.0,
    capacity=12_288.0,
    limit=64,
    mean=600.0,
    spread=0.7,
    growth=0.0,
    chance=0.0,
    preempted=0.0,
    observed=600.0,
    usual=None,
    turnover=20.0,
    arrivals=None,
    dispersion=1.0,
    preempts=0.2,
):
    return Pressure(
        running=running,
        waiting=waiting,
        used_tokens=used,
        capacity_tokens=capacity,
        max_num_seqs=limit,
        held=Holding(mean_tokens=mean, spread_tokens=spread * mean, finished=1_000.0, turnovers=100.0),
        turnover_seconds=turnover,
        arrivals_over_completions=growth,
        growth_error_per_second=chance,
        growth_seen_seconds=observed,
        arrivals_per_second=running / turnover if arrivals is None else arrivals,
        dispersion=dispersion,
        preempts_ratio=preempts,
        completions_per_second=running / turnover,
        spells=preempted,
        observed_seconds=observed,
        usual_fullness_ratio=used / capacity if usual is None else usual,
    )


def test_95_percent_full_with_nobody_waiting_and_nobody_preempted_is_healthy():
    healthy = now(running=200, used=95_000, capacity=100_000, mean=475, spread=0.6)
    assert preemption_risk_ratio(healthy, HORIZON) < 0.2
    assert time_to_kv_exhaustion_seconds(healthy) == math.inf


def test_the_same_usage_with_a_queue_let_in_is_not():
    crowded = now(running=200, waiting=100, used=95_000, capacity=100_000, mean=475, spread=0.6, limit=512)
    assert preemption_risk_ratio(crowded, HORIZON) > 0.9
    assert time_to_kv_exhaustion_seconds(crowded) < 30


def test_a_queue_that_max_num_seqs_keeps_out_is_no_pressure():
    kept = now(running=8, waiting=100, used=4_800, limit=8)
    assert preemption_risk_ratio(kept, HORIZON) < 0.05
    assert time_to_kv_exhaustion_seconds(kept) == math.inf


def test_an_idle_engine_has_no_risk():
    idle = now(running=0, used=0.0)
    assert preemption_risk_ratio(idle, HORIZON) < 0.01
    assert time_to_kv_exhaustion_seconds(idle) == math.inf


def test_who_has_just_begun_will_grow():
    begun = now(running=16, used=2_000, mean=900)
    assert time_to_kv_exhaustion_seconds(begun) < 60
    assert preemption_risk_ratio(begun, HORIZON) > preemption_risk_ratio(now(running=8, used=2_000), HORIZON)


def test_demand_that_grows_fills_the_cache_when_it_gets_there():
    growing = now(running=8, used=4_800, growth=0.05, turnover=5.0)
    # 12,288 tokens are 20.5 requests of 600, 12.5 more than run now: 250 s at one in 20 s.
    assert time_to_kv_exhaustion_seconds(growing) == pytest.approx(250, abs=15)
    assert time_to_kv_exhaustion_seconds(now(running=8, used=4_800, growth=0.05, turnover=5.0, limit=12)) == math.inf


def test_growth_that_may_be_chance_or_was_seen_for_a_moment_only_is_not_spun_on():
    few = {"running": 8, "used": 4_800, "growth": 0.05, "turnover": 5.0}
    assert time_to_kv_exhaustion_seconds(now(**few, chance=0.03)) == math.inf
    assert time_to_kv_exhaustion_seconds(now(**few, observed=120.0)) == math.inf
    assert time_to_kv_exhaustion_seconds(now(**few, chance=0.005)) < math.inf


def test_preemptions_seen_lately_are_believed_over_the_model():
    calm, busy = now(), now(preempted=30.0)
    assert preemption_risk_ratio(busy, HORIZON) > 0.99
    assert preemption_risk_ratio(calm, HORIZON) < 0.7


def test_preemptions_in_a_rush_say_nothing_about_the_idle_time_after_it():
    assert preemption_risk_ratio(now(running=0, used=0.0, preempted=50.0, usual=0.9), HORIZON) < 0.01


def after_a_rush(*, running):
    """Return the pressure in the calm after three minutes that overfilled the cache, with so many running then."""
    calm = [(3.0, 0.0, 0.1, second // 4, 0) for second in range(120)]
    rush = [(26.0, 20.0, 0.98, 30 + 2 * second, second // 5) for second in range(180)]
    after = [(3.0, 0.0, 0.1, 390 + second // 4, 36) for second in range(60)]
    after.append((running, 0.0, running * 450 / 12_288, 405, 36))
    pages = [
        page(running=ran, waiting=waited, usage=usage, finished=finished, preempted=preempted)
        for ran, waited, usage, finished, preempted in calm + rush + after
    ]
    load = fed(pages)
    return pressure(
        load,
        holding(load, max_model_len=2048, block_size=16),
        running=running,
        waiting=0.0,
        used_tokens=running * 450,
        capacity_tokens=12_288,
        max_num_seqs=64,
        preempts_ratio=0.13,
    )


def test_in_the_calm_after_a_rush_one_request_more_or_less_changes_little():
    said = [preemption_risk_ratio(after_a_rush(running=float(each)), HORIZON) for each in range(1, 6)]
    assert max(abs(more - less) for less, more in itertools.pairwise(said)) < 0.1


def test_load_that_changed_is_no_chance_that_brings_it_back_within_a_turnover():
    assert after_a_rush(running=3.0).dispersion < 2


def test_one_request_more_than_there_is_room_for_makes_a_rush_no_safer():
    rush = {"used": 12_000.0, "arrivals": 0.4, "usual": 0.2, "preempted": 1.0, "observed": 140.0}
    room = 12_288 / 600
    just, more = (now(running=each, **rush) for each in (math.floor(room), math.ceil(room)))
    assert preemption_risk_ratio(more, HORIZON) > preemption_risk_ratio(just, HORIZON)


def test_calm_minutes_at_half_the_usage_say_nothing_about_a_full_cache():
    full = {"running": 20.0, "used": 12_000.0}
    assert preemption_risk_ratio(now(**full, usual=0.4), HORIZON) > preemption_risk_ratio(now(**full), HORIZON)


def test_calm_minutes_with_a_fuller_cache_say_as_much_about_an_emptier_one():
    emptier = {"running": 18.0, "used": 10_800.0, "observed": 3_600.0}
    as_full = preemption_risk_ratio(now(**emptier), HORIZON)
    assert preemption_risk_ratio(now(**emptier, usual=1.0), HORIZON) == pytest.approx(as_full)
    assert preemption_risk_ratio(now(**emptier, usual=0.5), HORIZON) > as_full


def test_a_cache_that_is_nearly_full_is_full_to_those_who_wait():
    nearly = {"running": 20.0, "used": 0.995 * 12_288, "mean": 600.0, "limit": 20}
    assert time_to_kv_exhaustion_seconds(now(**nearly, waiting=1.0)) == 0.0
    assert time_to_kv_exhaustion_seconds(now(**nearly)) == math.inf


def test_few_who_are_there_by_chance_do_not_hide_a_demand_that_comes_back():
    few = {"running": 6.0, "used": 3_600.0}
    assert preemption_risk_ratio(now(**few, arrivals=1.0), HORIZON) > 2 * preemption_risk_ratio(now(**few), HORIZON)


def test_clients_that_keep_their_number_up_are_less_of_a_risk_than_requests_that_come_by_chance():
    kept, chance = (now(running=18, used=10_800, spread=0.1, dispersion=each, observed=60.0) for each in (0.02, 1.0))
    assert preemption_risk_ratio(kept, HORIZON) < 0.1
    assert preemption_risk_ratio(chance, HORIZON) > 0.5


def test_an_overflow_that_mostly_keeps_prompts_waiting_preempts_less():
    long_prompts, long_answers = (now(preempts=each, observed=60.0) for each in (0.005, 0.5))
    assert preemption_risk_ratio(long_prompts, HORIZON) < preemption_risk_ratio(long_answers, HORIZON)


def test_calm_under_the_same_queue_counts_as_calm_and_calm_before_the_queue_does_not():
    queued = {"waiting": 30.0, "used": 11_900.0, "running": 20.0}
    as_usual, new = now(**queued, usual=1.2), now(**queued, usual=0.8)
    assert preemption_risk_ratio(as_usual, HORIZON) < 0.3 < preemption_risk_ratio(new, HORIZON)


def test_blocks_that_only_the_prefix_cache_keeps_are_free():
    _, scheduler, _ = served([(600, 20)] * 8, max_num_seqs=8, shared_prefix_tokens=512)
    assert scheduler.num_used_blocks == 0
    assert scheduler.num_free_blocks == 95


@given(used=st.floats(0, 12_288), more=st.floats(0, 12_288), running=st.floats(0, 30), waiting=st.floats(0, 100))
@example(used=0.0, more=47.0, running=0.0, waiting=45.375)
@settings(max_examples=200)
def test_the_risk_is_a_probability_and_rises_with_usage(used, more, running, waiting):
    few, many = (
        preemption_risk_ratio(now(running=running, waiting=waiting, used=each, usual=0.5), HORIZON)
        for each in (used, min(12_288.0, used + more))
    )
    assert 0 <= few <= many + 1e-9 <= 1 + 2e-9


def test_what_the_risk_rests_on_is_told_in_words():
    each = "each holds 600 tokens on average (spread 420)"
    assert because(now(waiting=10.0, growth=0.2)) == (
        f"16 requests run and 10 wait; {each}, 127% of the KV cache once all of them run; demand grows by 12.0 "
        "requests a minute; in the last 10 min of load it preempted never"
    )
    assert because(now(waiting=100.0, limit=20, growth=-0.2, preempted=1.2)) == (
        f"16 requests run and 100 wait; {each}, 98% of the KV cache once those that max-num-seqs lets in run; demand "
        "falls by 12.0 requests a minute; in the last 10 min of load it preempted about 1 time"
    )
    assert because(now(waiting=5.0, limit=16, observed=0.0, usual=0.0)) == (
        f"16 requests run and 5 wait; {each}, 78% of the KV cache; demand neither grows nor falls beyond chance"
    )


def test_nothing_is_said_before_a_few_requests_have_finished():
    told_now = {"running": 4.0, "waiting": 0.0, "used_tokens": 100.0, "capacity_tokens": 1_000.0, "max_num_seqs": 8}
    assert pressure(EngineLoad(model_name="m"), None, **told_now) is None
    load = told()
    assert pressure(load, holding(load, max_model_len=2048, block_size=16), **told_now) is not None
    assert pressure(load, holding(load, max_model_len=2048, block_size=16), **told_now | {"running": None}) is None


@pytest.mark.parametrize(("limit", "is_risky"), [(64, True), (8, False)])
def test_what_the_scheduler_did_is_what_was_said(limit, is_risky):
    load, scheduler, _ = served(conversation(), max_num_seqs=limit)
    held = holding(load, max_model_len=2048, block_size=16)
    running = min(limit, load.slow.running / load.slow.sampled_seconds)
    used = running * held.mean_tokens
    said = pressure(
        load,
        held,
        running=running,
        waiting=50.0,
        used_tokens=min(used, 12_000.0),
        capacity_tokens=12_288,
        max_num_seqs=limit,
    )
    risk = preemption_risk_ratio(said, HORIZON)
    assert (scheduler.num_preemptions > 0) is is_risky
    assert (risk > 0.9) if is_risky else (risk < 0.1)

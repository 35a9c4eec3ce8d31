import dataclasses
import json
import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.load import (
    DEMAND_BOUNDS,
    FAST_HALF_LIFE_SECONDS,
    MOST_BUCKETS,
    MOST_ENGINES,
    SETTLE_SECONDS,
    SLOW_HALF_LIFE_SECONDS,
    EngineLoad,
    Lengths,
    Sums,
    from_json,
    interrupted,
    lengths_between,
    to_json,
)
from advisor.readings import Histogram
from tests.advisor.loads import fed, page, told


def test_the_first_page_only_begins():
    load = fed([page(running=4, finished=50)])
    assert load.slow == Sums()
    assert load.watched_finished == 0


def test_what_comes_between_two_pages_is_counted():
    load = fed(
        [page(running=4, usage=0.2), page(running=5, waiting=2, usage=0.25, finished=3, preempted=1)], seconds=2.0
    )
    assert load.slow.busy_seconds == pytest.approx(2.0)
    assert load.slow.running == pytest.approx(10.0)
    assert load.slow.used == pytest.approx(2 * 0.25 * 12_288)
    assert (load.slow.finished, load.slow.preempted) == (3, 1)
    assert load.slow.arrived == 3 + (5 + 2) - 4
    assert load.prompt_tokens.mean == 400
    assert load.generation_tokens.mean == 100
    assert load.demand(0.999) == 7


def test_a_rush_of_preemptions_is_one_spell_and_preemptions_a_life_apart_are_several():
    # 8 run and 2 a second finish: a request lives for four seconds.
    rush, apart = (
        fed([page(running=8, finished=2 * second, preempted=counter(second)) for second in range(61)])
        for counter in (lambda second: min(5, max(0, second - 30)), lambda second: second // 20)
    )
    assert rush.fast.preempted == pytest.approx(5, rel=0.1)
    assert 1.5 < rush.fast.spells < 3.1  # five seconds of it are a life and a quarter: every half a life counts
    assert apart.fast.spells == pytest.approx(apart.fast.preempted) == pytest.approx(3, rel=0.1)


def test_moments_weigh_by_the_time_they_stand_for():
    pages = [page(running=2 + n % 5, usage=0.1 * (1 + n % 5), finished=n) for n in range(101)]
    often = fed(pages, seconds=0.1)
    seldom = fed([each for each in pages for _ in (1,)], seconds=1.0)
    for load in (often, seldom):
        assert load.slow.used / load.slow.running == pytest.approx(seldom.slow.used / seldom.slow.running, rel=1e-3)


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.0, 1.0)), min_size=3, max_size=30), st.randoms())
@settings(max_examples=50)
def test_the_order_of_samples_does_not_matter(moments, chance):
    shuffled = list(moments)
    chance.shuffle(shuffled)
    first = page(running=1, usage=0.1)
    one, other = (
        fed([first, *(page(running=running, usage=usage) for running, usage in each)], seconds=0.01)
        for each in (moments, shuffled)
    )
    assert one.slow.used == pytest.approx(other.slow.used, rel=1e-4)
    assert one.slow.used_squared == pytest.approx(other.slow.used_squared, rel=1e-4)
    assert one.slow.running == pytest.approx(other.slow.running, rel=1e-4)


def test_a_day_of_load_halves_the_slow_sums_and_ten_minutes_the_fast_ones():
    load = fed([page(running=4), page(running=4, finished=100)])
    for seconds, sums in ((SLOW_HALF_LIFE_SECONDS, "slow"), (FAST_HALF_LIFE_SECONDS, "fast")):
        later = fed([page(running=4, finished=100)], load=load, begin=1_001.0 + seconds)
        assert getattr(later, sums).finished == pytest.approx(50.0)


def test_an_idle_night_forgets_nothing_slow():
    load = fed([page(running=4), page(running=4, finished=100), page(running=0, usage=0.0, finished=100)])
    night = fed([page(running=0, usage=0.0, finished=100)], load=load, begin=50_000.0)
    assert night.slow.finished == load.slow.finished
    assert night.slow.busy_seconds == load.slow.busy_seconds
    assert night.fast.finished < 1e-9


def test_time_in_which_an_engine_was_down_is_not_counted():
    load = fed([page(running=4), page(running=4, finished=10)])
    again = fed([page(running=4, finished=900), page(running=4, finished=905)], load=interrupted(load), begin=90_000.0)
    assert again.slow.busy_seconds == pytest.approx(load.slow.busy_seconds + 1.0, rel=1e-4)
    assert again.watched_finished == 15


def test_a_sleeping_or_stalled_engine_feeds_nothing():
    load = fed([page(running=4), page(running=4, finished=10)])
    asleep = fed([page(running=4, finished=20, sleeping=True)], load=load, begin=1_002.0)
    stalled = fed([page(running=4, finished=20)], load=load, begin=1_002.0, limiter="stalled")
    for after in (asleep, stalled):
        assert after.slow == load.slow
        assert after.last is None


def test_a_restart_feeds_nothing_until_the_server_has_settled():
    load = fed([page(running=4), page(running=4, finished=10)])
    fresh = [page(running=4, finished=n, started=5_000.0) for n in range(int(SETTLE_SECONDS) + 3)]
    again = fed(fresh, load=load, begin=1_010.0)
    # The pages after settling count, the run-up does not.
    assert again.watched_finished == 10 + 2
    assert again.slow.finished == pytest.approx(12, rel=1e-3)


@pytest.mark.parametrize(("later", "is_restart"), [(1.5, False), (30.0, True)])
def test_another_start_is_a_restart_although_its_counters_are_higher(later, is_restart):
    load = fed([page(running=4), page(running=4, finished=10)])
    after = fed([page(running=4, finished=50, started=1.0 + later)], load=load, begin=1_002.0)
    assert (after.slow == load.slow) is is_restart  # two seconds may be the same start, told by two clocks
    assert after.watched_finished == (10 if is_restart else 50)


def test_a_counter_that_falls_is_a_restart_where_the_page_does_not_tell_its_start():
    load = fed([page(running=4, started=None), page(running=4, finished=10, started=None)])
    after = fed([page(running=4, finished=2, started=None)], load=load, begin=1_002.0)
    assert after.slow == load.slow
    assert after.last.settled_at_seconds == 1_002.0 + SETTLE_SECONDS


def test_a_server_that_has_served_nobody_settles_first():
    pages = [page(running=4, finished=n, tokens=0 if n == 0 else 1) for n in range(int(SETTLE_SECONDS) + 3)]
    assert fed(pages).watched_finished == 2


def test_another_model_on_the_same_port_begins_anew():
    load = fed([page(running=4), page(running=4, finished=10)])
    assert fed([page(running=4, name="other")], load=load, begin=1_002.0).slow == Sums()


def test_another_max_num_seqs_begins_its_own_counts_and_keeps_the_lengths():
    load = fed([page(running=4), page(running=4, finished=10, preempted=5)])
    assert (load.setting.finished, load.setting.preempted) == (10, 5)
    after = fed([page(running=4, finished=12, preempted=5)], load=load, begin=1_002.0, max_num_seqs=8)
    assert (after.setting.max_num_seqs, after.setting.finished, after.setting.preempted) == (8, 2, 0)
    assert after.generation_tokens.count == pytest.approx(12, rel=1e-3)


def test_a_moment_in_which_the_limit_cannot_be_told_keeps_its_counts():
    load = fed([page(running=4), page(running=4, finished=10, preempted=5)])
    after = fed([page(running=4, finished=12, preempted=5)], load=load, begin=1_002.0, max_num_seqs=None)
    assert (after.setting.max_num_seqs, after.setting.preempted) == (64, pytest.approx(5, rel=1e-4))


def test_other_histogram_bounds_begin_a_new_histogram():
    lengths = Lengths(bounds=(10.0, math.inf), counts=(5.0, 1.0), sum=60.0)
    before = Histogram(bounds=(20.0, math.inf), cumulative=(0.0, 0.0), sum=0.0, count=0.0)
    after = Histogram(bounds=(20.0, math.inf), cumulative=(3.0, 4.0), sum=70.0, count=4.0)
    assert lengths.folded(lengths_between(before, after), 1.0) == Lengths(
        bounds=(20.0, math.inf), counts=(3.0, 1.0), sum=70.0
    )


def test_a_torn_page_adds_no_negative_amounts():
    lengths = Lengths(bounds=(10.0, math.inf), counts=(5.0, 1.0), sum=60.0)
    before = Histogram(bounds=(10.0, math.inf), cumulative=(9.0, 9.0), sum=80.0, count=9.0)
    for after in (
        Histogram(bounds=(10.0, math.inf), cumulative=(7.0, 10.0), sum=90.0, count=10.0),
        Histogram(bounds=(10.0, math.inf), cumulative=(9.0, 10.0), sum=70.0, count=10.0),
    ):
        assert lengths.folded(lengths_between(before, after), 1.0) == lengths


def test_moments_of_lengths_come_out_of_coarse_buckets():
    chance = random.Random(5)
    values = [min(2_000.0, chance.lognormvariate(5.5, 0.8)) for _ in range(5_000)]
    bounds = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, math.inf)
    single = [0.0] * len(bounds)
    for value in values:
        single[next(place for place, bound in enumerate(bounds) if value <= bound)] += 1
    lengths = Lengths(bounds=bounds, counts=tuple(single), sum=sum(values))
    first, second, third = lengths.moments(longest=2048)
    assert first == pytest.approx(sum(values) / 5_000)
    assert second == pytest.approx(sum(value**2 for value in values) / 5_000, rel=0.1)
    assert third == pytest.approx(sum(value**3 for value in values) / 5_000, rel=0.2)


def test_demand_is_told_to_within_an_eighth():
    assert all(late / early <= 1.13 for early, late in pairwise(DEMAND_BOUNDS[15:]))
    assert DEMAND_BOUNDS[:16] == tuple(range(1, 17))


def test_what_is_saved_is_read_back_and_small():
    load = fed([page(running=4), page(running=40, waiting=9, usage=0.9, finished=30, preempted=2)])
    loads = {("127.0.0.1:8000", "0"): replace(load, advised=16)}
    text = json.dumps(to_json(loads))
    assert from_json(json.loads(text)) == {("127.0.0.1:8000", "0"): replace(load, advised=16, last=None)}
    assert len(json.dumps(to_json({("127.0.0.1:8000", "0"): told()}))) < 4_096
    assert len(text) < 4_096


def crowded(buckets):
    """Return a load with all its numbers in use and as long as they get, in histograms of so many buckets."""
    third = 1 / 3
    lengths = Lengths(
        bounds=(*(10.0 + place * third for place in range(buckets - 1)), math.inf), counts=(third,) * buckets, sum=third
    )
    sums = Sums(**{each.name: 1e9 * third for each in dataclasses.fields(Sums)})
    return replace(
        told(),
        slow=sums,
        fast=sums,
        prompt_tokens=lengths,
        generation_tokens=lengths,
        queue_seconds=lengths,
        demand_seconds=(1e5 * third,) * len(DEMAND_BOUNDS),
    )


def test_what_is_kept_of_an_engine_has_an_upper_bound():
    text = json.dumps(to_json({("127.0.0.1:8000", "0"): crowded(MOST_BUCKETS)}))
    assert len(text) < 16_384
    assert from_json(json.loads(text))
    with pytest.raises(ValueError, match="more than 64 buckets"):
        from_json(to_json({("127.0.0.1:8000", "0"): crowded(MOST_BUCKETS + 1)}))


def test_a_page_of_absurdly_many_buckets_leaves_no_more_behind():
    bounds = (*map(float, range(4_999)), math.inf)
    pages = [page(running=4), page(running=4, finished=30)]
    many = [
        replace(each, histograms={name: replace(one, bounds=bounds, cumulative=(one.count,) * 5_000)})
        for each in pages
        for name, one in [("prompt_tokens", each.histograms["prompt_tokens"])]
    ]
    assert fed(many).prompt_tokens == Lengths()


def test_the_number_of_engines_kept_is_bounded():
    assert len(to_json({(str(n), "0"): EngineLoad(model_name="m") for n in range(2 * MOST_ENGINES)})) == MOST_ENGINES


@pytest.mark.parametrize(
    "spoiled",
    [
        5,
        [{}],
        [{"engine": "e"}],
        "text",
        {"a": 1},
    ],
)
def test_something_else_is_refused(spoiled):
    with pytest.raises(ValueError, match="not the load of engines"):
        from_json(spoiled)


def test_a_negative_or_endless_amount_is_refused():
    (one,) = to_json({("e", "0"): told()})
    for value in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="no amount"):
            from_json([one | {"watched": [value, 0.0]}])

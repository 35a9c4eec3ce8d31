import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.load import EngineLoad, Lengths, Setting, Sums
from advisor.past import PastMoment, joined, replayed
from advisor.policy import Policy
from advisor.readings import Histogram
from tests.advisor.loads import fed, page

POLICY = Policy()


def moments(pages, *, seconds=1.0, begin=1_000.0, **more):
    """Return pages that follow each other as moments of the past."""
    same = {"capacity_tokens": 12_288, "max_num_seqs": 64, "limiter": "none", **more}
    return [
        PastMoment(wall_seconds=begin + seconds * place, continues=place > 0, reading=each, **same)
        for place, each in enumerate(pages)
    ]


def growing(count, *, running=4, per_page=2, first=0):
    return [page(running=running, usage=0.2, finished=first + per_page * n) for n in range(count)]


def test_the_past_is_told_as_if_it_had_been_watched():
    live = fed(growing(50))
    assert replace(live, last=None) == replayed(None, moments(growing(50)), POLICY)


def test_a_hole_counts_as_time_in_which_nothing_was_seen():
    after = moments(growing(10, first=500), begin=90_000.0)
    load = replayed(None, [*moments(growing(10)), *after], POLICY)
    assert load.watched_finished == 18 + 18
    assert load.watched_busy_seconds == pytest.approx(9 + 9)


def test_what_was_known_before_goes_on():
    known = fed(growing(10))
    load = replayed(known, moments(growing(10), begin=50_000.0), POLICY)
    assert load.watched_finished == 36


def test_nothing_told_is_nothing_known():
    assert replayed(None, [], POLICY) is None


def test_looks_that_lie_minutes_apart_are_no_stall():
    pages = [page(running=4, waiting=3, usage=0.2, finished=n, tokens=1_000 + 50 * n) for n in range(10)]
    load = replayed(None, moments(pages, seconds=300.0, limiter=None), POLICY)
    assert load.watched_finished == 9
    assert load.slow.budget_seconds > 0  # a queue with room in KV, fewer running than may


def test_an_engine_that_wrote_no_token_between_two_such_looks_is_stalled():
    pages = [page(running=4, waiting=3, usage=0.2, finished=0, tokens=1_000) for _ in range(10)]
    load = replayed(None, moments(pages, seconds=300.0, limiter=None), POLICY)
    assert load.watched_busy_seconds == 0


def test_a_count_without_buckets_is_a_count_and_no_length():
    def told(count):
        counted = {"generation_tokens": Histogram(bounds=(), cumulative=(), sum=0.0, count=count)}
        return replace(page(running=4, usage=0.2), histograms=counted)

    load = replayed(None, moments([told(0.0), told(7.0), told(9.0)]), POLICY)
    assert load.slow.finished == pytest.approx(9, rel=1e-3)
    assert load.generation_tokens == Lengths()


@given(st.integers(3, 40), st.integers(3, 40), st.sampled_from([1.0, 5.0, 60.0]))
@settings(max_examples=60)
def test_two_loads_joined_are_the_load_of_both(first, second, seconds):
    pages = [page(running=2 + n % 5, usage=0.1 + 0.05 * (n % 5), finished=3 * n) for n in range(first + second)]
    whole = fed(pages, seconds=seconds)
    early = fed(pages[:first], seconds=seconds)
    late = fed(pages[first - 1 :], seconds=seconds, begin=1_000.0 + (first - 1) * seconds)
    both = joined(early, late)
    # What is forgotten is worked out as if looks lay close: a minute is a tenth of the fast half-life, so 4% off.
    for name, tolerance in (("slow", 1e-9), ("fast", max(1e-6, seconds / 600 * math.log(2) / 2 * 1.2))):
        for each in Sums.__dataclass_fields__:
            one, other = getattr(getattr(both, name), each), getattr(getattr(whole, name), each)
            assert one == pytest.approx(other, rel=tolerance)
    assert both.demand_seconds == pytest.approx(whole.demand_seconds)
    assert both.prompt_tokens.counts == pytest.approx(whole.prompt_tokens.counts)
    assert both.setting.busy_seconds == pytest.approx(whole.setting.busy_seconds)
    assert both.watched_finished == pytest.approx(whole.watched_finished)
    assert both.last == late.last  # differences go on from the later one


def test_nothing_joined_with_a_load_is_that_load():
    load = fed(growing(20))
    assert joined(EngineLoad(model_name="m"), load) == load
    assert joined(load, EngineLoad(model_name="m")) == replace(load, last=None)


def test_another_model_has_no_past():
    load = fed(growing(20))
    assert joined(replace(load, model_name="other"), load) == load


def test_counts_at_another_setting_are_not_joined():
    early, late = fed(growing(10), max_num_seqs=8), fed(growing(10), max_num_seqs=64)
    assert joined(early, late).setting == late.setting
    unknown = replace(late, setting=Setting())
    assert joined(early, unknown).setting.max_num_seqs == 8


def test_other_buckets_begin_anew():
    early = replace(fed(growing(10)), prompt_tokens=Lengths(bounds=(7.0, math.inf), counts=(3.0, 1.0), sum=9.0))
    late = fed(growing(10))
    assert joined(early, late).prompt_tokens == late.prompt_tokens

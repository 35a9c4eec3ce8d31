from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.fleet import FlagChange, FleetEngine, FleetGpu, from_load, judge_fleet
from advisor.policy import Policy
from tests.advisor.loads import told

POLICY = Policy()
LESS_MEMORY = FlagChange(flag="gpu-memory-utilization", current="0.9", recommended="0.93", binding="risk")


def engine(**more):
    """Return an engine that a daemon watches and that is set right."""
    same = {
        "where": "host",
        "engine": "127.0.0.1:8000",
        "model_name": "m",
        "dp_rank": "0",
        "seen_by": "headroom",
        "is_up": True,
        "capacity_tokens": 10_000.0,
        "used_tokens": 6_000.0,
        "running": 10.0,
        "typical_request_tokens": 500.0,
        "finished": 1_000.0,
        "preempted": 0.0,
        "limiter_ratio": {"none": 1.0},
        "waiting_ratio": 0.0,
        "max_num_seqs": 16.0,
        "recommended": 16.0,
        "binding": "kv",
    }
    return FleetEngine(**{**same, **more})


def scraped(**more):
    """Return an engine of which only vLLM's series tell."""
    nothing = {"max_num_seqs": None, "recommended": None, "binding": None, "limiter_ratio": {}, "kv_wall": 16}
    return engine(**{"seen_by": "vllm", "wanted": 12, **nothing, **more})


def judged(each):
    return judge_fleet([each], [], POLICY).engines[0]


@pytest.mark.parametrize(
    ("each", "verdict", "because"),
    [
        (engine(), "right", "nothing to change"),
        (engine(is_up=False), "down", "it does not answer"),
        (engine(max_num_seqs=64.0, preempted=150.0), "overfull", "64 -> 16, 15.0% of requests were preempted"),
        (engine(max_num_seqs=64.0), "overfull", "max-num-seqs 64 -> 16"),
        (engine(max_num_seqs=8.0, waiting_ratio=0.5), "held_up", "8 -> 16, requests waited in 50% of the time"),
        (engine(limiter_ratio={"kv": 0.2, "none": 0.8}), "short_of_kv", "waited for KV in 20% of the time"),
        (engine(limiter_ratio={"kv": 0.2}, changes=(LESS_MEMORY,)), "short_of_kv", "utilization 0.9 -> 0.93"),
        (engine(changes=(LESS_MEMORY,)), "flags", "gpu-memory-utilization 0.9 -> 0.93"),
        (engine(used_tokens=2_000.0), "idle", "never more than 20% full"),
        (engine(recommended=None), "unknown", "too little was seen"),
        (engine(used_tokens=None, recommended=None), "unknown", "too little was seen"),
        (scraped(), "right", "nothing to see that should be changed"),
        (scraped(preempted=150.0), "overfull", "KV takes 16 at a time, 15.0% of requests were preempted"),
        (scraped(waiting_ratio=0.3), "held_up", "waited in 30% of the time, with 40% of KV free"),
        (scraped(waiting_ratio=0.3, used_tokens=9_900.0, wanted=30), "short_of_kv", "waited for KV in 30%"),
        (scraped(used_tokens=1_000.0), "idle", "never more than 10% full"),
        (scraped(kv_wall=None, not_yet="no load has been seen yet"), "unknown", "no load has been seen yet"),
    ],
)
def test_an_engine_is_judged_by_what_was_seen(each, verdict, because):
    found = judged(each)
    assert found.verdict == verdict
    assert because in found.because


def test_an_engine_that_holds_requests_up_is_not_idle():
    assert judged(engine(used_tokens=1_000.0, waiting_ratio=0.2)).verdict == "right"


def test_more_fit_until_kv_or_the_limit_is_full():
    found = judged(engine(max_num_seqs=14.0))
    assert (found.more_as_set, found.more_as_advised) == (4, 6)
    assert judged(engine(max_num_seqs=64.0, recommended=64.0)).more_as_set == 8  # 4,000 tokens of 500 each


def test_where_the_limit_is_not_known_kv_alone_says_what_fits():
    found = judge_fleet([scraped()], [], POLICY)
    assert (found.engines[0].more_as_set, found.engines[0].more_as_advised) == (8, 6)
    assert found.sums.by_kv_alone == 1


def test_the_worst_comes_first_and_of_those_alike_the_one_that_costs_most():
    quiet, busy = engine(engine="q", used_tokens=100.0), engine(engine="b")
    some, many = (engine(engine=f"p{n}", max_num_seqs=64.0, preempted=n) for n in (50.0, 400.0))
    order = judge_fleet([quiet, busy, some, engine(engine="d", is_up=False), many], [], POLICY).engines
    assert [each.engine.engine for each in order] == ["d", "p400.0", "p50.0", "q", "b"]


def test_sums_are_over_what_is_up_and_known():
    sums = judge_fleet(
        [engine(), engine(is_up=False), engine(capacity_tokens=None), engine(used_tokens=1_000.0)],
        [
            FleetGpu(where="h", gpu="0", uuid="a", total_bytes=80e9, used_bytes=70e9),
            FleetGpu(where="h", gpu="1", uuid="b", total_bytes=80e9, used_bytes=1.5e9),
            FleetGpu(where="h", gpu="2", uuid="c", total_bytes=80e9, used_bytes=1.7e9),
        ],
        POLICY,
    ).sums
    assert (sums.engines, sums.up, sums.counted, sums.idle) == (4, 3, 2, 1)
    assert (sums.capacity_tokens, sums.used_tokens, sums.idle_tokens) == (20_000.0, 7_000.0, 13_000.0)
    assert (sums.gpus, sums.idle_gpus) == (3, 1)


def test_the_load_that_vllms_series_tell_says_how_many_kv_takes():
    bare = scraped(kv_wall=None, wanted=None, capacity_tokens=12_288.0)
    found = from_load(bare, told(mean=600.0, spread=0.7, demand=32), POLICY, block_size=16)
    assert 12 <= found.kv_wall <= 18  # 12,288 tokens are 20 of 600, less room for the spread
    assert found.wanted == 32
    assert any("max-num-seqs" in each for each in found.cannot_say)


def test_too_little_load_is_said():
    bare = scraped(kv_wall=None, wanted=None)
    for load in (None, told(finished=3.0, seconds=60.0)):
        found = from_load(bare, load, POLICY, block_size=16)
        assert found.kv_wall is None
        assert judged(found).verdict == "unknown"
        assert found.not_yet


def test_a_server_that_does_not_tell_its_capacity_is_not_judged():
    found = from_load(scraped(kv_wall=None, capacity_tokens=None), told(), POLICY, block_size=None)
    assert "does not say how many tokens" in judged(found).because


@given(st.floats(0, 20_000), st.floats(0, 20_000), st.floats(1, 2_000), st.integers(0, 64), st.integers(1, 64))
def test_more_kv_never_takes_fewer(capacity, more, typical, running, limit):
    small = engine(capacity_tokens=capacity, typical_request_tokens=typical, running=float(running))
    large = replace(small, capacity_tokens=capacity + more)
    for each in (None, float(limit)):
        assert large.more_requests(each) >= small.more_requests(each) >= 0

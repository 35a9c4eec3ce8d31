import pytest

from advisor.engine import judge_engine, limiter, typical_request_tokens
from advisor.history import EngineHistory
from advisor.policy import Policy
from advisor.readings import CacheConfig, EngineReading
from tests.advisor.examples import histogram, reading

NOW = 1_000.0
LENGTHS = {"prompt_tokens": histogram(600), "generation_tokens": histogram(400)}


def judged(of, *, max_num_seqs=(256, "given"), history=None):
    return judge_engine(
        of,
        theory=None,
        no_theory="not under test",
        max_num_seqs=max_num_seqs,
        history=history or EngineHistory(token_seen_at_seconds=NOW),
        now_seconds=NOW,
        policy=Policy(),
    )


def limits(of, *, max_num_seqs=16, **history):
    history.setdefault("token_seen_at_seconds", NOW)
    return limiter(of, max_num_seqs=max_num_seqs, history=EngineHistory(**history), now_seconds=NOW, policy=Policy())


def test_used_and_headroom_add_up_to_the_reported_capacity():
    engine = judged(reading(usage=0.25, tokens=100_000))
    assert engine.kv_capacity_tokens == 100_000
    assert engine.kv_used_tokens == 25_000
    assert engine.kv_headroom_tokens == 75_000
    assert engine.kv_capacity_origin == "reported"


def test_capacity_is_derived_from_blocks_where_tokens_are_not_reported():
    older = EngineReading(
        engine="e",
        url="http://e",
        model_name="m",
        dp_rank="0",
        kv_usage_ratio=0.5,
        cache=CacheConfig(num_gpu_blocks=1_000, block_size=16),
    )
    engine = judged(older)
    assert engine.kv_capacity_tokens == 16_000
    assert engine.kv_capacity_origin == "derived"


def test_without_blocks_or_tokens_nothing_is_said_of_capacity():
    silent = EngineReading(engine="e", url="http://e", model_name="m", dp_rank="0", kv_usage_ratio=0.5)
    engine = judged(silent)
    assert engine.kv_capacity_tokens is None
    assert engine.kv_used_tokens is None
    assert engine.kv_usage_ratio == 0.5


def test_gauges_that_a_page_does_not_show_yet_are_unknown_and_not_zero():
    engine = judged(reading(running=None, waiting=None, usage=None))
    assert engine.requests_running is None
    assert engine.kv_used_tokens is None
    assert engine.kv_headroom_tokens is None
    assert engine.request_headroom is None
    assert engine.limiter is None


def test_request_headroom_is_the_tighter_of_kv_and_max_num_seqs():
    by_kv = judged(reading(running=10.0, usage=0.9, histograms=LENGTHS))
    assert (by_kv.kv_request_headroom, by_kv.seqs_request_headroom, by_kv.request_headroom) == (10, 246, 10)
    by_seqs = judged(reading(running=250.0, usage=0.1, histograms=LENGTHS))
    assert (by_seqs.kv_request_headroom, by_seqs.seqs_request_headroom, by_seqs.request_headroom) == (90, 6, 6)


def test_headroom_counts_whole_requests_and_never_fewer_than_none():
    partly = judged(reading(running=10.0, usage=0.9075, histograms=LENGTHS))
    assert partly.kv_request_headroom == 9  # 9,250 tokens are free, 1,000 make one
    lowered = judged(reading(running=10.0, usage=0.1, histograms=LENGTHS), max_num_seqs=(8, "given"))
    assert (lowered.seqs_request_headroom, lowered.request_headroom) == (0, 0)


def test_a_typical_request_is_the_mean_of_those_finished():
    assert typical_request_tokens(reading(histograms=LENGTHS)) == 1_000


def test_before_the_first_request_finished_a_typical_one_may_take_the_whole_context():
    assert typical_request_tokens(reading()) == 8192
    empty = {"prompt_tokens": histogram(0, count=0), "generation_tokens": histogram(0, count=0)}
    assert typical_request_tokens(reading(histograms=empty)) == 8192


def test_nothing_limits_an_engine_whose_queue_is_empty_even_when_kv_is_nearly_full():
    assert limits(reading(running=10.0, usage=0.97)) == "none"


def test_a_queue_at_max_num_seqs_names_max_num_seqs():
    assert limits(reading(running=16.0, waiting=4.0, usage=0.3)) == "max_num_seqs"


def test_a_queue_below_max_num_seqs_with_full_kv_names_kv():
    assert limits(reading(running=9.0, waiting=4.0, usage=0.98)) == "kv"
    assert limits(reading(running=9.0, waiting=4.0, usage=0.95)) == "kv"
    assert limits(reading(running=9.0, waiting=4.0, usage=0.949)) == "compute"


def test_a_recent_preemption_names_kv_although_usage_has_just_fallen():
    queued = reading(running=9.0, waiting=4.0, usage=0.8)
    assert limits(queued, preempted_at_seconds=NOW - 20) == "kv"
    assert limits(queued, preempted_at_seconds=NOW - 200) == "compute"


def test_a_head_whose_prompt_does_not_fit_the_free_blocks_names_kv():
    long_prompts = {"prompt_tokens": histogram(30_000), "generation_tokens": histogram(400)}
    assert limits(reading(running=5.0, waiting=1.0, usage=0.75, histograms=long_prompts)) == "kv"


def test_a_queue_with_room_everywhere_waits_for_the_token_budget():
    assert limits(reading(running=9.0, waiting=4.0, usage=0.3)) == "compute"


def test_a_slot_that_has_just_come_free_does_not_change_what_limits():
    queued = reading(running=15.0, waiting=4.0, usage=0.3)
    assert limits(queued, seqs_reached_at_seconds=NOW - 2) == "max_num_seqs"
    assert limits(queued, seqs_reached_at_seconds=NOW - 60) == "compute"


def test_requests_deferred_for_other_reasons_are_no_queue_for_capacity():
    deferred = reading(running=3.0, waiting=2.0, requests_waiting_for_capacity=0.0)
    assert limits(deferred) == "none"


def test_a_refused_request_names_the_queue_cap():
    assert limits(reading(running=16.0, waiting=4.0), rejected_at_seconds=NOW - 5) == "queue_cap"


def test_an_engine_with_work_and_no_token_for_a_minute_is_stalled():
    busy = reading(running=3.0, usage=0.2)
    assert limits(busy, token_seen_at_seconds=NOW - 61) == "stalled"
    assert limits(busy, token_seen_at_seconds=NOW - 30) == "none"


def test_the_first_look_at_a_busy_engine_does_not_call_it_stalled():
    assert limits(reading(running=3.0), token_seen_at_seconds=None) == "none"


def test_an_idle_engine_is_never_stalled():
    assert limits(reading(), token_seen_at_seconds=NOW - 10_000) == "none"


@pytest.mark.parametrize("seqs", [None, 16])
def test_an_unknown_max_num_seqs_limits_nothing(seqs):
    named = limits(reading(running=16.0, waiting=4.0, usage=0.3), max_num_seqs=seqs)
    assert named == ("compute" if seqs is None else "max_num_seqs")

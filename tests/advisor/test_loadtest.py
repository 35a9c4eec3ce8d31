"""What a load test came to, and where it bends."""

import pytest

from advisor.loadtest import End, Look, Sample, find_knee, level_of, seen_in, stretches_of
from advisor.readings import Histogram


def sample(sent=0.0, first=1.0, gap=0.5, tokens=3, **more):
    """A request whose tokens come one by one, evenly."""
    arrivals = tuple((sent + first + gap * number, 1) for number in range(tokens))
    fields = {
        "sent_seconds": sent,
        "ended_seconds": arrivals[-1][0] if arrivals else sent + first,
        "end": End.OK,
        "prompt_tokens": 10,
        "output_tokens": tokens,
        "counted_by_server": True,
        "arrivals": arrivals,
    }
    return Sample(**(fields | more))


def look(seconds, **more):
    return Look(seconds=seconds, **more)


# --- one level ---


def test_a_level_counts_what_succeeded_failed_and_was_cut_off():
    failed = sample(end=End.FAILED, reason="http_500", arrivals=(), tokens=0)
    cut_off = sample(end=End.CUT_OFF, tokens=2)
    level = level_of([sample(), sample(), failed, cut_off], [], users=4)
    assert (level.requests, level.completed, level.failed, level.cut_off) == (4, 2, 1, 1)
    assert level.success_ratio == pytest.approx(2 / 3)
    assert level.failures == (("http_500", 1),)
    assert (level.output_tokens, level.prompt_tokens) == (6, 20)


def test_nothing_that_ended_by_itself_has_no_success_ratio():
    assert level_of([sample(end=End.CUT_OFF)], [], users=1).success_ratio is None
    assert level_of([], [], users=1).success_ratio is None


def test_times_are_those_of_completed_requests():
    level = level_of([sample(), sample(end=End.FAILED, reason="cut_short", first=50.0)], [], users=2)
    assert level.time_to_first_token_seconds.max == 1.0
    assert (level.inter_token_seconds.count, level.inter_token_seconds.p50) == (2, 0.5)
    assert level.end_to_end_seconds.p50 == 2.0
    assert level.output_tokens_per_second_per_user.p50 == 1.5


def test_throughput_is_taken_while_all_users_were_at_work():
    early, late = sample(), sample(sent=2.0, tokens=5)
    level = level_of([early, late], [], users=2, steady_until_seconds=3.5)
    # 3 tokens of the first by 2.0 s; of the second those at 3.0 and 3.5 s, not those at 4.0, 4.5 and 5.0 s.
    assert (level.steady_seconds, level.output_tokens_per_second) == (3.5, 5 / 3.5)
    assert level.requests_per_second == 1 / 3.5
    assert level.duration_seconds == 5.0


def test_tokens_of_requests_that_were_cut_off_count_as_throughput():
    level = level_of([sample(end=End.CUT_OFF, ended_seconds=2.0)], [], users=1)
    assert (level.output_tokens_per_second, level.output_tokens) == (1.5, 0)


def test_one_count_that_is_not_the_servers_makes_the_level_inexact():
    assert level_of([sample()], [], users=1).exact_tokens
    assert not level_of([sample(), sample(counted_by_server=False)], [], users=1).exact_tokens


def test_the_longest_stall_is_the_longest_gap_of_any_request():
    assert level_of([sample(), sample(gap=4.0)], [], users=2).longest_stall_seconds == 4.0
    assert level_of([sample(tokens=1)], [], users=1).longest_stall_seconds is None


# --- the server meanwhile ---


def test_gauges_weigh_by_time():
    seen = seen_in([look(0.0, running=0), look(1.0, running=10), look(9.0, running=10)])
    assert (seen.running.mean, seen.running.peak) == (pytest.approx((5 + 80) / 9), 10)


def test_gauges_weigh_by_steps_too():
    seen = seen_in([look(0.0, running=4, steps=0), look(9.0, running=8, steps=1), look(10.0, running=8, steps=4)])
    assert (seen.running.mean_per_step, seen.running.mean) == ((6 + 3 * 8) / 4, (54 + 8) / 10)
    assert seen_in([look(0.0, running=4), look(1.0, running=8)]).running.mean_per_step is None


def test_totals_are_what_they_grew_by():
    seen = seen_in(
        [
            look(0.0, preemptions=5, steps=100, prefix_cache_queries=1000, prefix_cache_hits=500),
            look(1.0, preemptions=7, steps=130, prefix_cache_queries=1100, prefix_cache_hits=525),
        ]
    )
    assert (seen.preemptions, seen.steps, seen.prefix_cache_hit_ratio) == (2, 30, 0.25)


def test_what_the_server_does_not_report_is_not_made_up():
    seen = seen_in([look(0.0), look(1.0)])
    assert (seen.running, seen.kv_usage_ratio, seen.preemptions, seen.queue_seconds) == (None, None, None, None)


def histogram(*cumulative, total):
    return Histogram(bounds=(0.3, 0.5, 1.0, float("inf")), cumulative=cumulative, sum=total, count=cumulative[-1])


def test_queueing_is_told_by_the_buckets_that_grew():
    before, after = histogram(100, 100, 100, 100, total=3.0), histogram(150, 198, 199, 200, total=103.0)
    queue = seen_in([look(0.0, queue_seconds=before), look(1.0, queue_seconds=after)]).queue_seconds
    assert (queue.count, queue.mean) == (100, 1.0)
    assert (queue.p50, queue.p95, queue.p99, queue.max) == (0.3, 0.5, 1.0, 1.0)


def busy(seconds, steps, prompt_tokens=0, decode_gaps=0, kv_usage_ratio=None):
    return look(
        seconds,
        running=4,
        steps=steps,
        prompt_tokens=prompt_tokens,
        decode_gaps=decode_gaps,
        kv_usage_ratio=kv_usage_ratio,
        kv_capacity_tokens=1000,
    )


def test_stretches_are_what_was_done_while_the_engine_was_busy():
    idle = look(0.0, running=0, steps=0, prompt_tokens=0, decode_gaps=0)
    first, second = stretches_of(
        [idle, busy(1.0, 10, 100, 18), busy(2.0, 30, 150, 80, 0.5), busy(4.0, 50, 150, 160, 0.7)]
    )
    assert (first.seconds, first.steps, first.prefill_tokens, first.decode_tokens) == (1.0, 20, 50, 62)
    assert second.context_tokens == pytest.approx(0.6 * 1000 * 20)


def test_looks_between_which_little_happened_are_one_stretch_and_no_time_is_lost():
    looks = [busy(0.0, 0), busy(0.5, 0), busy(1.0, 1), busy(1.5, 1), busy(2.0, 5), busy(9.0, 10)]
    assert [(each.seconds, each.steps) for each in stretches_of(looks)] == [(2.0, 5), (7.0, 5)]


def test_a_stretch_ends_where_the_engine_was_idle_or_started_anew():
    idle = look(2.0, running=0, steps=3)
    assert stretches_of([busy(1.0, 0), idle, busy(3.0, 3), busy(4.0, 4)]) == ()
    assert stretches_of([busy(1.0, 100), busy(2.0, 2), busy(3.0, 7)])[0].steps == 5


def test_without_counters_there_are_no_stretches():
    assert stretches_of([look(0.0, running=3), look(1.0, running=3)]) == ()


# --- the knee ---


def level(users, tokens_per_second, **server):
    """A level whose requests all have ten tokens, and what the server showed meanwhile."""
    seconds = 10 * users / tokens_per_second
    gap = seconds / 10
    samples = [sample(first=gap, gap=gap, tokens=10) for _ in range(users)]
    shown = {"running": users, "waiting": 0, "kv_usage_ratio": 0.2, "preemptions": 0} | server
    looks = [look(0.0, **(shown | {"preemptions": 0})), look(1.0, **shown)] if server is not None else []
    return level_of(samples, looks, users=users)


def test_the_knee_is_where_more_users_stop_bringing_as_much():
    knee = find_knee([level(1, 10), level(2, 20), level(4, 38), level(8, 40), level(16, 40)])
    assert (knee.users, knee.limited_by) == (4, "compute")
    assert "The knee is at 4 users with 38.0 output tokens/s: 8 bring 1.05 times that" in knee.sentence
    assert "the steps take longer: the median time between tokens goes from 105.3 to 200.0 ms" in knee.sentence


def test_the_order_of_the_levels_does_not_matter():
    levels = [level(1, 10), level(2, 20), level(4, 22)]
    assert find_knee(levels[::-1]) == find_knee(levels)


def test_a_throughput_that_still_grows_has_no_knee():
    knee = find_knee([level(1, 10), level(2, 19), level(4, 33)])
    assert (knee.users, knee.limited_by) == (None, "nothing")


def test_one_level_has_no_knee():
    assert find_knee([level(4, 10)]).limited_by == "unknown"


def test_a_full_cache_is_named():
    knee = find_knee([level(8, 80), level(16, 90, waiting=5, kv_usage_ratio=0.97, preemptions=12)])
    assert knee.limited_by == "kv"
    assert "the KV cache is full (97% of it in use on average, 12 preemptions)" in knee.sentence


def test_a_queue_beside_an_empty_cache_is_max_num_seqs():
    levels = [level(4, 40), level(8, 41, running=4, waiting=4, kv_usage_ratio=0.1)]
    assert "4 run at most (most likely --max-num-seqs), 4.0 wait" in find_knee(levels).sentence
    assert "4 run at most (--max-num-seqs 4)" in find_knee(levels, max_num_seqs=4).sentence
    assert find_knee(levels).limited_by == "max_num_seqs"


def test_failures_are_named_before_anything_else():
    failing = level_of([sample()] + [sample(end=End.FAILED, reason="http_503", arrivals=(), tokens=0)] * 3, [], users=8)
    knee = find_knee([level(4, 100), failing])
    assert (knee.users, knee.limited_by) == (4, "failures")
    assert "http_503" in knee.sentence


def test_without_the_servers_metrics_the_reason_cannot_be_said():
    blind = [level_of([sample(gap=gap, tokens=10)] * users, [], users=users) for users, gap in ((2, 0.1), (4, 9.0))]
    assert find_knee(blind).limited_by == "unknown"

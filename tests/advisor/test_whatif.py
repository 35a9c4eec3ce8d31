"""A range of settings over one load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.readings import Histogram
from advisor.simulate import SchedulerConfig, StepTimeModel
from advisor.whatif import TracedRequest, drawn_lengths, fitted, outcomes, rescaled


def request(seconds=0.0, prompt_tokens=8, output_tokens=8):
    return TracedRequest(seconds=seconds, prompt_tokens=prompt_tokens, output_tokens=output_tokens)


def setting(max_num_seqs=8, **changes):
    flags = {"num_gpu_blocks": 33, "block_size": 4, "max_num_batched_tokens": 64, "max_model_len": 40}
    return SchedulerConfig(max_num_seqs=max_num_seqs, **(flags | changes))


ONE_A_STEP = StepTimeModel(base_seconds=1.0)


# --- the trace ---


def test_a_trace_starts_at_zero_in_order_of_arrival():
    assert [each.seconds for each in rescaled([request(12.0), request(10.0)])] == [0.0, 2.0]


def test_speed_divides_time_and_lengths_keep_at_least_one_token():
    (first, second) = rescaled([request(0.0, 100, 1), request(8.0, 7, 30)], lengths=0.25, speed=4)
    assert (first.prompt_tokens, first.output_tokens) == (25, 1)
    assert (second.seconds, second.prompt_tokens, second.output_tokens) == (2.0, 1, 7)


def test_a_rate_sets_the_mean_and_leaves_bursts_as_they_are():
    trace = rescaled([request(0.0), request(0.0), request(9.0)], rate=2.0)
    assert [each.seconds for each in trace] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lengths": 0}, "lengths must be a positive number"),
        ({"speed": float("inf")}, "speed must be"),
        ({"rate": -1}, "rate"),
        ({"lengths": 1e308}, "a request has from 1 to 10,000,000"),
    ],
)
def test_a_factor_that_is_none_is_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        rescaled([request(), request(1.0)], **changes)


def test_requests_that_come_at_once_have_no_rate():
    with pytest.raises(ValueError, match="all requests arrive at once"):
        rescaled([request(), request()], rate=1.0)


@pytest.mark.parametrize("wrong", [{"prompt_tokens": 0}, {"output_tokens": 10**8}, {"seconds": float("nan")}])
def test_a_request_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"no moment|a request has from 1"):
        request(**wrong)


def test_what_the_context_cannot_hold_is_cut_off_or_refused_as_vllm_does():
    served, refused = fitted([request(0.0, 10, 5), request(1.0, 12, 9), request(2.0, 16, 1)], max_model_len=16)
    assert [(each.prompt_tokens, each.output_tokens) for each in served] == [(10, 5), (12, 4)]
    assert refused == 1


def booked(*counts, bounds=(10, 100, 1000, float("inf")), total):
    """A histogram with so many observations in each bucket."""
    cumulative = tuple(sum(counts[: place + 1]) for place in range(len(counts)))
    return Histogram(bounds=bounds, cumulative=cumulative, sum=total, count=cumulative[-1])


def test_lengths_are_spread_as_the_engine_booked_them_and_have_its_mean():
    seen = booked(0, 80, 20, 0, total=80 * 55 + 20 * 550)
    lengths = drawn_lengths(seen, [(place + 0.5) / 1000 for place in range(1000)])
    assert sum(lengths) / 1000 == pytest.approx(seen.mean, rel=0.01)
    assert 0.75 < sum(each <= 100 for each in lengths) / 1000 <= 0.81
    assert list(lengths) == sorted(lengths)


def test_lengths_beyond_the_last_bucket_are_no_infinity():
    assert set(drawn_lengths(booked(0, 0, 0, 5, total=50_000), [0.1, 0.9])) == {10_000}


def test_of_nothing_seen_lengths_are_one_token():
    assert drawn_lengths(booked(0, 0, 0, 0, total=0), [0.5, 0.7]) == (1, 1)


# --- outcomes ---


def test_one_request_alone_takes_a_step_a_token():
    (outcome,) = outcomes([request(output_tokens=5)], [setting(async_scheduling=False)], ONE_A_STEP)
    assert (outcome.requests, outcome.steps, outcome.output_tokens, outcome.preemptions) == (1, 5, 5, 0)
    assert outcome.time_to_first_token_seconds.p50 == 1.0
    assert outcome.end_to_end_seconds.max == 5.0
    assert (outcome.inter_token_seconds.count, outcome.inter_token_seconds.p50) == (4, 1.0)


def test_the_settings_come_back_in_their_order_and_more_places_need_fewer_steps():
    trace = [request() for _ in range(16)]
    found = list(outcomes(trace, [setting(n) for n in (1, 2, 4, 8)], ONE_A_STEP))
    assert [each.max_num_seqs for each in found] == [1, 2, 4, 8]
    assert [each.peak_running for each in found] == [1, 2, 4, 8]
    steps = [each.steps for each in found]
    assert steps == sorted(steps, reverse=True) and len(set(steps)) == 4


def test_too_many_places_show_as_preemptions_recomputed_tokens_and_a_stall():
    trace = [request(prompt_tokens=8, output_tokens=24) for _ in range(8)]
    few, many = outcomes(trace, [setting(4), setting(8)], ONE_A_STEP)
    assert (few.preemptions, few.recomputed_tokens, few.longest_stall_seconds) == (0, 0, 1.0)
    assert many.preemptions >= many.preempted_requests > 0
    assert many.recomputed_tokens > 0 and many.longest_stall_seconds > 1.0


def test_means_of_steps_do_not_depend_on_how_long_steps_take():
    trace = [request(prompt_tokens=3 + place % 9, output_tokens=5 + place % 7) for place in range(20)]
    (quick,) = outcomes(trace, [setting()], ONE_A_STEP)
    uneven = StepTimeModel(base_seconds=0.1, per_prefill_token_seconds=3.0)
    (slow,) = outcomes(trace, [setting()], uneven)
    assert slow.mean_running != pytest.approx(quick.mean_running, rel=0.02)
    assert slow.shown.mean_running_per_step == quick.shown.mean_running_per_step
    assert slow.shown.mean_kv_usage_ratio_per_step == quick.shown.mean_kv_usage_ratio_per_step
    assert 0 < quick.shown.mean_running_per_step <= quick.shown.peak_running <= quick.peak_running


def test_metrics_show_the_state_before_a_step_until_it_is_done():
    trace = [request(prompt_tokens=4, output_tokens=2) for _ in range(3)]
    (outcome,) = outcomes(trace, [setting(async_scheduling=False)], ONE_A_STEP)
    # Two steps of a second: three run in both, the page shows none during the first and three during the second.
    assert (outcome.duration_seconds, outcome.mean_running) == (2.0, 3.0)
    assert (outcome.shown.mean_running, outcome.shown.peak_running) == (1.5, 3)


def test_a_shared_prefix_is_found_by_those_that_come_later():
    trace = [request(seconds=5.0 * place, prompt_tokens=20, output_tokens=2) for place in range(4)]
    (alone,) = outcomes(trace, [setting()], ONE_A_STEP)
    (shared,) = outcomes(trace, [setting()], ONE_A_STEP, shared_prefix_tokens=16)
    assert (alone.prefix_cache_hit_ratio, alone.prefill_tokens) == (0.0, 80)
    assert (shared.prefix_cache_hit_ratio, shared.prefill_tokens) == (0.6, 80 - 3 * 16)


def test_without_prefix_caching_there_is_no_share_of_hits():
    (outcome,) = outcomes([request()], [setting(enable_prefix_caching=False)], ONE_A_STEP)
    assert outcome.prefix_cache_hit_ratio is None


@given(
    st.lists(st.builds(request, st.floats(0, 20), st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=25),
    st.integers(1, 12),
)
def test_all_is_served_whatever_the_load(trace, max_num_seqs):
    served, _ = fitted(rescaled(trace), 40)
    (outcome,) = outcomes(served, [setting(max_num_seqs)], ONE_A_STEP)
    assert outcome.output_tokens == sum(each.output_tokens for each in served)
    assert outcome.end_to_end_seconds.count == len(served)
    assert (outcome.inter_token_seconds.count if outcome.inter_token_seconds else 0) == (
        outcome.output_tokens - len(served)
    )
    assert outcome.mean_running <= outcome.peak_running <= max_num_seqs
    assert 0 <= outcome.mean_kv_usage_ratio <= outcome.peak_kv_usage_ratio <= 1

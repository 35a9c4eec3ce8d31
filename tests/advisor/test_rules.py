"""Each rule on both sides of its threshold, and what it says where it converts a figure into words."""

import pytest

from advisor.policy import Policy
from advisor.report import Engine, EngineAdvice, GpuJudgement, Report, Start
from advisor.rules import (
    capacity_below_theory,
    capacity_dropped,
    figures_not_told,
    gpu_oom_risk,
    host_memory_ends,
    kv_exhaustion_ahead,
    max_num_seqs_far_off,
    prompt_logprobs_would_not_fit,
    queue_without_bound,
    request_never_fits,
    restart_would_fail,
    stalled_engine,
)
from advisor.snapshot import Snapshot
from advisor.tuning import SeqsAdvice
from advisor.units import GIB
from tests.advisor.examples import gpu, gpu_process, reading, server

NAMED = {"engine": "127.0.0.1:8000", "model_name": "m", "dp_rank": "0"}


def found(rule, report, snapshot=None):
    return list(rule.find(snapshot or Snapshot(now_seconds=0.0), report, Policy()))


def of_engine(rule, snapshot=None, **figures):
    return found(rule, Report(engines=(Engine(**NAMED, **figures),)), snapshot)


def of_risk(risk):
    judged = GpuJudgement(gpu="0", uuid="GPU-0", oom_risk_ratio=risk, oom_risk_factor_ratio={"trend": risk})
    words = {("GPU-0", "trend"): "it grows"}
    return found(gpu_oom_risk, Report(gpus=(judged,), factor_sentences=words, factor_remedies=words))


@pytest.mark.parametrize(
    ("risk", "severities"), [(0.199, []), (0.2, ["warning"]), (0.699, ["warning"]), (0.7, ["critical"])]
)
def test_a_risk_is_a_warning_from_a_fifth_on_and_critical_from_seven_tenths_on(risk, severities):
    assert [each.severity for each in of_risk(risk)] == severities


def test_a_full_cache_ahead_is_told_up_to_two_minutes_before_and_only_where_it_will_preempt():
    def told(seconds, risk):
        return of_engine(kv_exhaustion_ahead, time_to_kv_exhaustion_seconds=seconds, preemption_risk_ratio=risk)

    assert told(120.0, 0.7)
    assert not told(121.0, 0.7)
    assert not told(120.0, 0.69)
    assert told(0.9, 1.0)[0].summary.startswith("the KV cache is full;")


def test_a_queue_is_told_from_five_minutes_of_work_on_while_it_grows_and_by_the_minute():
    def told(drain, growth):
        return of_engine(
            queue_without_bound, queue_drain_seconds=drain, demand_growth_per_second=growth, requests_waiting=9.0
        )

    assert not told(299.0, 0.5)
    assert not told(300.0, 0.0)
    assert not told(300.0, -0.5)
    (finding,) = told(300.0, 0.5)
    assert finding.summary.startswith("9 requests wait, ")
    assert "30.0 more come each minute than are finished" in finding.summary


@pytest.mark.parametrize(("capacity", "is_told"), [(98_001, False), (97_999, True), (120_000, False)])
def test_a_capacity_that_fell_by_two_percent_between_two_starts_is_told(capacity, is_told):
    before = Start(vllm_version="0.32.0", capacity_tokens=100_000, began_wall_seconds=1.0)
    engine = Engine(**NAMED, kv_capacity_tokens=capacity)
    assert bool(
        found(capacity_dropped, Report(engines=(engine,), previous_starts={("127.0.0.1:8000", "0"): before}))
    ) is (is_told)


@pytest.mark.parametrize(
    ("capacity", "lowest", "is_told"),
    [
        (94_000, 95_000, True),
        (96_000, 97_000, False),  # below the bound, by less than the policy's twentieth
        (94_000, 93_000, False),  # more than a twentieth, and within the bounds
        (94_000, 94_000, False),
    ],
)
def test_a_capacity_is_below_theory_beyond_both_its_bound_and_a_twentieth(capacity, lowest, is_told):
    figures = {"kv_theory_tokens": 100_000, "kv_theory_lower_tokens": lowest, "kv_capacity_tokens": capacity}
    told = of_engine(capacity_below_theory, kv_capacity_gap_ratio=capacity / 100_000 - 1, **figures)
    assert bool(told) is is_told


def test_host_memory_is_told_from_nine_tenths_on_and_once_a_server():
    def told(used, ranks=1):
        figures = {"host_memory_limit_bytes": 100 * GIB, "host_memory_used_bytes": used * GIB}
        engines = tuple(Engine(**{**NAMED, "dp_rank": str(rank)}, **figures) for rank in range(ranks))
        return found(host_memory_ends, Report(engines=engines))

    assert not told(89)
    assert len(told(90, ranks=2)) == 1


def test_a_request_as_long_as_the_cache_fits_and_one_token_more_never_does():
    pages = Snapshot(now_seconds=0.0, engines=(reading(),))  # max_model_len is 8,192
    assert not of_engine(request_never_fits, pages, kv_capacity_tokens=8_192)
    (finding,) = of_engine(request_never_fits, pages, kv_capacity_tokens=8_191)
    assert "8,192 tokens, the KV cache holds 8,191" in finding.summary


def test_prompt_logprobs_are_judged_on_the_gpu_with_the_least_slack():
    host = Snapshot(
        now_seconds=0.0,
        gpus=(gpu(), gpu(index=1)),
        gpu_processes=(gpu_process(100, GIB), gpu_process(101, GIB, index=1)),
        servers=(server(),),
        engines=(reading(),),
    )

    def told(first, second):
        judged = tuple(
            GpuJudgement(gpu=str(n), uuid=f"GPU-{n}", memory_slack_bytes=slack * GIB)
            for n, slack in enumerate((first, second))
        )
        engine = Engine(**NAMED, prompt_logprobs_bytes=2 * GIB)
        return found(prompt_logprobs_would_not_fit, Report(gpus=judged, engines=(engine,)), host)

    assert not told(2, 2)
    assert "1.00 GiB are free" in told(9, 1)[0].summary


def seqs(current, lower, recommended, upper):
    advice = SeqsAdvice(
        current=current,
        recommended=recommended,
        lower=lower,
        upper=upper,
        confidence_ratio=0.9,
        binding="kv",
        because="why",
        buys=("less",),
        does_not_buy=(),
        window="a day",
        wanted=1,
        kv_wall=1,
    )
    return found(max_num_seqs_far_off, Report(advice=(EngineAdvice(**NAMED, not_yet=None, seqs=advice),)))


@pytest.mark.parametrize(
    ("current", "lower", "recommended", "upper", "is_told"),
    [
        (30, 16, 18, 20, True),  # one and a half times the upper bound
        (29, 16, 18, 20, False),
        (20, 30, 35, 40, True),  # the lower bound is one and a half times what it is
        (20, 29, 35, 40, False),
        (64, 16, 64, 20, False),  # it should stay, whatever the bounds are
    ],
)
def test_max_num_seqs_is_far_off_beyond_one_and_a_half_times_either_bound(current, lower, recommended, upper, is_told):
    assert bool(seqs(current, lower, recommended, upper)) is is_told


def test_a_restart_is_told_where_it_would_fail_and_not_where_that_is_unknown():
    assert not of_engine(restart_would_fail, restart_fits=1, restart_shortfall_bytes=0.0)
    assert not of_engine(restart_would_fail, restart_fits=None, restart_shortfall_bytes=None)
    (finding,) = of_engine(restart_would_fail, restart_fits=0, restart_shortfall_bytes=1.5 * GIB)
    assert "1.50 GiB are missing on a GPU" in finding.summary


def test_an_engine_that_does_not_tell_how_full_it_is_is_told_and_one_that_lacks_less_is_not():
    assert not of_engine(figures_not_told, metric_missing=None)
    assert not of_engine(figures_not_told, metric_missing={"queue_seconds": 1})
    (finding,) = of_engine(figures_not_told, metric_missing={"kv_usage_ratio": 1, "queue_seconds": 1})
    assert "does not tell how full its KV cache is, or by no number" in finding.summary


def test_only_a_stalled_engine_is_told_as_stalled():
    assert not of_engine(stalled_engine, limiter=None)
    assert not of_engine(stalled_engine, limiter={"kv": 1, "stalled": 0})
    (finding,) = of_engine(stalled_engine, limiter={"stalled": 1}, requests_running=3.0, requests_waiting=2.0)
    assert finding.summary.startswith("3 requests run, 2 wait, and no token has come for")
    assert "a restart ends it" in finding.advice


def test_an_engine_with_requests_that_sleeps_wants_to_be_woken_and_not_restarted():
    (finding,) = of_engine(stalled_engine, limiter={"stalled": 1}, requests_waiting=2.0, asleep=1)
    assert finding.summary.endswith(": it is asleep")
    assert "restart" not in finding.advice
    assert "/wake_up" in finding.advice

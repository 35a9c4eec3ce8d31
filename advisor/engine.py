"""Judgement of one engine: capacity against theory, headroom, what limits it."""

from advisor.capacity import reported_capacity
from advisor.defaults import FlagOrigin
from advisor.estimate import Estimate, Origin
from advisor.facts import one_hot
from advisor.history import EngineHistory
from advisor.plan import EnginePlan
from advisor.policy import Policy
from advisor.readings import EngineReading
from advisor.report import LIMITERS, Engine


def judge_engine(
    reading: EngineReading,
    *,
    theory: EnginePlan | None,
    no_theory: str | None,
    max_num_seqs: tuple[int, FlagOrigin] | None,
    history: EngineHistory,
    now_seconds: float,
    policy: Policy,
) -> Engine:
    """Return everything that is said of one engine that answered.

    Args:
        reading: What it reported.
        theory: What it should hold, None where that cannot be said.
        no_theory: Why not.
        max_num_seqs: The limit in effect and where it was learnt, None while unknown.
        history: What its counters showed before.
        now_seconds: Steady clock.
        policy: Thresholds.
    """
    reported = reported_capacity(reading.cache)
    capacity = reported or ((theory.kv_tokens.expected, Origin.ESTIMATED) if theory else None)
    tokens = capacity[0] if capacity else None
    usage = reading.kv_usage_ratio
    used = None if tokens is None or usage is None else tokens * usage
    headroom = None if tokens is None or used is None else tokens - used
    typical = typical_request_tokens(reading)
    by_kv = None if headroom is None or not typical else headroom // typical
    seqs = max_num_seqs[0] if max_num_seqs else None
    running = reading.requests_running
    by_seqs = None if seqs is None or running is None else max(0.0, seqs - running)
    expected = theory.kv_tokens if theory else None
    return Engine(
        engine=reading.engine,
        model_name=reading.model_name,
        dp_rank=reading.dp_rank,
        vllm_version=reading.vllm_version,
        kv_capacity_origin=capacity[1] if capacity else None,
        max_num_seqs_origin=max_num_seqs[1] if max_num_seqs else None,
        theory="ok" if theory else no_theory,
        up=1,
        asleep=None if reading.sleeping is None else int(reading.sleeping),
        metric_missing=dict.fromkeys(reading.missing, 1) or None,
        kv_capacity_tokens=tokens,
        kv_theory_tokens=expected.expected if expected else None,
        kv_theory_lower_tokens=expected.lower if expected else None,
        kv_theory_upper_tokens=expected.upper if expected else None,
        kv_capacity_gap_ratio=capacity_gap(reported[0] if reported else None, expected),
        kv_used_tokens=used,
        kv_headroom_tokens=headroom,
        kv_usage_ratio=usage,
        kv_bytes_per_token=theory.layout.bytes_per_token if theory else None,
        requests_running=running,
        requests_waiting=reading.requests_waiting,
        max_num_seqs=seqs,
        request_headroom=min((each for each in (by_kv, by_seqs) if each is not None), default=None),
        kv_request_headroom=by_kv,
        seqs_request_headroom=by_seqs,
        typical_request_tokens=typical,
        full_context_concurrency=reading.cache.kv_cache_max_concurrency or _full_context_concurrency(reading, theory),
        limiter=one_hot(
            limiter(reading, max_num_seqs=seqs, history=history, now_seconds=now_seconds, policy=policy),
            LIMITERS,
        )
        if reading.requests_waiting is not None
        else None,
        preemptions_total=reading.totals.get("preemptions_total"),
        requests_finished_total=lengths.count if (lengths := reading.histograms.get("generation_tokens")) else None,
    )


def _full_context_concurrency(reading: EngineReading, theory: EnginePlan | None) -> float | None:
    """Return how many requests of full length fit the blocks that vLLM has; those it should have, where it tells none.

    Releases before 0.24 tell their blocks and not this.
    """
    if theory is None:
        return None
    blocks = reading.cache.num_gpu_blocks
    return theory.full_context_concurrency.expected if blocks is None else theory.layout.max_concurrency(int(blocks))


def capacity_gap(reported_tokens: float | None, expected: Estimate | None) -> float | None:
    """Return reported over expected capacity, minus 1; None without both."""
    if reported_tokens is None or expected is None or expected.expected <= 0:
        return None
    return reported_tokens / expected.expected - 1


def typical_request_tokens(reading: EngineReading) -> float | None:
    """Return the length that a typical request comes to: mean prompt plus mean output of those finished.

    Before the first one has finished, a request may take all of max_model_len.
    """
    prompt = reading.histograms.get("prompt_tokens")
    output = reading.histograms.get("generation_tokens")
    if prompt and output and prompt.mean is not None and output.mean is not None:
        return prompt.mean + output.mean
    return float(reading.max_model_len) if reading.max_model_len else None


def limiter(
    reading: EngineReading,
    *,
    max_num_seqs: int | None,
    history: EngineHistory,
    now_seconds: float,
    policy: Policy,
) -> str:
    """Name what keeps more requests from running now.

    A queue whose head waits for KV blocks shows usage near 1, or a recent preemption, with fewer running than
    max_num_seqs; a queue with neither waits for the token budget of a step.
    """
    waiting = reading.requests_waiting_for_capacity
    if waiting is None:
        waiting = reading.requests_waiting or 0.0
    running = reading.requests_running or 0.0
    usage = reading.kv_usage_ratio or 0.0

    def since(moment_seconds: float | None) -> float:
        return now_seconds - moment_seconds if moment_seconds is not None else float("inf")

    token_seen = history.token_seen_at_seconds  # None at the first look, which tells nothing
    if waiting + running > 0 and token_seen is not None and since(token_seen) > policy.stalled_after_seconds:
        return "stalled"
    if since(history.rejected_at_seconds) <= policy.preemption_memory_seconds:
        return "queue_cap"
    if waiting <= 0:
        return "none"
    if max_num_seqs is not None and running >= max_num_seqs:
        return "max_num_seqs"
    preempted = since(history.preempted_at_seconds) <= policy.preemption_memory_seconds
    if usage >= policy.kv_full_ratio or preempted or _head_cannot_fit(reading, usage):
        return "kv"
    # vLLM counts after a step's last tokens: those that finished in it are gone, those that replace them not yet in.
    reached = max_num_seqs is not None and since(history.seqs_reached_at_seconds) <= policy.seqs_memory_seconds
    return "max_num_seqs" if reached else "compute"


def _head_cannot_fit(reading: EngineReading, usage: float) -> bool:
    """Tell whether a mean prompt no longer fits the free blocks: vLLM admits the head whole or nobody (0.19 on)."""
    prompt = reading.histograms.get("prompt_tokens")
    reported = reported_capacity(reading.cache)
    if prompt is None or prompt.mean is None or reported is None:
        return False
    return (1 - usage) * reported[0] < prompt.mean

"""What a range of settings would do with one load: each setting is a replay of the same requests."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from advisor.percentiles import Percentiles, percentiles, weighted_percentiles
from advisor.readings import Histogram
from advisor.simulate import Arrival, Batch, Request, SchedulerConfig, Shown, SimulationResult, replay

MOST_TOKENS = 10_000_000
"""No context is longer; a length beyond it is a mistake in the trace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TracedRequest:
    """One request of a trace."""

    seconds: float
    """Arrival, from any origin."""
    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.seconds):
            raise ValueError(f"an arrival at {self.seconds} is no moment")
        for name, tokens in (("prompt", self.prompt_tokens), ("output", self.output_tokens)):
            if not 1 <= tokens <= MOST_TOKENS:
                raise ValueError(f"{tokens} {name} tokens: a request has from 1 to {MOST_TOKENS:,}")


def rescaled(
    trace: Iterable[TracedRequest], *, lengths: float = 1.0, speed: float = 1.0, rate: float | None = None
) -> tuple[TracedRequest, ...]:
    """Return a trace in order of arrival that starts at 0, with other lengths or another pace.

    Args:
        trace: The requests, in any order.
        lengths: Factor of every length; a length is rounded down and is at least 1.
        speed: Factor of time: 2 lets the same requests arrive in half of it.
        rate: Requests a second on average, which overrules ``speed``; bursts stay bursts.

    Raises:
        ValueError: A factor is not positive or makes a length that is none, or all requests arrive at once and a rate
            is asked for.
    """
    ordered = sorted(trace, key=lambda each: each.seconds)
    for name, factor in (("lengths", lengths), ("speed", speed), ("rate", rate)):
        if factor is not None and not 0 < factor < math.inf:
            raise ValueError(f"{name} must be a positive number, not {factor}")
    if not ordered:
        return ()
    begin = ordered[0].seconds
    if rate is not None and len(ordered) > 1:
        span = ordered[-1].seconds - begin
        if span <= 0:
            raise ValueError("all requests arrive at once: there is no pace to bring to a rate")
        speed = rate * span / (len(ordered) - 1)
    return tuple(
        TracedRequest(
            seconds=(each.seconds - begin) / speed,
            # A product beyond all floats is beyond all lengths as well, and is refused as such.
            prompt_tokens=max(1, int(min(each.prompt_tokens * lengths, 2.0 * MOST_TOKENS))),
            output_tokens=max(1, int(min(each.output_tokens * lengths, 2.0 * MOST_TOKENS))),
        )
        for each in ordered
    )


def fitted(trace: Sequence[TracedRequest], max_model_len: int) -> tuple[tuple[TracedRequest, ...], int]:
    """Return what a server of this context can serve, outputs cut to what the context leaves, and how many it refuses.

    vLLM refuses a prompt that leaves no room for output and cuts an output off at ``max_model_len``.
    """
    served = tuple(
        replace(each, output_tokens=min(each.output_tokens, max_model_len - each.prompt_tokens))
        for each in trace
        if each.prompt_tokens < max_model_len
    )
    return served, len(trace) - len(served)


def drawn_lengths(histogram: Histogram, quantiles: Iterable[float]) -> tuple[int, ...]:
    """Return lengths in tokens that are spread like those an engine has booked, one for each quantile from 0 to 1.

    Within a bucket lengths are even; then all are scaled together so that their mean is the engine's own, which its
    sum tells exactly. Of an empty histogram every length is 1.
    """
    drawn = [_at_quantile(histogram, each) for each in quantiles]
    mean = histogram.mean
    if not drawn or mean is None or sum(drawn) <= 0:
        return (1,) * len(drawn)
    factor = mean * len(drawn) / sum(drawn)
    return tuple(max(1, round(each * factor)) for each in drawn)


def _at_quantile(histogram: Histogram, quantile: float) -> float:
    wanted = quantile * histogram.count
    lower = below = 0.0
    for bound, reached in zip(histogram.bounds, histogram.cumulative, strict=True):
        if reached >= wanted and reached > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / (reached - below)
        if not math.isinf(bound):
            lower = bound
        below = reached
    return lower


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one setting did with the load."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_tokens: int
    """Tokens that requests can hold together."""
    requests: int
    """All of them finish: nothing is aborted."""
    duration_seconds: float
    busy_ratio: float
    """Share of the duration in which there was something to do."""
    output_tokens: int
    output_tokens_per_second: float
    requests_per_second: float
    steps: int
    """Steps in which the model computed anything."""
    prefill_tokens: int
    preemptions: int
    preempted_requests: int
    recomputed_tokens: int
    """Tokens that were computed before and lost in a preemption."""
    prefix_cache_hit_ratio: float | None
    """None without prefix caching."""
    mean_running: float
    peak_running: int
    mean_waiting: float
    peak_waiting: int
    mean_kv_usage_ratio: float
    peak_kv_usage_ratio: float
    shown: Shown
    queue_seconds: Percentiles
    time_to_first_token_seconds: Percentiles
    inter_token_seconds: Percentiles | None
    """Between two tokens of one request; None where no request has two."""
    end_to_end_seconds: Percentiles
    longest_stall_seconds: float
    """Longest time between two tokens of one request."""


def outcomes(
    trace: Sequence[TracedRequest],
    settings: Iterable[SchedulerConfig],
    step_seconds: Callable[[Batch], float],
    *,
    shared_prefix_tokens: int = 0,
    max_steps: int = 1_000_000,
) -> Iterator[Outcome]:
    """Yield what each setting would do with this trace, one after another.

    Args:
        trace: Requests that every setting can serve (`fitted`).
        settings: The flags, as in `advisor.simulate.SchedulerConfig`.
        step_seconds: Seconds to compute a batch.
        shared_prefix_tokens: Leading tokens that all prompts have in common.
        max_steps: Most steps of one replay.

    Raises:
        ValueError: The trace is empty or a request can never be served.
        advisor.simulate.StepLimitError: ``max_steps`` were not enough.
    """
    arrivals = [
        Arrival(
            seconds=each.seconds,
            request=Request(
                request_id=str(number),
                prompt_tokens=each.prompt_tokens,
                max_tokens=each.output_tokens,
                prefix_group="all" if shared_prefix_tokens else None,
                shared_prefix_tokens=min(shared_prefix_tokens, each.prompt_tokens),
            ),
        )
        for number, each in enumerate(trace)
    ]
    for config in settings:
        yield _outcome(config, replay(config, arrivals, step_seconds, max_steps=max_steps))


def _outcome(config: SchedulerConfig, result: SimulationResult) -> Outcome:
    def over(values: Iterable[float]) -> Percentiles:
        found = percentiles(values)
        assert found is not None
        return found

    requests = result.requests
    return Outcome(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        kv_tokens=config.kv_cache_tokens,
        requests=len(requests),
        duration_seconds=result.duration_seconds,
        busy_ratio=result.busy_seconds / result.duration_seconds if result.duration_seconds else 0.0,
        output_tokens=result.output_tokens,
        output_tokens_per_second=result.output_tokens_per_second,
        requests_per_second=len(requests) / result.duration_seconds if result.duration_seconds else 0.0,
        steps=result.steps,
        prefill_tokens=result.prefill_tokens,
        preemptions=result.num_preemptions,
        preempted_requests=sum(each.num_preemptions > 0 for each in requests),
        recomputed_tokens=result.recomputed_tokens,
        prefix_cache_hit_ratio=(
            result.prefix_cache_hits / result.prefix_cache_queries
            if config.enable_prefix_caching and result.prefix_cache_queries
            else None
        ),
        mean_running=result.mean_running,
        peak_running=result.peak_running,
        mean_waiting=result.mean_waiting,
        peak_waiting=result.peak_waiting,
        mean_kv_usage_ratio=result.mean_usage,
        peak_kv_usage_ratio=result.peak_usage,
        shown=result.shown,
        queue_seconds=over(each.queue_seconds for each in requests),
        time_to_first_token_seconds=over(each.time_to_first_token_seconds for each in requests),
        inter_token_seconds=weighted_percentiles(result.gaps),
        end_to_end_seconds=over(each.end_to_end_seconds for each in requests),
        longest_stall_seconds=max(each.max_gap_seconds for each in requests),
    )

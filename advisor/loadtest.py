"""What a load test saw: of each request from the client's side, of the server from its metrics, and where it bends."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from advisor.percentiles import Percentiles, percentiles
from advisor.readings import Histogram
from advisor.step_times import Stretch

_FULL_KV_RATIO = 0.9
"""Mean KV usage from which on the cache is what requests wait for."""
_SOME_WAITING = 0.5
"""Requests that wait on average, from which on there is a queue."""


class End(StrEnum):
    """How a request ended."""

    OK = "ok"
    FAILED = "failed"
    CUT_OFF = "cut_off"
    """By the end of the test: it counts neither as a success nor as a failure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One request as its client saw it. Moments are seconds since the test began."""

    sent_seconds: float
    ended_seconds: float
    end: End
    reason: str | None = None
    """Why it failed: a short word or two, the same for all of a kind."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    """By the server's own count where it sends one, else the pieces of text that came."""
    counted_by_server: bool = False
    arrivals: tuple[tuple[float, int], ...] = ()
    """(moment, tokens) of every piece of the stream that held output; a server under load sends several at once."""

    @property
    def time_to_first_token_seconds(self) -> float | None:
        """From sending to the first output, None where none came."""
        return self.arrivals[0][0] - self.sent_seconds if self.arrivals else None

    @property
    def end_to_end_seconds(self) -> float:
        """From sending to the end."""
        return self.ended_seconds - self.sent_seconds

    @property
    def gaps_seconds(self) -> tuple[float, ...]:
        """Times between two pieces of output."""
        return tuple(after[0] - before[0] for before, after in pairwise(self.arrivals))


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One look at a server's metrics, its data-parallel engines together. None is not reported."""

    seconds: float
    """Since the test began."""
    running: float | None = None
    waiting: float | None = None
    kv_usage_ratio: float | None = None
    """Mean over engines."""
    kv_capacity_tokens: float | None = None
    """Sum over engines."""
    preemptions: float | None = None
    steps: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    decode_gaps: float | None = None
    """Times between two tokens that the engine has booked: output tokens less each request's first."""
    prefix_cache_queries: float | None = None
    prefix_cache_hits: float | None = None
    queue_seconds: Histogram | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A gauge over a stretch of time."""

    mean: float
    """Weighed by time."""
    peak: float
    mean_per_step: float | None = None
    """Weighed by the engine's steps instead: a slow machine does not change it. None without a count of steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What the server's own metrics said meanwhile; None is not reported."""

    looks: int
    running: Quantity | None
    waiting: Quantity | None
    kv_usage_ratio: Quantity | None
    preemptions: float | None
    steps: float | None
    prefix_cache_hit_ratio: float | None
    queue_seconds: Percentiles | None
    """Percentiles are the upper bounds of the server's buckets that they lie in: at most so long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One load, summed up."""

    users: int | None
    """Clients that each send one request after another; None where requests come at times of their own."""
    requests: int
    """Sent."""
    completed: int
    failed: int
    cut_off: int
    failures: tuple[tuple[str, int], ...]
    """Reasons, the most frequent first."""
    success_ratio: float | None
    """Completed of those that ended by themselves; None where none did."""
    duration_seconds: float
    """From the first request sent to the last one ended."""
    prompt_tokens: int
    output_tokens: int
    exact_tokens: bool
    """Whether all counts of completed requests are the server's own."""
    steady_seconds: float
    """The stretch that throughput is taken over: while the load was complete."""
    output_tokens_per_second: float
    requests_per_second: float
    output_tokens_per_second_per_user: Percentiles | None
    """Of each completed request: its output over its whole time."""
    time_to_first_token_seconds: Percentiles | None
    inter_token_seconds: Percentiles | None
    """Between two pieces of a stream, nearly always two tokens."""
    end_to_end_seconds: Percentiles | None
    longest_stall_seconds: float | None
    seen: Seen | None
    """None where the server's metrics could not be read."""


def level_of(
    samples: Sequence[Sample], looks: Sequence[Look], *, users: int | None, steady_until_seconds: float | None = None
) -> Level:
    """Sum up a load.

    Args:
        samples: The requests.
        looks: The server's metrics meanwhile, in order of time.
        users: Number of clients, None for a load with times of its own.
        steady_until_seconds: When the first client ran out of requests; tokens that came later are left out of the
            throughput, because fewer and fewer clients were at work. None takes the whole duration.
    """
    begin = min((each.sent_seconds for each in samples), default=0.0)
    end = max((each.ended_seconds for each in samples), default=0.0)
    until = end if steady_until_seconds is None else min(max(steady_until_seconds, begin), end)
    steady = until - begin
    done = [each for each in samples if each.end is End.OK]
    failed = [each for each in samples if each.end is End.FAILED]
    reasons: dict[str, int] = {}
    for each in failed:
        reasons[each.reason or "unknown"] = reasons.get(each.reason or "unknown", 0) + 1
    tokens = sum(count for each in samples for moment, count in each.arrivals if moment <= until)
    stalls = [max(each.gaps_seconds) for each in samples if len(each.arrivals) > 1]
    return Level(
        users=users,
        requests=len(samples),
        completed=len(done),
        failed=len(failed),
        cut_off=len(samples) - len(done) - len(failed),
        failures=tuple(sorted(reasons.items(), key=lambda item: -item[1])),
        success_ratio=len(done) / (len(done) + len(failed)) if done or failed else None,
        duration_seconds=end - begin,
        prompt_tokens=sum(each.prompt_tokens for each in done),
        output_tokens=sum(each.output_tokens for each in done),
        exact_tokens=all(each.counted_by_server for each in done),
        steady_seconds=steady,
        output_tokens_per_second=tokens / steady if steady > 0 else 0.0,
        requests_per_second=sum(each.ended_seconds <= until for each in done) / steady if steady > 0 else 0.0,
        output_tokens_per_second_per_user=percentiles(
            each.output_tokens / each.end_to_end_seconds for each in done if each.end_to_end_seconds > 0
        ),
        time_to_first_token_seconds=percentiles(
            first for each in done if (first := each.time_to_first_token_seconds) is not None
        ),
        inter_token_seconds=percentiles(gap for each in done for gap in each.gaps_seconds),
        end_to_end_seconds=percentiles(each.end_to_end_seconds for each in done),
        longest_stall_seconds=max(stalls, default=None),
        seen=seen_in(looks) if looks else None,
    )


def seen_in(looks: Sequence[Look]) -> Seen:
    """Sum up what the server said between the first and the last of these looks."""
    first, last = looks[0], looks[-1]

    def grown(name: str) -> float | None:
        before, after = getattr(first, name), getattr(last, name)
        return None if before is None or after is None else max(0.0, after - before)

    queries, hits = grown("prefix_cache_queries"), grown("prefix_cache_hits")
    return Seen(
        looks=len(looks),
        running=_quantity(looks, "running"),
        waiting=_quantity(looks, "waiting"),
        kv_usage_ratio=_quantity(looks, "kv_usage_ratio"),
        preemptions=grown("preemptions"),
        steps=grown("steps"),
        prefix_cache_hit_ratio=hits / queries if queries and hits is not None else None,
        queue_seconds=_grown_percentiles(first.queue_seconds, last.queue_seconds),
    )


def _quantity(looks: Sequence[Look], name: str) -> Quantity | None:
    known = [(look, float(value)) for look in looks if (value := getattr(look, name)) is not None]
    if not known:
        return None
    values = [((before[1] + after[1]) / 2, before[0], after[0]) for before, after in pairwise(known)]
    mean = _weighed([(value, after.seconds - before.seconds) for value, before, after in values])
    return Quantity(
        mean=known[0][1] if mean is None else mean,
        peak=max(value for _, value in known),
        mean_per_step=_weighed(
            [
                (value, after.steps - before.steps)
                for value, before, after in values
                if before.steps is not None and after.steps is not None
            ]
        ),
    )


def _weighed(pairs: Sequence[tuple[float, float]]) -> float | None:
    weight = sum(each for _, each in pairs)
    return sum(value * each for value, each in pairs) / weight if weight > 0 else None


def _grown_percentiles(before: Histogram | None, after: Histogram | None) -> Percentiles | None:
    """Return the percentiles of what was observed between two states of one histogram."""
    if after is None or (before is not None and before.bounds != after.bounds):
        return None
    earlier = before.cumulative if before else (0.0,) * len(after.bounds)
    cumulative = [late - early for late, early in zip(after.cumulative, earlier, strict=True)]
    count = after.count - (before.count if before else 0.0)
    if count <= 0 or len(cumulative) < 2:
        return None

    finite = [bound for bound in after.bounds if not math.isinf(bound)]

    def at(share: float) -> float:
        reached = next(
            (bound for bound, seen in zip(after.bounds, cumulative, strict=True) if seen >= count * share), math.inf
        )
        return min(reached, finite[-1])

    return Percentiles(
        count=round(count),
        mean=(after.sum - (before.sum if before else 0.0)) / count,
        p50=at(0.5),
        p90=at(0.9),
        p95=at(0.95),
        p99=at(0.99),
        max=at(1.0),
    )


_STEPS_A_STRETCH = 5
"""Fewer and the one step that lies across its ends weighs too much."""


def stretches_of(looks: Iterable[Look]) -> tuple[Stretch, ...]:
    """Return what the engine did in stretches of some steps each, in which every look found it busy.

    Prompt tokens count when their prefill is done and leave out those computed again after a preemption, as in vLLM's
    metrics; the context is that of all running requests.
    """
    found = []
    span: list[Look] = []
    for look in looks:
        if not look.running or look.steps is None:
            span = []
            continue
        span.append(look)
        steps = look.steps - (span[0].steps or 0.0)
        if steps < 0:  # another server answers now
            span = [look]
        elif steps >= _STEPS_A_STRETCH:
            stretch = _stretch(span, steps)
            if stretch is not None:
                found.append(stretch)
            span = [look]
    return tuple(found)


def _stretch(span: Sequence[Look], steps: float) -> Stretch | None:
    first, last = span[0], span[-1]

    def grown(name: str) -> float | None:
        before, after = getattr(first, name), getattr(last, name)
        return None if before is None or after is None or after < before else after - before

    prompt = grown("prompt_tokens")
    decode = grown("decode_gaps")
    if decode is None:
        decode = grown("generation_tokens")
    if prompt is None or decode is None or last.seconds <= first.seconds:
        return None
    usage = _quantity(span, "kv_usage_ratio")
    used = usage.mean * last.kv_capacity_tokens if usage is not None and last.kv_capacity_tokens is not None else 0.0
    return Stretch(
        seconds=last.seconds - first.seconds,
        steps=steps,
        prefill_tokens=prompt,
        decode_tokens=decode,
        context_tokens=used * steps,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Knee:
    """Up to where more users are worth it."""

    users: int | None
    """None where no level of those tried is one."""
    limited_by: str
    """``kv``, ``max_num_seqs``, ``compute``, ``failures``, ``nothing`` (throughput still grew) or ``unknown``."""
    sentence: str


def find_knee(levels: Sequence[Level], *, max_num_seqs: int | None = None) -> Knee:
    """Say where the throughput of growing numbers of users bends, and what bends it.

    The knee is the level with the greatest throughput over latency (Kleinrock's power; with so many users in a closed
    loop the latency is users over throughput): beyond it a doubling of the users brings less than 1.4 times the
    throughput and more than 1.4 times the latency.

    Args:
        levels: Of one ramp, in any order.
        max_num_seqs: The server's setting, where it is known.
    """
    known = sorted((each for each in levels if each.users and each.completed), key=lambda each: each.users or 0)
    if len(known) < 2:
        sentence = "One level shows no knee: give several numbers of users."
        return Knee(users=None, limited_by="unknown", sentence=sentence)
    knee = max(known, key=lambda each: each.output_tokens_per_second**2 / (each.users or 1))
    position = known.index(knee)
    if position == len(known) - 1:
        return Knee(
            users=None,
            limited_by="nothing",
            sentence=f"No knee up to {knee.users} users: throughput still grew nearly as fast as their number.",
        )
    beyond = known[position + 1]
    limited_by, why = _limit(knee, beyond, max_num_seqs)
    return Knee(
        users=knee.users,
        limited_by=limited_by,
        sentence=(
            f"The knee is at {knee.users} users with {knee.output_tokens_per_second:,.1f} output tokens/s: "
            f"{beyond.users} bring {beyond.output_tokens_per_second / knee.output_tokens_per_second:.2f} times that"
            f"{_slower(knee, beyond)}. {why}"
        ),
    )


def _slower(knee: Level, beyond: Level) -> str:
    before, after = knee.end_to_end_seconds, beyond.end_to_end_seconds
    return f" and take {after.p50 / before.p50:.2f} times as long" if before and after and before.p50 > 0 else ""


def _limit(knee: Level, beyond: Level, max_num_seqs: int | None) -> tuple[str, str]:
    if beyond.success_ratio is not None and beyond.success_ratio < 0.99:
        worst = beyond.failures[0][0] if beyond.failures else "unknown"
        return "failures", f"Beyond it requests fail ({worst})."
    seen = beyond.seen
    if seen is None or seen.running is None or seen.waiting is None:
        return "unknown", "What limits it cannot be said: the server's metrics could not be read."
    queued = seen.waiting.mean >= _SOME_WAITING
    usage = seen.kv_usage_ratio
    if seen.preemptions or (queued and usage is not None and usage.mean >= _FULL_KV_RATIO):
        preempted = f", {seen.preemptions:.0f} preemptions" if seen.preemptions else ""
        used = f"{usage.mean:.0%} of it in use on average" if usage is not None else "preempted"
        return "kv", f"Beyond it the KV cache is full ({used}{preempted})."
    if queued:
        limit = f"--max-num-seqs {max_num_seqs}" if max_num_seqs else "most likely --max-num-seqs"
        used = f" with {usage.mean:.0%} of the KV cache in use" if usage is not None else ""
        return "max_num_seqs", (
            f"Beyond it requests queue: {seen.running.peak:.0f} run at most ({limit}), {seen.waiting.mean:.1f} wait "
            f"on average{used}."
        )
    before, after = knee.inter_token_seconds, beyond.inter_token_seconds
    steps = (
        f": the median time between tokens goes from {before.p50 * 1000:.1f} to {after.p50 * 1000:.1f} ms"
        if before and after
        else ""
    )
    return "compute", f"Beyond it nobody queues, the steps take longer{steps}."

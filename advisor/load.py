"""What really runs on an engine, as decaying sums of constant size. State in, state out.

Two memories: one that halves with every day of load, for advice (an idle night forgets nothing), and one that halves
every ten minutes, for what happens next. Moments weigh by the time they stand for, so the polling interval does not
matter. Nothing is fed by a server that is down, asleep, stalled, or in its first seconds: a moment that the page does
not tell of ends the run of moments, and the next one only begins a new run.
"""

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, repeat
from typing import Any

from advisor.readings import EngineReading, Histogram

SLOW_HALF_LIFE_SECONDS = 86_400.0
"""Of time in which requests ran."""
FAST_HALF_LIFE_SECONDS = 600.0
SETTLE_SECONDS = 10.0
"""A fresh server compiles and warms up in its first steps; what it shows then is not the load."""
MOST_ENGINES = 256
MOST_BUCKETS = 64
"""vLLM has 22 for times and, up to 2,048 tokens, 12 for lengths. A page may name thousands: they are not remembered."""
_SAME_START_SECONDS = 2.0
_SPELL_TURNOVERS = 0.5
"""Preemptions nearer to each other than that share of a request's life have the same cause."""
_TOTALS = (
    "generation_tokens_total",
    "prompt_tokens_total",
    "preemptions_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
)
_LENGTH_NAMES = ("prompt_tokens", "generation_tokens", "queue_seconds")
"""Histograms that are remembered, each by a field of `EngineLoad`."""
_HISTOGRAMS = (*_LENGTH_NAMES, "inter_token_seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Decayed sums: of what is counted over all time watched, of what runs and is used over the moments told below."""

    seconds: float = 0.0
    """Time watched, idle or not."""
    busy_seconds: float = 0.0
    samples: float = 0.0
    """Moments that told both running requests and KV usage."""
    sampled_seconds: float = 0.0
    """The weight of those."""
    running: float = 0.0
    """Requests x seconds."""
    running_squared: float = 0.0
    """Requests squared x seconds: with the one above it gives how much their number varies."""
    waiting: float = 0.0
    """Requests x seconds."""
    used: float = 0.0
    """Tokens x seconds."""
    used_squared: float = 0.0
    """Tokens squared over requests, x seconds: with the two above it gives the spread of one request."""
    queued_seconds: float = 0.0
    """Time with somebody waiting."""
    budget_seconds: float = 0.0
    """Time in which the token budget of a step kept requests waiting."""
    finished: float = 0.0
    arrived: float = 0.0
    preempted: float = 0.0
    spells: float = 0.0
    """Preemptions that came half a request's life or more after the last one counted here: a rush of them is one."""
    prefix_queries: float = 0.0
    prefix_hits: float = 0.0
    latency_weight: float = 0.0
    latency_running: float = 0.0
    latency_running_squared: float = 0.0
    latency_seconds: float = 0.0
    latency_product: float = 0.0

    def folded(self, new: "Sums", keep: float) -> "Sums":
        """Return these sums after ``keep`` of them is left and the new ones are added."""
        return Sums(**{name: getattr(self, name) * keep + getattr(new, name) for name in _SUM_NAMES})


_SUM_NAMES = tuple(field.name for field in dataclasses.fields(Sums))


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """A decayed histogram."""

    bounds: tuple[float, ...] = ()
    """Upper bounds, ascending, the last one +Inf."""
    counts: tuple[float, ...] = ()
    """Observations in each bucket alone."""
    sum: float = 0.0

    @property
    def count(self) -> float:
        """Observations in all."""
        return math.fsum(self.counts)

    @property
    def histogram(self) -> Histogram:
        """The same as a page would show it, but for counts that are no whole numbers."""
        return Histogram(bounds=self.bounds, cumulative=tuple(accumulate(self.counts)), sum=self.sum, count=self.count)

    @property
    def mean(self) -> float | None:
        """Mean, None before the first."""
        count = self.count
        return self.sum / count if count > 0 else None

    def quantile(self, share: float, *, longest: float) -> float | None:
        """Return the upper bound of the bucket in which this share of the observations is reached.

        Args:
            share: 0 to 1.
            longest: What stands for the bucket without a bound.
        """
        left = share * self.count
        for bound, count in zip(self.bounds, self.counts, strict=True):
            left -= count
            if left <= 0 and self.count > 0:
                return min(bound, longest)
        return None

    def moments(self, *, longest: float) -> tuple[float, float, float] | None:
        """Return the means of the value, its square and its cube, taking values as even within a bucket.

        The mean is exact, since the page tells the sum; the other two are stretched to agree with it.
        """
        count, mean = self.count, self.mean
        if mean is None or mean <= 0:
            return None
        raw = [0.0, 0.0, 0.0]
        low = 0.0
        for bound, each in zip(self.bounds, self.counts, strict=True):
            high = max(low, min(bound, longest))
            for power in range(3):
                inside = (
                    (high ** (power + 2) - low ** (power + 2)) / ((power + 2) * (high - low))
                    if high > low
                    else low ** (power + 1)
                )
                raw[power] += each * inside / count
            low = high
        if raw[0] <= 0:
            return None
        stretch = mean / raw[0]
        return mean, raw[1] * stretch**2, raw[2] * stretch**3

    def folded(self, new: "Lengths", keep: float) -> "Lengths":
        """Return this histogram after ``keep`` of it is left and the new one is added; alone, if its bounds differ."""
        if new.bounds and new.bounds != self.bounds:
            return new
        return Lengths(
            bounds=self.bounds,
            counts=tuple(keep * old + each for old, each in zip(self.counts, new.counts or repeat(0.0), strict=False)),
            sum=keep * self.sum + new.sum,
        )


def lengths_between(before: Histogram | None, after: Histogram | None) -> Lengths:
    """Return what came between two pages; nothing where they cannot be compared."""
    if before is None or after is None or before.bounds != after.bounds or not 0 < len(after.bounds) <= MOST_BUCKETS:
        return Lengths()
    counts = tuple(late - early for early, late in zip(_single(before), _single(after), strict=True))
    if min(counts) < 0 or after.sum < before.sum:  # a page of several processes, torn
        return Lengths()
    return Lengths(bounds=after.bounds, counts=counts, sum=after.sum - before.sum)


def _single(histogram: Histogram) -> list[float]:
    return [late - early for early, late in zip((0.0, *histogram.cumulative[:-1]), histogram.cumulative, strict=True)]


DEMAND_BOUNDS: tuple[int, ...] = tuple(
    sorted({*range(1, 17), *(round(16 * 2 ** (step / 8)) for step in range(1, 97))})  # 16 to 65,536 in steps of 9%
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What came of one value of max_num_seqs; begins anew when it changes."""

    max_num_seqs: float | None = None
    finished: float = 0.0
    preempted: float = 0.0
    busy_seconds: float = 0.0
    limited_seconds: float = 0.0
    """Time in which max_num_seqs kept requests waiting."""

    def folded(self, new: "Setting", keep: float) -> "Setting":
        """Return the same setting after ``keep`` of what came of it is left and what came lately is added."""
        return Setting(
            max_num_seqs=self.max_num_seqs,
            finished=self.finished * keep + new.finished,
            preempted=self.preempted * keep + new.preempted,
            busy_seconds=self.busy_seconds * keep + new.busy_seconds,
            limited_seconds=self.limited_seconds * keep + new.limited_seconds,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """The page before, of which only differences are used; never saved."""

    seconds: float
    settled_at_seconds: float
    started_at_seconds: float | None
    totals: Mapping[str, float]
    histograms: Mapping[str, Histogram]
    running: float
    waiting: float
    spell_at_seconds: float = -math.inf
    """When a preemption was last counted as a spell of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLoad:
    """What one engine was seen to do."""

    model_name: str
    slow: Sums = Sums()
    fast: Sums = Sums()
    prompt_tokens: Lengths = Lengths()
    generation_tokens: Lengths = Lengths()
    queue_seconds: Lengths = Lengths()
    demand_seconds: tuple[float, ...] = ()
    """Time by requests running and waiting, over `DEMAND_BOUNDS`."""
    setting: Setting = Setting()
    watched_busy_seconds: float = 0.0
    """Load seen in all, nothing forgotten; for people."""
    watched_finished: float = 0.0
    advised: int | None = None
    """max_num_seqs as last recommended: advice holds on to it while it is about right."""
    until_wall_seconds: float | None = None
    """Unix time up to which a daemon before this one had watched; None in what it did not leave."""
    last: Moment | None = None

    def demand(self, share: float) -> int | None:
        """Return the number of requests, running and waiting, that was not exceeded this share of the busy time."""
        total = math.fsum(self.demand_seconds)
        left = share * total
        for bound, seconds in zip(DEMAND_BOUNDS, self.demand_seconds, strict=False):
            left -= seconds
            if total > 0 and left <= 0:
                return int(bound)
        return int(DEMAND_BOUNDS[-1]) if total > 0 else None


def observe_load(
    load: EngineLoad | None,
    reading: EngineReading,
    *,
    capacity_tokens: float | None,
    max_num_seqs: float | None,
    limiter: str | None,
    now_seconds: float,
) -> EngineLoad:
    """Fold one page into what is known of an engine's load.

    Args:
        load: What is known; None at first sight.
        reading: The page.
        capacity_tokens: KV tokens of the engine, None while unknown.
        max_num_seqs: The limit in effect, None while unknown.
        limiter: What keeps requests from running now, as in `advisor.report.LIMITERS`.
        now_seconds: Steady clock.
    """
    if load is None or load.model_name != reading.model_name:
        load = EngineLoad(model_name=reading.model_name)
    if reading.sleeping or reading.requests_running is None or limiter == "stalled":
        return interrupted(load)
    last = load.last
    moment = _moment(reading, now_seconds, last)
    if (
        last is None
        or now_seconds <= last.seconds
        or _restarted(last, moment)
        or last.seconds < moment.settled_at_seconds
    ):
        return replace(load, last=moment)
    moment = replace(moment, spell_at_seconds=_spell_at(load, last, moment))
    return _folded(load, last, moment, reading, capacity_tokens, max_num_seqs, limiter)


def _spell_at(load: EngineLoad, last: Moment, moment: Moment) -> float:
    """Return when a spell of preemptions was last counted: this moment if one begins, or still goes on."""
    if moment.totals.get("preemptions_total", 0.0) <= last.totals.get("preemptions_total", math.inf):
        return last.spell_at_seconds
    sums = load.fast
    turnover = sums.running / sums.finished if sums.finished > 0 else 0.0
    return (
        moment.seconds
        if moment.seconds - last.spell_at_seconds >= _SPELL_TURNOVERS * turnover
        else last.spell_at_seconds
    )


def interrupted(load: EngineLoad) -> EngineLoad:
    """Return the load after a moment that tells nothing: what comes next is no continuation."""
    return load if load.last is None else replace(load, last=None)


def _moment(reading: EngineReading, now_seconds: float, last: Moment | None) -> Moment:
    moment = Moment(
        seconds=now_seconds,
        settled_at_seconds=last.settled_at_seconds if last else now_seconds,
        started_at_seconds=reading.started_at_seconds,
        totals={name: reading.totals[name] for name in _TOTALS if name in reading.totals},
        histograms={name: reading.histograms[name] for name in _HISTOGRAMS if name in reading.histograms},
        running=reading.requests_running or 0.0,
        waiting=reading.requests_waiting or 0.0,
    )
    served = reading.totals.get("generation_tokens_total", 0.0) > 0
    fresh = not served if last is None else _restarted(last, moment)
    return replace(moment, settled_at_seconds=now_seconds + SETTLE_SECONDS) if fresh else moment


def _restarted(last: Moment, moment: Moment) -> bool:
    if last.started_at_seconds is not None and moment.started_at_seconds is not None:
        return abs(last.started_at_seconds - moment.started_at_seconds) > _SAME_START_SECONDS
    return any(moment.totals[name] < value for name, value in last.totals.items() if name in moment.totals)


def _folded(
    load: EngineLoad,
    last: Moment,
    moment: Moment,
    reading: EngineReading,
    capacity_tokens: float | None,
    max_num_seqs: float | None,
    limiter: str | None,
) -> EngineLoad:
    seconds = moment.seconds - last.seconds
    is_busy = moment.running > 0 or last.running > 0
    new = _new(last, moment, seconds, reading.kv_usage_ratio, capacity_tokens, limiter)
    keep_slow = 0.5 ** (seconds / SLOW_HALF_LIFE_SECONDS) if is_busy else 1.0
    known = max_num_seqs is None or load.setting.max_num_seqs == max_num_seqs
    setting = load.setting if known else Setting(max_num_seqs=max_num_seqs)
    lately = Setting(
        finished=new.finished,
        preempted=new.preempted,
        busy_seconds=new.busy_seconds,
        limited_seconds=seconds if limiter == "max_num_seqs" else 0.0,
    )
    lengths = {
        name: getattr(load, name).folded(
            lengths_between(last.histograms.get(name), moment.histograms.get(name)), keep_slow
        )
        for name in _LENGTH_NAMES
    }
    return replace(
        load,
        slow=load.slow.folded(new, keep_slow),
        fast=load.fast.folded(new, 0.5 ** (seconds / FAST_HALF_LIFE_SECONDS)),
        demand_seconds=_demand(load.demand_seconds, moment, seconds, keep_slow) if is_busy else load.demand_seconds,
        setting=setting.folded(lately, keep_slow),
        watched_busy_seconds=load.watched_busy_seconds + new.busy_seconds,
        watched_finished=load.watched_finished + new.finished,
        last=moment,
        **lengths,
    )


def _new(
    last: Moment,
    moment: Moment,
    seconds: float,
    usage_ratio: float | None,
    capacity_tokens: float | None,
    limiter: str | None,
) -> Sums:
    """Return the sums of what lies between two pages."""

    def moved(name: str) -> float:
        if name not in last.totals or name not in moment.totals:
            return 0.0
        return max(0.0, moment.totals[name] - last.totals[name])

    def observed(name: str) -> tuple[float, float]:
        before, after = last.histograms.get(name), moment.histograms.get(name)
        if before is None or after is None:
            return 0.0, 0.0
        return max(0.0, after.count - before.count), max(0.0, after.sum - before.sum)

    running = moment.running
    finished, _ = observed("generation_tokens")
    sums = Sums(
        seconds=seconds,
        busy_seconds=seconds if running > 0 else 0.0,
        queued_seconds=seconds if moment.waiting > 0 else 0.0,
        budget_seconds=seconds if limiter == "compute" else 0.0,
        finished=finished,
        arrived=max(0.0, finished + running + moment.waiting - last.running - last.waiting),
        preempted=moved("preemptions_total"),
        spells=float(moment.spell_at_seconds > last.spell_at_seconds),
        prefix_queries=moved("prefix_cache_queries_total"),
        prefix_hits=moved("prefix_cache_hits_total"),
    )
    if running > 0 and usage_ratio is not None and capacity_tokens is not None:
        used = usage_ratio * capacity_tokens
        sums = replace(
            sums,
            samples=1.0,
            sampled_seconds=seconds,
            running=seconds * running,
            running_squared=seconds * running * running,
            waiting=seconds * moment.waiting,
            used=seconds * used,
            used_squared=seconds * used * used / running,
        )
    tokens, token_seconds = observed("inter_token_seconds")
    beside = (last.running + running) / 2
    if tokens > 0 and beside > 0:
        each = token_seconds / tokens
        sums = replace(
            sums,
            latency_weight=seconds,
            latency_running=seconds * beside,
            latency_running_squared=seconds * beside * beside,
            latency_seconds=seconds * each,
            latency_product=seconds * beside * each,
        )
    return sums


def _demand(known: tuple[float, ...], moment: Moment, seconds: float, keep: float) -> tuple[float, ...]:
    weights = [keep * each for each in known] or [0.0] * len(DEMAND_BOUNDS)
    wanted = moment.running + moment.waiting
    if wanted > 0:
        weights[min(bisect_left(DEMAND_BOUNDS, wanted), len(weights) - 1)] += seconds
    return tuple(weights)


Loads = Mapping[tuple[str, str], EngineLoad]
"""By (engine, rank)."""


def to_json(loads: Loads, *, wall_seconds: float | None = None) -> list[dict[str, Any]]:
    """Return what `from_json` reads back: everything but the last page, and until when (Unix time) it was seen."""
    return [
        {
            "engine": engine,
            "dp_rank": rank,
            "model_name": load.model_name,
            "slow": dataclasses.asdict(load.slow),
            "fast": dataclasses.asdict(load.fast),
            "lengths": {name: _lengths_to_json(getattr(load, name)) for name in _LENGTH_NAMES},
            "demand_seconds": {str(place): value for place, value in enumerate(load.demand_seconds) if value > 0},
            "setting": dataclasses.asdict(load.setting),
            "watched": [load.watched_busy_seconds, load.watched_finished],
            "advised": load.advised,
            "until_wall_seconds": wall_seconds,
        }
        for (engine, rank), load in list(loads.items())[-MOST_ENGINES:]
    ]


def _lengths_to_json(lengths: Lengths) -> dict[str, Any]:
    # JSON has no word for the last bound, which is always +Inf.
    return {"bounds": list(lengths.bounds[:-1]), "counts": list(lengths.counts), "sum": lengths.sum}


def from_json(content: Any) -> dict[tuple[str, str], EngineLoad]:
    """Read what `to_json` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        return {(str(one["engine"]), str(one["dp_rank"])): _load_from_json(one) for one in content}
    except (AttributeError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"not the load of engines: {error!r}") from error


def _load_from_json(one: Mapping[str, Any]) -> EngineLoad:
    demand = [0.0] * len(DEMAND_BOUNDS) if one["demand_seconds"] else []
    for place, value in one["demand_seconds"].items():
        demand[int(place)] = _amount(value)
    setting = dict(one["setting"])
    limit = setting.pop("max_num_seqs")
    busy, finished = one["watched"]
    return EngineLoad(
        model_name=str(one["model_name"]),
        slow=Sums(**{name: _amount(value) for name, value in one["slow"].items()}),
        fast=Sums(**{name: _amount(value) for name, value in one["fast"].items()}),
        prompt_tokens=_lengths_from_json(one["lengths"]["prompt_tokens"]),
        generation_tokens=_lengths_from_json(one["lengths"]["generation_tokens"]),
        queue_seconds=_lengths_from_json(one["lengths"]["queue_seconds"]),
        demand_seconds=tuple(demand),
        setting=Setting(
            max_num_seqs=None if limit is None else _amount(limit),
            **{name: _amount(value) for name, value in setting.items()},
        ),
        watched_busy_seconds=_amount(busy),
        watched_finished=_amount(finished),
        advised=None if one["advised"] is None else int(one["advised"]),
        until_wall_seconds=None if one.get("until_wall_seconds") is None else _amount(one["until_wall_seconds"]),
    )


def _lengths_from_json(one: Mapping[str, Any]) -> Lengths:
    counts = tuple(_amount(each) for each in one["counts"])
    bounds = (*(_amount(each) for each in one["bounds"]), math.inf) if counts else ()
    if len(bounds) != len(counts):
        raise ValueError("a histogram needs as many counts as bounds")
    if len(bounds) > MOST_BUCKETS:
        raise ValueError(f"a histogram has more than {MOST_BUCKETS} buckets")
    return Lengths(bounds=bounds, counts=counts, sum=_amount(one["sum"]))


def _amount(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{value!r} is no amount")
    return number

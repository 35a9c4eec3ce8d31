"""The probability that one GPU runs out of memory within the horizon, as named factors that each explain themselves.

A factor is the probability that its cause alone ends the memory within the horizon:

- ``exhausted``: there is nothing left to allocate.
- ``claims``: what engines may still rightly take against what is free.
- ``trend``: growth that goes on, at its rate and with its error, for as long as it has lasted.
- ``volatility``: how far use has risen within one horizon before.
- ``foreign``: processes that are no engine, those that came lately, those that come often, those that grow.
- ``events``: the hardware's errors, and the host's memory limit. These weights are judgement, not measurement.

Trend, volatility and foreign see the same growth, so the largest of them counts; the others come on top of it.
Constants that name no source, here and in `advisor.trend`, were chosen on the shaping kinds of the back-test;
docs/risk.md tells which of the others led to changes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from advisor.estimate import Estimate, added, exactly
from advisor.risk_state import YOUNG_SECONDS, GpuState, Holder, HolderKind, HolderState, Observation
from advisor.trend import LEAST_SPREAD, SPACINGS_SECONDS
from advisor.units import GIB, MIB, gib, spelled_growth, spelled_seconds

_NO_MORE_THAN_BYTES = 16 * MIB
"""With less free than this no allocation of a running engine succeeds: PyTorch takes its segments in 2 to 20 MiB."""

_SURPRISE_BYTES = 32 * MIB
"""A quarter hour that was not seen is taken to raise use by more than n times this with chance 1 in 2 n."""
_RISE_BLUR = 0.35
"""A rise seen before comes back within this, as a standard deviation of its logarithm."""
_ARRIVAL_BLUR = 0.25
_UNSEEN_ARRIVALS = 0.05
_UNSEEN_ARRIVALS_SECONDS = 129_600.0
"""Before anything was seen, a foreign process is expected once in 30 days; this weighs as much as a day and a half."""
_SETTLING_SECONDS = 60.0
"""A new process that has not grown for this long has e-fold less reason to go on."""
_LEAST_SEEN_SECONDS = 120.0
"""Below that a trend is noise."""
_RECENT_BLOCKS = 4
_CYCLES = 0.8
_CYCLES_FOUND_RISING = 6.0
"""By how many powers more readily growth ends that may be a cycle of any length: seen to begin, and found rising."""
_SHORTEST_CYCLE_SECONDS, _LONGEST_CYCLE_SECONDS = 300.0, 86_400.0

_EVENTS = {
    "xid_fatal": (0.5, "an Xid error that ends GPU work"),
    "xid_contained": (0.3, "a contained memory error (Xid 94)"),
    "xid_other": (0.05, "an Xid error of an application"),
    "ecc": (0.2, "an uncorrected ECC error"),
}
"""By `advisor.risk_state.EVENTS`: the chance at the moment itself, and its words."""
_REMAP_FAILED, _REMAP_PENDING = 0.1, 0.02

REMEDIES: Mapping[str, str] = {
    "exhausted": "stop a process that is no engine, or restart the engine with a lower --gpu-memory-utilization",
    "claims": "lower --gpu-memory-utilization of an engine on this GPU, or move a process elsewhere",
    "trend": "find the process that grows (nvidia-smi) and restart it before free memory ends",
    "volatility": "leave more room: lower --gpu-memory-utilization or move a process elsewhere",
    "foreign": "keep other processes off this GPU, or give the engine a lower --gpu-memory-utilization",
    "events": "look at dmesg and nvidia-smi -q; drain the engine and reset the GPU",
}
"""What to do about each factor."""
_HOST_REMEDY = "raise the memory limit of the engine's container or service, or let it keep less in host memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class Culprit:
    """Who ends the memory, if it ends."""

    kind: HolderKind
    name: str

    @property
    def spelled(self) -> str:
        """For people: no process is named, engines are."""
        return {
            "engine": f"engine {self.name}",
            "foreign": "a process that is no vLLM engine",
            "driver": "memory that belongs to no process (driver)",
        }[self.kind]


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """What is said of one GPU's future."""

    risk_ratio: float
    factors: Mapping[str, float]
    sentences: Mapping[str, str]
    growth_bytes_per_second: float | None
    growth_lasted_seconds: float | None
    """For how long so far; 0 while nothing grows, None before a trend can be told."""
    time_to_oom_seconds: float | None
    time_to_oom_lower_seconds: float | None
    time_to_oom_upper_seconds: float | None
    culprit: Culprit | None
    """None while no cause stands out."""
    remedies: Mapping[str, str]
    """What to do about each factor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trend:
    chance: float
    bytes_per_second: float
    lasted_seconds: float
    spread: float
    holder: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Happened:
    """What the hardware and the host reported."""

    chance: float
    words: str
    """The worst of it."""
    is_host: bool
    """Whether the worst is the host's memory and not the GPU."""


def assess(state: GpuState, seen: Observation, *, horizon_seconds: float) -> Assessment:
    """Judge one GPU by a state into which the observation has been folded (`advisor.risk_state.observe`)."""
    free = max(0.0, seen.free_bytes)
    claims = [(holder, claim) for holder in seen.holders if (claim := holder.claim) is not None]
    claimed = added(claim for _, claim in claims) if claims else exactly(0.0)
    untried = _untried(state, claims, horizon_seconds)
    recent = max((*state.maxima_bytes[-_RECENT_BLOCKS:], state.block_maximum_bytes), default=0.0)
    swing = max(0.0, recent - state.level_bytes)
    # Claims that were never called in for long are unlikely to be called in now; peaks just seen come back.
    distance = max(free - untried * claimed.expected - swing, free / 4)
    everything = _trend(state, distance, horizon_seconds, kinds=("engine", "foreign", "driver"))
    strangers = _trend(state, distance, horizon_seconds, kinds=("foreign",))
    exhausted = 1.0 if free <= _NO_MORE_THAN_BYTES else 0.0
    claims_chance = _claims_chance(claimed, free, untried)
    volatility = _volatility(state, max(free, 1.0))
    young, young_bytes = _young(state, max(free, 1.0))
    arrival = _arrival(state, max(free, 1.0), horizon_seconds)
    foreign = max(young, arrival, strangers.chance)
    happened = _events(state, seen, horizon_seconds)
    factors = {
        "exhausted": exhausted,
        "claims": claims_chance,
        "trend": everything.chance,
        "volatility": volatility,
        "foreign": foreign,
        "events": happened.chance,
    }
    risk = 1.0 - (1.0 - exhausted) * (1.0 - claims_chance) * (1.0 - happened.chance) * (
        1.0 - max(everything.chance, volatility, foreign)
    )
    long_enough = state.seen_seconds >= _LEAST_SEEN_SECONDS
    rate = everything.bytes_per_second if long_enough else None
    expected, lower, upper = time_to_oom(free, max(0.0, free - claimed.expected), rate, everything.spread)
    return Assessment(
        risk_ratio=risk,
        factors=factors,
        sentences={
            "exhausted": f"{gib(free)} are free",
            "claims": _claims_sentence(claims, claimed, free),
            "trend": _trend_sentence(state, everything, distance),
            "volatility": _volatility_sentence(state, free),
            "foreign": _foreign_sentence(state, strangers, young, young_bytes, arrival),
            "events": happened.words,
        },
        growth_bytes_per_second=rate,
        growth_lasted_seconds=everything.lasted_seconds if long_enough else None,
        time_to_oom_seconds=expected,
        time_to_oom_lower_seconds=lower,
        time_to_oom_upper_seconds=upper,
        culprit=_culprit(state, factors, claims, everything, strangers, happened),
        remedies={**REMEDIES, "events": _HOST_REMEDY if happened.is_host else REMEDIES["events"]},
    )


def time_to_oom(
    free_bytes: float, slack_bytes: float, growth_bytes_per_second: float | None, spread: float = LEAST_SPREAD
) -> tuple[float | None, float | None, float | None]:
    """Return the seconds until growth has eaten the free memory, if it goes on: expected, lower and upper.

    Whether it goes on is not in them: that is what the trend's chance weighs.
    Lower is when it has eaten the slack already, that is, when engines call in all they may claim, upper when none
    does; both with the 90% bounds of the rate. Expected lies at slack while there is some, since that is when the
    engines' own memory starts to be missed. Infinite without growth, None before a trend can be told.
    """
    if free_bytes <= _NO_MORE_THAN_BYTES:
        return 0.0, 0.0, 0.0
    if growth_bytes_per_second is None:
        return None, None, None
    if growth_bytes_per_second <= 0:
        return math.inf, math.inf, math.inf
    error = math.exp(1.645 * spread)
    whole = free_bytes / growth_bytes_per_second
    slack = slack_bytes / growth_bytes_per_second
    return slack if slack > 0 else whole, slack / error, whole * error


def _untried(state: GpuState, claims: list[tuple[Holder, Estimate]], horizon_seconds: float) -> float:
    """Return the chance that claims are called in within the horizon, given how long they were not.

    The rule of succession in continuous time: what did not happen for t comes within h with probability h / (t + h).
    Engines weigh by what they may still take.
    """
    total = weighted = 0.0
    for holder, claim in claims:
        known = state.holders.get(holder.key)
        proven = known.proven_seconds if known is not None else 0.0
        total += claim.upper
        weighted += claim.upper * horizon_seconds / (horizon_seconds + proven)
    return min(1.0, weighted / total) if total > 0 else 1.0  # sums of floats may differ in the last place


def _claims_chance(claimed: Estimate, free_bytes: float, untried: float) -> float:
    """Return the chance that engines call in more than is free.

    The longer they worked without it, the less it is to be expected within one horizon; but where by all that is known
    they may take more than is free, it stays at one half: the next start or the next peak needs it. That holds in full
    where at least half of what is free will be called in for sure. Where even nothing is within the bounds, engines
    that worked for long have most likely taken all they take.
    """
    chance = _chance_above(claimed, free_bytes)
    likely = min(1.0, max(0.0, (chance - 0.45) / 0.05))
    sure = min(1.0, 2.0 * claimed.lower / free_bytes) if free_bytes > 0 else 1.0
    floor = min(0.5, chance) * likely * sure
    return floor + (chance - floor) * untried


def _trend(state: GpuState, distance_bytes: float, horizon_seconds: float, kinds: tuple[HolderKind, ...]) -> _Trend:
    """Return the most dangerous window's growth.

    A rate r with error s ends the distance d within the horizon h with probability Phi(ln(h r / d) / s); growth that
    has lasted t goes on for the time that takes with probability t / (t + d / r), as for anything whose scale of time
    is not known, raised to a higher power while it may be a cycle that has not been seen to turn.
    """
    best = _Trend(chance=0.0, bytes_per_second=0.0, lasted_seconds=0.0, spread=LEAST_SPREAD, holder=None)
    holders = [(key, holder) for key, holder in state.holders.items() if holder.kind in kinds]
    for window in range(len(SPACINGS_SECONDS)):
        rate, largest, largest_key = 0.0, 0.0, None
        for key, holder in holders:
            each = holder.trace.growth_bytes_per_second(window)
            rate += each
            if each > largest:
                largest, largest_key = each, key
        if largest_key is None or rate < 1.0:
            continue
        growth = state.holders[largest_key].trace.windows[window].growth
        assert growth is not None
        seconds = distance_bytes / rate
        goes_on = growth.lasted_seconds / (growth.lasted_seconds + seconds)
        chance = _normal_cdf(math.log(horizon_seconds / max(seconds, 1e-3)) / growth.spread) * goes_on ** (
            1.0 + _restless(state.holders[largest_key], rate)
        )
        if chance >= best.chance:
            best = _Trend(
                chance=chance,
                bytes_per_second=rate,
                lasted_seconds=growth.lasted_seconds,
                spread=growth.spread,
                holder=largest_key,
            )
    return best


def _restless(holder: HolderState, bytes_per_second: float) -> float:
    """Return by how much more readily growth ends because it may be a cycle that has not been seen to turn.

    Cycles last from five minutes to a day, any order of magnitude alike; those shorter than the process has been
    watched would have turned. What was found rising at the first look and has not paused since is far more often a
    cycle: that is there whenever somebody begins to look, a leak only in the hours between its beginning and its end.
    """
    trace = holder.trace
    longer = math.log(_LONGEST_CYCLE_SECONDS / max(trace.at_seconds - trace.seen_at_seconds, 1.0))
    share = min(1.0, max(0.0, longer / math.log(_LONGEST_CYCLE_SECONDS / _SHORTEST_CYCLE_SECONDS)))
    return share * (
        _CYCLES_FOUND_RISING if not holder.arrived and trace.rises_since_first_look(bytes_per_second) else _CYCLES
    )


def _volatility(state: GpuState, free_bytes: float) -> float:
    """Return the chance that use rises by what is free within one block, from the blocks seen.

    Two ways: to a height where it has been (a peak that other processes have since left no room for), or past all
    heights by as much as it has passed them before. One block that was not seen stands for what has not happened yet.
    """
    ceiling = state.level_bytes + free_bytes
    number = len(state.maxima_bytes)
    returns = sum(1 for maximum in state.maxima_bytes if maximum > ceiling) / (number + 1)
    highest = max((*state.maxima_bytes, state.block_maximum_bytes), default=0.0)
    beyond = max(ceiling - highest, _NO_MORE_THAN_BYTES)
    passes = sum(_about_above(rise, beyond, _RISE_BLUR) for rise in state.rises_bytes if rise > beyond / 8)
    unseen = min(1.0, _SURPRISE_BYTES / beyond) if beyond > _SURPRISE_BYTES else 1.0
    return min(1.0, 1.0 - (1.0 - returns) * (1.0 - (passes + 0.5 * unseen) / (number + 1)))


def _young(state: GpuState, free_bytes: float) -> tuple[float, float]:
    """Return the chance that a foreign process which came lately takes all that is free, and what it holds.

    What has reached s reaches s + d with probability s / (s + d), the scale-free rule; the longer it has not grown the
    less.
    """
    best = (0.0, 0.0)
    for holder in state.holders.values():
        trace = holder.trace
        if holder.kind != "foreign" or not holder.arrived or trace.at_seconds - trace.seen_at_seconds > YOUNG_SECONDS:
            continue
        settled = math.exp(-(trace.at_seconds - trace.recorded_at_seconds) / _SETTLING_SECONDS)
        best = max(best, (settled * trace.level_bytes / (trace.level_bytes + free_bytes), trace.level_bytes))
    return best


def _arrival(state: GpuState, free_bytes: float, horizon_seconds: float) -> float:
    """Return the chance that a foreign process comes within the horizon and takes more than is free."""
    rate = (len(state.arrivals) + _UNSEEN_ARRIVALS) / (state.seen_seconds + _UNSEEN_ARRIVALS_SECONDS)
    large = sum(_about_above(most, free_bytes, _ARRIVAL_BLUR) for _, most in state.arrivals)
    unseen = min(1.0, GIB / free_bytes)
    return 1.0 - math.exp(-rate * horizon_seconds * (large + unseen) / (len(state.arrivals) + 1))


def _events(state: GpuState, seen: Observation, horizon_seconds: float) -> _Happened:
    """Return the chance that what happened ends work on this GPU, and the worst of it."""
    chances = {
        words: weight * math.exp(-max(0.0, seen.now_seconds - state.event_at_seconds[name]) / horizon_seconds)
        for name, (weight, words) in _EVENTS.items()
        if name in state.event_at_seconds
    }
    if seen.row_remap_failed:
        chances["remapping a memory row failed"] = _REMAP_FAILED
    if seen.row_remap_pending:
        chances["a memory row waits for a GPU reset to be remapped"] = _REMAP_PENDING
    of_the_host = None
    if seen.host_memory_ratio is not None and seen.host_memory_ratio > 0.9:
        of_the_host = f"an engine's cgroup is at {seen.host_memory_ratio:.0%} of the host memory it may use"
        chances[of_the_host] = min(1.0, ((seen.host_memory_ratio - 0.9) / 0.1) ** 2)
    if not chances:
        return _Happened(chance=0.0, words="no hardware errors of late", is_host=False)
    worst = max(chances, key=lambda words: chances[words])
    chance = 1.0 - math.prod(1.0 - each for each in chances.values())
    return _Happened(chance=chance, words=worst, is_host=worst == of_the_host)


def _claims_sentence(claims: list[tuple[Holder, Estimate]], claimed: Estimate, free_bytes: float) -> str:
    """Say what engines may still take, and where that is several of them, each one's part."""
    parts = sorted(((claim.expected, holder.name) for holder, claim in claims if claim.expected >= MIB), reverse=True)
    split = ", ".join(f"{name} {gib(size)}" for size, name in parts) if len(parts) > 1 else ""
    return (
        f"engines may still claim {gib(claimed.expected)} (at most {gib(claimed.upper)}"
        f"{'; ' if split else ''}{split}) of the {gib(free_bytes)} that are free"
    )


def _trend_sentence(state: GpuState, trend: _Trend, distance_bytes: float) -> str:
    if trend.holder is None:
        return "memory use does not grow"
    holder = state.holders[trend.holder]
    return (
        f"memory use has grown by {spelled_growth(trend.bytes_per_second)} for "
        f"{spelled_seconds(trend.lasted_seconds)}, most in {Culprit(kind=holder.kind, name=holder.name).spelled}: "
        f"what is left lasts {spelled_seconds(distance_bytes / trend.bytes_per_second)} if that goes on"
    )


def _volatility_sentence(state: GpuState, free_bytes: float) -> str:
    if not state.maxima_bytes:
        return f"use has not been watched for one horizon yet, and {gib(free_bytes)} are free"
    count = len(state.maxima_bytes)
    horizons = f"{count} horizon{'' if count == 1 else 's'}"
    largest = max(state.rises_bytes, default=0.0)
    back = max(0.0, max(state.maxima_bytes) - state.level_bytes)
    return (
        f"in {horizons} seen, use has been up to {gib(back)} above now and has passed its "
        f"highest by up to {gib(largest)}; {gib(free_bytes)} are free"
    )


def _foreign_sentence(state: GpuState, strangers: _Trend, young: float, young_bytes: float, arrival: float) -> str:
    if strangers.chance >= max(young, arrival) and strangers.holder is not None:
        return (
            "a process that is no vLLM engine has grown by "
            f"{spelled_growth(strangers.bytes_per_second)} for {spelled_seconds(strangers.lasted_seconds)}"
        )
    if young > arrival:
        return f"a process that is no vLLM engine came lately and holds {gib(young_bytes)}; it may take more"
    if state.arrivals:
        return (
            f"{len(state.arrivals)} processes that are no vLLM engine came while this GPU was watched, "
            f"the largest with {gib(max(most for _, most in state.arrivals))}"
        )
    return "no process that is no vLLM engine grows or has come"


def _culprit(
    state: GpuState,
    factors: Mapping[str, float],
    claims: list[tuple[Holder, Estimate]],
    everything: _Trend,
    strangers: _Trend,
    happened: _Happened,
) -> Culprit | None:
    """Name who is behind the largest factor; where memory is gone already, who holds most of what is not promised.

    Nobody, where it is host memory that ends: the finding about it names the engine.
    """
    largest = max(factors, key=lambda name: factors[name])
    if factors[largest] < 0.05:
        return None
    if largest == "claims" and claims:
        strangers_hold = sum(each.trace.level_bytes for each in state.holders.values() if each.kind == "foreign")
        if state.free_bytes < sum(claim.expected for _, claim in claims) <= state.free_bytes + strangers_hold:
            return Culprit(kind="foreign", name="")  # among themselves the engines would fit
        holder, _ = max(claims, key=lambda pair: pair[1].upper)
        return Culprit(kind=holder.kind, name=holder.name)
    if largest == "foreign":
        return Culprit(kind="foreign", name="")
    grower = everything.holder or strangers.holder
    if grower is not None and largest in ("trend", "exhausted", "volatility"):
        return Culprit(kind=state.holders[grower].kind, name=state.holders[grower].name)
    if largest == "exhausted" and state.holders:
        beyond = {key: each.trace.level_bytes - each.promised_bytes for key, each in state.holders.items()}
        holds = state.holders[max(beyond, key=lambda key: beyond[key])]
        return Culprit(kind=holds.kind, name=holds.name)
    return Culprit(kind="driver", name="") if largest == "events" and not happened.is_host else None


def _chance_above(quantity: Estimate, limit: float) -> float:
    """Return the chance that an estimated quantity exceeds a limit: bounds are its 5th and 95th percentiles."""
    if quantity.upper <= 0:
        return 0.0
    spread = (
        max(
            quantity.upper - quantity.expected if limit >= quantity.expected else quantity.expected - quantity.lower,
            8 * MIB,
        )
        / 1.645
    )
    return 1.0 - _normal_cdf((limit - quantity.expected) / spread)


def _about_above(seen_bytes: float, limit_bytes: float, blur: float) -> float:
    """Return the chance that something about as large as what was seen exceeds a limit."""
    if seen_bytes <= 0:
        return 0.0
    return _normal_cdf(math.log(seen_bytes / limit_bytes) / blur)


def _normal_cdf(deviations: float) -> float:
    return 0.5 * (1.0 + math.erf(deviations / math.sqrt(2.0)))

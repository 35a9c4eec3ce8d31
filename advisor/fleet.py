"""Many engines at once: which are mis-sized, where capacity sits idle, what all of them could still take.

"In use" is what was not exceeded in 99% of the time looked at: capacity beyond that sits idle but for the very worst
minutes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from advisor.load import EngineLoad
from advisor.policy import Policy
from advisor.tuning import (
    DEMAND_SHARE,
    NO_CAPACITY,
    NO_USAGE,
    WAITING_RATIO,
    Surroundings,
    accepted_overflow_ratio,
    holding,
    kv_wall,
    not_yet,
)

Verdict = Literal["down", "overfull", "held_up", "short_of_kv", "flags", "unknown", "idle", "right"]
VERDICTS: tuple[Verdict, ...] = ("down", "overfull", "held_up", "short_of_kv", "flags", "unknown", "idle", "right")
"""Worst first."""
MIS_SIZED: frozenset[Verdict] = frozenset({"overfull", "held_up", "short_of_kv", "flags"})

_IDLE_RATIO = 0.25
"""An engine that uses less of its KV even when busy could do the work of several, or leave its GPU to others."""
_ROOM_RATIO = 0.8
"""Use of KV below which it is not KV that requests wait for."""
_WITHOUT_US = "max-num-seqs and the other flags: vLLM does not export them; a vllm-headroom on that host would"


@dataclass(frozen=True, kw_only=True, slots=True)
class FlagChange:
    """A flag that should have another value."""

    flag: str
    current: str
    recommended: str
    binding: str

    @property
    def spelled(self) -> str:
        """The flag with both values, for people."""
        return f"{self.flag} {self.current} -> {self.recommended}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetEngine:
    """What is known of one engine over the time looked at; what cannot be told is None."""

    where: str
    """Who scraped it, for people."""
    engine: str
    model_name: str
    dp_rank: str
    seen_by: Literal["headroom", "vllm"]
    """Whose series tell of it."""
    is_up: bool
    capacity_tokens: float | None = None
    used_tokens: float | None = None
    """In use, all but a hundredth of the time, as is the next."""
    running: float | None = None
    typical_request_tokens: float | None = None
    """Prompt and output of a mean request."""
    finished: float | None = None
    preempted: float | None = None
    limiter_ratio: Mapping[str, float] = field(default_factory=dict)
    """Share of the time by what kept requests waiting (`advisor.report.LIMITERS`)."""
    waiting_ratio: float | None = None
    """Share of the time in which somebody waited."""
    max_num_seqs: float | None = None
    recommended: float | None = None
    recommended_lower: float | None = None
    recommended_upper: float | None = None
    binding: str | None = None
    confidence_ratio: float | None = None
    changes: tuple[FlagChange, ...] = ()
    """Other flags."""
    kv_wall: int | None = None
    """Requests that KV takes at once, where nobody but vLLM's series told of the load."""
    wanted: int | None = None
    """Requests asked for at once, all but a thousandth of the time."""
    cannot_say: tuple[str, ...] = ()
    not_yet: str | None = None
    """Why there is no advice, where that is known."""

    @property
    def idle_tokens(self) -> float | None:
        """KV tokens that are not in use."""
        if self.capacity_tokens is None or self.used_tokens is None:
            return None
        return max(0.0, self.capacity_tokens - self.used_tokens)

    @property
    def idle_ratio(self) -> float | None:
        """The same over the capacity."""
        idle = self.idle_tokens
        return None if idle is None or not self.capacity_tokens else idle / self.capacity_tokens

    @property
    def preempted_ratio(self) -> float | None:
        """Preemptions over finished requests."""
        return None if self.preempted is None or not self.finished else self.preempted / self.finished

    def more_requests(self, max_num_seqs: float | None) -> int | None:
        """Return how many more typical requests would fit beside those of the busy hours.

        Args:
            max_num_seqs: The limit to count with; None: KV alone decides.
        """
        if self.idle_tokens is None or not self.typical_request_tokens:
            return None
        by_kv = int(self.idle_tokens / self.typical_request_tokens)
        if max_num_seqs is None or self.running is None:
            return by_kv
        return max(0, min(by_kv, int(max_num_seqs - self.running)))


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetGpu:
    """One GPU over the time looked at."""

    where: str
    gpu: str
    uuid: str
    total_bytes: float
    used_bytes: float
    """All but a hundredth of the time."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing but the driver was ever on it."""
        return self.used_bytes < 0.02 * self.total_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One engine with what is said of it."""

    engine: FleetEngine
    verdict: Verdict
    because: str
    binding: str | None
    more_as_set: int | None
    more_as_advised: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """What all engines that are up come to together."""

    engines: int
    up: int
    mis_sized: int
    idle: int
    unknown: int
    capacity_tokens: float
    used_tokens: float
    idle_tokens: float
    more_as_set: int
    """Requests that would still fit beside those of the busy hours."""
    more_as_advised: int
    counted: int
    """Engines whose capacity and use are known: the sums are over these."""
    by_kv_alone: int
    """Engines in ``more_as_set`` whose max_num_seqs is not known: there KV alone was counted."""
    gpus: int
    idle_gpus: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """All of it, worst first."""

    engines: tuple[Judged, ...]
    gpus: tuple[FleetGpu, ...]
    sums: Sums


def judge_fleet(engines: Iterable[FleetEngine], gpus: Sequence[FleetGpu], policy: Policy) -> Fleet:
    """Judge every engine, and sum up."""
    judged = sorted((_judged(each, policy) for each in engines), key=_badness)
    up = [each for each in judged if each.engine.is_up]
    counted = [each for each in up if each.engine.idle_tokens is not None]
    return Fleet(
        engines=tuple(judged),
        gpus=tuple(gpus),
        sums=Sums(
            engines=len(judged),
            up=len(up),
            mis_sized=sum(each.verdict in MIS_SIZED for each in judged),
            idle=sum(each.verdict == "idle" for each in judged),
            unknown=sum(each.verdict == "unknown" for each in judged),
            capacity_tokens=sum(each.engine.capacity_tokens or 0.0 for each in counted),
            used_tokens=sum(each.engine.used_tokens or 0.0 for each in counted),
            idle_tokens=sum(each.engine.idle_tokens or 0.0 for each in counted),
            more_as_set=sum(each.more_as_set or 0 for each in up),
            more_as_advised=sum(each.more_as_advised or 0 for each in up),
            counted=len(counted),
            by_kv_alone=sum(each.engine.max_num_seqs is None and each.more_as_set is not None for each in up),
            gpus=len(gpus),
            idle_gpus=sum(each.is_idle for each in gpus),
        ),
    )


def _badness(each: Judged) -> tuple[int, float, str, str]:
    engine = each.engine
    magnitude = {
        "overfull": engine.preempted_ratio or 0.0,
        "held_up": engine.waiting_ratio or 0.0,
        "short_of_kv": engine.waiting_ratio or 0.0,
        "idle": (engine.idle_tokens or 0.0),
    }.get(each.verdict, 0.0)
    return VERDICTS.index(each.verdict), -magnitude, engine.where, f"{engine.engine} {engine.dp_rank}"


def _judged(engine: FleetEngine, policy: Policy) -> Judged:
    verdict, because, binding = _verdict(engine, policy)
    # A daemon's word is advice; where vLLM's series alone tell, only a ceiling is known.
    advised = engine.recommended if engine.recommended is not None else engine.max_num_seqs
    return Judged(
        engine=engine,
        verdict=verdict,
        because=because,
        binding=binding,
        more_as_set=engine.more_requests(engine.max_num_seqs),
        more_as_advised=engine.more_requests(advised if advised is not None else engine.kv_wall),
    )


def _verdict(engine: FleetEngine, policy: Policy) -> tuple[Verdict, str, str | None]:
    if not engine.is_up:
        return "down", "it does not answer", None
    preempted, waiting = engine.preempted_ratio, engine.waiting_ratio
    preempts = f", {preempted:.1%} of requests were preempted" if preempted else ""
    waits = waiting is not None and waiting > WAITING_RATIO
    waited = f"requests waited in {waiting:.0%} of the time" if waits else ""
    now, should = engine.max_num_seqs, engine.recommended
    if now is not None and should is not None and should != now:
        change = f"max-num-seqs {now:.0f} -> {should:.0f}"
        if should < now:
            return "overfull", change + preempts, engine.binding
        return "held_up", f"{change}{waited and ', '}{waited}", engine.binding
    is_limited = preempted is not None and preempted > policy.preempted_target_ratio
    if now is None and is_limited and engine.kv_wall is not None:
        return "overfull", f"KV takes {engine.kv_wall} at a time{preempts}", "kv"
    used = None if engine.idle_ratio is None else 1 - engine.idle_ratio
    if engine.seen_by == "vllm" and waits and used is not None and used < _ROOM_RATIO:
        return (
            "held_up",
            f"{waited}, with {1 - used:.0%} of KV free: max-num-seqs or the token budget, which cannot be told",
            None,
        )
    by_kv = engine.limiter_ratio.get("kv", 0.0)
    wants_more = engine.wanted is not None and engine.kv_wall is not None and engine.wanted > engine.kv_wall
    if by_kv > WAITING_RATIO or (engine.seen_by == "vllm" and waits and wants_more):
        share = by_kv if by_kv > WAITING_RATIO else waiting or 0.0
        more = "".join(f"; {each.spelled}" for each in engine.changes)
        return "short_of_kv", f"requests waited for KV in {share:.0%} of the time{more}", "kv"
    if engine.changes:
        return "flags", "; ".join(each.spelled for each in engine.changes), engine.changes[0].binding
    if used is not None and used < _IDLE_RATIO and not waits:
        return "idle", f"KV is never more than {used:.0%} full, all but 1% of the time, and nobody waits", "demand"
    if engine.not_yet is not None or used is None or (engine.seen_by == "headroom" and should is None):
        return "unknown", engine.not_yet or "too little was seen to advise anything", None
    return "right", "nothing to change" if now is not None else "nothing to see that should be changed", None


def from_load(engine: FleetEngine, load: EngineLoad | None, policy: Policy, *, block_size: int | None) -> FleetEngine:
    """Return an engine of which only vLLM's series tell, with what follows from the load that they show.

    Args:
        engine: What is known without.
        load: What was seen; None: nothing.
        policy: The chance of overflow that is accepted, and how much must have been seen.
        block_size: Of its KV cache.
    """
    silent = not_yet(load, policy)
    engine = replace(engine, cannot_say=(*engine.cannot_say, _WITHOUT_US))
    tokens = engine.capacity_tokens
    if load is None or not tokens:
        return replace(engine, not_yet=silent or NO_CAPACITY)
    sums = load.slow
    engine = replace(
        engine,
        wanted=load.demand(DEMAND_SHARE),
        waiting_ratio=sums.queued_seconds / sums.seconds if sums.seconds > 0 else None,
    )
    held = holding(load, max_model_len=int(tokens), block_size=block_size or 16)
    if silent is not None or held is None:
        return replace(engine, not_yet=silent or NO_USAGE)
    around = Surroundings(
        current=1, capacity_tokens=lambda _: tokens, block_size=block_size or 16, max_model_len=int(tokens)
    )
    accepted = accepted_overflow_ratio(load, policy, max_model_len=int(tokens), admits_whole_prompts=True)
    return replace(engine, kv_wall=kv_wall(held, around, accepted))

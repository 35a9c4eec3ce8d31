"""What a store of the past tells of an engine's load, made into what a daemon would know that had watched meanwhile.

The moments are replayed through the very functions that a live page goes through, so nothing is counted in two ways;
what differs is the distance between two looks.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from advisor.engine import limiter
from advisor.history import EngineHistory, remember_engine
from advisor.load import (
    FAST_HALF_LIFE_SECONDS,
    SLOW_HALF_LIFE_SECONDS,
    EngineLoad,
    interrupted,
    observe_load,
)
from advisor.policy import Policy
from advisor.readings import EngineReading


@dataclass(frozen=True, kw_only=True, slots=True)
class PastMoment:
    """One look at an engine, long ago."""

    wall_seconds: float
    """When its figures were read, Unix time."""
    continues: bool
    """Whether it follows the one before without a hole in which the engine, or who read it, was down."""
    reading: EngineReading
    capacity_tokens: float | None
    max_num_seqs: float | None
    """None where it cannot be told; what is then counted belongs to no setting."""
    limiter: str | None = None
    """As a daemon named it then; None: it is judged now, from the readings."""


def replayed(load: EngineLoad | None, moments: Iterable[PastMoment], policy: Policy) -> EngineLoad | None:
    """Return what is known of an engine's load once these moments are folded into it; None without any.

    Args:
        load: What was known before the first of them.
        moments: Ascending; a hole between two counts as time in which nothing was seen.
        policy: Thresholds by which a limiter is told.
    """
    history = EngineHistory()
    for each in moments:
        if not each.continues:
            history = EngineHistory()
            load = None if load is None else interrupted(load)
        # Before it is judged, unlike live: looks lie so far apart that a token of the last step is no old one.
        history = remember_engine(history, each.reading, each.max_num_seqs, each.wall_seconds)
        named = each.limiter or limiter(
            each.reading,
            max_num_seqs=None if each.max_num_seqs is None else int(each.max_num_seqs),
            history=history,
            now_seconds=each.wall_seconds,
            policy=policy,
        )
        load = observe_load(
            load,
            each.reading,
            capacity_tokens=each.capacity_tokens,
            max_num_seqs=each.max_num_seqs,
            limiter=named,
            now_seconds=each.wall_seconds,
        )
    return None if load is None else interrupted(load)


def joined(earlier: EngineLoad, later: EngineLoad) -> EngineLoad:
    """Return what is known of an engine of which one load was seen before the other.

    The day's memory fades under load alone, of which the later one tells how much it saw. That of minutes fades always:
    for how long follows from its own sum of seconds, which after a time t of close looks is H/ln 2 (1 - 1/2^(t/H)).
    """
    if earlier.model_name != later.model_name:
        return later
    slow = 0.5 ** (later.watched_busy_seconds / SLOW_HALF_LIFE_SECONDS)
    fast = max(0.0, 1 - later.fast.seconds * math.log(2) / FAST_HALF_LIFE_SECONDS)
    before, after = earlier.setting, later.setting
    setting = after
    if after.max_num_seqs is None or before.max_num_seqs == after.max_num_seqs:
        setting = before.folded(after, slow)
    return EngineLoad(
        model_name=later.model_name,
        slow=earlier.slow.folded(later.slow, slow),
        fast=earlier.fast.folded(later.fast, fast),
        prompt_tokens=earlier.prompt_tokens.folded(later.prompt_tokens, slow),
        generation_tokens=earlier.generation_tokens.folded(later.generation_tokens, slow),
        queue_seconds=earlier.queue_seconds.folded(later.queue_seconds, slow),
        demand_seconds=_added(earlier.demand_seconds, later.demand_seconds, slow),
        setting=setting,
        watched_busy_seconds=earlier.watched_busy_seconds + later.watched_busy_seconds,
        watched_finished=earlier.watched_finished + later.watched_finished,
        advised=earlier.advised if later.advised is None else later.advised,
        last=later.last,
    )


def _added(earlier: tuple[float, ...], later: tuple[float, ...], keep: float) -> tuple[float, ...]:
    if not earlier or not later:
        return later or tuple(keep * each for each in earlier)
    return tuple(keep * one + other for one, other in zip(earlier, later, strict=True))

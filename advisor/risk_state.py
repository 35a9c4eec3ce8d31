"""What the risk of one GPU is judged from: an observation in, a state of constant size out.

The state holds at most `MOST_HOLDERS` processes of 140 numbers and 250 numbers for the GPU: 7 KB as JSON with two
processes, under 64 KB at most. It is written and read by `to_json` and `from_json`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, cast

from advisor.estimate import Estimate
from advisor.trend import POINTS, SPACINGS_SECONDS, Growth, Trace, Window, begun, delayed, followed, lifted
from advisor.units import MIB

HolderKind = Literal["engine", "foreign", "driver"]
KINDS: tuple[HolderKind, ...] = ("engine", "foreign", "driver")
MOST_HOLDERS = 16
YOUNG_SECONDS = 600.0
"""A process this new is still taking what it came for: that is no growth of the GPU's use, but a risk of its own."""
_BLOCKS = 96
"""One block is one horizon: a day of quarter hours."""
_ARRIVALS = 16
_CLAIM_GRAIN_BYTES = 16 * MIB
_DAY_SECONDS = 86_400.0

_FATAL_XIDS = frozenset({48, 62, 64, 74, 79, 95, 119, 120})
_CONTAINED_XIDS = frozenset({94})
EVENTS = ("xid_fatal", "xid_contained", "xid_other", "ecc")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds memory on a GPU now: one engine, one other process, or the driver."""

    key: str
    """Tells a restarted process from the one before it; never shown."""
    kind: HolderKind
    name: str
    """What people are told: an engine's id; empty for others."""
    held_bytes: float
    entitled: Estimate | None = None
    """What an engine may come to hold; None where nothing is promised."""
    busy: bool | None = None
    """Whether an engine has requests running: idle time proves nothing about what its largest step takes."""

    @cached_property
    def claim(self) -> Estimate | None:
        """What an engine may still take of this GPU; None where nothing is promised."""
        if self.entitled is None:
            return None
        return self.entitled.mapped(lambda entitled: max(0.0, entitled - self.held_bytes))


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One GPU at one moment."""

    now_seconds: float
    free_bytes: float
    holders: tuple[Holder, ...] = ()
    xid_errors: Mapping[int, int] = field(default_factory=dict)
    ecc_uncorrected_errors: int | None = None
    row_remap_pending: bool = False
    row_remap_failed: bool = False
    host_memory_ratio: float | None = None
    """Use of the memory limit of the tightest engine's cgroup; None where it has none or is not read."""

    @cached_property
    def slack_bytes(self) -> float:
        """Free memory minus what engines may still claim; negative: over-committed."""
        return self.free_bytes - sum(claim.expected for each in self.holders if (claim := each.claim) is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class HolderState:
    """What is remembered of one holder."""

    kind: HolderKind
    name: str
    trace: Trace
    """Of what it holds or is promised, whichever is more."""
    promised_bytes: float
    arrived: bool
    """Whether it came while the GPU was watched."""
    held_record_bytes: float
    proven_seconds: float
    """How long it has worked without taking more than ever before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuState:
    """What is remembered of one GPU."""

    at_seconds: float | None = None
    began_at_seconds: float = 0.0
    free_bytes: float = 0.0
    holders: Mapping[str, HolderState] = field(default_factory=dict)
    level_bytes: float = 0.0
    """Sum of all rises and falls so far, without arrivals, departures, and what engines were promised."""
    block_at_seconds: float = 0.0
    block_maximum_bytes: float = 0.0
    maxima_bytes: tuple[float, ...] = ()
    """Highest level of each past block, oldest first."""
    rises_bytes: tuple[float, ...] = ()
    """By how much each past block passed all blocks before it."""
    arrivals: tuple[tuple[str, float], ...] = ()
    """(key, most bytes held while young) of the latest foreign processes that came."""
    slack_low_bytes: float = math.inf
    older_slack_low_bytes: float = math.inf
    slack_low_since_seconds: float = 0.0
    event_counts: Mapping[str, int] = field(default_factory=dict)
    event_at_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def seen_seconds(self) -> float:
        """How long this GPU has been watched."""
        return 0.0 if self.at_seconds is None else self.at_seconds - self.began_at_seconds

    @property
    def lowest_slack_bytes(self) -> float | None:
        """Lowest slack of the last one to two days."""
        low = min(self.slack_low_bytes, self.older_slack_low_bytes)
        return low if low < math.inf else None


def observe(state: GpuState, seen: Observation, *, horizon_seconds: float) -> GpuState:
    """Fold one observation into the state. One that is not later than the last changes nothing."""
    now = seen.now_seconds
    first = state.at_seconds is None
    if state.at_seconds is not None and now <= state.at_seconds:
        return state
    present = _bounded(seen.holders)
    came = [holder for holder in present if holder.key not in state.holders]
    went = len(state.holders) > len(present) - len(came)
    fell = state.free_bytes - seen.free_bytes
    # A process that came without memory going is one that was there before under another name.
    arrived = not first and sum(holder.held_bytes for holder in came) <= 2 * max(0.0, fell)
    holders: dict[str, HolderState] = {}
    moved = 0.0
    for holder in present:
        before = state.holders.get(holder.key)
        after = _followed(before, holder, now, arrived=arrived)
        holders[holder.key] = after
        if before is None or (holder.kind == "driver" and (came or went)):
            continue  # what is in no process is the difference of two readings: it jumps when either changes
        if not (after.arrived and now - after.trace.seen_at_seconds < YOUNG_SECONDS):
            moved += max(holder.held_bytes, before.promised_bytes) - before.trace.level_bytes
    level = state.level_bytes + moved
    block_at, block_maximum = state.block_at_seconds, max(state.block_maximum_bytes, level)
    maxima, rises = state.maxima_bytes, state.rises_bytes
    if first:
        block_at, block_maximum = now, level
    elif now - block_at >= horizon_seconds:
        highest = max(maxima) if maxima else block_maximum  # the first block sets the mark that others can pass
        rises = (*rises, max(0.0, block_maximum - highest))[-_BLOCKS:]
        maxima = (*maxima, block_maximum)[-_BLOCKS:]
        block_at, block_maximum = now, level
    low, older_low = min(state.slack_low_bytes, seen.slack_bytes), state.older_slack_low_bytes
    low_since = now if first else state.slack_low_since_seconds
    if now - low_since >= _DAY_SECONDS:
        low, older_low, low_since = seen.slack_bytes, low, now
    counts, event_at = _events(state, seen)
    return GpuState(
        at_seconds=now,
        began_at_seconds=now if first else state.began_at_seconds,
        free_bytes=seen.free_bytes,
        holders=holders,
        level_bytes=level,
        block_at_seconds=block_at,
        block_maximum_bytes=block_maximum,
        maxima_bytes=maxima,
        rises_bytes=rises,
        arrivals=_arrivals(state, came if arrived else [], holders),
        slack_low_bytes=low,
        older_slack_low_bytes=older_low,
        slack_low_since_seconds=low_since,
        event_counts=counts,
        event_at_seconds=event_at,
    )


def _bounded(holders: Sequence[Holder]) -> Sequence[Holder]:
    """Return at most `MOST_HOLDERS`: the smallest foreign processes are taken together."""
    if len(holders) <= MOST_HOLDERS:
        return holders
    ordered = sorted(holders, key=lambda holder: (holder.kind == "foreign", -holder.held_bytes))
    rest = ordered[MOST_HOLDERS - 1 :]
    others = Holder(key="others", kind="foreign", name="", held_bytes=sum(holder.held_bytes for holder in rest))
    return (*ordered[: MOST_HOLDERS - 1], others)


def _followed(before: HolderState | None, holder: Holder, now_seconds: float, *, arrived: bool) -> HolderState:
    entitled = holder.entitled.expected if holder.entitled is not None else 0.0
    level = max(holder.held_bytes, entitled)
    if before is None:
        return HolderState(
            kind=holder.kind,
            name=holder.name,
            trace=begun(now_seconds, level),
            promised_bytes=entitled,
            arrived=arrived,
            held_record_bytes=holder.held_bytes,
            proven_seconds=0.0,
        )
    trace, promised = before.trace, before.promised_bytes
    if entitled != promised:
        # A promise that changes is no growth: the past is judged as if it had always been so.
        trace = lifted(trace, level - max(holder.held_bytes, promised))
    worked = now_seconds - trace.at_seconds if holder.busy is not False else 0.0
    more = holder.held_bytes > before.held_record_bytes + _CLAIM_GRAIN_BYTES
    return HolderState(
        kind=holder.kind,
        name=holder.name,
        trace=followed(trace, now_seconds, level),
        promised_bytes=entitled,
        arrived=before.arrived,
        held_record_bytes=holder.held_bytes if more else before.held_record_bytes,
        proven_seconds=0.0 if more else before.proven_seconds + worked,
    )


def _arrivals(
    state: GpuState, came: Sequence[Holder], holders: Mapping[str, HolderState]
) -> tuple[tuple[str, float], ...]:
    if not came and not state.arrivals:
        return ()
    arrivals = tuple(
        (key, max(most, holders[key].trace.level_bytes))
        if key in holders and holders[key].trace.at_seconds - holders[key].trace.seen_at_seconds < YOUNG_SECONDS
        else (key, most)
        for key, most in state.arrivals
    )
    new = tuple((holder.key, holder.held_bytes) for holder in came if holder.kind == "foreign")
    return (*arrivals, *new)[-_ARRIVALS:]


def _events(state: GpuState, seen: Observation) -> tuple[Mapping[str, int], Mapping[str, float]]:
    """Count errors by class and date the latest of each. What was there before the first look has no date."""
    if not seen.xid_errors and seen.ecc_uncorrected_errors is None:
        return state.event_counts, state.event_at_seconds
    counts: dict[str, int] = {}
    for code, number in seen.xid_errors.items():
        name = "xid_fatal" if code in _FATAL_XIDS else "xid_contained" if code in _CONTAINED_XIDS else "xid_other"
        counts[name] = counts.get(name, 0) + number
    if seen.ecc_uncorrected_errors is not None:
        counts["ecc"] = seen.ecc_uncorrected_errors
    dates = dict(state.event_at_seconds)
    for name, number in counts.items():
        # Xids count from the daemon's start, so the first is new; ECC errors over the board's life, so it is not.
        known = state.event_counts.get(name, number if name == "ecc" else 0)
        if number < known and name != "ecc":
            known = 0
        if number > known:
            dates[name] = seen.now_seconds
    return counts, dates


def moved(state: GpuState, by_seconds: float) -> GpuState:
    """Return the state with every time shifted: a steady clock starts anew with the machine.

    >>> moved(GpuState(at_seconds=10.0), 5.0).at_seconds
    15.0
    """
    if state.at_seconds is None:
        return state
    return replace(
        state,
        at_seconds=state.at_seconds + by_seconds,
        began_at_seconds=state.began_at_seconds + by_seconds,
        holders={
            key: replace(holder, trace=delayed(holder.trace, by_seconds)) for key, holder in state.holders.items()
        },
        block_at_seconds=state.block_at_seconds + by_seconds,
        slack_low_since_seconds=state.slack_low_since_seconds + by_seconds,
        event_at_seconds={name: at + by_seconds for name, at in state.event_at_seconds.items()},
    )


_FORMAT = 1


def to_json(states: Mapping[str, GpuState]) -> str:
    """Write the states of all GPUs, by UUID."""
    return json.dumps(
        {"format": _FORMAT, "gpus": {uuid: _plain(state) for uuid, state in states.items()}},
        allow_nan=False,
        separators=(",", ":"),
    )


def from_json(text: str) -> dict[str, GpuState]:
    """Read what `to_json` wrote.

    Raises:
        ValueError: It is no JSON, of another format, or not what `to_json` writes.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the risk state is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("the risk state is nested too deeply") from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("gpus"), dict):
        raise ValueError(f"the risk state is not of format {_FORMAT}")
    try:
        return {uuid: _state(each) for uuid, each in data["gpus"].items()}
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"the risk state is damaged: {type(error).__name__} {error}") from error


def _plain(value: Any) -> Any:
    """Turn dataclasses into dictionaries; an infinite number, which JSON lacks, into None."""
    if isinstance(value, int | float | str | None):
        return None if value in (math.inf, -math.inf) else value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"the risk state is damaged: {value!r} is not a number")
    return float(value)


def _numbers(value: Any, most: int) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError("the risk state is damaged: a list is missing or too long")
    return tuple(_number(each) for each in value)


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"the risk state is damaged: {value!r} is not text")  # noqa: TRY004 - of a file, not a call
    return value


def _state(data: Any) -> GpuState:
    if len(data["holders"]) > MOST_HOLDERS or len(data["arrivals"]) > _ARRIVALS:
        raise ValueError("the risk state is damaged: more processes than are ever remembered")
    low, older_low = data["slack_low_bytes"], data["older_slack_low_bytes"]
    return GpuState(
        at_seconds=None if data["at_seconds"] is None else _number(data["at_seconds"]),
        began_at_seconds=_number(data["began_at_seconds"]),
        free_bytes=_number(data["free_bytes"]),
        holders={_word(key): _holder(each) for key, each in data["holders"].items()},
        level_bytes=_number(data["level_bytes"]),
        block_at_seconds=_number(data["block_at_seconds"]),
        block_maximum_bytes=_number(data["block_maximum_bytes"]),
        maxima_bytes=_numbers(data["maxima_bytes"], _BLOCKS),
        rises_bytes=_numbers(data["rises_bytes"], _BLOCKS),
        arrivals=tuple((_word(each[0]), _number(each[1])) for each in data["arrivals"]),
        slack_low_bytes=math.inf if low is None else _number(low),
        older_slack_low_bytes=math.inf if older_low is None else _number(older_low),
        slack_low_since_seconds=_number(data["slack_low_since_seconds"]),
        # Xids are counted anew by every daemon: held against the count of the one before, its first would be no news.
        event_counts={name: int(_number(count)) for name, count in data["event_counts"].items() if name == "ecc"},
        event_at_seconds={
            name: _number(data["event_at_seconds"][name]) for name in data["event_at_seconds"] if name in EVENTS
        },
    )


def _holder(data: Any) -> HolderState:
    if data["kind"] not in KINDS or not isinstance(data["arrived"], bool):
        raise ValueError("the risk state is damaged: a process is of no known kind")
    return HolderState(
        kind=cast("HolderKind", data["kind"]),
        name=_word(data["name"]),
        trace=_trace(data["trace"]),
        promised_bytes=_number(data["promised_bytes"]),
        arrived=data["arrived"],
        held_record_bytes=_number(data["held_record_bytes"]),
        proven_seconds=_number(data["proven_seconds"]),
    )


def _trace(data: Any) -> Trace:
    if len(data["windows"]) != len(SPACINGS_SECONDS):
        raise ValueError(f"the risk state is damaged: a process has {len(data['windows'])} windows")
    numbers = {each.name: _number(data[each.name]) for each in fields(Trace) if each.name != "windows"}
    return Trace(
        **numbers,
        windows=tuple(
            Window(
                at_seconds=_number(each["at_seconds"]),
                points=_numbers(each["points"], POINTS) or _missing_points(),
                lows=_numbers(each["lows"], POINTS),
                low=_number(each["low"]),
                growth=None
                if each["growth"] is None
                else Growth(**{part.name: _number(each["growth"][part.name]) for part in fields(Growth)}),
            )
            for each in data["windows"]
        ),
    )


def _missing_points() -> tuple[float, ...]:
    raise ValueError("the risk state is damaged: a window without points")

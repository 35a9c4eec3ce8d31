"""What must be remembered between two moments, small and of constant size. State in, state out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

from advisor.load import MOST_ENGINES, EngineLoad, interrupted, observe_load
from advisor.readings import EngineReading
from advisor.report import Report
from advisor.snapshot import Snapshot
from advisor.starts import NONE_YET, Starts, remember_starts

_SPACING_SECONDS = 10.0
_MOST_POINTS = 180
"""Half an hour at the spacing above; then the older half is thinned to every second point."""
_WINDOWS_SECONDS = (120.0, 600.0, 3600.0)
"""A fast leak shows in the shortest window long before it does in the longest, a slow one only there."""
_LEAST_POINTS = 12
"""Two minutes: below that a trend is noise."""
_STEP_BYTES = 64 * 1024**2
"""A lone change of this size within one spacing is an event and not a trend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuHistory:
    """Slack of one GPU over time: free memory that no engine may claim.

    Slack and not use, because an engine that grows into what it is entitled to is no leak.
    """

    points: tuple[tuple[float, float], ...] = ()
    """(seconds, slack in bytes), at most one each ten seconds."""
    pids: frozenset[int] = frozenset()

    @property
    def growth_bytes_per_second(self) -> float | None:
        """How fast slack is eaten up: the largest trend over several windows; None before two minutes were seen.

        A window's trend is its Theil-Sen slope, the median over all pairs of points, with lone steps taken out.
        """
        if len(self.points) < _LEAST_POINTS:
            return None
        points = _without_steps(self.points)
        newest = points[-1][0]
        windows = ([point for point in points if newest - point[0] <= seconds] for seconds in _WINDOWS_SECONDS)
        return max(-_theil_sen(window) for window in windows if len(window) >= _LEAST_POINTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineHistory:
    """What one engine's counters showed before."""

    totals: Mapping[str, float] = field(default_factory=dict)
    token_seen_at_seconds: float | None = None
    """When a token counter last moved, or the engine was last idle."""
    preempted_at_seconds: float | None = None
    rejected_at_seconds: float | None = None
    seqs_reached_at_seconds: float | None = None
    """When as many requests ran as max_num_seqs lets in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Everything remembered, by GPU UUID and by (engine, rank)."""

    gpus: Mapping[str, GpuHistory] = field(default_factory=dict)
    engines: Mapping[tuple[str, str], EngineHistory] = field(default_factory=dict)
    starts: Starts = NONE_YET
    """What survives a restart of the daemon."""
    load: Mapping[tuple[str, str], EngineLoad] = field(default_factory=dict)
    """As does this."""


def remember(history: History, snapshot: Snapshot, report: Report) -> History:
    """Fold one judged moment into what is remembered; what is gone keeps its past for when it returns."""
    gpus = dict(history.gpus)
    slack_bytes = {gpu.uuid: gpu.memory_slack_bytes for gpu in report.gpus}
    for gpu in snapshot.gpus:
        pids = frozenset(process.pid for process in snapshot.processes_on(gpu))
        before = gpus.get(gpu.uuid, GpuHistory())
        gpus[gpu.uuid] = _remember_gpu(before, slack_bytes.get(gpu.uuid), pids, snapshot.now_seconds)
    engines = dict(history.engines)
    limits = {(engine.engine, engine.dp_rank): engine.max_num_seqs for engine in report.engines}
    for reading in snapshot.engines:
        key = (reading.engine, reading.dp_rank)
        before_engine = engines.get(key, EngineHistory())
        engines[key] = _remember_engine(before_engine, reading, limits.get(key), snapshot.now_seconds)
    return History(
        gpus=gpus,
        engines=engines,
        starts=remember_starts(history.starts, snapshot, report),
        load=_remember_load(history.load, snapshot, report),
    )


def _remember_load(
    loads: Mapping[tuple[str, str], EngineLoad], snapshot: Snapshot, report: Report
) -> dict[tuple[str, str], EngineLoad]:
    """Feed what answers; who does not is interrupted, so that no time of its absence counts."""
    judged = {(engine.engine, engine.dp_rank): engine for engine in report.engines}
    advised = {(each.engine, each.dp_rank): each.seqs for each in report.advice}
    answering = {(reading.engine, reading.dp_rank) for reading in snapshot.engines}
    found = {key: interrupted(load) for key, load in loads.items() if key not in answering}
    for reading in snapshot.engines:
        key = (reading.engine, reading.dp_rank)
        engine, seqs = judged.get(key), advised.get(key)
        limiter = None if engine is None else next((name for name, on in (engine.limiter or {}).items() if on), None)
        load = observe_load(
            loads.get(key),
            reading,
            capacity_tokens=engine.kv_capacity_tokens if engine else None,
            max_num_seqs=engine.max_num_seqs if engine else None,
            limiter=limiter,
            now_seconds=snapshot.now_seconds,
        )
        held_on_to = None if seqs is None or seqs.recommended == seqs.current else seqs.recommended
        found[key] = load if seqs is None else replace(load, advised=held_on_to)
    return dict(list(found.items())[-MOST_ENGINES:])


def _remember_gpu(
    history: GpuHistory, slack_bytes: float | None, pids: frozenset[int], now_seconds: float
) -> GpuHistory:
    if slack_bytes is None:
        return history
    if not history.pids <= pids:
        history = GpuHistory()  # a process ended or restarted: what it held says nothing about what comes
    points = history.points
    if not points or now_seconds - points[-1][0] >= _SPACING_SECONDS:
        points = (*points, (now_seconds, slack_bytes))
    if len(points) > _MOST_POINTS:
        half = len(points) // 2
        points = (*points[:half:2], *points[half:])
    return replace(history, points=points, pids=pids)


def _theil_sen(points: list[tuple[float, float]]) -> float:
    points = points[:: max(1, len(points) // 45)]
    return median(
        (later_value - earlier_value) / (later - earlier)
        for position, (earlier, earlier_value) in enumerate(points)
        for later, later_value in points[position + 1 :]
    )


def _without_steps(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Return the points without lone large jumps: everything after a jump is shifted back by it."""
    changes = [later[1] - earlier[1] for earlier, later in pairwise(points)]
    shift = 0.0
    cleaned = [points[0]]
    for position, change in enumerate(changes):
        beside = changes[max(0, position - 1) : position] + changes[position + 1 : position + 2]
        if abs(change) > _STEP_BYTES and all(abs(other) < abs(change) / 4 for other in beside):
            shift += change
        seconds, value = points[position + 1]
        cleaned.append((seconds, value - shift))
    return tuple(cleaned)


def _remember_engine(
    history: EngineHistory, reading: EngineReading, max_num_seqs: float | None, now_seconds: float
) -> EngineHistory:
    before, totals = history.totals, reading.totals
    restarted = any(totals.get(key, 0.0) < value for key, value in before.items() if key in totals)
    if restarted:
        history, before = EngineHistory(), {}

    def moved(*keys: str) -> bool:
        return any(totals.get(key, 0.0) > before[key] for key in keys if key in before)

    busy = bool(reading.requests_running or reading.requests_waiting)
    full = max_num_seqs is not None and (reading.requests_running or 0.0) >= max_num_seqs
    first_look = history.token_seen_at_seconds is None
    return EngineHistory(
        totals={key: totals[key] for key in _WATCHED if key in totals},
        token_seen_at_seconds=now_seconds
        if first_look or not busy or moved("generation_tokens_total", "prompt_tokens_total")
        else history.token_seen_at_seconds,
        preempted_at_seconds=now_seconds if moved("preemptions_total") else history.preempted_at_seconds,
        rejected_at_seconds=now_seconds if moved("rejections_total") else history.rejected_at_seconds,
        seqs_reached_at_seconds=now_seconds if full else history.seqs_reached_at_seconds,
    )


_WATCHED = ("generation_tokens_total", "prompt_tokens_total", "preemptions_total", "rejections_total")

"""What must be remembered between two moments, small and of constant size. State in, state out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from advisor.load import MOST_ENGINES, EngineLoad, interrupted, observe_load
from advisor.readings import EngineReading
from advisor.report import Report
from advisor.residuals import NO_RESIDUALS, Residuals
from advisor.risk_state import GpuState
from advisor.snapshot import Snapshot
from advisor.starts import NONE_YET, Starts, remember_starts

_MOST_GPUS = 256
"""MIG instances get a new UUID whenever a GPU is split anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineHistory:
    """What one engine's counters showed before."""

    totals: Mapping[str, float] = field(default_factory=dict)
    token_seen_at_seconds: float | None = None
    """When a token counter last moved, a prompt last took more of the cache, or the engine was last idle."""
    kv_usage_ratio: float | None = None
    """At the last look."""
    preempted_at_seconds: float | None = None
    rejected_at_seconds: float | None = None
    seqs_reached_at_seconds: float | None = None
    """When as many requests ran as max_num_seqs lets in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Everything remembered, by GPU UUID and by (engine, rank)."""

    gpus: Mapping[str, GpuState] = field(default_factory=dict)
    engines: Mapping[tuple[str, str], EngineHistory] = field(default_factory=dict)
    starts: Starts = NONE_YET
    residuals: Residuals = NO_RESIDUALS
    load: Mapping[tuple[str, str], EngineLoad] = field(default_factory=dict)
    """With the starts, the residuals and the GPUs' states, what survives a restart of the daemon."""


def remember(history: History, snapshot: Snapshot, report: Report) -> History:
    """Fold one judged moment into what is remembered; what is gone keeps its past for when it returns."""
    engines = dict(history.engines)
    limits = {(engine.engine, engine.dp_rank): engine.max_num_seqs for engine in report.engines}
    for reading in snapshot.engines:
        key = (reading.engine, reading.dp_rank)
        before_engine = engines.pop(key, EngineHistory())  # and back at the end: those first in line go first
        engines[key] = remember_engine(before_engine, reading, limits.get(key), snapshot.now_seconds)
    return History(
        gpus=_latest(history.gpus, report.gpu_states),
        engines=dict(list(engines.items())[-MOST_ENGINES:]),
        starts=remember_starts(history.starts, snapshot, report),
        residuals=report.residuals,
        load=_remember_load(history.load, snapshot, report),
    )


def _latest(before: Mapping[str, GpuState], now: Mapping[str, GpuState]) -> dict[str, GpuState]:
    gone = {uuid: state for uuid, state in before.items() if uuid not in now}
    return dict(list({**gone, **now}.items())[-_MOST_GPUS:])


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
        found[key] = load if seqs is None or load.advised == held_on_to else replace(load, advised=held_on_to)
    return dict(list(found.items())[-MOST_ENGINES:])


def remember_engine(
    history: EngineHistory, reading: EngineReading, max_num_seqs: float | None, now_seconds: float
) -> EngineHistory:
    """Fold one look at an engine into what its counters showed before."""
    before, totals = history.totals, reading.totals
    restarted = any(totals.get(key, 0.0) < value for key, value in before.items() if key in totals)
    if restarted:
        history, before = EngineHistory(), {}

    def moved(*keys: str) -> bool:
        return any(totals.get(key, 0.0) > before[key] for key in keys if key in before)

    # vLLM counts a prompt's tokens with its first answer: while a long one is read in chunks only its blocks tell.
    usage, usage_before = reading.kv_usage_ratio, history.kv_usage_ratio
    reads = usage is not None and usage_before is not None and usage > usage_before
    busy = bool(reading.requests_running or reading.requests_waiting)
    full = max_num_seqs is not None and (reading.requests_running or 0.0) >= max_num_seqs
    first_look = history.token_seen_at_seconds is None
    return EngineHistory(
        totals={key: totals[key] for key in _WATCHED if key in totals},
        token_seen_at_seconds=now_seconds
        if first_look or not busy or reads or moved("generation_tokens_total", "prompt_tokens_total")
        else history.token_seen_at_seconds,
        kv_usage_ratio=usage,
        preempted_at_seconds=now_seconds if moved("preemptions_total") else history.preempted_at_seconds,
        rejected_at_seconds=now_seconds if moved("rejections_total") else history.rejected_at_seconds,
        seqs_reached_at_seconds=now_seconds if full else history.seqs_reached_at_seconds,
    )


_WATCHED = ("generation_tokens_total", "prompt_tokens_total", "preemptions_total", "rejections_total")

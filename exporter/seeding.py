"""Seeds what is known of each engine's load from a Prometheus, once for each engine, when it first answers.

Until that is done, advice rests on what was seen since the start. What the state directory holds is the better witness:
only where it ends some time ago, or holds nothing, the past is asked for.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from advisor.load import EngineLoad
from advisor.past import joined
from advisor.policy import Policy
from advisor.report import Report
from advisor.snapshot import Snapshot
from exporter.observe import Source
from exporter.past import Target, Wanted, loads_of, located, span_of
from exporter.sources.prometheus import Prometheus

log = logging.getLogger(__name__)

_RETRY_SECONDS = 300.0
_OLD_SECONDS = 600.0
"""Of state: what a daemon misses while it is restarted is not worth the asking."""
_PATIENCE_SECONDS = 15.0
"""For max_num_seqs, which is known once the model's files are read."""

Loads = Mapping[tuple[str, str], EngineLoad]
"""By (engine, rank)."""


class Past:
    """The past of one server, dressed as a source so that its health shows like any other's."""

    name = "prometheus"
    retry_seconds = _RETRY_SECONDS

    def __init__(
        self,
        prometheus: Prometheus,
        turn: threading.Lock,
        wanted: Wanted,
        policy: Policy,
        *,
        start_seconds: float,
        end_seconds: float,
        least_step_seconds: float,
        known: Mapping[tuple[str, str], EngineLoad],
    ) -> None:
        """Take where to look, for what, and what was known before (by model name and rank)."""
        self.engine = wanted.engine
        self.ranks = frozenset((wanted.engine, rank) for _, rank in wanted.keys)
        self.key = f"prometheus {wanted.engine}"
        self.found: Mapping[tuple[str, str], EngineLoad] | None = None
        """What was seen of each rank, with what was known before; None until it is read."""
        self.has_failed = False
        self.problem: str | None = None
        """Why nothing was found when last looked, for people; None where something was."""
        self.warnings: tuple[str, ...] = ()
        """What is to be said of what was found when last looked, for people."""
        self.is_over = False
        """Whether what it found is in use, or its engine gone: how its last read went is nobody's business then."""
        self._prometheus = prometheus
        self._turn = turn
        self._wanted = wanted
        self._policy = policy
        self._start_seconds = start_seconds
        self._end_seconds = end_seconds
        self._least_step_seconds = least_step_seconds
        self._known = known

    def read(self) -> Mapping[tuple[str, str], EngineLoad]:
        """Read it.

        Raises:
            SourceError: The Prometheus cannot be asked.
        """
        with self._turn:
            try:
                target, loads = self._read()
            except Exception as error:  # unforeseen ones too: what the state directory held must not wait for ever
                self.has_failed = True
                self.problem = str(error)
                raise
        seen = sum(load.watched_busy_seconds for load in loads.values())
        self.problem = f"{self._prometheus.url}: {target}" if isinstance(target, str) else None
        where = target if isinstance(target, str) else f"{target.kind} series of {target.labels}"
        log.info("%s: history of %s: %s; %.0f s of load", self._prometheus.url, self.engine, where, seen)
        self.warnings = tuple(self._prometheus.warnings)
        for warning in self.warnings:
            log.warning("%s: %s", self._prometheus.url, warning)
        self._prometheus.warnings.clear()
        self.found = loads
        return loads

    def close(self) -> None:
        """Nothing is held open between two reads."""

    def _read(self) -> tuple[Target | str, Mapping[tuple[str, str], EngineLoad]]:
        target = located(self._prometheus, self._wanted, self._start_seconds, self._end_seconds)
        if isinstance(target, str):
            return target, self._known
        span = span_of(
            self._prometheus,
            target,
            self._start_seconds,
            self._end_seconds,
            least_step_seconds=self._least_step_seconds,
        )
        if span is None:
            return "it has series of this engine, but none in that time", self._known
        found = loads_of(self._prometheus, target, span, self._policy, known=self._known, wanted=self._wanted)
        return target, {key: load for key, load in found.items() if key in self._wanted.keys}


@dataclass(kw_only=True)
class _Answering:
    """An engine that has begun to answer."""

    since_wall_seconds: float
    past: Past | None = None


class Seeding:
    """Which engines still want their past."""

    def __init__(
        self,
        prometheus: Prometheus,
        kept: Loads,
        *,
        wall: Callable[[], float],
        least_step_seconds: float,
        host_names: frozenset[str],
    ) -> None:
        """Take where to look, what the state directory held, the clock, how closely to look, and this host's names."""
        self._prometheus = prometheus
        self._wall = wall
        self._least_step_seconds = least_step_seconds
        self._host_names = host_names
        self._turn = threading.Lock()
        self._answering: dict[str, _Answering] = {}
        self._pasts: dict[str, Past] = {}
        """The last one of each engine."""
        now = wall()
        self._aside = {
            key: load
            for key, load in kept.items()
            if load.until_wall_seconds is not None and now - load.until_wall_seconds > _OLD_SECONDS
        }
        self._settled = set(kept) - set(self._aside)
        """Those whose state is new enough, and those whose past has been read."""

    def without_aside(self, kept: Loads) -> dict[tuple[str, str], EngineLoad]:
        """Return what the state directory held, without what is continued by the past first."""
        return {key: load for key, load in kept.items() if key not in self._aside}

    def with_aside(self, loads: Loads) -> dict[tuple[str, str], EngineLoad]:
        """Return loads as they are to be kept: a daemon that ends early must lose nothing."""
        kept = dict(loads)
        for key, load in self._aside.items():
            kept[key] = joined(load, kept[key]) if key in kept else load
        return kept

    def begun(self, snapshot: Snapshot, report: Report, policy: Policy, *, at_once: bool) -> Iterator[Past]:
        """Yield the past of every engine that has begun to answer, once each; soon after, unless ``at_once``."""
        limits = {
            (engine.engine, engine.dp_rank): engine.max_num_seqs for engine in report.engines if engine.max_num_seqs
        }
        now = self._wall()
        for target in snapshot.targets:
            readings = snapshot.readings_of(target.engine)
            wanted = [each for each in readings if (each.engine, each.dp_rank) not in self._settled]
            if not wanted:
                continue
            answering = self._answering.setdefault(target.engine, _Answering(since_wall_seconds=now))
            is_known = at_once or all((each.engine, each.dp_rank) in limits for each in wanted)
            if answering.past is not None or not (is_known or now - answering.since_wall_seconds >= _PATIENCE_SECONDS):
                continue
            known = {
                (each.model_name, each.dp_rank): load
                for each in wanted
                for load in (self._aside.get((each.engine, each.dp_rank)),)
                if load is not None
            }
            until = max((load.until_wall_seconds or 0.0 for load in known.values()), default=0.0)
            answering.past = Past(
                self._prometheus,
                self._turn,
                Wanted(
                    engine=target.engine,
                    url=target.url,
                    keys=frozenset((each.model_name, each.dp_rank) for each in wanted),
                    started_at_seconds=wanted[0].started_at_seconds,
                    max_num_seqs={
                        (each.model_name, each.dp_rank): limit
                        for each in wanted
                        for limit in (limits.get((each.engine, each.dp_rank)),)
                        if limit is not None
                    },
                    gpu_uuids=frozenset(gpu.uuid for gpu in snapshot.gpus),
                    host_names=self._host_names,
                ),
                policy,
                start_seconds=max(until, now - 3600 * self._prometheus.config.history_hours),
                end_seconds=answering.since_wall_seconds,
                least_step_seconds=self._least_step_seconds,
                known=known,
            )
            self._pasts[target.engine] = answering.past
            yield answering.past

    def applied(self, loads: Loads) -> tuple[dict[tuple[str, str], EngineLoad], tuple[str, ...]]:
        """Return the loads with what was read of the past before them, and the keys of the sources that are done.

        Where the past cannot be read, what the state directory held is taken as it is; who has nothing is tried again.
        """
        result, done = dict(loads), []
        for engine, answering in list(self._answering.items()):  # a reload may forget one meanwhile
            past = answering.past
            if past is None:
                continue
            found = past.found
            if found is None and not past.has_failed:
                continue
            earlier = (
                {(engine, rank): load for (_, rank), load in found.items()}
                if found is not None
                else {key: load for key, load in self._aside.items() if key in past.ranks}
            )
            if found is None and not earlier:
                continue
            for key, load in earlier.items():
                later = result.get(key)
                before = replace(load, until_wall_seconds=None)
                result[key] = before if later is None else joined(before, later)
            for key in past.ranks:
                self._aside.pop(key, None)
                self._settled.add(key)
            answering.past = None
            past.is_over = True
            done.append(past.key)
        return result, tuple(done)

    @property
    def problems(self) -> dict[str, str]:
        """By engine, why nothing is known of its past."""
        return {engine: past.problem for engine, past in list(self._pasts.items()) if past.problem is not None}

    @property
    def warnings(self) -> dict[str, tuple[str, ...]]:
        """By engine, what is to be said of what is known of its past."""
        return {engine: past.warnings for engine, past in list(self._pasts.items()) if past.warnings}

    @staticmethod
    def is_done_with(source: Source) -> bool:
        """Tell whether this is a past whose last read is nobody's business any more."""
        return isinstance(source, Past) and source.is_over

    def forget(self, engine: str) -> str | None:
        """Drop an engine that is gone; return the key of the source that is still to read its past, if there is one."""
        self._pasts.pop(engine, None)
        answering = self._answering.pop(engine, None)
        if answering is None or answering.past is None:
            return None
        answering.past.is_over = True
        return answering.past.key

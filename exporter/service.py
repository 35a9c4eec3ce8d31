"""The collection loop: reads sources at even intervals, judges, and holds what the pages show."""

import logging
import platform
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from advisor import load, residuals, risk_state, starts
from advisor.advise import advise
from advisor.facts import Fact
from advisor.history import History, remember
from advisor.policy import Policy
from advisor.readings import EngineReading, EngineStartLog
from advisor.report import Report
from advisor.risk_state import GpuState
from advisor.snapshot import Snapshot, with_named_gpus
from exporter.board import Board
from exporter.clock import Clock
from exporter.config import Config, EngineConfig
from exporter.connection import Connection
from exporter.engines import Engines, Watched, open_connection
from exporter.errors import RestartNeeded, SourceError, require_all
from exporter.health import Build, Collector, ConfigReload
from exporter.observe import FailureLog, Source, never_returned, observe
from exporter.recent import Recent, Subject
from exporter.schedule import Schedule
from exporter.sources.cgroup import CgroupSource
from exporter.sources.model import ModelSource
from exporter.sources.nvml import NvmlSource
from exporter.sources.process import ProcessSource
from exporter.sources.start_log import StartLogSource
from exporter.sources.vllm import VllmSource
from exporter.state import LOAD_FILE, RESIDUALS_FILE, State

if TYPE_CHECKING:
    from exporter.seeding import Past, Seeding

log = logging.getLogger(__name__)

_LEAST_PATIENCE_SECONDS = 1.0
FRESH_INTERVALS = 2.5
"""A reading older than this many intervals is not shown: one may be missed, two mean that it is no longer so."""
_CLOSE_SECONDS = 0.5
_STATE_SECONDS = 60.0
_ONCE_SECONDS = 5.5
"""What a command that looks once waits for: a little more than the slowest source gives itself."""
_RISK_SECONDS = 2 * 86400.0
"""What the risk model remembers is about the last one to two days."""
_RESTARTS_WANTED = 3
"""Reads in a row: while a driver is being replaced its parts disagree for a moment."""
_MODEL_SECONDS = 5.0
"""Model files hardly change, but a server that has just started waits for its theory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Everything outside that the service reads; a demo passes another one."""

    nvml: Any
    processes: Any
    connection: Callable[[EngineConfig], Connection] = open_connection
    clock: Clock = field(default_factory=Clock)
    host_names: Callable[[], frozenset[str]] = lambda: frozenset({socket.gethostname(), socket.getfqdn()})
    mode: str = "serve"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What the pages show, of one moment."""

    snapshot: Snapshot
    report: Report
    wall_seconds: float


class _Advice:
    """Judgement, dressed as a source so that its health shows like any other's."""

    name = "advice"

    def __init__(self, judge: Callable[[], Published]) -> None:
        self.read = judge

    def close(self) -> None:
        """Nothing is held open."""


class _Keeping:
    """Saving what is remembered, dressed as a source so that a full disk shows on /metrics like any other failure."""

    name = "state"

    def __init__(self, save: Callable[[], None]) -> None:
        self.read = save

    def close(self) -> None:
        """Save a last time."""
        try:
            self.read()
        except SourceError as error:
            log.warning("%s", error)


class Service:
    """Runs until stopped. Every method is safe to call from every thread."""

    def __init__(
        self,
        config: Config,
        world: World,
        *,
        start_log: EngineStartLog | None = None,
        keeps_state: bool = True,
        web_is_current: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take what to watch, the world to watch it in, and a start-up log that was given by hand.

        A command that only reads what a daemon keeps passes ``keeps_state=False``; ``web_is_current`` knows whether the
        web configuration in effect is the one on disk.
        """
        self._keeps_state = keeps_state and config.state_dir is not None
        self._web_is_current = web_is_current
        self._config = config
        self._policy = config.thresholds()
        self._world = world
        self._clock = world.clock
        self._board = Board()
        self._failures = FailureLog()
        self._schedule = Schedule(self._overrun, speed=self._clock.speed)
        self._started: dict[str, tuple[str, float]] = {}
        self._models = ModelSource()
        self._start_logs = StartLogSource(given=start_log)
        self._cgroups = CgroupSource()
        self._servers: dict[str, VllmSource] = {}
        self._processes = ProcessSource(world.processes)
        self._sources: list[Source] = []
        self._starts_file = State(config.state_dir, "starts", is_ours=keeps_state)
        self._residuals_file = State(config.state_dir, RESIDUALS_FILE, is_ours=keeps_state)
        self._risk_file = State(config.state_dir, "risk", is_ours=keeps_state)
        self._load_file = State(config.state_dir, LOAD_FILE, is_ours=keeps_state)
        self._history = History(
            starts=self._starts_file.load(starts.from_json, starts.NONE_YET),
            residuals=self._residuals_file.load(residuals.from_json, residuals.NO_RESIDUALS),
            gpus=self._risk_file.load(self._risk_state, {}),
            load=self._load_file.load(load.from_json, {}),
        )
        self._seeding = self._begin_seeding()
        self._recent = Recent()
        self._engines = Engines(configured=config.engines, on_new=self._watch, on_gone=self._forget)
        self._watching = threading.RLock()
        """Held while the set of servers under watch changes: a reload comes from another thread than a discovery."""
        self._reload = ConfigReload(last_reload_successful=1, last_reload_success_timestamp_seconds=self._clock.wall())
        self._restarts_wanted = 0
        self._build = Build(version=version("vllm-headroom"), python_version=platform.python_version(), mode=world.mode)

    def _begin_seeding(self) -> "Seeding | None":
        """Set aside what the state directory holds of long ago: the past that a Prometheus tells comes after it."""
        if self._config.prometheus is None:
            return None
        from exporter.seeding import Seeding
        from exporter.sources.prometheus import Prometheus

        seeding = Seeding(
            Prometheus(self._config.prometheus),
            self._history.load,
            wall=self._clock.wall,
            least_step_seconds=self._config.poll_interval,
            host_names=self._world.host_names(),
        )
        self._history = replace(self._history, load=seeding.without_aside(self._history.load))
        return seeding

    def start(self) -> None:
        """Begin reading.

        Raises:
            UsageError: The config names credentials that are not usable.
        """
        self._require_credentials(self._config.engines)
        self._sources += [NvmlSource(self._world.nvml), self._processes, self._models, self._cgroups]
        if self._keeps_state:
            self._sources.append(_Keeping(self._keep))
        self._engines.start()
        self._schedule_reads()
        self._schedule.start()  # last, so that all are read at the first beat

    def reconfigure(self, config: Config) -> None:
        """Go on by a changed config: engines and their keys, policy, interval. What is known of engines stays.

        ``listen_address``, ``state_dir`` and ``prometheus`` are taken at the start only.

        Raises:
            UsageError: It names credentials that are not usable; nothing has changed then.
        """
        self._require_credentials(config.engines)
        with self._watching:
            is_another_pace = config.poll_interval != self._config.poll_interval
            self._config = config
            self._policy = config.thresholds()
            self._engines.reconfigure(config.engines)
            if is_another_pace:
                self._schedule_reads()
                for key, server in self._servers.items():
                    server.patience_seconds = self._patience_seconds
                    # Not at once: a read under way would be taken for one that hangs.
                    self._read_server_every(config.poll_interval, key, after_seconds=min(1.0, config.poll_interval))

    def note_reload(self, *, successful: bool) -> None:
        """Keep whether the configuration in effect is the one on disk."""
        when = self._clock.wall() if successful else self._reload.last_reload_success_timestamp_seconds
        self._reload = ConfigReload(last_reload_successful=int(successful), last_reload_success_timestamp_seconds=when)

    def every(self, seconds: float, key: str, call: Callable[[], None], *, after_seconds: float = 0.0) -> None:
        """Call at even intervals from the same loop that reads, so that it stops when the loop does."""
        self._schedule.every(seconds, key, call, after_seconds=after_seconds)

    @property
    def is_alive(self) -> bool:
        """Whether judgements are made, whatever they say: a hung driver is no fault of the loop, a stopped loop is."""
        reading = self._board.latest("advice")
        return reading is not None and self._clock.steady() - reading.taken_at_seconds <= self._max_age_seconds + 1.0

    @property
    def needs_restart(self) -> bool:
        """Whether a source has said time and again that only a fresh process can read it."""
        return self._restarts_wanted >= _RESTARTS_WANTED

    def summary(self) -> str:
        """Return the state in one line, for ``systemctl status``."""
        published = self.published()
        if published is None:
            return "reading for the first time"
        ups = [engine.up for engine in published.report.engines]
        failing = [f"{each.collector}: {', '.join(each.failing)}" for each in self.health() if each.failing]
        parts = [
            f"GPUs: {len(published.report.gpus)}",
            f"engines up: {ups.count(1)} of {len(ups)}",
            f"findings: {len(published.report.findings)}",
            *failing,
        ]
        return "; ".join(parts)

    def _schedule_reads(self) -> None:
        interval = self._config.poll_interval
        intervals = {"model": max(interval, _MODEL_SECONDS), "state": _STATE_SECONDS}
        for source in self._sources:
            self._read_every(intervals.get(source.name, interval), source, source.name)
        self._schedule.every(
            interval,
            "advice",
            lambda: self._read("advice", _Advice(self._judge)),
            after_seconds=_judged_after_seconds(interval),
        )

    def once(self) -> Published:
        """Read every source once, in the order in which they need each other, and judge: instead of `start`.

        Start-up logs are read here only. A source that does not return in time shows as hung.

        Raises:
            UsageError: The config names credentials that cannot be read.
        """
        self._engines.start()
        nvml = NvmlSource(self._world.nvml)
        self._sources.append(nvml)
        self._read_together({nvml.name: nvml, self._processes.name: self._processes})
        self._judge()  # finds the servers, and which files tell of them
        once = (self._models, self._start_logs, self._cgroups)
        self._read_together({**self._servers, **{source.name: source for source in once}})
        published = self._judge()
        pasts = self._begun_pasts(published, at_once=True)
        for past in pasts:
            self._read(past.key, past)
        if pasts:
            published = self._judge()
        self._read("advice", _Advice(lambda: published))  # from here on `published` and `facts` tell of it too
        return published

    def _read_together(self, sources: Mapping[str, Source]) -> None:
        end = self._clock.steady() + _ONCE_SECONDS
        threads = {
            key: threading.Thread(target=self._read, args=(key, source), daemon=True) for key, source in sources.items()
        }
        for thread in threads.values():
            thread.start()
        for key, thread in threads.items():
            thread.join(max(0.0, end - self._clock.steady()))
            if thread.is_alive():
                self._overrun(key)

    def stop(self) -> None:
        """Stop reading and let go of what is open; a hung driver is not waited for."""
        self._schedule.stop()
        closing = threading.Thread(target=self._close_all, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    @property
    def mode(self) -> str:
        """``serve``, or ``demo`` over a stand-in world."""
        return self._world.mode

    @property
    def policy(self) -> Policy:
        """The thresholds in effect."""
        return self._policy

    @property
    def poll_interval_seconds(self) -> float:
        """Time between two readings."""
        return self._config.poll_interval

    @property
    def ready(self) -> bool:
        """Whether the first judgement is done, whatever it said."""
        return self._board.latest("advice") is not None

    def published(self) -> Published | None:
        """Return the latest judgement while it is fresh, else None."""
        found: Published | None = self._fresh_facts("advice", self._clock.steady())
        return found

    def recent(self, subject: Subject) -> dict[str, tuple[float, ...]]:
        """Return the last hour of one GPU (``("gpu", uuid)``) or engine (``("engine", engine, rank)``)."""
        return self._recent.of(subject, self._clock.steady())

    def health(self) -> tuple[Collector, ...]:
        """Return the state of every source."""
        return self._board.health()

    def facts(self) -> Iterable[Fact]:
        """Return everything that /metrics shows now."""
        return self.facts_beside(self.published())

    def facts_beside(self, published: Published | None) -> Iterable[Fact]:
        """Return the same of a judgement at hand: asked for twice, it may have become too old in between."""
        yield self._build
        yield self._reload if self._web_is_current() else replace(self._reload, last_reload_successful=0)
        yield from self.health()
        gpu_readings = self._fresh_facts("nvml", self._clock.steady())
        yield from gpu_readings.gpus if gpu_readings else ()
        if published is not None:
            yield from published.report.gpus
            yield from published.report.engines
            for advice in published.report.advice:
                yield from advice.recommendations()

    @property
    def _max_age_seconds(self) -> float:
        return FRESH_INTERVALS * self._config.poll_interval

    @property
    def _patience_seconds(self) -> float:
        """What a request to a server may take: over by the judgement that follows the next read that is due.

        Then it is cut, and the second read after a server that hung goes on finds it.
        """
        interval = self._config.poll_interval
        return max(_LEAST_PATIENCE_SECONDS, interval + 0.9 * _judged_after_seconds(interval))

    def _read_every(self, seconds: float, source: Source, key: str) -> None:
        self._schedule.every(seconds, key, lambda: self._read(key, source))

    def _require_credentials(self, engines: Iterable[EngineConfig]) -> None:
        """Tell every key and authority that is not usable, before anything is asked with one of them."""
        require_all(partial(self._world.connection, engine) for engine in engines)

    def _watch(self, watched: Watched) -> None:
        source = VllmSource(engine=watched.engine, url=watched.url, connection=self._world.connection(watched.config))
        source.patience_seconds = self._patience_seconds
        key = f"vllm {watched.engine}"
        before = self._servers.get(key)
        self._servers[key] = source
        if before is not None:
            before.close()
            return
        self._read_server_every(self._config.poll_interval, key)
        log.info("watching engine %s at %s", watched.engine, watched.url)

    def _read_server_every(self, seconds: float, key: str, *, after_seconds: float = 0.0) -> None:
        """Read whatever source stands under this key when the time comes: a reload may put another there."""

        def read() -> None:
            if source := self._servers.get(key):
                self._read(key, source)

        self._schedule.every(seconds, key, read, after_seconds=after_seconds)

    def _forget(self, watched: Watched) -> None:
        key = f"vllm {watched.engine}"
        source = self._servers.pop(key, None)
        self._end(key)
        if source is not None:
            source.close()
        if self._seeding is not None and (past := self._seeding.forget(watched.engine)) is not None:
            self._end(past)
        log.info("no longer watching engine %s", watched.engine)

    def _end(self, key: str) -> None:
        """Read a source no more, and show nothing of it."""
        self._schedule.cancel(key)
        self._started.pop(key, None)
        self._board.drop(key)
        self._failures.forget(key)

    def _read(self, key: str, source: Source) -> None:
        self._started[key] = (source.name, self._clock.steady())
        reading = observe(key, source, self._clock)
        if source.name == "vllm" and self._servers.get(key) is not source:
            return  # it left the config, or has other credentials now, while this read was under way
        if self._seeding is not None and self._seeding.is_done_with(source):
            return
        self._board.put(reading)
        self._failures.note(reading)
        if source.name == "nvml":
            wanted = isinstance(reading.failure, RestartNeeded)
            self._restarts_wanted = self._restarts_wanted + 1 if wanted else 0

    def _overrun(self, key: str) -> None:
        """A read is due while the last one is still under way: its source shows as hung, its data go."""
        if server := self._servers.get(key):
            server.interrupt()
        started = self._started.get(key)
        if started is not None:
            reading = never_returned(key, *started, self._clock)
            self._board.put(reading)
            self._failures.note(reading)

    def _judge(self) -> Published:
        for server in tuple(self._servers.values()):
            server.interrupt()  # also between two overruns: this falls halfway between two reads
        now = self._clock.steady()
        servers = self._fresh_facts("process", now)
        if servers is not None:
            with self._watching:
                self._engines.discover(servers, now)
        readings: tuple[EngineReading, ...] = tuple(
            reading for each in self._board.fresh("vllm", now, self._max_age_seconds).values() for reading in each.facts
        )
        self._engines.answered(readings)
        self._start_logs.want(servers or ())
        self._cgroups.want(servers or ())
        gpu_readings = self._fresh_facts("nvml", now)
        own = [(server.model_path, server.flags.config_overrides()) for server in servers or ()]
        told = [(reading.model_path, each) for reading in readings for _, each in own]
        self._models.want((path, each) for path, each in (*own, *told) if path is not None and path.startswith("/"))
        seen = Snapshot(
            now_seconds=now,
            gpus=gpu_readings.gpus if gpu_readings else (),
            gpu_processes=gpu_readings.processes if gpu_readings else (),
            servers=servers or (),
            visible_pids=None if servers is None else self._processes.visible_pids,
            engines=readings,
            targets=self._engines.targets(self._why_failing),
            models=self._fresh_facts("model", now, interval_seconds=_MODEL_SECONDS) or (),
            start_logs=self._fresh_facts("start_log", now) or (),
            host_memory=self._fresh_facts("cgroup", now) or (),
        )
        snapshot = with_named_gpus(seen)
        self._seed()
        report = advise(snapshot, self._history, self._policy)
        self._history = remember(self._history, snapshot, report)
        self._recent.note(now, _recent_figures(report), holds_seconds=self._max_age_seconds)
        published = Published(snapshot=snapshot, report=report, wall_seconds=self._clock.wall())
        if self._schedule.is_running:
            for past in self._begun_pasts(published):
                self._read_every(past.retry_seconds, past, past.key)
        return published

    @property
    def past_problems(self) -> Mapping[str, str]:
        """By engine, why a Prometheus that is named told nothing of its past."""
        return {} if self._seeding is None else self._seeding.problems

    @property
    def past_warnings(self) -> Mapping[str, tuple[str, ...]]:
        """By engine, what is to be said of what a Prometheus told of its past."""
        return {} if self._seeding is None else self._seeding.warnings

    def _begun_pasts(self, published: Published, *, at_once: bool = False) -> "tuple[Past, ...]":
        if self._seeding is None:
            return ()
        return tuple(self._seeding.begun(published.snapshot, published.report, self._policy, at_once=at_once))

    def _seed(self) -> None:
        """Put what was read of the past before what was seen since the start."""
        if self._seeding is None:
            return
        loads, done = self._seeding.applied(self._history.load)
        self._history = replace(self._history, load=loads)
        for key in done:
            self._end(key)

    def _keep(self) -> None:
        self._starts_file.save(starts.to_json(self._history.starts))
        self._residuals_file.save(residuals.to_json(self._history.residuals))
        loads = self._history.load if self._seeding is None else self._seeding.with_aside(self._history.load)
        self._load_file.save(load.to_json(loads, wall_seconds=self._clock.wall()))
        self._risk_file.save(
            {
                "wall_seconds": self._clock.wall(),
                "steady_seconds": self._clock.steady(),
                "states": risk_state.to_json(self._history.gpus),
            }
        )

    def _risk_state(self, content: Any) -> dict[str, GpuState]:
        """Read back what the risk model remembered, moved onto this boot's steady clock; too old is forgotten."""
        age_seconds = self._clock.wall() - float(content["wall_seconds"])
        if not 0 <= age_seconds <= _RISK_SECONDS:
            return {}
        by_seconds = self._clock.steady() - age_seconds - float(content["steady_seconds"])
        states = risk_state.from_json(content["states"])
        return {uuid: risk_state.moved(state, by_seconds) for uuid, state in states.items()}

    def _fresh_facts(self, collector: str, now_seconds: float, *, interval_seconds: float = 0.0) -> Any:
        max_age_seconds = max(self._max_age_seconds, FRESH_INTERVALS * interval_seconds)
        reading = self._board.fresh(collector, now_seconds, max_age_seconds).get(collector)
        return reading.facts if reading else None

    def _why_failing(self, engine: str) -> str | None:
        reading = self._board.latest(f"vllm {engine}")
        if reading is None:
            return "not_read_yet"
        return reading.failure.reason if reading.failure else None

    def _close_all(self) -> None:
        # A driver that hangs is first to open and last to close: state is saved.
        for source in (*self._servers.values(), *reversed(self._sources)):
            source.close()


def _judged_after_seconds(interval_seconds: float) -> float:
    """How long after the reads a judgement is made: lets those of the same tick arrive."""
    return min(0.5, interval_seconds / 2)


def _recent_figures(report: Report) -> dict[Subject, dict[str, float | None]]:
    """Return what the page draws of the last hour."""
    gpus: dict[Subject, dict[str, float | None]] = {
        ("gpu", gpu.uuid): {"oom_risk_ratio": gpu.oom_risk_ratio, "memory_slack_bytes": gpu.memory_slack_bytes}
        for gpu in report.gpus
    }
    engines: dict[Subject, dict[str, float | None]] = {
        ("engine", engine.engine, engine.dp_rank): {
            "kv_usage_ratio": engine.kv_usage_ratio,
            "request_headroom": engine.request_headroom,
            "requests_running": engine.requests_running,
            "requests_waiting": engine.requests_waiting,
        }
        for engine in report.engines
    }
    return gpus | engines

"""Finds engines in a Prometheus and reads their past out of it: from vLLM's own series, else from ours.

An engine stands there as often as it was scraped: by a pair of servers, by two jobs. Labels in which such copies differ
are left out of its identity (`PrometheusConfig.replica_labels`), and a moment is taken from one copy only.
"""

import math
import statistics
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from urllib.parse import urlsplit

from advisor.capacity import reported_capacity
from advisor.load import EngineLoad
from advisor.past import PastMoment, replayed
from advisor.policy import Policy
from advisor.readings import CacheConfig, EngineReading, Histogram
from advisor.report import LIMITERS
from exporter.sources.prometheus import MOST_POINTS, Prometheus, Series
from exporter.sources.vllm import is_sane, parse_cache_config
from exporter.sources.vllm_names import BY_SPELLING, FIGURES

MOST_MOMENTS = 10_000
"""Of one engine's past: a week is a look a minute."""
_POINTS_AT_ONCE = 100_000
"""What is asked for in one answer: some 2 MB, and 30 MB while it is read, so that a daemon keeps to its bounds."""
_HOLE_SPACINGS = 2.5
"""As live: two looks missing in a row mean that nothing was seen."""
_SAME_START_SECONDS = 0.01
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
"""Names by which every host knows itself, so that they tell none from another."""
_NOT_IDENTITY = frozenset({"__name__", "model_name", "engine", "dp_rank"})

WITHOUT_BUCKETS = (
    "it keeps no buckets of vLLM's histograms, so finished requests and their lengths are not known from it: they were "
    "dropped, or made native (convert_classic_histograms_to_nhcb; always_scrape_classic_histograms keeps both)"
)

Key = tuple[str, str]
"""(model name, data-parallel rank)."""

_WANTED = (
    "requests_running",
    "requests_waiting",
    "requests_waiting_by_reason",
    "kv_usage_ratio",
    "sleep_state",
    "cache_config",
    "preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "rejections_total",
    "prompt_tokens",
    "generation_tokens",
    "queue_seconds",
    "inter_token_seconds",
)
_WITHOUT_BUCKETS = frozenset({"inter_token_seconds"})
_OURS = (
    "requests_running",
    "requests_waiting",
    "kv_usage_ratio",
    "kv_capacity_tokens",
    "max_num_seqs",
    "limiter",
    "preemptions_total",
    "requests_finished_total",
    "asleep",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One server in a Prometheus, however often it was scraped."""

    kind: Literal["vllm", "headroom"]
    """Whose series tell of it."""
    labels: Mapping[str, str]
    """What it is told by: its target labels without those in which copies differ; ours also hold ``engine``."""
    without: frozenset[str]
    """Label names that other servers have there and this one has not."""
    engines: frozenset[Key]

    @property
    def instance(self) -> str:
        """The scraped address."""
        return self.labels.get("instance", "")

    @property
    def matchers(self) -> str:
        """What selects its series and those of no other."""
        return equal({**self.labels, **dict.fromkeys(self.without, "")})

    def has(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a series is of this server."""
        return self.labels.items() <= labels.items() and not self.without & labels.keys()


def selector(*matchers: str | None) -> str:
    """Return ``{...}`` of these matchers."""
    return "{" + ",".join(each for each in matchers if each) + "}"


def equal(labels: Mapping[str, str]) -> str:
    """Return matchers for exactly these values."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items()))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_RUNNING = '__name__=~"(ray_)?vllm[:_]num_requests_running"'


def vllm_targets(prometheus: Prometheus, start_seconds: float, end_seconds: float) -> tuple[Target, ...]:
    """Return every vLLM server that was scraped in this time.

    Raises:
        SourceError: See `Prometheus.query`.
    """
    wanted = selector(_RUNNING, prometheus.config.selector)
    return _targets("vllm", prometheus, wanted, start_seconds, end_seconds)


def headroom_targets(prometheus: Prometheus, start_seconds: float, end_seconds: float) -> tuple[Target, ...]:
    """Return every engine that one of our daemons watched in this time.

    Raises:
        SourceError: See `Prometheus.query`.
    """
    wanted = "headroom_engine_up" + selector(prometheus.config.selector)
    return _targets("headroom", prometheus, wanted, start_seconds, end_seconds)


def _targets(
    kind: Literal["vllm", "headroom"], prometheus: Prometheus, wanted: str, start_seconds: float, end_seconds: float
) -> tuple[Target, ...]:
    found: dict[tuple[tuple[str, str], ...], set[Key]] = {}
    for labels in prometheus.series(wanted, start_seconds, end_seconds):
        identity = identity_of(labels, prometheus.config.replica_labels, kind)
        found.setdefault(tuple(sorted(identity.items())), set()).add(key_of(labels, kind))
    names = {name for identity in found for name, _ in identity}
    return tuple(
        Target(
            kind=kind,
            labels=dict(identity),
            without=frozenset(names - dict(identity).keys()),
            engines=frozenset(keys),
        )
        for identity, keys in sorted(found.items())
    )


def identity_of(labels: Mapping[str, str], replica_labels: Iterable[str], kind: str) -> dict[str, str]:
    """Return the labels of a series that tell servers apart; ours tell the server by ``engine``, vLLM's the rank."""
    left_out = {*_NOT_IDENTITY, *replica_labels} - ({"engine"} if kind == "headroom" else set())
    return {name: value for name, value in labels.items() if name not in left_out}


def key_of(labels: Mapping[str, str], kind: str) -> Key:
    """Return which engine of a server a series belongs to."""
    return labels.get("model_name", ""), labels.get("dp_rank" if kind == "headroom" else "engine", "0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A server whose past is looked for."""

    engine: str
    url: str
    keys: frozenset[Key]
    started_at_seconds: float | None
    max_num_seqs: Mapping[Key, float]
    """In effect now, and so since it was started."""
    gpu_uuids: frozenset[str]
    host_names: frozenset[str]
    """This host's own."""


def located(prometheus: Prometheus, wanted: Wanted, start_seconds: float, end_seconds: float) -> Target | str:
    """Return where the past of a server stands, or why that cannot be told.

    vLLM's own series are the better ones: they hold the lengths of requests. The moment at which its process started
    tells a server beyond doubt; without it, address and port do, if only one fits.

    Raises:
        SourceError: See `Prometheus.query`.
    """
    found = [each for each in vllm_targets(prometheus, start_seconds, end_seconds) if each.engines & wanted.keys]
    if wanted.started_at_seconds is not None and found:
        # Of the last hour: the scraper may have missed the latest minutes.
        started = f"last_over_time(process_start_time_seconds{selector(prometheus.config.selector)}[1h])"
        same = prometheus.query(f"abs({started} - {wanted.started_at_seconds!r}) < {_SAME_START_SECONDS}", end_seconds)
        certain = [each for each in found if any(each.has(series.labels) for series in same)]
        if len(certain) == 1:
            return certain[0]
    fitting = [each for each in found if _is_address(each.instance, wanted)]
    if len(fitting) > 1:
        return _several(fitting)
    if fitting:
        return fitting[0]
    return _located_by_us(prometheus, wanted, start_seconds, end_seconds)


def _located_by_us(prometheus: Prometheus, wanted: Wanted, start_seconds: float, end_seconds: float) -> Target | str:
    found = [
        each
        for each in headroom_targets(prometheus, start_seconds, end_seconds)
        if each.labels.get("engine") == wanted.engine and each.engines & wanted.keys
    ]
    if wanted.gpu_uuids and found:
        uuids = "|".join(sorted(wanted.gpu_uuids))
        matchers = selector(f'uuid=~"{uuids}"', prometheus.config.selector)
        seen = prometheus.series(f"headroom_gpu_memory_total_bytes{matchers}", start_seconds, end_seconds)
        certain = [each for each in found if any(each.has({**labels, "engine": wanted.engine}) for labels in seen)]
        if len(certain) == 1:
            return certain[0]
    fitting = [each for each in found if host_of(each.instance) in wanted.host_names | LOOPBACK]
    if len(fitting) > 1:
        return _several(fitting)
    return fitting[0] if fitting else "it has no series of this engine"


def _several(targets: Sequence[Target]) -> str:
    names = ", ".join(equal(each.labels) for each in targets[:3])
    return f"{len(targets)} servers there fit: {names}; prometheus.selector tells them apart"


def host_of(instance: str) -> str:
    """Return an address without its port."""
    host, _, port = instance.rpartition(":")
    return host if port.isdecimal() else instance


def _is_address(instance: str, wanted: Wanted) -> bool:
    parts = urlsplit(wanted.url)
    port = str(parts.port or (443 if parts.scheme == "https" else 80))
    if instance.rpartition(":")[2] != port:
        return False
    host = parts.hostname or ""
    here = wanted.host_names | LOOPBACK
    return host_of(instance) == host or (host in here and host_of(instance) in here)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Which time to look at, and how closely."""

    start_seconds: float
    end_seconds: float
    step_seconds: float


def span_of(
    prometheus: Prometheus, target: Target, start_seconds: float, end_seconds: float, *, least_step_seconds: float
) -> Span | None:
    """Return the time that a target's series cover, as closely as 10,000 looks allow; None where there are none.

    Raises:
        SourceError: See `Prometheus.query`.
    """
    coarse = max(least_step_seconds, (end_seconds - start_seconds) / 500)
    series = prometheus.query_range(_running_of(target), start_seconds, end_seconds, coarse)
    begins = [each.points[0][0] for each in series if each.points]
    if not begins:
        return None
    start = max(start_seconds, min(begins) - coarse)
    step = max(least_step_seconds, (end_seconds - start) / MOST_MOMENTS)
    return Span(start_seconds=start, end_seconds=end_seconds, step_seconds=step)


def _running_of(target: Target) -> str:
    if target.kind == "vllm":
        return selector(_RUNNING, target.matchers)
    return "headroom_engine_requests_running" + selector(target.matchers)


def loads_of(
    prometheus: Prometheus,
    target: Target,
    span: Span,
    policy: Policy,
    *,
    known: Mapping[Key, EngineLoad] | None = None,
    wanted: Wanted | None = None,
) -> dict[Key, EngineLoad]:
    """Return what each engine of a server was seen to do in this time.

    Args:
        prometheus: Where its past is.
        target: The server.
        span: The time.
        policy: Thresholds by which a limiter is told.
        known: What was known before that time.
        wanted: What is known of the server now: its limits have been the same since it was started.

    Raises:
        SourceError: See `Prometheus.query`.
    """
    loads: dict[Key, EngineLoad] = dict(known or {})
    start = span.start_seconds
    series = prometheus.series(_figures_of(target), start, span.end_seconds)
    if target.kind == "vllm" and not any(each.get("__name__", "").endswith("_bucket") for each in series):
        prometheus.warnings[WITHOUT_BUCKETS] = None
    piece = max(1, _POINTS_AT_ONCE // max(1, len(series)))
    while start < span.end_seconds:
        steps = min(piece, MOST_POINTS - 1, math.ceil((span.end_seconds - start) / span.step_seconds))
        grid = Grid(start_seconds=start, step_seconds=span.step_seconds, count=steps + 1)
        for key, moments in moments_of(prometheus, target, grid, wanted).items():
            load = replayed(loads.get(key), moments, policy)
            if load is not None:
                loads[key] = load
        start += steps * span.step_seconds  # the last look of a piece is the first one of the next
    return loads


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Even moments."""

    start_seconds: float
    step_seconds: float
    count: int

    @property
    def end_seconds(self) -> float:
        """The last one."""
        return self.start_seconds + (self.count - 1) * self.step_seconds

    def column(self, series: Series) -> "array[float]":
        """Return a value for each moment, NaN where there is none or one that a live page is not believed either."""
        values = array("d", [math.nan]) * self.count
        for at, value in series.points:
            place = round((at - self.start_seconds) / self.step_seconds)
            if 0 <= place < self.count and is_sane(value):
                values[place] = value
        return values


def moments_of(
    prometheus: Prometheus, target: Target, grid: Grid, wanted: Wanted | None = None
) -> dict[Key, Iterator[PastMoment]]:
    """Read a piece of the past of each engine of a server.

    Raises:
        SourceError: See `Prometheus.query`.
    """

    def read(expression: str) -> tuple[Series, ...]:
        return prometheus.query_range(expression, grid.start_seconds, grid.end_seconds, grid.step_seconds)

    rows = read(_figures_of(target))
    stamps = read(f"timestamp({_running_of(target)})")
    starts = read(f"process_start_time_seconds{selector(target.matchers)}") if target.kind == "vllm" else ()
    return arranged(target, rows, stamps, starts, grid, prometheus.config.replica_labels, wanted)


def _figures_of(target: Target) -> str:
    names = _vllm_names() if target.kind == "vllm" else f"headroom_engine_({'|'.join(_OURS)})"
    return selector(f'__name__=~"{names}"', target.matchers)


def _vllm_names() -> str:
    names: list[str] = []
    for figure in FIGURES:
        if figure.key not in _WANTED:
            continue
        suffixes: tuple[str, ...] = ("",)
        if figure.shape.value == "histogram":
            suffixes = ("_sum", "_count") if figure.key in _WITHOUT_BUCKETS else ("_bucket", "_sum", "_count")
        names += [spelling.name + suffix for spelling in figure.spellings for suffix in suffixes]
    return f"(ray_)?vllm[:_]({'|'.join(names)})"


def arranged(
    target: Target,
    rows: Iterable[Series],
    stamps: Iterable[Series],
    starts: Iterable[Series],
    grid: Grid,
    replica_labels: Iterable[str],
    wanted: Wanted | None,
) -> dict[Key, Iterator[PastMoment]]:
    """Return the moments of each engine of a server, each moment from one copy.

    Args:
        target: The server.
        rows: Its figures.
        stamps: When each was really read.
        starts: When its process was started.
        grid: The moments asked for.
        replica_labels: Labels in which copies differ.
        wanted: What is known of the server now.
    """
    replicas = tuple(replica_labels)
    copies: dict[Key, dict[tuple[tuple[str, str], ...], _Copy]] = {}

    def place(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((name, labels[name]) for name in (*target.labels, *replicas) if name in labels))

    for series in stamps:
        copy = _Copy(grid=grid, stamps=grid.column(series), kind=target.kind)
        copies.setdefault(key_of(series.labels, target.kind), {})[place(series.labels)] = copy
    ranks = {key[1] for key in copies}
    for series in rows:
        model, rank = key_of(series.labels, target.kind)
        for key, found in copies.items():
            # A series without a rank or a model belongs to the whole server.
            same_rank = key[1] == rank or "engine" not in series.labels
            same_place = found.get(place(series.labels))
            if same_rank and model in ("", key[0]) and same_place is not None:
                same_place.add(series, engines=len(ranks))
    for series in starts:
        for found in copies.values():
            same_place = found.get(place(series.labels))
            if same_place is not None:
                same_place.started = grid.column(series)
    return {key: _moments(target, key, list(found.values()), grid, wanted) for key, found in copies.items()}


class _Copy:
    """What one scraper kept of one engine."""

    def __init__(self, *, grid: Grid, stamps: "array[float]", kind: str) -> None:
        self.stamps = stamps
        self.started: array[float] | None = None
        self._grid = grid
        self._kind = kind
        self._columns: dict[str, dict[tuple[str, str], dict[int, array[float]]]] = {}
        """By our figure's key; by (suffix, the label that tells its series apart); by spelling, the newest is 0."""
        self._caches: list[tuple[CacheConfig, array[float]]] = []

    @property
    def looks(self) -> int:
        return sum(not math.isnan(each) for each in self.stamps)

    def add(self, series: Series, *, engines: int) -> None:
        """Take a series of this copy."""
        named = _figure_of(series.labels.get("__name__", ""), self._kind)
        if named is None:
            return
        key, suffix, age = named
        column = self._grid.column(series)
        if key == "cache_config":
            self._caches.append((parse_cache_config(series.labels, engines=engines), column))
            return
        told_by = next((series.labels[each] for each in _TELLS_APART if each in series.labels), "")
        spellings = self._columns.setdefault(key, {}).setdefault((suffix, told_by), {})
        before = spellings.get(age)
        # Series that differ in nothing that matters here are one figure.
        spellings[age] = column if before is None else array("d", map(_together, before, column))

    def value(self, key: str, place: int, suffix: str = "", told_by: str = "") -> float | None:
        """Return a figure at one moment, by its newest name that was shown then."""
        spellings = self._columns.get(key, {}).get((suffix, told_by), {})
        for age in sorted(spellings):
            if not math.isnan(spellings[age][place]):
                return spellings[age][place]
        return None

    def stamp(self, place: int) -> float | None:
        """When the figures of this moment were read; None where nothing was."""
        at = self.stamps[place]
        return None if math.isnan(at) or self.value("requests_running", place) is None else at

    def totals(self, place: int) -> dict[str, float]:
        named = (key for key in self._columns if key.endswith("_total"))
        return {key: value for key in named if (value := self.value(key, place)) is not None}

    def histograms(self, place: int) -> dict[str, Histogram]:
        found = {}
        for key, columns in self._columns.items():
            total, count = self.value(key, place, "sum"), self.value(key, place, "count")
            if total is None or count is None:
                continue
            buckets = {
                bound: value
                for suffix, told_by in columns
                if suffix == "bucket"
                and (bound := _number(told_by)) is not None
                and (value := self.value(key, place, suffix, told_by)) is not None
            }
            bounds = tuple(sorted(buckets))
            cumulative = tuple(buckets[bound] for bound in bounds)
            found[key] = Histogram(bounds=bounds, cumulative=cumulative, sum=total, count=count)
        return found

    def cache(self, place: int) -> CacheConfig:
        return next((each for each, column in self._caches if not math.isnan(column[place])), CacheConfig())

    def limiter(self, place: int) -> str | None:
        return next((each for each in LIMITERS if self.value("limiter", place, told_by=each) == 1), None)


_TELLS_APART = ("le", "reason", "sleep_state", "limiter")


def _figure_of(name: str, kind: str) -> tuple[str, str, int] | None:
    """Return (our key, suffix, age of the spelling) of a series' name; None for one that is not ours to read."""
    if kind == "headroom":
        return name.removeprefix("headroom_engine_"), "", 0
    bare, suffix = name.removeprefix("ray_").removeprefix("vllm:").removeprefix("vllm_"), ""
    if bare not in BY_SPELLING:
        bare, _, suffix = bare.rpartition("_")
    figure = BY_SPELLING.get(bare)
    return (figure.key, suffix, [each.name for each in figure.spellings].index(bare)) if figure else None


def _together(one: float, other: float) -> float:
    return other if math.isnan(one) else one if math.isnan(other) else one + other


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _moments(target: Target, key: Key, copies: list[_Copy], grid: Grid, wanted: Wanted | None) -> Iterator[PastMoment]:
    """Yield the looks at one engine, each from the copy that saw most, or where that saw nothing from another."""
    copies.sort(key=lambda each: -each.looks)
    spacing = _spacing(copies, grid)
    last: float | None = None
    is_hole = False
    for place in range(grid.count):
        seen = next(((copy, at) for copy in copies for at in (copy.stamp(place),) if at is not None), None)
        if seen is None:
            is_hole = True
            continue
        copy, at = seen
        if last is not None and at <= last:
            continue
        continues = last is not None and not is_hole and at - last <= _HOLE_SPACINGS * spacing
        last, is_hole = at, False
        build = _look if target.kind == "vllm" else _our_look
        yield build(target, key, copy, place, at=at, continues=continues, wanted=wanted)


def _spacing(copies: list[_Copy], grid: Grid) -> float:
    """Return the usual distance between two looks: that of the scrapes, where those are rarer than the grid."""
    stamps = sorted({each for each in copies[0].stamps if not math.isnan(each)}) if copies else []
    between = [late - early for early, late in pairwise(stamps)]
    return max(grid.step_seconds, statistics.median(between)) if between else grid.step_seconds


def _look(
    target: Target, key: Key, copy: _Copy, place: int, *, at: float, continues: bool, wanted: Wanted | None
) -> PastMoment:
    """Return a moment from vLLM's own series."""
    started = None if copy.started is None or math.isnan(copy.started[place]) else copy.started[place]
    running, waiting = copy.value("requests_running", place), copy.value("requests_waiting", place)
    usage = copy.value("kv_usage_ratio", place)
    if usage is not None and usage > 1.0:
        usage = None  # as on a live page
    awake = copy.value("sleep_state", place, told_by="awake")
    cache = copy.cache(place)
    reported = reported_capacity(cache)
    is_same_start = (
        wanted is not None
        and started is not None
        and wanted.started_at_seconds is not None
        and abs(started - wanted.started_at_seconds) <= _SAME_START_SECONDS
    )
    return PastMoment(
        wall_seconds=at,
        continues=continues,
        reading=EngineReading(
            engine=target.instance,
            url="",
            model_name=key[0],
            dp_rank=key[1],
            requests_running=running,
            requests_waiting=waiting,
            requests_waiting_for_capacity=copy.value("requests_waiting_by_reason", place, told_by="capacity"),
            # As on a live page: some releases leave an outdated figure behind.
            kv_usage_ratio=0.0 if usage is not None and running == 0 and waiting == 0 else usage,
            sleeping=None if awake is None else awake == 0,
            cache=cache,
            totals=copy.totals(place),
            histograms=copy.histograms(place),
            started_at_seconds=started,
        ),
        capacity_tokens=reported[0] if reported else None,
        max_num_seqs=wanted.max_num_seqs.get(key) if wanted is not None and is_same_start else None,
    )


def _our_look(
    target: Target, key: Key, copy: _Copy, place: int, *, at: float, continues: bool, wanted: Wanted | None
) -> PastMoment:
    """Return a moment from the series of one of our daemons, which tell no lengths."""
    totals = copy.totals(place)
    finished = totals.pop("requests_finished_total", None)
    counted = (
        {} if finished is None else {"generation_tokens": Histogram(bounds=(), cumulative=(), sum=0.0, count=finished)}
    )
    asleep = copy.value("asleep", place)
    return PastMoment(
        wall_seconds=at,
        continues=continues,
        reading=EngineReading(
            engine=target.labels.get("engine", ""),
            url="",
            model_name=key[0],
            dp_rank=key[1],
            requests_running=copy.value("requests_running", place),
            requests_waiting=copy.value("requests_waiting", place),
            kv_usage_ratio=copy.value("kv_usage_ratio", place),
            sleeping=None if asleep is None else asleep > 0,
            totals=totals,
            histograms=counted,
        ),
        capacity_tokens=copy.value("kv_capacity_tokens", place),
        max_num_seqs=copy.value("max_num_seqs", place),
        limiter=copy.limiter(place),
    )

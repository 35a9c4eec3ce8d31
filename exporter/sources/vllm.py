"""One vLLM server, through its own HTTP endpoints: /metrics, /version, /v1/models."""

import http.client
import math
import re
import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from advisor.readings import CacheConfig, EngineReading, Histogram
from advisor.versions import parse_version
from exporter.connection import Connection
from exporter.errors import SourceError, SourceMalformed, SourceUnavailable
from exporter.sources import bounded
from exporter.sources.vllm_names import BY_SPELLING, Figure, Shape, expected_figures

MOST_BODY_BYTES = 8 * 1024**2
_MOST_SAMPLES = 50_000
"""A page has some 200 wanted lines for each data-parallel engine."""
_MOST_RANKS = 512
_MOST_NAME = 1024
"""Characters of a model's name: a path at the longest. It is a label of every series of the engine."""
_MOST_VERSION = 64
_MOST_VALUE = 2.0**63
_MOST_LABELS = 64 * 1024
"""Characters of one label set; the longest, of ``cache_config_info``, has some two thousand."""
_MOST_LINES = 200_000
_MOST_LINES_REMEMBERED = 40_000
"""Some 600 for each data-parallel engine."""
_MOST_LINES_SHARED = 4_096
_MOST_SHARED_TEXT = 512
"""Characters before a value."""
_ASK_AGAIN_SECONDS = 300.0
"""/version and /v1/models change only with a restart, which is noticed; this is for what is not."""

# ``ray_`` is added by Ray's metric agent, which also turns the colon into an underscore.
_LINE = re.compile(
    r"(?:ray_)?vllm[:_](" + "|".join(sorted(map(re.escape, BY_SPELLING), key=len, reverse=True)) + r")"
    r"(_bucket|_sum|_count)?(?=[ {])(.*)"
)
_TYPE = re.compile(r"# TYPE (?:ray_)?vllm[:_](\S+) ")
_START = "process_start_time_seconds "


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """What stands before a wanted value."""

    key: str
    """Our own name of the figure."""
    spelling: str
    """The page's."""
    suffix: str
    """``_bucket``, ``_sum`` or ``_count`` of a histogram, else empty."""
    labels: Mapping[str, str]


class Sample(NamedTuple):
    """One wanted line of a page."""

    series: Series
    value: float


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The wanted part of a /metrics page without its values: from look to look the same, so it is sorted once."""

    series: tuple[Series, ...]
    announced: frozenset[str]
    """Figures that the page declares, with or without samples, or shows."""
    spoilt: frozenset[str] = frozenset()
    """Figures of which the page shows a value that cannot be."""

    @cached_property
    def ranks(self) -> tuple["RankLayout", ...]:
        """What belongs to each data-parallel engine that the page speaks of.

        Raises:
            SourceMalformed: Its names cannot be: too many engines, or a name longer than any path.
        """
        return _ranks(self.series)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The wanted part of one /metrics page."""

    layout: Layout
    values: tuple[float, ...]
    """One for each series."""
    started_at_seconds: float | None

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Each series with its value."""
        return tuple(map(Sample, self.layout.series, self.values))


@dataclass(frozen=True, kw_only=True, slots=True)
class HistogramLayout:
    """Where on a page the parts of one histogram stand, as places among its series; parts of one bucket are added."""

    bounds: tuple[float, ...]
    buckets: tuple[tuple[int, ...], ...]
    sums: tuple[int, ...]
    counts: tuple[int, ...]

    def of(self, values: Sequence[float]) -> Histogram:
        """Return the histogram that a page shows with these values."""
        return Histogram(
            bounds=self.bounds,
            cumulative=tuple([_added(values, places) for places in self.buckets]),
            sum=_added(values, self.sums),
            count=_added(values, self.counts),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RankLayout:
    """Where on a page the figures of one data-parallel engine stand, and what their labels alone say."""

    rank: str
    model_name: str
    """Empty where no label tells it."""
    places: Mapping[str, tuple[int, ...]]
    """Of each figure, among the page's series."""
    totals: Mapping[str, tuple[int, ...]]
    histograms: Mapping[str, HistogramLayout]
    by_reason: Mapping[str | None, int]
    """Of the requests that wait."""
    by_sleep_state: Mapping[str | None, int]
    cache: CacheConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """What /version and /v1/models say."""

    vllm_version: str | None = None
    model_names: tuple[str, ...] = ()
    model_path: str | None = None
    max_model_len: int | None = None


class VllmSource:
    """Reads one server; each of its data-parallel engines is one reading."""

    name = "vllm"

    def __init__(
        self,
        *,
        engine: str,
        url: str,
        connection: Connection,
        connect_seconds: float = 2.0,
        read_seconds: float = 4.0,
    ) -> None:
        """Take where the server is and a connection to it, with its credentials."""
        self.engine = engine
        self.url = url.rstrip("/")
        self._below = quote(urlsplit(self.url).path, safe="/%:@!$&'()*+,;=~")
        """The path in front of its own."""
        self._connection = connection
        self._reading = threading.Lock()
        self._is_over = False
        self._deadline = math.inf
        self._timeout = (connect_seconds, read_seconds)
        self.patience_seconds = math.inf
        """Most time of a request beside that: what is read at short intervals is soon too old to be shown."""
        self._pages = PageReader()
        self._server = Server()
        self._asked_at: float | None = None
        self._last_start: float | None = None

    def read(self) -> tuple[EngineReading, ...]:
        """Read the server once.

        Raises:
            SourceUnavailable: Refused, timed out, an error status.
            SourceMalformed: What answered is not a vLLM metrics page.
        """
        with self._reading:
            try:
                return self._read()
            finally:
                if self._is_over:
                    self._connection.close()

    def _read(self) -> tuple[EngineReading, ...]:
        try:
            page = self._pages.read(self._get("/metrics"))
        except SourceError:
            self._asked_at = None  # whatever answers next may be another release with another model
            raise
        now = time.monotonic()
        stale = self._asked_at is None or now - self._asked_at > _ASK_AGAIN_SECONDS
        if stale or page.started_at_seconds != self._last_start:
            self._server = self._ask_server()
            self._asked_at, self._last_start = now, page.started_at_seconds
        return read_engines(page, self._server, engine=self.engine, url=self.url)

    def close(self) -> None:
        """Close the connection; a read under way in another thread ends, and closes it."""
        self._is_over = True
        self._connection.cut()
        if self._reading.acquire(blocking=False):
            self._connection.close()
            self._reading.release()

    def interrupt(self) -> None:
        """End a request that takes longer than any may; called from another thread than the one that reads."""
        if time.monotonic() > self._deadline:
            self._connection.cut()

    def _ask_server(self) -> Server:
        """Ask what does not change; an old release or a proxy that hides an endpoint leaves its figures unknown."""
        try:
            version = parse_server_version(self._json("/version"))
        except SourceError:
            version = None
        try:
            models = self._json("/v1/models")
        except SourceError:
            models = None
        return parse_models(models, version)

    def _json(self, path: str) -> Any:
        text = self._get(path)
        try:
            return bounded.parsed(text)
        except (ValueError, RecursionError) as error:
            raise SourceMalformed("not_json", f"{self.url}{path}") from error

    def _get(self, path: str) -> str:
        url = self.url + path
        connect_seconds, read_seconds = (min(seconds, self.patience_seconds) for seconds in self._timeout)
        deadline = self._deadline = time.monotonic() + min(connect_seconds + read_seconds, self.patience_seconds)
        try:
            body = self._body(self._answer(path, connect_seconds, read_seconds), url, deadline)
        except SourceError as error:
            self._connection.close()
            if self._connection.was_cut:  # by us: it may look like anything of the server's doing
                raise _too_slow(url) from error
            raise
        finally:
            self._deadline = math.inf
        if self._connection.was_cut:
            self._connection.close()
            raise _too_slow(url)
        return body.decode("utf-8", errors="replace")

    def _answer(self, path: str, connect_seconds: float, read_seconds: float) -> http.client.HTTPResponse:
        url = self.url + path
        try:
            response = self._connection.request(
                "GET", self._below + path, connect_seconds=connect_seconds, read_seconds=read_seconds
            )
        except TimeoutError as error:
            raise _too_slow(url) from error
        except ssl.SSLError as error:
            raise SourceUnavailable(
                "tls", f"{url}: its certificate is not trusted, or it does not speak TLS"
            ) from error
        except OSError as error:
            raise SourceUnavailable("connection_refused", f"{url} cannot be reached") from error
        except (http.client.HTTPException, UnicodeError) as error:
            raise SourceMalformed("not_http", f"{url}: {type(error).__name__}") from error
        if response.status != http.client.OK:
            raise SourceUnavailable(f"http_{response.status}", url)
        return response

    def _body(self, response: http.client.HTTPResponse, url: str, deadline: float) -> bytes:
        """Read the body, bounded in size and, against a peer that dribbles, in time."""
        parts = bytearray()
        try:
            while part := response.read1(65_536):
                parts += part
                if len(parts) > MOST_BODY_BYTES:
                    raise _too_large(url)
                if time.monotonic() > deadline:
                    raise SourceUnavailable("timeout", f"{url}: the body came too slowly")
        except TimeoutError as error:
            raise _too_slow(url) from error
        except (OSError, http.client.HTTPException) as error:
            raise SourceMalformed("broken_body", f"{url}: {type(error).__name__}") from error
        if response.length:
            raise SourceMalformed("broken_body", f"{url}: it breaks off")
        response.close()
        return decoded(bytes(parts), response.headers.get("Content-Encoding", ""), url)


def decoded(body: bytes, encoding: str, url: str) -> bytes:
    """Undo a compression that was not asked for, as some proxies add it; bounded, unlike the HTTP library's own.

    Raises:
        SourceMalformed: It is compressed in another way, broken off, or of too many bytes.
    """
    if encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        raise SourceMalformed("unknown_encoding", f"{url}: {encoding[:40]!r}")
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        text = inflater.decompress(body, MOST_BODY_BYTES)
    except zlib.error as error:
        raise SourceMalformed("broken_body", f"{url}: not gzip: {error}") from error
    if inflater.unconsumed_tail:
        raise _too_large(url)
    if not inflater.eof:
        raise SourceMalformed("broken_body", f"{url}: the compressed page breaks off")
    return text


def _too_slow(url: str) -> SourceUnavailable:
    return SourceUnavailable("timeout", f"{url} gave no answer in time")


def _too_large(url: str) -> SourceMalformed:
    return SourceMalformed("body_too_large", f"{url}: over {MOST_BODY_BYTES} bytes")


def parse_page(text: str) -> Page:
    """Return the wanted samples of a /metrics page.

    Raises:
        SourceMalformed: This is no vLLM metrics page, or a wanted line is broken off.
    """
    return PageReader().read(text)


class PageReader:
    """Reads the pages of one server, which differ from look to look in little but their values.

    So what stands before the last space of a line is understood once; and a page of the same lines as the one before,
    as nearly every page is, is held against that and its wanted values are read, nothing else.
    """

    def __init__(self) -> None:
        """Start with nothing understood."""
        self._understood: dict[str, Series | str | None] = {}
        """By what stands before a line's value, its space included."""
        self._last: _Lines | None = None

    def read(self, text: str) -> Page:
        """Return the wanted samples of a page.

        Raises:
            SourceMalformed: As `parse_page`.
        """
        if len(text) > _MOST_LINES and text.count("\n") > _MOST_LINES:  # no shorter text has so many
            raise SourceMalformed("page_too_large", f"over {_MOST_LINES} lines")
        lines = text.split("\n")
        values = self._last.values_in(lines) if self._last is not None else None
        if self._last is None or values is None:
            layout, values = self._read_anew(text, lines)
        else:
            layout = self._last.layout
        return Page(layout=layout, values=values, started_at_seconds=_started_at(text))

    def _read_anew(self, text: str, lines: Sequence[str]) -> tuple[Layout, tuple[float, ...]]:
        self._last = None
        remembered = len(self._understood)
        samples, places, announced, spoilt, new_lines = self._read(lines)
        if 2 * (len(lines) - new_lines) < remembered:
            self._understood.clear()  # names that come and go
        if not places and not announced:
            looks_like_page = "# TYPE " in text or "# HELP " in text
            raise SourceMalformed(
                "no_vllm_metrics" if looks_like_page else "not_metrics",
                "the page holds no vllm: metrics (was the server started with --disable-log-stats?)"
                if looks_like_page
                else "the answer is not a metrics page",
            )
        if lines[-1]:
            raise SourceMalformed("half_page", "the page ends in mid-line")
        newest = _newest_spellings(samples)
        layout = Layout(
            series=tuple(sample.series for sample in newest),
            announced=frozenset(announced.union(spoilt, (sample.series.key for sample in samples))),
            spoilt=frozenset(spoilt),
        )
        if len(newest) == len(places) and len(lines) <= _MOST_LINES_REMEMBERED:
            known = dict(zip(self._understood, self._understood, strict=True))  # to hold no text of a line twice
            starts = [known.get(_start_of(line), "") for line in lines[:-1]]
            if all(starts):
                self._last = _Lines(starts=tuple(starts), places=tuple(places), layout=layout)
        return layout, tuple(sample.value for sample in newest)

    def _read(self, lines: Iterable[str]) -> tuple[list[Sample], list[tuple[int, int]], set[str], set[str], int]:
        """Return samples, where every wanted value begins, figures announced and spoilt, how many lines were new."""
        samples: list[Sample] = []
        places: list[tuple[int, int]] = []
        new_lines = 0
        announced: set[str] = set()
        spoilt: set[str] = set()
        understood = self._understood
        for line_number, line in enumerate(lines):
            start = _start_of(line)
            try:
                series = understood[start]
            except KeyError:
                start, series = _understood_of_any(start, line)
                new_lines += 1
                if start and len(understood) < _MOST_LINES_REMEMBERED:
                    understood[start] = series
            if series is None:
                continue
            if isinstance(series, str):
                announced.add(series)
                continue
            number = _number(line[len(start) :])
            if number is None:
                raise _broken_off(line)
            if len(samples) == _MOST_SAMPLES:
                raise SourceMalformed("page_too_large", f"over {_MOST_SAMPLES} wanted lines")
            places.append((line_number, len(start)))
            if is_sane(number):
                samples.append(Sample(series, number))
            else:
                spoilt.add(series.key)
        return samples, places, announced, spoilt, new_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lines:
    """What a page of the same lines means: as long as nothing but their values changes, nothing else is looked at."""

    starts: tuple[str, ...]
    """What stands before the value of each line, its space included."""
    places: tuple[tuple[int, int], ...]
    """Of each series the line and where in it the value begins."""
    layout: Layout

    def values_in(self, lines: Sequence[str]) -> tuple[float, ...] | None:
        """Return the value of each series, None where the lines differ in more than sane values."""
        if len(lines) != len(self.starts) + 1 or lines[-1] or not all(map(str.startswith, lines, self.starts)):
            return None
        texts = [lines[line][begin:] for line, begin in self.places]
        try:
            values = tuple(map(float, texts))
        except ValueError:
            return None
        return values if all(map(is_sane, values)) and " " not in "".join(texts) else None


def _start_of(line: str) -> str:
    """Return what stands before a line's value, its space included: nothing where there is no space."""
    return line[: line.rfind(" ") + 1]


def _started_at(text: str) -> float | None:
    """Return when the server's process began; a search for the plain words takes a tenth of a pattern's."""
    at = 0 if text.startswith(_START) else text.find("\n" + _START) + 1
    if at == 0 and not text.startswith(_START):
        return None
    begin = at + len(_START)
    return _sane_number(text[begin : text.index("\n", begin)])


_of_any: dict[str, tuple[str, Series | str | None]] = {}
"""What was understood of any server, with the text itself: replicas, and servers of one release, write mostly the same
lines, of which each reader would hold a fifth of a mebibyte for itself."""


def _understood_of_any(start: str, line: str) -> tuple[str, Series | str | None]:
    """Return the start of a line and what it means, the same objects for every server that writes it."""
    known = _of_any.get(start)
    if known is None:
        known = (start, _understand(line))
        if start and len(start) <= _MOST_SHARED_TEXT:
            if len(_of_any) >= _MOST_LINES_SHARED:
                _of_any.clear()
            _of_any[start] = known
    return known


def _understand(line: str) -> Series | str | None:
    """Return the series of a wanted sample, the key of a figure that the line announces, None of any other line.

    Raises:
        SourceMalformed: It is wanted, and broken off.
    """
    if found := _LINE.match(line):
        spelling, suffix, rest = found.groups(default="")
        figure = BY_SPELLING[spelling]
        if suffix and figure.shape is not Shape.HISTOGRAM:
            return None
        labels, _, value = rest.rpartition(" ")
        if rest.endswith("}") or _number(value) is None:
            raise _broken_off(line)
        return Series(key=figure.key, spelling=spelling, suffix=suffix, labels=_parse_labels(labels, spelling))
    if found := _TYPE.match(line):
        figures = (BY_SPELLING.get(spelling) for spelling in (found[1], f"{found[1]}_total"))
        return next((figure.key for figure in figures if figure), None)
    return None


def _broken_off(line: str) -> SourceMalformed:
    return SourceMalformed("half_page", f"a line ends in {line[-20:]!r}")


def _parse_labels(text: str, spelling: str) -> Mapping[str, str]:
    """Let the library read one label set."""
    if not text:
        return {}
    if len(text) > _MOST_LABELS:
        raise SourceMalformed("absurd_labels", f"a label set of {len(text)} characters")
    try:
        (family,) = text_string_to_metric_families(f"labels{text} 0\n")
        (sample,) = family.samples
    except ValueError as error:
        raise SourceMalformed("broken_labels", text[:80]) from error
    if sample.timestamp is not None:
        raise SourceMalformed("timestamps", f"a value and its time stand after {spelling!r}: vLLM writes no times")
    return sample.labels


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def is_sane(value: float) -> bool:
    """Tell whether a figure can be: nothing that is read here is negative, infinite or beyond what is countable."""
    return 0.0 <= value <= _MOST_VALUE


def _sane_number(text: str) -> float | None:
    value = _number(text)
    return value if value is not None and is_sane(value) else None


def _newest_spellings(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Keep one spelling a figure: pages of 0.9.2 to 0.10.2 show the same figure under two names."""
    spelled = {(sample.series.key, sample.series.spelling) for sample in samples}
    newest = {
        figure.key: spelling for spelling, figure in reversed(BY_SPELLING.items()) if (figure.key, spelling) in spelled
    }
    return tuple(sample for sample in samples if newest[sample.series.key] == sample.series.spelling)


def parse_server_version(answer: Any) -> str | None:
    """Return the version text of a /version answer."""
    version = answer.get("version") if isinstance(answer, Mapping) else None
    return version if isinstance(version, str) and len(version) <= _MOST_VERSION else None


def parse_models(answer: Any, vllm_version: str | None) -> Server:
    """Return what a /v1/models answer says of the base model (LoRA adapters name it as their parent)."""
    entries = answer.get("data") if isinstance(answer, Mapping) else None
    listed = entries if isinstance(entries, list) else []
    models = [entry for entry in listed if isinstance(entry, Mapping) and not entry.get("parent")]
    if not models:
        return Server(vllm_version=vllm_version)
    first = models[0]
    length, root = first.get("max_model_len"), first.get("root")
    return Server(
        vllm_version=vllm_version,
        model_names=tuple(name for entry in models if isinstance(name := entry.get("id"), str)),
        model_path=root if isinstance(root, str) and "\0" not in root else None,
        max_model_len=length if isinstance(length, int) and 0 < length <= _MOST_VALUE else None,
    )


def read_engines(page: Page, server: Server, *, engine: str, url: str) -> tuple[EngineReading, ...]:
    """Return one reading for each data-parallel engine that the page speaks of.

    Raises:
        SourceMalformed: Its names cannot be: too many engines, or a name longer than any path.
    """
    ranks = page.layout.ranks
    _require_names(server.model_names)
    expected = expected_figures(parse_version(server.vllm_version))
    missing = tuple(figure.key for figure in expected if figure.key not in page.layout.announced)
    spoilt = tuple(figure for figure in expected if figure.key in page.layout.spoilt)
    return tuple(_read_rank(page, server, rank, missing, spoilt, engine=engine, url=url) for rank in ranks)


def _require_names(names: Iterable[str]) -> None:
    if max(map(len, names), default=0) > _MOST_NAME:
        raise SourceMalformed("absurd_labels", f"a model or an engine has a name of over {_MOST_NAME} characters")


def _ranks(series: Sequence[Series]) -> tuple[RankLayout, ...]:
    ranks = sorted({each.labels.get("engine", "0") for each in series}, key=_rank_order) or ["0"]
    if len(ranks) > _MOST_RANKS:
        raise SourceMalformed("too_many_engines", f"{len(ranks)} data-parallel engines on one page")
    _require_names((*ranks, *{each.labels.get("model_name", "") for each in series}))
    # A metric without an engine label (admission_rejections_total) belongs to the server: its first rank shows it.
    by_rank: dict[str, list[int]] = {rank: [] for rank in ranks}
    for place, each in enumerate(series):
        by_rank[each.labels.get("engine", ranks[0])].append(place)
    return tuple(_rank(series, rank, mine, engines=len(ranks)) for rank, mine in by_rank.items())


def _rank_order(rank: str) -> tuple[int, str]:
    return (int(rank), "") if rank.isdecimal() else (2**31, rank)


def _rank(series: Sequence[Series], rank: str, mine: Sequence[int], *, engines: int) -> RankLayout:
    by_key: dict[str, list[int]] = {}
    for place in mine:
        by_key.setdefault(series[place].key, []).append(place)

    def labels(key: str) -> list[tuple[int, Mapping[str, str]]]:
        return [(place, series[place].labels) for place in by_key.get(key, ())]

    names = (series[place].labels.get("model_name") for place in mine)
    return RankLayout(
        rank=rank,
        model_name=next((name for name in names if name), ""),
        places={key: tuple(places) for key, places in by_key.items()},
        totals={key: tuple(places) for key, places in by_key.items() if key.endswith("_total")},
        histograms={
            key: histogram
            for key, places in by_key.items()
            if any(series[place].suffix for place in places) and (histogram := _histogram(series, places)) is not None
        },
        by_reason={found.get("reason"): place for place, found in labels("requests_waiting_by_reason")},
        by_sleep_state={found.get("sleep_state"): place for place, found in labels("sleep_state")},
        cache=parse_cache_config(next((found for _, found in labels("cache_config")), {}), engines=engines),
    )


def _histogram(series: Sequence[Series], places: Iterable[int]) -> HistogramLayout | None:
    """Return the histogram that stands at these places, None where it is incomplete."""
    buckets: dict[float, list[int]] = {}
    parts: dict[str, list[int]] = {"_sum": [], "_count": []}
    for place in places:
        each = series[place]
        if each.suffix == "_bucket":
            bound = _number(each.labels.get("le", ""))
            if bound is not None:
                buckets.setdefault(bound, []).append(place)
        elif each.suffix:
            parts[each.suffix].append(place)
    if not parts["_sum"] or not parts["_count"]:
        return None
    bounds = tuple(sorted(buckets))
    return HistogramLayout(
        bounds=bounds,
        buckets=tuple(tuple(buckets[bound]) for bound in bounds),
        sums=tuple(parts["_sum"]),
        counts=tuple(parts["_count"]),
    )


def _added(values: Sequence[float], places: Sequence[int]) -> float:
    return values[places[0]] if len(places) == 1 else sum(values[place] for place in places)


def _read_rank(
    page: Page,
    server: Server,
    rank: RankLayout,
    missing: tuple[str, ...],
    spoilt: tuple[Figure, ...],
    *,
    engine: str,
    url: str,
) -> EngineReading:
    values = page.values

    def level(key: str) -> float | None:
        return max((values[place] for place in rank.places.get(key, ())), default=None)

    running, waiting = level("requests_running"), level("requests_waiting")
    usage = level("kv_usage_ratio")
    if usage is not None and usage > 1.0:
        usage = None  # of no engine that counts its blocks
    if running == 0 and waiting == 0:
        usage = None if usage is None else 0.0  # 0.9.2 to 0.11.0 keep one series a front-end process, some outdated
    untold = {figure.key for figure in spoilt if _has_no_other(figure, rank)}
    if usage is None and running is not None:
        untold.add("kv_usage_ratio")
    for_capacity, awake = rank.by_reason.get("capacity"), rank.by_sleep_state.get("awake")
    return EngineReading(
        engine=engine,
        url=url,
        model_name=rank.model_name or next(iter(server.model_names), ""),
        dp_rank=rank.rank,
        vllm_version=server.vllm_version,
        model_path=server.model_path,
        max_model_len=server.max_model_len,
        requests_running=running,
        requests_waiting=waiting,
        requests_waiting_for_capacity=None if for_capacity is None else values[for_capacity],
        kv_usage_ratio=usage,
        sleeping=None if awake is None else values[awake] == 0,
        cache=rank.cache,
        totals={key: _added(values, places) for key, places in rank.totals.items()},
        histograms={key: histogram.of(values) for key, histogram in rank.histograms.items()},
        started_at_seconds=page.started_at_seconds,
        missing=(*missing, *sorted(untold.difference(missing))),
    )


def _has_no_other(figure: Figure, rank: RankLayout) -> bool:
    """Tell whether an engine has no value of a figure beside those of the page that cannot be."""
    return figure.key not in (rank.histograms if figure.shape is Shape.HISTOGRAM else rank.places)


def parse_cache_config(labels: Mapping[str, str], *, engines: int) -> CacheConfig:
    """Return what the labels of ``vllm:cache_config_info`` say; vLLM writes an unset value as "None".

    With data parallelism ``num_gpu_blocks`` is the sum over engines, repeated on each engine's series (0.9.0 to
    0.33), so it is divided; ``kv_cache_size_tokens`` and ``kv_cache_max_concurrency`` (0.24 on) are per engine.
    """

    def whole(name: str) -> int | None:
        value = _sane_number(labels.get(name, ""))
        return int(value) if value is not None and value.is_integer() and value > 0 else None

    def text(name: str) -> str | None:
        value = labels.get(name, "None")
        return None if value in ("None", "") else value

    blocks = whole("num_gpu_blocks")
    caching = text("enable_prefix_caching")
    return CacheConfig(
        num_gpu_blocks=None if blocks is None else blocks // engines,
        block_size=whole("block_size"),
        kv_cache_size_tokens=whole("kv_cache_size_tokens"),
        kv_cache_max_concurrency=_sane_number(labels.get("kv_cache_max_concurrency", "")),
        gpu_memory_utilization=_sane_number(labels.get("gpu_memory_utilization", "")),
        kv_cache_memory_bytes=whole("kv_cache_memory_bytes"),
        cache_dtype=text("cache_dtype"),
        enable_prefix_caching=None if caching is None else caching == "True",
        num_gpu_blocks_override=whole("num_gpu_blocks_override"),
        sliding_window=whole("sliding_window"),
    )

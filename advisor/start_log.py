"""vLLM's start-up log, read: what it measured while it started, in the lines of every release.

Reference: the log templates of vLLM 0.2.7 to 0.33 (``worker/worker.py``, ``worker/model_runner.py``,
``v1/worker/gpu_worker.py``, ``v1/worker/gpu_model_runner.py``, ``v1/core/kv_cache_utils.py``, ``v1/engine/core.py``).
Sizes are printed in GiB with two to four decimals and called "GB" by older releases; here they are bytes. A log can
hold prompts and keys: of its text nothing is kept but the figures named below, the model's name and the text of a
start-up error.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

from advisor.flags import EngineFlags
from advisor.units import GIB

_MOST_LINES = 4_000_000
_MOST_LINE_CHARACTERS = 32_768
"""A longer line is cut: the longest that matters is the engine's configuration, under 10,000 characters."""
_MOST_STARTS = 1_000
_MOST_RANKS = 4_096
_MOST_ERROR_CHARACTERS = 600

ErrorKind = Literal[
    "kv_cache_too_small",
    "no_kv_cache_memory",
    "too_little_free_memory",
    "free_memory_changed",
    "out_of_memory",
    "engine_failed",
]
"""Why a start failed.

``kv_cache_too_small``: not one request of max_model_len fits; ``no_kv_cache_memory``: nothing is left for the cache;
``too_little_free_memory``: less is free than gpu_memory_utilization asks for; ``free_memory_changed``: another process
let go of memory meanwhile; ``out_of_memory``: an allocation failed; ``engine_failed``: something else, told above it.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMemory:
    """What one worker process printed of its GPU; each figure None where it was not printed.

    Releases print some lines for every rank and some only for the first.
    """

    process: str
    """As the line's prefix names it, ``Worker_TP0``; empty where lines have none (one GPU before 0.10)."""
    pid: int | None
    """In the PID namespace of the server."""
    rank: int
    """Place among this engine's workers: the tensor-parallel rank within the pipeline stage; 0 where not named."""
    weights_bytes: int | None = None
    load_seconds: float | None = None
    kv_cache_bytes: int | None = None
    """What was available for KV blocks."""
    activation_peak_bytes: int | None = None
    non_torch_bytes: int | None = None
    consumed_bytes: int | None = None
    """Weights and non-torch memory together, all that releases from 0.27 on print of the latter."""
    cuda_graph_bytes: int | None = None
    """Measured after capture."""
    cuda_graph_estimated_bytes: int | None = None
    """Measured on a few captures before the KV cache was sized (0.18 and later)."""
    free_bytes: int | None = None
    """Free on the device when the engine started."""
    total_bytes: int | None = None
    """CUDA-visible total of the device."""
    budget_bytes: int | None = None
    """gpu_memory_utilization x total."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartError:
    """Why a start failed."""

    kind: ErrorKind
    text: str
    """vLLM's own words, cut to 600 characters."""
    needed_kv_cache_bytes: int | None = None
    available_kv_cache_bytes: int | None = None
    max_model_len: int | None = None
    largest_max_model_len: int | None = None
    """What would have fitted, as vLLM estimates it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartLog:
    """One start of one server; each figure None where it was not printed."""

    version: str | None = None
    model: str | None = None
    flags: Mapping[str, int | float | str | bool] | None = None
    """What the server printed of its arguments: those not at their default from 0.9 on, all of them before. Only
    flags that `EngineFlags` knows; no key can be among them."""
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    dtype: str | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    enforce_eager: bool | None = None
    ranks: tuple[RankMemory, ...] = ()
    """One entry a worker process that printed a figure, in order of pipeline stage and rank."""
    kv_tokens: int | None = None
    """What one engine's cache holds, as vLLM counts it; the smallest where several ranks or engines print it."""
    num_gpu_blocks: int | None = None
    num_gpu_blocks_override: int | None = None
    max_concurrency: float | None = None
    """Requests of max_model_len that fit at once."""
    init_seconds: float | None = None
    """Profiling, KV cache and warm-up together."""
    error: StartError | None = None
    """Why this start failed or, where ``init_seconds`` is known, what ended the server later; None without either."""

    @property
    def kv_cache_bytes(self) -> int | None:
        """KV memory of the rank with the least, which decides the number of blocks."""
        return min((each.kv_cache_bytes for each in self.ranks if each.kv_cache_bytes is not None), default=None)

    def on_gpu(self, pids: Iterable[int], position: int) -> RankMemory | None:
        """Return what the worker on one GPU printed.

        Args:
            pids: Process ids that hold memory on this GPU; they decide where the server shares their namespace.
            position: Place of this GPU among the engine's, in order of rank, for all other cases.
        """
        if not self.ranks:
            return None
        wanted = frozenset(pids)
        found = next((each for each in self.ranks if each.pid in wanted), None)
        if found is None:
            found = self.ranks[position] if position < len(self.ranks) else self.ranks[0]
        return _filled(found, self.ranks[0])


def parse_start_log(lines: Iterable[str]) -> StartLog | None:
    """Return the last start in a log, None where there is none."""
    starts = parse_start_logs(lines)
    return starts[-1] if starts else None


def parse_start_logs(lines: Iterable[str]) -> tuple[StartLog, ...]:
    """Return every start in a log, oldest first (of very many, the latest 1,000).

    Never raises: what is no start-up line of vLLM is stepped over. Colours, process prefixes, the time stamps that
    containers put in front, JSON lines and Ray's "repeated" notes are understood.
    """
    starts: list[_Start] = []
    current = _Start()
    patterns = _lines()
    for number, line in enumerate(lines):
        if number >= _MOST_LINES:
            break
        if line.startswith(_REQUEST):
            continue
        emitter, message = _split(line[:_MOST_LINE_CHARACTERS])
        if not message.startswith(_BEGINNINGS) and "\u2588" not in message and "rror:" not in message:
            continue
        for pattern, take in patterns:
            found = pattern.match(message)
            if found is None:
                continue
            if current.ends_before(take, emitter):
                starts = [*starts[-_MOST_STARTS:], current] if current.touched else starts
                current = _Start()
            take(current, emitter, found)
            current.touched = True
            break
    if current.touched:
        starts.append(current)
    return tuple(start.finished() for start in starts[-_MOST_STARTS:])


_REQUEST = "INFO:     "
"""How uvicorn's line for every request begins: nearly all of a log."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m|\x1b\[0;0m")
_PREFIX = re.compile(
    r"(?P<before>.{0,300}?)\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) +\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? "
    r"+\[?[^\s\]]{1,200}:\d+\] ?"
)
_EMITTER = re.compile(r"\((?P<name>[A-Za-z][\w-]*)(?P<words>(?: [\w.-]+)*?)(?: rank=(?P<rank>\d+))? pid=(?P<pid>\d+)")
_RANK_IN_NAME = re.compile(r"(?:^|_)(?P<kind>DP|PP|TP|PCP|DCP)(?P<number>\d+)")
_CONTAINER = re.compile(r"\d{4}-\d\d-\d\dT\S{1,40} (?:std(?:out|err) [FP] )?|[\w.-]{1,80} +\| ")
"""What Kubernetes, ``docker logs --timestamps`` and ``docker compose logs`` put in front."""
_REPEATED = re.compile(r" *\[repeated \d+x across cluster\].*$")


@dataclass(frozen=True, slots=True)
class _Emitter:
    name: str = ""
    pid: int | None = None
    order: tuple[int, int, int] = (0, 0, 0)
    """Data-parallel, pipeline and tensor-parallel rank, as far as the name tells them."""

    @property
    def engine(self) -> int:
        """Data-parallel rank of an engine's own process, which before 0.10 is called ``EngineCore_1``."""
        return self.order[0] or self.order[2]


_NOBODY = _Emitter()


def _split(line: str) -> tuple[_Emitter, str]:
    """Split a line into the process that printed it and what it said."""
    line = line.strip("\r\n")
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    if line.startswith("{"):
        line = _unwrapped(line)
    container = _CONTAINER.match(line)
    if container is not None:
        line = line[container.end() :]
    found = _PREFIX.match(line)
    if found is not None:
        before, message = found["before"], line[found.end() :]
    elif line.startswith("("):
        before, _, message = line.partition(") ")
    else:
        before, message = "", line
    if " [repeated " in message:
        message = _REPEATED.sub("", message)
    return (_emitter(before) if "pid=" in before else _NOBODY), message.strip()


def _unwrapped(line: str) -> str:
    """Take the message out of a JSON line: of vLLM's own JSON format, of Docker's log files, of journalctl's."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(content, dict):
        return line
    text = next((content[key] for key in ("message", "log", "MESSAGE") if isinstance(content.get(key), str)), None)
    if text is None:
        return line
    name, pid = content.get("processName"), content.get("process")
    if isinstance(name, str) and isinstance(pid, int):
        return f"({name[:100]} pid={pid}) {text}"
    return _ANSI.sub("", text.strip("\r\n"))


def _emitter(before: str) -> _Emitter:
    """Read ``(EngineCore_DP0 pid=3) (Worker_PP0_TP1 pid=7)``: the innermost process is the one that speaks."""
    found = None
    data_parallel = 0
    for found in _EMITTER.finditer(before):
        named = {each["kind"]: int(each["number"][:9]) for each in _RANK_IN_NAME.finditer(found["name"])}
        data_parallel = named.get("DP", data_parallel)
    if found is None:
        return _NOBODY
    name = found["name"] + found["words"]
    named = {each["kind"]: int(each["number"][:9]) for each in _RANK_IN_NAME.finditer(name.replace(" ", "_"))}
    rank = int(found["rank"][:9]) if found["rank"] else named.get("TP", _number_at_end(name))
    return _Emitter(name, int(found["pid"][:9]), (data_parallel, named.get("PP", 0), rank))


def _number_at_end(name: str) -> int:
    found = re.search(r"[-_](\d{1,6})$", name)
    return int(found[1]) if found else 0


class _Start:
    """One start while it is being read."""

    __slots__ = ("banner", "engines", "error", "ranks", "said", "tokens", "touched")

    def __init__(self) -> None:
        self.touched = False
        self.banner: set[_Take] = set()
        """By what the front end's lines so far were taken: each says a thing of itself once a start."""
        self.engines: set[int] = set()
        """Engines that have introduced themselves, by data-parallel rank."""
        self.said: dict[str, Any] = {}
        """Fields of `StartLog`."""
        self.tokens: list[int] = []
        self.ranks: dict[_Emitter, dict[str, Any]] = {}
        self.error: StartError | None = None

    def ends_before(self, take: "_Take", emitter: _Emitter) -> bool:
        """Tell whether a line can only be the first of another start."""
        if take in _FRONT_END:
            return bool(self.engines or self.ranks or self.error) or take in self.banner
        return take is _take_engine and emitter.engine in self.engines

    def measured(self, emitter: _Emitter, **values: float | None) -> None:
        if emitter not in self.ranks and len(self.ranks) >= _MOST_RANKS:
            return
        known = self.ranks.setdefault(emitter, {})
        for key, value in values.items():
            if value is not None:  # ranks without a name in their lines share one entry: the tightest counts
                known[key] = (min if key == "kv_cache_bytes" else max)(value, known.get(key, value))

    def finished(self) -> StartLog:
        ordered = sorted(self.ranks, key=lambda emitter: (emitter.order, emitter.pid or 0))
        return StartLog(
            ranks=tuple(
                RankMemory(process=emitter.name, pid=emitter.pid, rank=emitter.order[2], **_completed(values))
                for emitter in ordered
                for values in (self.ranks[emitter],)
            ),
            kv_tokens=min(self.tokens, default=None),
            error=self.error,
            **self.said,
        )


def _completed(values: dict[str, Any]) -> dict[str, Any]:
    """Take apart what a line gave only as a sum.

    0.6.4 prints one peak with the weights in it; 0.27 and later print weights and non-torch memory together, and the
    peak activation with the CUDA-graph estimate added where that is applied
    (``gpu_worker.py:determine_available_memory``).
    """
    values = dict(values)
    peak = values.pop("torch_peak_bytes", None)
    with_graphs = values.pop("activation_and_graphs_bytes", None)
    applied = 0 if values.pop("estimate_not_applied", None) else values.get("cuda_graph_estimated_bytes", 0)
    weights, consumed = values.get("weights_bytes"), values.get("consumed_bytes")
    if peak is not None and weights is not None and peak >= weights:
        values.setdefault("activation_peak_bytes", peak - weights)
    if with_graphs is not None:
        values.setdefault("activation_peak_bytes", max(0, with_graphs - applied))
    if consumed is not None and weights is not None and consumed >= weights:
        values.setdefault("non_torch_bytes", consumed - weights)
    return values


def _filled(rank: RankMemory, first: RankMemory) -> RankMemory:
    """Give a rank what only the first one printed: ranks of one engine hold the same to within a few MiB."""
    return RankMemory(
        **{
            each.name: getattr(first, each.name) if getattr(rank, each.name) is None else getattr(rank, each.name)
            for each in fields(RankMemory)
        }
    )


_Take = Callable[[_Start, _Emitter, re.Match[str]], None]


def _size(text: str | None) -> int | None:
    return None if text is None else round(float(text) * GIB)


def _count(text: str) -> int:
    return int(text.replace(",", ""))


def _take_server(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.banner.add(_take_server)
    start.said["version"] = found["version"]


def _take_banner_model(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.said["model"] = found["model"]


def _take_arguments(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.banner.add(_take_arguments)
    flags = dict(_printed_flags(found["arguments"].removeprefix("Namespace").lstrip("({")))
    start.said["flags"] = flags
    for name in ("model", "max_model_len", "max_num_batched_tokens", "gpu_memory_utilization"):
        if isinstance(flags.get(name), str if name == "model" else int | float):
            start.said.setdefault(name, flags[name])


def _take_engine(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.engines.add(emitter.engine)
    if found.groupdict().get("version"):
        start.said["version"] = found["version"]
    said = {each["name"]: each["value"].strip("'\"") for each in _CONFIG_FIELD.finditer(found["config"])}
    for name, key in _CONFIG_KEYS.items():
        value = said.get(key)
        if value is None or value == "None":
            continue
        if name in ("model", "dtype"):
            start.said[name] = value.removeprefix("torch.")
        elif name == "enforce_eager":
            start.said[name] = value == "True"
        elif value.isdigit():
            start.said[name] = int(value[:12])


_CONFIG_FIELD = re.compile(
    r"(?:^|, )(?P<name>model|dtype|max_seq_len|tensor_parallel_size|pipeline_parallel_size|enforce_eager)="
    r"(?P<value>'[^']{0,1000}'|\"[^\"]{0,1000}\"|[^,\s)]{1,100})"
)
_CONFIG_KEYS = {
    "model": "model",
    "dtype": "dtype",
    "max_model_len": "max_seq_len",
    "tensor_parallel_size": "tensor_parallel_size",
    "pipeline_parallel_size": "pipeline_parallel_size",
    "enforce_eager": "enforce_eager",
}

_KNOWN_FLAGS = frozenset(each.name for each in fields(EngineFlags) if "reader" in each.metadata) - {"environment"}
_PRINTED = re.compile(
    r"(?:'(?P<key>[a-z_0-9]{1,60})': |\b(?P<name>[a-z_0-9]{1,60})=)"
    r"(?P<value>'[^']{0,1000}'|-?\d[\d.eE+-]{0,30}|True|False)"
)

_INNERMOST = re.compile(r"[({\[][^(){}\[\]]*[)}\]]")
_MOST_NESTED = 20


def _printed_flags(arguments: str) -> Iterator[tuple[str, int | float | str | bool]]:
    """Read ``{'name': value, ...}`` or ``Namespace(name=value, ...)`` as far as its values are plain."""
    for _ in range(_MOST_NESTED):  # a name inside another flag's mapping is not a flag
        arguments, changed = _INNERMOST.subn("_", arguments)
        if not changed:
            break
    for found in _PRINTED.finditer(arguments):
        name, text = found["key"] or found["name"], found["value"]
        name = "model" if name == "model_tag" else name
        if name not in _KNOWN_FLAGS:
            continue
        if text[0] == "'":
            yield name, text[1:-1]
        elif text in ("True", "False"):
            yield name, text == "True"
        else:
            try:
                yield name, int(text) if re.fullmatch(r"-?\d{1,18}", text) else float(text)
            except ValueError:
                continue


def _take_measured(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    """Take every group of a pattern that is named as what it measures."""
    measured: dict[str, float | None] = {}
    for name, text in found.groupdict().items():
        if text is None:
            continue
        if name == "gpu_memory_utilization":
            start.said[name] = float(text)
        elif name in ("max_model_len", "max_num_batched_tokens"):
            start.said[name] = _count(text)
        elif name.endswith(("_bytes", "_seconds")):
            measured[name] = _size(text) if name.endswith("_bytes") else float(text)
    if measured:
        start.measured(emitter, **measured)


def _take_blocks(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    blocks = _count(found["blocks"])
    start.said["num_gpu_blocks"] = min(blocks, start.said.get("num_gpu_blocks", blocks))


def _take_override(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    if _count(found["before"]):  # while CUDA graphs are measured, a cache of a few blocks stands in for nothing
        start.said["num_gpu_blocks_override"] = _count(found["after"])


def _take_capacity(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.tokens.append(_count(found["tokens"]))
    if found.groupdict().get("max_model_len"):
        _take_concurrency(start, emitter, found)


def _take_concurrency(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    times = float(found["times"])
    start.said["max_concurrency"] = min(times, start.said.get("max_concurrency", times))
    start.said["max_model_len"] = _count(found["max_model_len"])


def _take_estimate_not_applied(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.measured(emitter, estimate_not_applied=1)


def _take_init(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.said["init_seconds"] = max(float(found["number"]), start.said.get("init_seconds", 0.0))


def _take_error(kind: ErrorKind) -> _Take:
    def take(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
        if start.error is not None and (start.error.kind != "engine_failed" or kind == "engine_failed"):
            return  # the first error is the cause, what follows are its consequences in other processes
        groups = found.groupdict()
        start.error = StartError(
            kind=kind,
            text=found["text"][:_MOST_ERROR_CHARACTERS],
            needed_kv_cache_bytes=_size(groups.get("needed_bytes")),
            available_kv_cache_bytes=_size(groups.get("available_bytes")),
            max_model_len=_count(groups["max_model_len"]) if groups.get("max_model_len") else None,
            largest_max_model_len=_count(groups["largest"]) if groups.get("largest") else None,
        )

    return take


_PLACES = (
    (re.compile(r".*_bytes$|size$"), r"-?\d{1,9}(?:\.\d{1,9})?"),
    (re.compile(r"(tokens|blocks|before|after|max_model_len|max_num_batched_tokens|largest)$"), r"\d[\d,]{0,20}"),
    (re.compile(r"(version|device)$"), r"\S{1,60}"),
    (re.compile(r"(arguments|config|model)$"), r".+"),
    (re.compile(r".*"), r"\d{1,12}(?:\.\d{1,9})?"),
)
"""What stands where in a template, by the name of the place: sizes, counts (with commas or without), words, numbers."""


def _expression(template: str) -> str:
    """Return the regular expression of a log template: ``...`` is any text, GiB may be called GB or lack its space."""
    literals_and_names = re.split(r"\{(\w+)\}", template)
    expression = ""
    for position, part in enumerate(literals_and_names):
        if position % 2 == 0:
            literal = re.escape(part).replace(r"\.\.\.", ".{0,1000}?")
            expression += re.sub(r"(\\ )?GiB", " ?Gi?[Bb]", literal)
        else:
            inside = next(inside for place, inside in _PLACES if place.match(part))
            expression += inside if part == "size" else f"(?P<{part}>{inside})"
    return expression


_TEMPLATES: tuple[tuple[str, _Take], ...] = (
    # 0.2.7 to 0.13.
    ("vLLM API server version {version}", _take_server),
    ("non-default args: {arguments}", _take_arguments),
    ("args: {arguments}", _take_arguments),
    # To 0.6; by the engine's generation from 0.7 on.
    ("Initializing an LLM engine with config: {config}", _take_engine),
    ("Initializing an LLM engine (v{version}) with config: {config}", _take_engine),
    ("Initializing a V0 LLM engine (v{version}) with config: {config}", _take_engine),
    ("Initializing a V1 LLM engine (v{version}) with config: {config}", _take_engine),
    # 0.4.1 to 0.7, 0.8 to 0.11, 0.11.1 and later.
    ("Loading model weights took {weights_bytes} GiB", _take_measured),
    ("Model loading took {weights_bytes} GiB and {load_seconds} seconds", _take_measured),
    ("Model loading took {weights_bytes} GiB memory and {load_seconds} seconds", _take_measured),
    ("Model loading took {weights_bytes} GiB", _take_measured),
    # 0.6.4.
    (
        (
            "Memory profiling results: total_gpu_memory={total_bytes}GiB initial_memory_usage={size}GiB "
            "peak_torch_memory={torch_peak_bytes}GiB memory_usage_post_profile={size}GiB "
            "non_torch_memory={non_torch_bytes}GiB kv_cache_size={kv_cache_bytes}GiB "
            "gpu_memory_utilization={gpu_memory_utilization}"
        ),
        _take_measured,
    ),
    # 0.6.5 to 0.10.2 without V1: three lines of one message.
    (
        (
            "the current vLLM instance can use total_gpu_memory ({total_bytes}GiB) x gpu_memory_utilization "
            "({gpu_memory_utilization}) = {budget_bytes}GiB"
        ),
        _take_measured,
    ),
    (
        (
            "model weights take {weights_bytes}GiB; non_torch_memory takes {non_torch_bytes}GiB; PyTorch activation "
            "peak memory takes {activation_peak_bytes}GiB; the rest of the memory reserved for KV Cache is "
            "{kv_cache_bytes}GiB"
        ),
        _take_measured,
    ),
    # V1 at debug level, to 0.26 and later.
    (
        (
            "Memory profiling takes {number} seconds. Total non KV cache memory: {size}GiB; torch peak memory "
            "increase: {activation_peak_bytes}GiB; non-torch forward increase memory: {non_torch_bytes}GiB; "
            "weights memory: {weights_bytes}GiB"
        ),
        _take_measured,
    ),
    (
        (
            "Memory profiling takes {number} seconds. Total non KV cache memory: {size}GiB; torch peak memory "
            "increase: {activation_peak_bytes}GiB; total consumed (from mem_get_info): {consumed_bytes}GiB; "
            "weights memory: {weights_bytes}GiB"
        ),
        _take_measured,
    ),
    # V0 and the first V1: the device is called GPU, from 0.7 cuda. "# CPU blocks" alone is the CPU build's own cache.
    ("# {device} blocks: {blocks}", _take_blocks),
    ("Available KV cache memory: {kv_cache_bytes} GiB", _take_measured),
    ("Explicitly set ({kv_cache_bytes}/{size}) GiB for KV cache", _take_measured),
    ("Auto set ({kv_cache_bytes}/{size}) GiB for KV cache", _take_measured),
    ("Initial free memory {free_bytes} GiB, reserved {kv_cache_bytes} GiB memory for KV Cache", _take_measured),
    # One line from 0.28 on, with the device's name in front from 0.30; "GPU + host" with a pool in main memory.
    (
        "{device} KV cache size: {tokens} tokens, Maximum concurrency for {max_model_len} tokens per request: {times}x",
        _take_capacity,
    ),
    ("{device} KV cache size: {tokens} tokens", _take_capacity),
    ("{device} + host KV cache size: {tokens} tokens", _take_capacity),
    ("Maximum concurrency for {max_model_len} tokens per request: {times}x", _take_concurrency),
    ("Overriding num_gpu_blocks={before} with num_gpu_blocks_override={after}", _take_override),
    ("Using max model len {max_model_len}", _take_measured),
    ("Auto-fit max_model_len: reduced from {before} to {max_model_len} to fit", _take_measured),
    ("Chunked prefill is enabled with max_num_batched_tokens={max_num_batched_tokens}", _take_measured),
    # 0.18 and later; the size after capture from 0.6.4.
    ("Estimated CUDA graph memory: {cuda_graph_estimated_bytes} GiB total", _take_measured),
    ("Graph capturing finished in {number} secs, took {cuda_graph_bytes} GiB", _take_measured),
    (
        ("CUDA graph pool memory: {cuda_graph_bytes} GiB (actual), {cuda_graph_estimated_bytes} GiB (estimated)"),
        _take_measured,
    ),
    ("CUDA graph memory profiling is disabled", _take_estimate_not_applied),
    # 0.10.2 to 0.26 (at debug level from 0.11 to 0.25), 0.27 and later.
    (
        (
            "Free memory on device ({free_bytes}/{total_bytes} GiB) on startup. Desired GPU memory utilization is "
            "({gpu_memory_utilization}, {budget_bytes} GiB). Actual usage is {weights_bytes} GiB for weight, "
            "{activation_peak_bytes} GiB for peak activation, {non_torch_bytes} GiB for non-torch memory, and "
            "{cuda_graph_bytes} GiB for CUDAGraph memory."
        ),
        _take_measured,
    ),
    (
        (
            "Free memory on device ({free_bytes}/{total_bytes} GiB) on startup. Desired GPU memory utilization is "
            "({gpu_memory_utilization}, {budget_bytes} GiB). Actual usage is {consumed_bytes} GiB for consumed memory "
            "(weights + non-torch), {activation_and_graphs_bytes} GiB for peak activation, and {cuda_graph_bytes} GiB "
            "for CUDAGraph memory."
        ),
        _take_measured,
    ),
    ("init engine (profile, create kv cache, warmup model) took {number} s", _take_init),
)

_KV_NEEDED = (
    "To serve at least one request with the model...s max seq len ({max_model_len}), ({needed_bytes} GiB KV cache is "
    "needed, which is larger than the available KV cache memory ({available_bytes} GiB)"
)
_ERRORS: tuple[tuple[str, ErrorKind], ...] = (
    # V1: 0.8.4 and later name the length that fits; "models's" to 0.21.
    (
        _KV_NEEDED + "...estimated maximum model length is {largest}",
        "kv_cache_too_small",
    ),
    (_KV_NEEDED, "kv_cache_too_small"),
    # V0, and the first V1.
    (
        (
            "The model's max seq len ({max_model_len}) is larger than the maximum number of tokens that can be stored "
            "in KV cache ({largest})"
        ),
        "kv_cache_too_small",
    ),
    ("No available memory for the cache blocks.", "no_kv_cache_memory"),
    ("Free memory on device ... on startup is less than ", "too_little_free_memory"),
    ("Available memory on node ... on startup is less than ", "too_little_free_memory"),
    ("Error in memory profiling. Initial ", "free_memory_changed"),
    ("CUDA out of memory occurred when warming up ", "out_of_memory"),
    ("CUDA out of memory. Tried to allocate ", "out_of_memory"),
    ("Engine core initialization failed. See root cause above.", "engine_failed"),
    ("Engine process failed to start. See stack trace for the root cause.", "engine_failed"),
)


@cache
def _lines() -> tuple[tuple[re.Pattern[str], _Take], ...]:
    """Compile the table, when the first log is read and not before: most commands read none."""
    return (
        *((re.compile(_expression(template)), take) for template, take in _TEMPLATES),
        # The drawing at the start of 0.14 and later, with the version beside it.
        (re.compile(r"[^\w]{0,200}\u2588[^\w]{0,200}version (?P<version>\S{1,60})$"), _take_server),
        (re.compile(r"[^\w]{0,200}\u2588[^\w]{0,200}model +(?P<model>\S.{0,500})$"), _take_banner_model),
        # The exception's name stands in front in tracebacks.
        *(
            (re.compile(rf"(?:[\w.]{{1,80}}: )?(?P<text>{_expression(template)}.*)"), _take_error(kind))
            for template, kind in _ERRORS
        ),
    )


_FRONT_END: tuple[_Take, ...] = (_take_server, _take_arguments)
_BEGINNINGS = tuple(
    {
        re.split(r"\.\.\.|\{", template)[0] or device
        for template, *_ in (*_TEMPLATES, *_ERRORS)
        for device in ("GPU ", "CPU ", "XPU ", "HPU ", "TPU ")
    }
)
"""How every line that matters begins: most lines of a log are requests, and are done with after one look."""

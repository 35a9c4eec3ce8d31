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
from typing import Any, Literal

from advisor.flags import EngineFlags
from advisor.units import GIB

MOST_LINES = 4_000_000
MOST_LINE_CHARACTERS = 32_768
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
    def weights_bytes(self) -> int | None:
        """Weights of the fullest rank."""
        return max((each.weights_bytes for each in self.ranks if each.weights_bytes is not None), default=None)

    @property
    def load_seconds(self) -> float | None:
        """Seconds until the slowest rank had its weights."""
        return max((each.load_seconds for each in self.ranks if each.load_seconds is not None), default=None)

    @property
    def kv_cache_bytes(self) -> int | None:
        """KV memory of the rank with the least, which decides the number of blocks."""
        return min((each.kv_cache_bytes for each in self.ranks if each.kv_cache_bytes is not None), default=None)

    @property
    def cuda_graph_bytes(self) -> int | None:
        """Captured CUDA graphs of the rank with the most."""
        return max((each.cuda_graph_bytes for each in self.ranks if each.cuda_graph_bytes is not None), default=None)

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
    for number, line in enumerate(lines):
        if number >= MOST_LINES:
            break
        emitter, message = _split(line[:MOST_LINE_CHARACTERS])
        if not message.startswith(_BEGINNINGS) and "\u2588" not in message and "rror:" not in message:
            continue
        for pattern, take in _LINES:
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
        self.banner: set[str] = set()
        """What the front end has said of itself: each thing is said once a start."""
        self.engines: set[str] = set()
        """Engine processes that have introduced themselves, by name without process id."""
        self.said: dict[str, Any] = {}
        self.tokens: list[int] = []
        self.ranks: dict[_Emitter, dict[str, Any]] = {}
        self.error: StartError | None = None

    def ends_before(self, take: "_Take", emitter: _Emitter) -> bool:
        """Tell whether a line can only be the first of another start."""
        if take in _FRONT_END:
            return bool(self.engines or self.ranks or self.error) or take.__name__ in self.banner
        return take is _take_engine and emitter.name in self.engines

    def measured(self, emitter: _Emitter, **values: float | None) -> None:
        if emitter not in self.ranks and len(self.ranks) >= _MOST_RANKS:
            return
        known = self.ranks.setdefault(emitter, {})
        for key, value in values.items():
            if value is not None:  # ranks without a name in their lines share one entry: the tightest counts
                known[key] = (min if key == "kv_cache_bytes" else max)(value, known.get(key, value))

    def finished(self) -> StartLog:
        known = {each.name for each in fields(StartLog)}
        ordered = sorted(self.ranks, key=lambda emitter: (emitter.order, emitter.pid or 0))
        return StartLog(
            ranks=tuple(
                RankMemory(process=emitter.name, pid=emitter.pid, rank=emitter.order[2], **_completed(values))
                for emitter in ordered
                for values in (self.ranks[emitter],)
            ),
            kv_tokens=min(self.tokens, default=None),
            error=self.error,
            **{key: value for key, value in self.said.items() if key in known},
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
    start.banner.add("_take_server")
    start.said["version"] = found["version"]


def _take_banner_model(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.said["model"] = found["model"]


def _take_arguments(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.banner.add("_take_arguments")
    flags = dict(_printed_flags(found["arguments"].removeprefix("Namespace").lstrip("({")))
    start.said["flags"] = flags
    for name in ("model", "max_model_len", "max_num_batched_tokens", "gpu_memory_utilization"):
        if isinstance(flags.get(name), str if name == "model" else int | float):
            start.said.setdefault(name, flags[name])


def _take_engine(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    start.engines.add(emitter.name)
    if found["version"]:
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
        if name in ("gpu_memory_utilization", "max_model_len", "max_num_batched_tokens"):
            start.said[name] = float(text) if "." in text else _count(text)
        else:
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
    if found["length"]:
        _take_concurrency(start, emitter, found)


def _take_concurrency(start: _Start, emitter: _Emitter, found: re.Match[str]) -> None:
    times = float(found["times"])
    start.said["max_concurrency"] = min(times, start.said.get("max_concurrency", times))
    start.said["max_model_len"] = _count(found["length"])


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
            needed_kv_cache_bytes=_size(groups.get("needed")),
            available_kv_cache_bytes=_size(groups.get("available")),
            max_model_len=_count(groups["length"]) if groups.get("length") else None,
            largest_max_model_len=_count(groups["largest"]) if groups.get("largest") else None,
        )

    return take


_SIZE = r"-?\d{1,9}(?:\.\d{1,9})?"
_NUMBER = r"\d{1,12}(?:\.\d{1,9})?"
_COUNT = r"\d{1,3}(?:,\d{3}){1,5}|\d{1,15}"
_RAISED = r"(?:[\w.]{1,80}: )?"


def _lines() -> tuple[tuple[re.Pattern[str], _Take], ...]:
    table: tuple[tuple[str, _Take], ...] = (
        # 0.2.7 to 0.13; from 0.14 on a drawing with the version beside it.
        (r"vLLM API server version (?P<version>\S{1,60})", _take_server),
        (r"[^\w]{0,200}\u2588[^\w]{0,200}version (?P<version>\S{1,60})$", _take_server),
        (r"[^\w]{0,200}\u2588[^\w]{0,200}model +(?P<model>\S.{0,500})$", _take_banner_model),
        (r"(?:non-default )?args: (?P<arguments>.+)", _take_arguments),
        # 0.2.7 without its version, V0 and V1 by name from 0.7.
        (
            r"Initializing an? (?:V[01] )?LLM engine(?: \(v(?P<version>[^)]{1,60})\))? with config: (?P<config>.+)",
            _take_engine,
        ),
        (rf"Loading model weights took (?P<weights_bytes>{_SIZE}) Gi?B", _take_measured),
        (
            rf"Model loading took (?P<weights_bytes>{_SIZE}) Gi?B(?: memory)?(?: and (?P<load_seconds>{_NUMBER}) seconds)?",
            _take_measured,
        ),
        (
            (
                rf"Memory profiling results: total_gpu_memory=(?P<total_bytes>{_SIZE})Gi[Bb] "
                rf"initial_memory_usage={_SIZE}Gi[Bb] peak_torch_memory=(?P<torch_peak_bytes>{_SIZE})Gi[Bb] memory_usage_post_profile={_SIZE}Gi[Bb] "
                rf"non_torch_memory=(?P<non_torch_bytes>{_SIZE})Gi[Bb] kv_cache_size=(?P<kv_cache_bytes>{_SIZE})Gi[Bb] "
                rf"gpu_memory_utilization=(?P<gpu_memory_utilization>{_NUMBER})"
            ),
            _take_measured,
        ),
        (
            (
                rf"the current vLLM instance can use total_gpu_memory \((?P<total_bytes>{_SIZE})GiB\) x "
                rf"gpu_memory_utilization \((?P<gpu_memory_utilization>{_NUMBER})\) = (?P<budget_bytes>{_SIZE})GiB"
            ),
            _take_measured,
        ),
        (
            (
                rf"model weights take (?P<weights_bytes>{_SIZE})GiB; non_torch_memory takes (?P<non_torch_bytes>{_SIZE})GiB; "
                rf"PyTorch activation peak memory takes (?P<activation_peak_bytes>{_SIZE})GiB; the rest of the memory "
                rf"reserved for KV Cache is (?P<kv_cache_bytes>{_SIZE})GiB"
            ),
            _take_measured,
        ),
        (
            (
                rf"Memory profiling takes {_NUMBER} seconds\. Total non KV cache memory: {_SIZE}GiB; "
                rf"torch peak memory increase: (?P<activation_peak_bytes>{_SIZE})GiB; "
                rf"(?:non-torch forward increase memory: (?P<non_torch_bytes>{_SIZE})GiB|"
                rf"total consumed \(from mem_get_info\): (?P<consumed_bytes>{_SIZE})GiB); "
                rf"weights memory: (?P<weights_bytes>{_SIZE})GiB"
            ),
            _take_measured,
        ),
        # "cuda" is the device's name from 0.7 to 0.11. "# CPU blocks" alone is the CPU build's own cache.
        (rf"# [A-Za-z]{{2,10}} blocks: (?P<blocks>{_COUNT})", _take_blocks),
        (rf"Available KV cache memory: (?P<kv_cache_bytes>{_SIZE}) GiB", _take_measured),
        (rf"(?:Explicitly|Auto) set \((?P<kv_cache_bytes>{_SIZE})/{_SIZE}\) GiB for KV cache", _take_measured),
        (
            rf"Initial free memory (?P<free_bytes>{_SIZE}) GiB, reserved (?P<kv_cache_bytes>{_SIZE}) ?GiB memory for KV Cache",
            _take_measured,
        ),
        (
            (
                rf"[A-Za-z+ ]{{2,30}} KV cache size: (?P<tokens>{_COUNT}) tokens"
                rf"(?:, Maximum concurrency for (?P<length>{_COUNT}) tokens per request: (?P<times>{_NUMBER})x)?"
            ),
            _take_capacity,
        ),
        (
            rf"Maximum concurrency for (?P<length>{_COUNT}) tokens per request: (?P<times>{_NUMBER})x",
            _take_concurrency,
        ),
        (
            rf"Overriding num_gpu_blocks=(?P<before>{_COUNT}) with num_gpu_blocks_override=(?P<after>{_COUNT})",
            _take_override,
        ),
        (rf"Using max model len (?P<max_model_len>{_COUNT})", _take_measured),
        (
            rf"Auto-fit max_model_len: reduced from {_SIZE} to (?P<max_model_len>{_COUNT}) to fit",
            _take_measured,
        ),
        (
            rf"Chunked prefill is enabled with max_num_batched_tokens=(?P<max_num_batched_tokens>{_COUNT})",
            _take_measured,
        ),
        (rf"Estimated CUDA graph memory: (?P<cuda_graph_estimated_bytes>{_SIZE}) GiB total", _take_measured),
        (rf"Graph capturing finished in {_NUMBER} secs, took (?P<cuda_graph_bytes>{_SIZE}) GiB", _take_measured),
        (
            rf"CUDA graph pool memory: (?P<cuda_graph_bytes>{_SIZE}) GiB \(actual\), (?P<cuda_graph_estimated_bytes>{_SIZE}) GiB \(estimated\)",
            _take_measured,
        ),
        (r"CUDA graph memory profiling is disabled", _take_estimate_not_applied),
        (
            (
                rf"Free memory on device \((?P<free_bytes>{_SIZE})/(?P<total_bytes>{_SIZE}) GiB\) on startup\. Desired GPU memory "
                rf"utilization is \((?P<gpu_memory_utilization>{_NUMBER}), (?P<budget_bytes>{_SIZE}) GiB\)\. Actual usage is "
                rf"(?:(?P<weights_bytes>{_SIZE}) GiB for weight, (?P<activation_peak_bytes>{_SIZE}) GiB for peak "
                rf"activation, (?P<non_torch_bytes>{_SIZE}) GiB for non-torch memory|"
                rf"(?P<consumed_bytes>{_SIZE}) GiB for consumed memory \(weights \+ non-torch\), "
                rf"(?P<activation_and_graphs_bytes>{_SIZE}) GiB for peak activation), "
                rf"and (?P<cuda_graph_bytes>{_SIZE}) GiB for CUDAGraph "
                rf"memory\.(?:.{{0,1000}}? kv cache memory in use is (?P<kv_cache_bytes>{_SIZE}) GiB)?"
            ),
            _take_measured,
        ),
        (
            rf"init engine \(profile, create kv cache, warmup model\) took (?P<number>{_NUMBER}) s",
            _take_init,
        ),
        # Errors: the exception's name stands in front in tracebacks.
        (
            (
                rf"{_RAISED}(?P<text>To serve at least one request with the model(?:'s|s's) max seq len "
                rf"\((?P<length>{_COUNT})\), \((?P<needed>{_SIZE}) Gi?B KV cache is needed, which is larger than the "
                rf"available KV cache memory \((?P<available>{_SIZE}) Gi?B\)\."
                rf"(?:.{{0,200}}?estimated maximum model length is (?P<largest>{_COUNT}))?.*)"
            ),
            _take_error("kv_cache_too_small"),
        ),
        (
            (
                rf"{_RAISED}(?P<text>The model's max seq len \((?P<length>{_COUNT})\) is larger than the maximum "
                rf"number of tokens that can be stored in KV cache \((?P<largest>{_COUNT})\).*)"
            ),
            _take_error("kv_cache_too_small"),
        ),
        (rf"{_RAISED}(?P<text>No available memory for the cache blocks\..*)", _take_error("no_kv_cache_memory")),
        (
            rf"{_RAISED}(?P<text>(?:Free|Available) memory on (?:device|node) .{{0,200}}? on startup is less than .*)",
            _take_error("too_little_free_memory"),
        ),
        (rf"{_RAISED}(?P<text>Error in memory profiling\. Initial .*)", _take_error("free_memory_changed")),
        (
            rf"{_RAISED}(?P<text>CUDA out of memory occurred when warming up .*)",
            _take_error("out_of_memory"),
        ),
        (r"[\w.]{0,80}OutOfMemoryError: (?P<text>.+)", _take_error("out_of_memory")),
        (rf"{_RAISED}(?P<text>CUDA out of memory\. Tried to allocate .+)", _take_error("out_of_memory")),
        (
            (
                rf"{_RAISED}(?P<text>(?:Engine core|Engine process|.{{1,60}}) (?:initialization failed|failed to start)"
                r"\. See (?:root cause|stack trace).*)"
            ),
            _take_error("engine_failed"),
        ),
    )
    return tuple((re.compile(pattern), take) for pattern, take in table)


_LINES = _lines()
_FRONT_END: tuple[_Take, ...] = (_take_server, _take_arguments)
_BEGINNINGS = (
    "# ",
    "Auto set (",
    "Auto-fit ",
    "Available KV cache",
    "Available memory on",
    "CPU KV cache",
    "CUDA graph memory profiling is disabled",
    "CUDA graph pool",
    "CUDA out of memory",
    "Chunked prefill is",
    "Engine ",
    "Error in memory",
    "Estimated CUDA graph",
    "Explicitly set (",
    "Free memory on",
    "GPU ",
    "Graph capturing",
    "HPU KV",
    "Initial free memory",
    "Initializing a",
    "Loading model weights",
    "Maximum concurrency",
    "Memory profiling",
    "Model loading took",
    "No available memory",
    "Overriding num_gpu_blocks",
    "The model's max seq len",
    "To serve at least",
    "Using max model len",
    "XPU KV",
    "args: ",
    "init engine",
    "model weights take",
    "non-default args: ",
    "the current vLLM instance",
    "vLLM API server version",
)
"""How every line that matters begins: most lines of a log are requests, and are done with after one look."""

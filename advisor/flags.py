"""vLLM's command line, read as vLLM reads it.

One table lists every flag that bears on memory, scheduling or where the server listens; all others are stepped over.
Names are vLLM's own, dashes and underscores alike, with its short forms (``-tp``), its unambiguous abbreviations and
its human-readable numbers (``8k`` = 8,000, ``8K`` = 8,192). Sources: vLLM 0.32 ``utils/argparse_utils.py`` (spelling,
numbers, config file) and ``engine/arg_utils.py`` (names); flags that later releases dropped come from 0.4 to 0.31.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT])")
_TRUE, _FALSE = {"true", "1", "yes", "y", "on"}, {"false", "0", "no", "n", "off"}


_MOST_WHOLE = 1 << 62
"""Of tokens or bytes there are fewer anywhere, and what is worked out from more does not fit into a float."""


class FlagError(ValueError):
    """A value that vLLM would refuse; the message names the flag, the value and what would be right."""


def _whole(text: str) -> int:
    match = _HUMAN.fullmatch(text.strip())
    if match is None:
        value = int(text)
    else:
        number, suffix = match.groups()
        power = "kmgt".index(suffix.lower()) + 1
        value = int(_finite(number) * 1000**power) if suffix.islower() else int(number) * 1024**power
    if abs(value) > _MOST_WHOLE:
        raise ValueError(text)
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _whole_or_auto(text: str) -> int:
    return -1 if text.strip().lower() in ("auto", "-1") else _whole(text)


def _word(text: str) -> str:
    return text


def _truth(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in _TRUE or lowered in _FALSE:
        return lowered in _TRUE
    raise ValueError(text)


def _mapping(text: str) -> Mapping[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)  # noqa: TRY004 - one exception type for "not what this flag takes"
    return value


def _compilation(text: str) -> Mapping[str, Any]:
    """``-O3``-style levels and JSON are both accepted for --compilation-config."""
    return {"level": int(text)} if text.strip().isdigit() else _mapping(text)


@dataclass(frozen=True, slots=True)
class _Reader:
    read: Callable[[str], Any]
    expected: str


_WHOLE = _Reader(_whole, "a whole number such as 8192, 8k or 8K")
_LENGTH = _Reader(_whole_or_auto, "a whole number such as 8192, 8k or 8K, or auto")
_NUMBER = _Reader(_finite, "a number such as 0.9")
_WORD = _Reader(_word, "a word")
_TRUTH = _Reader(_truth, "true or false")
_MAPPING = _Reader(_mapping, "a JSON object")
_COMPILATION = _Reader(_compilation, "a JSON object or a level 0 to 3")


def _flag(reader: _Reader, *aliases: str, many: bool = False) -> Any:
    return field(default=None, metadata={"reader": reader, "aliases": aliases, "many": many})


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    """What was given on a vLLM command line; None is "not given", so vLLM's default is in effect."""

    # which model, and how its numbers are stored
    model: str | None = _flag(_WORD, "model-tag")
    tokenizer: str | None = _flag(_WORD)
    served_model_name: tuple[str, ...] | None = _flag(_WORD, many=True)
    hf_config_path: str | None = _flag(_WORD)
    download_dir: str | None = _flag(_WORD)
    revision: str | None = _flag(_WORD)
    load_format: str | None = _flag(_WORD)
    runner: str | None = _flag(_WORD)
    task: str | None = _flag(_WORD)
    dtype: str | None = _flag(_WORD)
    quantization: str | None = _flag(_WORD, "q")
    hf_overrides: Mapping[str, Any] | None = _flag(_MAPPING)
    rope_scaling: Mapping[str, Any] | None = _flag(_MAPPING)

    # KV cache
    gpu_memory_utilization: float | None = _flag(_NUMBER, "device-memory-utilization")
    kv_cache_memory_bytes: int | None = _flag(_WHOLE, "kv-cache-memory")
    kv_cache_dtype: str | None = _flag(_WORD)
    kv_cache_dtype_skip_layers: tuple[str, ...] | None = _flag(_WORD, many=True)
    block_size: int | None = _flag(_WHOLE)
    num_gpu_blocks_override: int | None = _flag(_WHOLE)
    enable_prefix_caching: bool | None = _flag(_TRUTH)
    disable_hybrid_kv_cache_manager: bool | None = _flag(_TRUTH)
    disable_sliding_window: bool | None = _flag(_TRUTH)
    mamba_cache_dtype: str | None = _flag(_WORD)
    mamba_ssm_cache_dtype: str | None = _flag(_WORD)
    mamba_block_size: int | None = _flag(_WHOLE)
    mamba_cache_mode: str | None = _flag(_WORD)
    swap_space: float | None = _flag(_NUMBER)
    use_v2_block_manager: bool | None = _flag(_TRUTH)
    cpu_offload_gb: float | None = _flag(_NUMBER)
    kv_offloading_size: float | None = _flag(_NUMBER)
    kv_transfer_config: Mapping[str, Any] | None = _flag(_MAPPING)
    kv_events_config: Mapping[str, Any] | None = _flag(_MAPPING)

    # scheduler
    max_model_len: int | None = _flag(_LENGTH)
    max_num_seqs: int | None = _flag(_WHOLE)
    max_num_batched_tokens: int | None = _flag(_WHOLE)
    max_num_active_seqs: int | None = _flag(_WHOLE)
    max_num_queued_reqs: int | None = _flag(_WHOLE)
    max_num_queued_tokens: int | None = _flag(_WHOLE)
    long_prefill_token_threshold: int | None = _flag(_WHOLE)
    num_lookahead_slots: int | None = _flag(_WHOLE)
    preemption_mode: str | None = _flag(_WORD)
    scheduling_policy: str | None = _flag(_WORD)
    enable_chunked_prefill: bool | None = _flag(_TRUTH)
    scheduler_reserve_full_isl: bool | None = _flag(_TRUTH)
    watermark: float | None = _flag(_NUMBER)
    async_scheduling: bool | None = _flag(_TRUTH)
    num_scheduler_steps: int | None = _flag(_WHOLE)
    performance_mode: str | None = _flag(_WORD)

    # parallelism
    tensor_parallel_size: int | None = _flag(_WHOLE, "tp")
    pipeline_parallel_size: int | None = _flag(_WHOLE, "pp")
    data_parallel_size: int | None = _flag(_WHOLE, "dp")
    data_parallel_size_local: int | None = _flag(_WHOLE, "dpl")
    data_parallel_rank: int | None = _flag(_WHOLE, "dpn")
    decode_context_parallel_size: int | None = _flag(_WHOLE, "dcp")
    prefill_context_parallel_size: int | None = _flag(_WHOLE, "pcp")
    enable_expert_parallel: bool | None = _flag(_TRUTH, "ep")
    nnodes: int | None = _flag(_WHOLE, "n")
    disable_custom_all_reduce: bool | None = _flag(_TRUTH)
    all2all_backend: str | None = _flag(_WORD)
    distributed_executor_backend: str | None = _flag(_WORD)

    # what runs on the GPU beside the model
    enforce_eager: bool | None = _flag(_TRUTH)
    compilation_config: Mapping[str, Any] | None = _flag(_COMPILATION, "O", "cc")
    cudagraph_capture_sizes: tuple[int, ...] | None = _flag(_WHOLE, many=True)
    max_cudagraph_capture_size: int | None = _flag(_WHOLE)
    max_seq_len_to_capture: int | None = _flag(_WHOLE)
    cuda_graph_sizes: tuple[int, ...] | None = _flag(_WHOLE, many=True)
    attention_backend: str | None = _flag(_WORD)
    max_logprobs: int | None = _flag(_WHOLE)
    enable_lora: bool | None = _flag(_TRUTH)
    max_loras: int | None = _flag(_WHOLE)
    max_lora_rank: int | None = _flag(_WHOLE)
    speculative_config: Mapping[str, Any] | None = _flag(_MAPPING, "sc")
    speculative_model: str | None = _flag(_WORD, "spec-model")
    num_speculative_tokens: int | None = _flag(_WHOLE, "spec-tokens")
    limit_mm_per_prompt: str | None = _flag(_WORD)
    skip_mm_profiling: bool | None = _flag(_TRUTH)
    language_model_only: bool | None = _flag(_TRUTH)
    mm_encoder_tp_mode: str | None = _flag(_WORD)
    enable_sleep_mode: bool | None = _flag(_TRUTH)

    # where it listens
    host: str | None = _flag(_WORD)
    port: int | None = _flag(_WHOLE)
    uds: str | None = _flag(_WORD)
    root_path: str | None = _flag(_WORD)
    ssl_certfile: str | None = _flag(_WORD)
    api_server_count: int | None = _flag(_WHOLE, "asc")
    headless: bool | None = _flag(_TRUTH)
    disable_log_stats: bool | None = _flag(_TRUTH)

    environment: Mapping[str, str] = field(default_factory=dict)
    """The variables of `ENVIRONMENT` that were set."""
    problems: tuple[str, ...] = ()
    """Values that vLLM would refuse, in words; the flags concerned read as not given."""

    def given(self) -> dict[str, Any]:
        """Return the flags that were given, by field name."""
        return dict(self._given)

    @cached_property
    def _given(self) -> dict[str, Any]:
        values = ((name, getattr(self, name)) for name in _FIELDS)
        return {name: value for name, value in values if value is not None}

    @cached_property
    def text(self) -> str:
        """All that was given, by which flags are told apart: their values cannot be hashed."""
        return repr(self)

    def digest(self, *, without: frozenset[str]) -> str:
        """Return a short name for all that was given, environment included, but for the flags ``without``."""
        if without not in self._digests:
            given = {name: value for name, value in self.given().items() if name not in without}
            text = json.dumps(given | dict(self.environment), sort_keys=True, default=str)
            self._digests[without] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._digests[without]

    @cached_property
    def _digests(self) -> dict[frozenset[str], str]:
        return {}

    def config_overrides(self) -> str:
        """Return as JSON what stands instead of values of the model's config.json; empty where nothing does.

        ``--rope-scaling`` is one of them by an older name (up to 0.12).
        """
        overrides = {**(self.hf_overrides or {}), **({"rope_scaling": self.rope_scaling} if self.rope_scaling else {})}
        return json.dumps(overrides, sort_keys=True) if overrides else ""


ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_CACHE",
    "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
    "VLLM_ATTENTION_BACKEND",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_ENABLE_STARTUP_PLAN",
    "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS",
    "VLLM_PP_LAYER_PARTITION",
    "VLLM_USE_FLASHINFER_SAMPLER",
    "VLLM_USE_V1",
)
"""Environment variables that change what a server holds. No other is ever kept, so no key can leak."""

_FIELDS = {each.name: each for each in fields(EngineFlags) if "reader" in each.metadata}
_BY_OPTION = {
    option: name for name, each in _FIELDS.items() for option in (name.replace("_", "-"), *each.metadata["aliases"])
}

# Options outside the table that take no value: by far most are named like this ...
_VALUELESS = re.compile(r"(enable|disable|no|skip|use|trust|return|allow|enforce|interleave|fully|specialize)-.+")
# ... and these are the exceptions on either side.
_VALUELESS_EXACT = frozenset({"grpc", "tokens-only", "mm-encoder-only", "numa-bind", "kv-cache-metrics"})
_VALUED_EXACT = frozenset({"disable-access-log-for-endpoints"})


_RUNS_VLLM = re.compile(r"(.*/)?([^/]*(python|pypy)[^/]*|vllm)", re.DOTALL)
"""The program of a server's own process. Whatever else has the words on its command line only starts one (a shell,
tmux, docker, ssh: then elsewhere), or looks for one."""
_MOST_WORDS_BEFORE = 12
"""Options of the interpreter, mostly."""


def config_path(argv: Sequence[str]) -> str | None:
    """Return the file named by ``--config``, which holds further flags, or None."""
    for position, word in enumerate(argv):
        if word == "--config":
            return argv[position + 1] if position + 1 < len(argv) else None
        if word.startswith("--config="):
            return word.partition("=")[2]
    return None


def is_server_command(argv: Sequence[str]) -> bool:
    """Tell whether a process's command line is that of a vLLM API server, not of a program that starts one."""
    if not argv or not _RUNS_VLLM.fullmatch(argv[0]):
        return False
    for position, word in enumerate(argv[:_MOST_WORDS_BEFORE]):
        if word == "-c":  # the rest are arguments of some Python text
            return False
        if word.startswith("vllm.entrypoints.") and word.endswith("api_server"):
            return position > 0 and argv[position - 1] == "-m"
        if word.endswith(("vllm/entrypoints/openai/api_server.py", "vllm/entrypoints/api_server.py")):
            return True
        if word == "serve" and position > 0:
            program = argv[position - 1]
            return program.rpartition("/")[2] == "vllm" or program.startswith("vllm.entrypoints.cli")
    return False


def parse_flags(
    argv: Sequence[str],
    *,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
) -> EngineFlags:
    """Read a vLLM command line.

    Args:
        argv: The words after the shell has split them; leading ``NAME=value``, python, ``vllm`` and ``serve`` are
            stepped over, so a pasted command works as it is.
        config: The content of the file named by ``--config``; the command line wins over it, as in vLLM.
        environment: The server's environment; only the names in `ENVIRONMENT` are looked at.
        problems: What the caller could not read, to be told with the rest.

    Returns:
        The flags given. What vLLM would refuse is in ``problems`` and reads as not given.
    """
    words = list(argv)
    variables = {name: value for name, value in (environment or {}).items() if name in ENVIRONMENT}
    while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0], re.DOTALL):
        variable, _, value = words.pop(0).partition("=")
        if variable in ENVIRONMENT:
            variables[variable] = value
    words = _after_program(words)

    values: dict[str, Any] = {}
    found = list(problems)
    for option, texts in _from_config(config or {}):
        _take(option, texts, values, found)
    positional: list[str] = []
    for name, texts in _options(words):
        if name is None:
            positional.extend(texts)
        else:
            _take(name, texts, values, found)
    if positional:
        values["model"] = positional[0]
    _drop_odd_parts(values, found)
    return EngineFlags(environment=variables, problems=tuple(found), **values)


def misspelled(argv: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the options that are none of the table's and look like one: (as given, as probably meant).

    vLLM has a hundred more options that bear on nothing here. They are stepped over, and a slip of the pen with them:
    how many letters are alike tells one from the other.
    """
    return tuple(
        (f"--{option}", f"--{near[0]}")
        for option, _ in _options(_after_program(list(argv)))
        if option is not None and _field_of(option) is None
        if (near := difflib.get_close_matches(option.partition(".")[0], _BY_OPTION, n=1, cutoff=_ALIKE_RATIO))
    )


_ALIKE_RATIO = 0.92
"""None of the 275 options of vLLM 0.32 is taken for another by it; at 0.9 --dbo-prefill-token-threshold is."""


def require_valid(flags: EngineFlags) -> EngineFlags:
    """Return the flags, or raise `FlagError` with every problem on a line of its own."""
    if flags.problems:
        raise FlagError("\n".join(flags.problems))
    return flags


def _after_program(words: list[str]) -> list[str]:
    for position, word in enumerate(words[:_MOST_WORDS_BEFORE]):
        if word == "serve":
            return words[position + 1 :]
        if word.startswith("vllm.entrypoints.") or word.endswith("api_server.py"):
            return words[position + 1 :]
        if word.startswith("--") and position == 0:
            break
    return words


def _from_config(config: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for key, value in config.items():
        option = str(key).replace("_", "-")
        if isinstance(value, bool):
            yield (option, []) if value else (f"no-{option}", [])
        elif isinstance(value, list):
            yield option, [str(each) for each in value]
        elif isinstance(value, dict):
            yield option, [json.dumps(value, skipkeys=True, default=str)]  # YAML knows dates, JSON does not
        elif value is not None:
            yield option, [str(value)]


def _options(words: Sequence[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Yield (option without dashes, its values) in order; positional words come with option None."""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("-") or word == "-":
            yield None, [word]
            continue
        option, has_value, value = word.partition("=")
        option = option.lstrip("-")
        if word.startswith("-O") and not word.startswith("--") and len(option) > 1:
            option, has_value, value = "O", "=", word[2:].lstrip("=")
        if word.startswith("--"):
            head, dot, tail = option.partition(".")
            option = head.replace("_", "-") + dot + tail
        if has_value:
            yield option, [value]
            continue
        values: list[str] = []
        many = _takes(option)
        while position < len(words) and len(values) < many and not _is_option(words[position]):
            values.append(words[position])
            position += 1
        if many == 0 and position < len(words) and words[position].lower() in ("true", "false"):
            values.append(words[position])
            position += 1
        yield option, values


def _is_option(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\d+(\.\d+)?", word)


def _takes(option: str) -> int:
    """Return how many values at most follow an option (0, 1, or many)."""
    field_name = _field_of(option)
    if field_name is not None:
        metadata = _FIELDS[field_name].metadata
        if metadata["reader"] is _TRUTH:
            return 0
        return 1_000 if metadata["many"] else 1
    head = option.partition(".")[0]
    if head in _VALUED_EXACT:
        return 1
    return 0 if head in _VALUELESS_EXACT or _VALUELESS.fullmatch(head) else 1_000 if "." not in option else 1


def _field_of(option: str) -> str | None:
    head = option.partition(".")[0]
    if head in _BY_OPTION:
        return _BY_OPTION[head]
    if head.startswith("no-") and head[3:] in _BY_OPTION:
        return _BY_OPTION[head[3:]]
    if len(head) >= 5:  # argparse accepts an unambiguous beginning of a long option
        matches = {name for known, name in _BY_OPTION.items() if known.startswith(head)}
        if len(matches) == 1:
            return matches.pop()
    return None


def _take(option: str, texts: list[str], values: dict[str, Any], problems: list[str]) -> None:
    field_name = _field_of(option)
    if field_name is None:
        return
    metadata = _FIELDS[field_name].metadata
    reader: _Reader = metadata["reader"]
    shown = f"--{field_name.replace('_', '-')}"
    _, dot, path = option.partition(".")
    if dot and reader in (_MAPPING, _COMPILATION):
        _take_nested(field_name, path, texts, values)
        return
    if dot:
        problems.append(f"--{option[:40]}: {shown} has no parts; it takes {reader.expected}")
        return
    if reader is _TRUTH:
        texts = texts or ["true"]
        if option.startswith("no-") and not field_name.startswith("no_"):
            texts = ["false"]
    if not texts:
        problems.append(f"{shown}: no value given; it takes {reader.expected}")
        return
    try:
        read = [reader.read(text) for text in texts]
    except (ValueError, OverflowError, RecursionError):
        problems.append(f"{shown}: {' '.join(texts)!r} is not {reader.expected}")
        return
    values[field_name] = tuple(read) if metadata["many"] else read[-1]


def _take_nested(field_name: str, path: str, texts: list[str], values: dict[str, Any]) -> None:
    """Fold ``--compilation-config.cudagraph_mode FULL`` into the mapping it is part of."""
    value: Any = True
    if texts:
        try:
            value = json.loads(texts[0])
        except (ValueError, RecursionError):
            value = texts[0]
    node: Any = values.setdefault(field_name, {})
    *parents, last = path.split(".")
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node[last] = value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_whole(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_whole, value))


_PARTS: tuple[tuple[str, str, Callable[[object], bool], str], ...] = (
    ("compilation_config", "cudagraph_capture_sizes", _are_whole, "a list of whole numbers above zero"),
    ("compilation_config", "max_cudagraph_capture_size", _is_whole, "a whole number above zero"),
    ("speculative_config", "num_speculative_tokens", _is_whole, "a whole number above zero"),
)
"""What is reckoned with inside flags that take an object."""


def _drop_odd_parts(values: dict[str, Any], problems: list[str]) -> None:
    for field_name, key, is_right, expected in _PARTS:
        given = values.get(field_name) or {}
        if given.get(key) is not None and not is_right(given[key]):
            problems.append(f"--{field_name.replace('_', '-')}.{key}: {given[key]!r} is not {expected}")
            values[field_name] = {name: value for name, value in given.items() if name != key}

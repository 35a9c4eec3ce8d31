"""vLLM's start-up checks: which one fails first, in the words of that release, and by how much things fit.

Sources, vLLM 0.6.3 to 0.33.0: ``config/model.py``, ``config/scheduler.py``, ``config/vllm.py`` (flags that contradict
the model or the GPU), ``v1/worker/gpu_worker.py`` and ``v1/worker/utils.py`` (free memory),
``v1/core/kv_cache_utils.py`` and ``worker/worker.py`` (the cache), ``v1/worker/gpu_model_runner.py`` (sampler). vLLM's
"GB" are GiB.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from advisor.defaults import Device, ResolvedFlags
from advisor.estimate import Estimate
from advisor.spec import ModelSpec
from advisor.units import GIB
from advisor.versions import Version

ErrorKind = Literal[
    "max_model_len_above_model",
    "batched_tokens_below_max_model_len",
    "batched_tokens_below_max_num_seqs",
    "heads_not_divisible",
    "decode_context_parallel",
    "quantization_unsupported",
    "bfloat16_unsupported",
    "free_memory_below_budget",
    "out_of_memory_loading",
    "out_of_memory_profiling",
    "no_cache_blocks",
    "cache_below_one_request",
    "cannot_auto_fit",
    "out_of_memory_capturing",
    "out_of_memory_sampling",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class StartUpError:
    """The first error that vLLM would print."""

    kind: ErrorKind
    text: str
    """As vLLM says it."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the text compares, in bytes, tokens or as the name says."""
    is_verbatim: bool = True
    """False for PyTorch's out-of-memory errors: the allocation that fails cannot be told, only that one does."""


# --- flags that contradict the model, each other or the GPU ---


def first_flag_error(
    flags: ResolvedFlags,
    spec: ModelSpec,
    *,
    version: Version,
    device: Device,
    is_mla: bool = False,
    allows_long_max_model_len: bool = False,
    length_key: str = "max_position_embeddings",
) -> StartUpError | None:
    """Return the first flag that vLLM refuses, in the order in which it looks.

    Args:
        flags: As resolved.
        spec: Geometry of the model.
        version: vLLM's release.
        device: What one rank runs on.
        is_mla: Whether its attention keeps one compressed vector a token.
        allows_long_max_model_len: Whether ``VLLM_ALLOW_LONG_MAX_MODEL_LEN=1`` is set.
        length_key: Which key of the config sets its longest context.
    """
    checks: Iterable[StartUpError | None] = (
        None
        if allows_long_max_model_len
        else max_model_len_error(version, flags.max_model_len, spec.max_position_embeddings, length_key=length_key),
        batched_tokens_error(flags),
        heads_error(spec.num_attention_heads, flags.tensor_parallel_size),
        None if is_mla else decode_context_error(version, flags, spec),
        quantization_error(version, spec, device),
        bfloat16_error(version, flags.dtype, spec.dtype, device),
    )
    return next((error for error in checks if error is not None), None)


def max_model_len_error(
    version: Version, max_model_len: int, derived: int, *, length_key: str = "max_position_embeddings"
) -> StartUpError | None:
    """``--max-model-len`` beyond what the config says; 0.10.0 and 0.10.1 are taken to be like 0.10.2."""
    if max_model_len <= derived:
        return None
    shown = f"{float(derived)}" if version >= (0, 12, 0) else f"{derived}"
    text = (
        f"User-specified max_model_len ({max_model_len}) is greater than the derived max_model_len "
        f"({length_key}={shown} or model_max_length=None in model's config.json)."
    )
    allow = " To allow overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"
    if version < (0, 10, 0):
        text += f" This may lead to incorrect model outputs or CUDA errors.{allow}"
    else:
        text += (
            f"{allow}. VLLM_ALLOW_LONG_MAX_MODEL_LEN must be used with extreme caution. If the model uses relative "
            "position encoding (RoPE), positions exceeding derived_max_model_len lead to nan. If the model uses "
            "absolute position encoding, positions exceeding derived_max_model_len will cause a CUDA array "
            "out-of-bounds error."
        )
    return StartUpError(
        kind="max_model_len_above_model",
        text=text,
        numbers={"max_model_len": max_model_len, "derived_max_model_len": derived},
    )


def batched_tokens_error(flags: ResolvedFlags) -> StartUpError | None:
    """A step that holds less than a prompt which may not be cut, or less than one token a request."""
    tokens, length, seqs = flags.max_num_batched_tokens, flags.max_model_len, flags.max_num_seqs
    if tokens < length and not flags.enable_chunked_prefill:
        return StartUpError(
            kind="batched_tokens_below_max_model_len",
            text=f"max_num_batched_tokens ({tokens}) is smaller than max_model_len ({length}). This effectively limits "
            "the maximum sequence length to max_num_batched_tokens and makes vLLM reject longer sequences. Please "
            "increase max_num_batched_tokens or decrease max_model_len.",
            numbers={"max_num_batched_tokens": tokens, "max_model_len": length},
        )
    if tokens < seqs:
        return StartUpError(
            kind="batched_tokens_below_max_num_seqs",
            text=f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({seqs}).",
            numbers={"max_num_batched_tokens": tokens, "max_num_seqs": seqs},
        )
    return None


def heads_error(num_attention_heads: int, tensor_parallel_size: int) -> StartUpError | None:
    """Ranks that cannot share the heads evenly."""
    if num_attention_heads % tensor_parallel_size == 0:
        return None
    return StartUpError(
        kind="heads_not_divisible",
        text=f"Total number of attention heads ({num_attention_heads}) must be divisible by tensor parallel size "
        f"({tensor_parallel_size}).",
        numbers={"num_attention_heads": num_attention_heads, "tensor_parallel_size": tensor_parallel_size},
    )


def decode_context_error(version: Version, flags: ResolvedFlags, spec: ModelSpec) -> StartUpError | None:
    """Decode context parallelism beyond the ranks that hold copies of the same KV head; checked from 0.12 on."""
    ranks, tp, heads = flags.decode_context_parallel_size, flags.tensor_parallel_size, spec.num_kv_heads
    if ranks == 1 or version < (0, 12, 0) or heads == 0:
        return None
    most = tp // heads
    queries = spec.num_attention_heads // heads
    new = version >= (0, 27, 0)
    if tp <= heads:
        text = (
            f"Decode context parallelism for GQA/MQA requires `--tensor-parallel-size` ({tp}) to be greater than the "
            f"model's total number of KV heads ({heads}). Increase `--tensor-parallel-size` or set "
            "`--decode-context-parallel-size 1`."
            if new
            else f"tensor parallel size {tp} must be greater than total num kv heads {heads} when enable decode "
            "context parallel for GQA/MQA"
        )
    elif ranks > most:
        text = (
            f"`--decode-context-parallel-size` ({ranks}) exceeds the maximum supported value ({most}) for "
            f"`--tensor-parallel-size` ({tp}) and {heads} model KV heads."
            if new
            else f"decode context parallel size must less than or equal to (tensor parallel size {tp} // total num kv "
            f"heads {heads}) = {most}, but got {ranks}"
        )
    elif queries % ranks:
        text = (
            f"The model's number of query heads per KV head ({queries}) must be divisible by "
            f"`--decode-context-parallel-size` ({ranks}) for GQA/MQA."
            if new
            else f"Total number of q per kv attn heads ({queries}) must be divisible by dcp world size when enable "
            f"decode context parallel for GQA ({ranks})."
        )
    else:
        return None
    return StartUpError(
        kind="decode_context_parallel",
        text=text,
        numbers={"decode_context_parallel_size": ranks, "tensor_parallel_size": tp, "num_kv_heads": heads},
    )


_Since = tuple[tuple[Version, int], ...]
_FIRST: Version = (0, 0, 0)
_METHODS: Mapping[str, _Since] = {
    "awq": ((_FIRST, 75),),
    "gptq": ((_FIRST, 60),),
    "fp8": ((_FIRST, 80), ((0, 14, 0), 75)),
    "compressed-tensors": ((_FIRST, 70),),
    "bitsandbytes": ((_FIRST, 70),),
    "gguf": ((_FIRST, 60),),
    "modelopt": ((_FIRST, 89), ((0, 27, 0), 80)),
    "modelopt_fp4": ((_FIRST, 100), ((0, 9, 0), 80), ((0, 14, 0), 75)),
    "modelopt_mxfp8": ((_FIRST, 100), ((0, 20, 0), 80)),
    "mxfp4": ((_FIRST, 80),),
    "experts_int8": ((_FIRST, 80),),
    "fbgemm_fp8": ((_FIRST, 80),),
    "fp_quant": ((_FIRST, 100),),
    "torchao": ((_FIRST, 75),),
    "quark": ((_FIRST, 70),),
    "auto-round": ((_FIRST, 60),),
    "inc": ((_FIRST, 60),),
    "aqlm": ((_FIRST, 60),),
    "hqq": ((_FIRST, 80),),
    "marlin": ((_FIRST, 80),),
    "qqq": ((_FIRST, 80),),
}
"""``get_min_capability`` of each method's config by release; a change between 0.13 and 0.16 is put at 0.14."""

_SCHEMES: Mapping[str, _Since] = {
    "fp8": ((_FIRST, 80), ((0, 14, 0), 75)),
    "wna16": ((_FIRST, 80), ((0, 12, 0), 75)),
    "int8": ((_FIRST, 75),),
}
"""compressed-tensors by scheme; fp8 activations fall back to fp8 weights alone below 8.9."""


def quantization_error(version: Version, spec: ModelSpec, device: Device) -> StartUpError | None:
    """Quantised weights that the GPU has no kernel for; a method not listed is not judged."""
    if spec.quantization is None or device.capability is None:
        return None
    current = 10 * device.capability[0] + device.capability[1]
    method = spec.quantization.method
    if method == "modelopt" and "FP4" in str(spec.quantization.config.get("quant_algo", "")).upper():
        method = "modelopt_fp4"
    if method in _METHODS and current < (minimum := _at(_METHODS[method], version)):
        renamed = {"awq": (0, 24, 0), "gptq": (0, 22, 0)}
        shown = f"auto_{method}" if method in renamed and version >= renamed[method] else method
        return StartUpError(
            kind="quantization_unsupported",
            text=f"The quantization method {shown} is not supported for the current GPU. Minimum capability: "
            f"{minimum}. Current capability: {current}.",
            numbers={"minimum_capability": minimum, "current_capability": current},
        )
    scheme = _scheme(spec.quantization.config) if method == "compressed-tensors" else None
    if scheme is not None and current < (minimum := _at(_SCHEMES[scheme], version)):
        return StartUpError(
            kind="quantization_unsupported",
            text=f"Quantization scheme is not supported for the current GPU. Min capability: {minimum}. Current "
            f"capability: {current}.",
            numbers={"minimum_capability": minimum, "current_capability": current},
        )
    return None


def _at(values: _Since, version: Version) -> int:
    return next(value for since, value in reversed(values) if version >= since)


def _scheme(config: Mapping[str, Any]) -> str | None:
    groups = config.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(first, Mapping) or not isinstance(weights, Mapping):
        return None
    kind, bits = weights.get("type"), weights.get("num_bits")
    if kind == "float":
        return "fp8" if bits == 8 else None
    if first.get("input_activations") is None:
        return "wna16" if bits in (4, 8) else None
    return "int8" if bits == 8 else None


def bfloat16_error(version: Version, dtype: str, stored: str | None, device: Device) -> StartUpError | None:
    """bfloat16 on a GPU before Ampere; from 0.9 on ``auto`` takes float16 there (0.9.0 and 0.9.1 not read)."""
    is_bfloat16 = dtype == "bfloat16" or (dtype == "auto" and stored == "bfloat16" and version < (0, 9, 0))
    if not is_bfloat16 or device.capability is None or device.capability >= (8, 0):
        return None
    capability = f"{device.capability[0]}.{device.capability[1]}"
    space = " " if version >= (0, 8, 0) else ""
    return StartUpError(
        kind="bfloat16_unsupported",
        text="Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
        f"Your {device.name} GPU has compute capability {capability}. "
        f"You can use float16 instead by explicitly setting the{space}`dtype` flag in CLI, for example: --dtype=half.",
        numbers={"compute_capability": float(capability)},
    )


# --- memory ---

FREE_IS_CHECKED_SINCE: Version = (0, 9, 1)
"""From here free memory at start must reach V1's budget (``v1/worker/gpu_worker.py``, later ``utils.py``
``request_memory``); before, what others hold came out of the KV cache instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMemory:
    """What one GPU has and one rank wants, in bytes."""

    total_bytes: float
    """As CUDA shows it."""
    free_bytes: float
    """When the server starts."""
    weights_bytes: float
    kv_available_bytes: float
    """What the release's formula leaves for the KV cache."""
    kv_needed_bytes: float
    """One request of ``max_model_len`` tokens."""
    bytes_per_block: float
    """One block of all layers."""
    activation_peak_bytes: float = 0.0
    non_torch_bytes: float = 0.0
    cuda_graph_bytes: float = 0.0
    """What the graphs really take."""
    sampler_bytes: float = 0.0
    """Peak of sampling for ``max_num_seqs`` requests at once; part of the activation peak."""


def first_memory_error(
    memory: RankMemory,
    flags: ResolvedFlags,
    *,
    version: Version,
    longest_max_model_len: int = 0,
) -> StartUpError | None:
    """Return the first thing that does not fit, in the order in which a worker finds out.

    Args:
        memory: The rank with the least room: it decides for all.
        flags: As resolved.
        version: vLLM's release.
        longest_max_model_len: The longest context that would fit (`KvLayout.largest_max_model_len`), for the message.
    """
    blocks = int(memory.kv_available_bytes // memory.bytes_per_block)
    checks: Iterable[Callable[[], StartUpError | None]] = (
        lambda: free_memory_error(
            version,
            total_bytes=memory.total_bytes,
            free_bytes=memory.free_bytes,
            gpu_memory_utilization=flags.gpu_memory_utilization,
            is_v1=flags.is_v1,
        ),
        lambda: _loading_error(memory, version),
        lambda: _profiling_error(memory, flags, version),
        lambda: (
            cache_error(
                version,
                max_model_len=flags.max_model_len,
                available_bytes=memory.kv_available_bytes,
                needed_bytes=memory.kv_needed_bytes,
                bytes_per_block=memory.bytes_per_block,
                longest_max_model_len=longest_max_model_len,
                is_auto=flags.is_max_model_len_auto,
            )
            if flags.is_v1
            else v0_cache_error(
                version,
                max_model_len=flags.max_model_len,
                num_gpu_blocks=blocks,
                block_size=flags.block_size,
                pipeline_parallel_size=flags.pipeline_parallel_size,
            )
        ),
        lambda: _warm_up_error(memory, flags, version, blocks * memory.bytes_per_block),
    )
    return next((error for check in checks if (error := check()) is not None), None)


def free_memory_error(
    version: Version,
    *,
    total_bytes: float,
    free_bytes: float,
    gpu_memory_utilization: float,
    is_v1: bool = True,
) -> StartUpError | None:
    """Less free at start than the share asked for."""
    requested = total_bytes * gpu_memory_utilization
    if not is_v1 or version < FREE_IS_CHECKED_SINCE or free_bytes >= requested:
        return None
    device = "cuda:0 " if version >= (0, 14, 0) else ""
    return StartUpError(
        kind="free_memory_below_budget",
        text=f"Free memory on device {device}({_rounded(free_bytes)}/{_rounded(total_bytes)} GiB) on startup is less "
        f"than desired GPU memory utilization ({gpu_memory_utilization}, {_rounded(requested)} GiB). Decrease GPU "
        "memory utilization or reduce GPU memory used by other processes.",
        numbers={"free_bytes": free_bytes, "total_bytes": total_bytes, "requested_bytes": requested},
    )


def no_cache_error(version: Version) -> StartUpError:
    """Nothing left for the cache; worded alike by V0 and V1."""
    text = (
        "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine"
    )
    if version >= (0, 22, 0):
        text += " (this flag also controls CPU memory reservation on the CPU backend, despite its name)"
    return StartUpError(kind="no_cache_blocks", text=f"{text}.{_conserving(version)}")


def cache_error(
    version: Version,
    *,
    max_model_len: int,
    available_bytes: float,
    needed_bytes: float,
    bytes_per_block: float,
    longest_max_model_len: int = 0,
    is_auto: bool = False,
) -> StartUpError | None:
    """V1's check of the cache: something left, and room for one request of full length.

    Args:
        version: vLLM's release, 0.7.0 or later.
        max_model_len: As resolved.
        available_bytes: What the release's formula leaves; from 0.29 (0.28 not read) one block is set aside first.
        needed_bytes: What one request of full length takes.
        bytes_per_block: One block of all layers.
        longest_max_model_len: The longest context that would fit, 0 for none; named from 0.8.4 on.
        is_auto: Whether ``--max-model-len`` is ``auto`` (0.14 and later): then the length shrinks until it fits.
    """
    available = available_bytes - bytes_per_block if version >= (0, 28, 0) else available_bytes
    if is_auto and version >= (0, 14, 0) and needed_bytes > available:
        if longest_max_model_len > 0:
            return None
        return StartUpError(
            kind="cannot_auto_fit",
            text="Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token. Try "
            "increasing `gpu_memory_utilization`.",
            numbers={"available_bytes": available},
        )
    if available <= 0:
        error = no_cache_error(version)
        return StartUpError(kind=error.kind, text=error.text, numbers={"available_bytes": available})
    if needed_bytes <= available:
        return None
    return StartUpError(
        kind="cache_below_one_request",
        text=_cache_text(version, max_model_len, needed_bytes, available, longest_max_model_len),
        numbers={
            "max_model_len": max_model_len,
            "needed_bytes": needed_bytes,
            "available_bytes": available,
            "longest_max_model_len": longest_max_model_len,
        },
    )


def _cache_text(version: Version, max_model_len: int, needed: float, available: float, longest: int) -> str:
    unit = "GiB" if version >= (0, 8, 3) else "GB"
    spelled = _rounded if version >= (0, 14, 0) else _two_decimals
    whose = "model's" if version >= (0, 22, 0) else "models's"
    try_ = "Try increasing `gpu_memory_utilization`"
    if version >= (0, 22, 0):
        try_ += " (which also controls CPU memory on the CPU backend)"
    estimate = f"Based on the available memory, the estimated maximum model length is {longest}." if longest > 0 else ""
    if version < (0, 8, 4):
        estimate = " "
    elif version < (0, 9, 0):  # the sentence broke off in its middle
        estimate = " Based on the available memory,  " if longest > 0 else "  "
    elif version < (0, 14, 0):
        estimate = f" {estimate} "
    else:
        estimate = f" {estimate} " if estimate else " "
    return (
        f"To serve at least one request with the {whose} max seq len ({max_model_len}), ({spelled(needed)} {unit} KV "
        f"cache is needed, which is larger than the available KV cache memory ({spelled(available)} {unit}).{estimate}"
        f"{try_} or decreasing `max_model_len` when initializing the engine.{_conserving(version)}"
    )


def v0_cache_error(
    version: Version, *, max_model_len: int, num_gpu_blocks: int, block_size: int, pipeline_parallel_size: int = 1
) -> StartUpError | None:
    """V0's check of the cache, in blocks; from 0.8 pipeline stages share them (0.8.0 to 0.8.4 not read)."""
    if num_gpu_blocks <= 0:
        return no_cache_error(version)
    stages = pipeline_parallel_size if version >= (0, 8, 0) else 1
    tokens = block_size * (num_gpu_blocks // stages)
    if max_model_len <= tokens:
        return None
    return StartUpError(
        kind="cache_below_one_request",
        text=f"The model's max seq len ({max_model_len}) is larger than the maximum number of tokens that can be "
        f"stored in KV cache ({tokens}). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when "
        "initializing the engine.",
        numbers={"max_model_len": max_model_len, "capacity_tokens": tokens},
    )


def sampler_error(num_requests: int) -> StartUpError:
    """V1's warm-up of the sampler without room, 0.8.0 and later."""
    return StartUpError(
        kind="out_of_memory_sampling",
        text=f"CUDA out of memory occurred when warming up sampler with {num_requests} dummy requests. Please try "
        "lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine.",
        numbers={"num_requests": num_requests},
    )


def _loading_error(memory: RankMemory, version: Version) -> StartUpError | None:
    left = memory.free_bytes - memory.weights_bytes
    return _out_of_memory("out_of_memory_loading", memory, version, left) if left < 0 else None


def _profiling_error(memory: RankMemory, flags: ResolvedFlags, version: Version) -> StartUpError | None:
    """The profile run takes its peak from all that is free, whatever share was asked for."""
    left = memory.free_bytes - memory.weights_bytes - memory.non_torch_bytes - memory.activation_peak_bytes
    if left >= 0:
        return None
    if flags.is_v1 and version >= (0, 8, 0) and 0 < memory.activation_peak_bytes <= memory.sampler_bytes:
        return sampler_error(min(flags.max_num_seqs, flags.max_num_batched_tokens))
    return _out_of_memory("out_of_memory_profiling", memory, version, left)


def _warm_up_error(
    memory: RankMemory, flags: ResolvedFlags, version: Version, pool_bytes: float
) -> StartUpError | None:
    """Graphs and the sampler's second run take what is left beside weights, cache and what is not PyTorch's."""
    left = memory.free_bytes - memory.weights_bytes - memory.non_torch_bytes - pool_bytes - memory.cuda_graph_bytes
    if left < 0:
        return _out_of_memory("out_of_memory_capturing", memory, version, left)
    if flags.is_v1 and version >= (0, 8, 0) and left < memory.sampler_bytes:
        return sampler_error(min(flags.max_num_seqs, flags.max_num_batched_tokens))
    return None


def _out_of_memory(kind: ErrorKind, memory: RankMemory, version: Version, left_bytes: float) -> StartUpError:
    name = "torch.OutOfMemoryError" if version >= (0, 6, 4) else "torch.cuda.OutOfMemoryError"
    return StartUpError(
        kind=kind,
        text=f"{name}: CUDA out of memory. GPU 0 has a total capacity of {_two_decimals(memory.total_bytes)} GiB",
        numbers={"total_bytes": memory.total_bytes, "free_bytes": memory.free_bytes, "missing_bytes": -left_bytes},
        is_verbatim=False,
    )


def _conserving(version: Version) -> str:
    if version < (0, 13, 0):
        return ""
    return " See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."


def _rounded(size_bytes: float) -> str:
    return f"{round(size_bytes / GIB, 2)}"


def _two_decimals(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.2f}"


# --- verdict ---

Fit = Literal["fits", "does_not_fit", "too_close_to_call"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """One thing that has to fit into another, in bytes."""

    name: str
    available: Estimate
    needed: Estimate

    @property
    def margin(self) -> Estimate:
        """What is left; negative where it is missing. The extremes set worst against best."""
        return Estimate(
            lower=self.available.lower - self.needed.upper,
            expected=self.available.expected - self.needed.expected,
            upper=self.available.upper - self.needed.lower,
        )

    @property
    def fit(self) -> Fit:
        """Bounds decide: it fits if it does at worst, and does not if not even at best."""
        margin = self.margin
        if margin.lower >= 0:
            return "fits"
        return "does_not_fit" if margin.upper < 0 else "too_close_to_call"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a server starts, and what decides it."""

    fit: Fit
    margin: Estimate
    """Of the requirement that decides, in bytes."""
    binding: str
    """Its name."""


def verdict(requirements: Iterable[Requirement]) -> Verdict:
    """Judge all of them: the first that cannot fit decides, else one that may not, else all fit; ties by margin.

    Args:
        requirements: In the order in which vLLM meets them: it never gets as far as the second that fails.

    Raises:
        ValueError: There is none.
    """
    judged = tuple(requirements)
    if not judged:
        raise ValueError("a verdict needs at least one requirement")
    order: tuple[Fit, ...] = ("too_close_to_call", "fits")
    failing = next((each for each in judged if each.fit == "does_not_fit"), None)
    worst = failing or min(judged, key=lambda each: (order.index(each.fit), each.margin.expected))
    return Verdict(fit=worst.fit, margin=worst.margin, binding=worst.name)

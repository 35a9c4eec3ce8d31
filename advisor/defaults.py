"""The flags in effect: what was given, else the default of that vLLM release on that device for that model.

Source: ``engine/arg_utils.py``, ``config/`` and ``platforms/`` of the releases 0.6.3 to 0.33.0; where a release that
was not read lies between two that differ, the docstring says so. "Server" is ``vllm serve``: offline use has larger
batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from advisor.cudagraphs import CudagraphMode, capture_sizes, cudagraph_mode, given_sizes
from advisor.flags import EngineFlags
from advisor.gpus import compute_capability
from advisor.traits import ModelTraits
from advisor.units import GIB
from advisor.versions import Version

FlagOrigin = Literal["given", "default", "derived"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What the defaults depend on."""

    name: str
    """Product name, as in ``NVIDIA H100 80GB HBM3``; ``cpu`` for vLLM's CPU build."""
    memory_bytes: int
    """CUDA-visible total of one device."""
    compute_capability: tuple[int, int] | None = None
    """As in (9, 0); None leaves it to the name."""

    @property
    def is_cpu(self) -> bool:
        """Whether this is the CPU build: no GPU memory, other defaults."""
        return self.name == "cpu"

    @property
    def capability(self) -> tuple[int, int] | None:
        """What it can compute; None for the CPU and where neither it nor its name says so."""
        if self.is_cpu:
            return None
        return self.compute_capability or compute_capability(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedFlags:
    """The flags that decide memory and scheduling, each with a value."""

    # KV cache
    gpu_memory_utilization: float
    kv_cache_dtype: str
    kv_cache_dtype_skip_layers: tuple[str, ...]
    block_size: int
    kv_cache_memory_bytes: int | None
    num_gpu_blocks_override: int | None
    enable_prefix_caching: bool
    disable_hybrid_kv_cache_manager: bool
    disable_sliding_window: bool
    mamba_cache_dtype: str
    mamba_ssm_cache_dtype: str
    mamba_block_size: int | None
    """None leaves it to the layout: the whole context, or the attention's block where prefixes are cached."""
    mamba_cache_mode: str
    swap_space: float
    """GiB of host memory for swapped-out requests; only V0 uses it."""
    cpu_offload_gb: float
    """GiB of weights kept in host memory."""

    # scheduler
    max_model_len: int
    """Where it is ``auto``, the model's own; the KV cache may then shorten it."""
    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_scheduled_tokens: int
    """What the scheduler fills of a step; drafts take the rest."""
    enable_chunked_prefill: bool

    # parallelism
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    decode_context_parallel_size: int
    prefill_context_parallel_size: int
    enable_expert_parallel: bool
    disable_custom_all_reduce: bool

    # how numbers are stored and what runs beside the model
    dtype: str
    quantization: str | None
    enforce_eager: bool
    cudagraph_mode: CudagraphMode
    cudagraph_capture_sizes: tuple[int, ...]
    attention_backend: str | None
    max_logprobs: int
    enable_lora: bool
    max_loras: int
    max_lora_rank: int
    speculative_config: Mapping[str, Any] | None
    limit_mm_per_prompt: str | None
    skip_mm_profiling: bool
    language_model_only: bool
    mm_encoder_tp_mode: str

    is_v1: bool
    """Whether the V1 engine runs; the only one since 0.11."""
    is_max_model_len_auto: bool
    origins: Mapping[str, FlagOrigin]

    @property
    def num_speculative_tokens(self) -> int:
        """Tokens drafted a request and step; 0 without speculative decoding."""
        return _drafted(self.speculative_config)

    def table(self) -> dict[str, dict[str, Any]]:
        """Return ``{flag: {"value", "origin"}}``."""
        return {name: {"value": getattr(self, name), "origin": origin} for name, origin in self.origins.items()}


def uses_v1(flags: EngineFlags, *, version: Version, device: Device, traits: ModelTraits | None = None) -> bool:
    """Tell whether a server runs the V1 engine.

    Before 0.8.0 it had to be asked for (``VLLM_USE_V1=1``), since 0.11.0 there is no other. Between, it was taken where
    everything asked for was supported (``EngineArgs._is_v1_supported_oracle`` of 0.8.5, 0.9.2 and 0.10.2).

    Args:
        flags: What the command line and the environment gave.
        version: vLLM's release.
        device: What one rank runs on.
        traits: What is asked of the model; None for a dense decoder.
    """
    if version >= (0, 11, 0):
        return True
    asked = flags.environment.get("VLLM_USE_V1")
    if asked is not None:
        return asked.strip() not in ("", "0")
    if version < (0, 8, 0):
        return False
    return not any(_reasons_for_v0(flags, version=version, device=device, traits=traits or ModelTraits()).values())


def _reasons_for_v0(flags: EngineFlags, *, version: Version, device: Device, traits: ModelTraits) -> dict[str, bool]:
    """What made 0.8.0 to 0.10.2 fall back to V0; 0.9.0, 0.9.1, 0.10.0 and 0.10.1 are taken to be like the next read."""
    early, middle = version < (0, 9, 0), version < (0, 10, 0)
    method = str((flags.speculative_config or {}).get("method") or "") or (
        "draft_model" if flags.speculative_config or flags.speculative_model else ""
    )
    return {
        "compute capability": middle and device.capability is not None and device.capability < (8, 0),
        "kv_cache_dtype": not _v1_stores(flags, version=version, device=device, traits=traits),
        "scheduling_policy": early and flags.scheduling_policy not in (None, "fcfs"),
        "num_scheduler_steps": middle and (flags.num_scheduler_steps or 1) > 1,
        "dtype": early and flags.dtype in ("float32", "float"),
        "quantization": early and flags.quantization == "gguf",
        "task": early and (traits.is_pooling or flags.task not in (None, "auto", "generate")),
        "state-space layers": middle and (traits.is_hybrid or traits.is_attention_free),
        "encoder-decoder": traits.is_encoder_decoder,
        "architecture": traits.architecture in _V0_ONLY_0_8 if middle else traits.architecture in _V0_ONLY_0_10,
        "speculative decoding": bool(method) if early else method == "draft_model",
        "pipeline parallelism": early
        and (flags.pipeline_parallel_size or 1) > 1
        and flags.distributed_executor_backend != "ray",
        "attention backend": flags.environment.get("VLLM_ATTENTION_BACKEND", "")
        in (("XFORMERS", "TORCH_SDPA", "DUAL_CHUNK_FLASH_ATTN") if middle else ("XFORMERS", "DUAL_CHUNK_FLASH_ATTN")),
        "CPU": device.is_cpu and (version < (0, 9, 2) or traits.has_sliding_window),
    }


_V0_ONLY_0_8 = frozenset({"BloomForCausalLM", "GritLM", "MiniMaxText01ForCausalLM", "MllamaForConditionalGeneration"})
_V0_ONLY_0_10 = frozenset({"MotifForCausalLM", "Phi4FlashForCausalLM", "MllamaForConditionalGeneration"})


def _v1_stores(flags: EngineFlags, *, version: Version, device: Device, traits: ModelTraits) -> bool:
    """Whether V1 of 0.8.0 to 0.10.2 kept a KV cache of that type: fp8 needs FlashAttention 3, so Hopper."""
    dtype = flags.kv_cache_dtype or "auto"
    if dtype == "auto":
        return True
    if version < (0, 8, 5) or not dtype.startswith("fp8"):
        return False
    backend = flags.environment.get("VLLM_ATTENTION_BACKEND")
    capability = device.capability or (0, 0)
    if version >= (0, 10, 0):
        if traits.is_mla:
            return backend in (None, "FLASHMLA", "CUTLASS_MLA")
        if capability == (10, 0) or backend == "FLASHINFER":
            return True
    return backend in (None, "FLASH_ATTN_VLLM_V1") and capability[0] == 9


def default_gpu_memory_utilization(version: Version) -> float:
    """0.90 through 0.19, 0.92 from 0.20 (``config/cache.py``)."""
    return 0.92 if version >= (0, 20, 0) else 0.90


def default_block_size(
    device: Device,
    *,
    version: Version | None = None,
    traits: ModelTraits | None = None,
    kv_cache_dtype: str = "auto",
    attention_backend: str | None = None,
) -> int:
    """Tokens of a KV block: 16 on CUDA, 128 on the CPU; compressed attention takes what its kernel reads.

    A default for ordinary attention where nothing but the device is told. Sources: ``platforms/cuda.py`` and ``cpu.py``
    ``check_and_update_config`` through 0.17, then ``update_block_size_for_backend`` and the backends' own
    ``get_supported_kernel_block_sizes`` in the order of ``_get_backend_priorities``.

    Args:
        device: What one rank runs on.
        version: vLLM's release; None for the newest studied.
        traits: What is asked of the model.
        kv_cache_dtype: As given, ``fp8`` or ``auto`` for example.
        attention_backend: As given; None leaves it to vLLM.
    """
    traits = traits or ModelTraits()
    version = version or (0, 33, 0)
    if device.is_cpu:
        return 16 if traits.is_mla and version >= (0, 28, 0) else 128
    if traits.architecture.startswith("DeepseekV4"):
        return 256
    if not traits.is_mla:
        return 16
    return _kernel_block_size(
        version, device.capability, traits, is_fp8=kv_cache_dtype.startswith("fp8"), backend=attention_backend
    )


_BLOCK_OF_BACKEND = {
    "FLASHMLA": 64,
    "FLASHMLA_SPARSE": 64,
    "FLASH_ATTN_MLA": 16,
    "FLASH_ATTN_MLA_SPARSE": 64,
    "TRITON_MLA": 16,
    "CUTLASS_MLA": 128,
    "TOKENSPEED_MLA": 32,
}


def _kernel_block_size(
    version: Version, capability: tuple[int, int] | None, traits: ModelTraits, *, is_fp8: bool, backend: str | None
) -> int:
    major = capability[0] if capability else 0
    if version < (0, 8, 0):
        return 16
    # The index that picks the tokens reads 64 at a time, whichever kernel then attends.
    if traits.is_sparse and version >= (0, 11, 0):
        return 64
    if backend == "FLASHINFER_MLA":
        return 32 if version >= (0, 18, 0) else 64
    if backend is not None:
        return _BLOCK_OF_BACKEND.get(backend.removesuffix("_VLLM_V1"), 16)
    if version < (0, 18, 0):
        if major == 9:
            return 64
        if major != 10 or version < (0, 10, 2):
            return 16
        return 64 if version >= (0, 16, 0) and traits.qk_nope_head_dim == 128 else 128
    if major == 9:
        return 64 if is_fp8 else 16
    if major == 10:
        fits_flashinfer = (64, 128) if version < (0, 19, 0) else (64, 128, 192)
        return 32 if traits.qk_nope_head_dim in fits_flashinfer else 128
    return 16


def _forces_block_size(version: Version, device: Device, traits: ModelTraits) -> bool:
    """Whether the kernel's block size replaces the one given, as for compressed attention through 0.17."""
    return not device.is_cpu and traits.is_mla and (0, 8, 0) <= version < (0, 18, 0)


def default_max_num_seqs(version: Version, device: Device, *, is_v1: bool | None = None) -> int:
    """Requests in one step: 256 in V0; in V1 256, on large GPUs 1,024 (``EngineArgs.get_batch_defaults``).

    V1 had 1,024 everywhere through 0.8.3 (0.8.1 and 0.8.2 not read). One CPU rank: 32 in 0.9.2, then 128.
    """
    if not (version >= (0, 8, 0) if is_v1 is None else is_v1):
        return 256
    if device.is_cpu:
        return 128 if version >= (0, 10, 0) else 32 if version >= (0, 9, 2) else 256
    if version < (0, 8, 4):
        return 256 if version < (0, 7, 0) else 1024
    return 1024 if _is_large(version, device) else 256


def default_max_num_batched_tokens(
    version: Version, device: Device, max_model_len: int, *, is_v1: bool | None = None
) -> int:
    """Tokens in one step of a server with chunked prefill: 8,192 on large GPUs of V1, else 2,048; V0 takes a prompt."""
    if not (version >= (0, 8, 0) if is_v1 is None else is_v1):
        return max(max_model_len, 2048)
    if device.is_cpu:
        return 2048
    if version >= (0, 28, 0) and device.memory_bytes >= 160 * GIB:
        return 16384
    return 8192 if _is_large(version, device) else 2048


def _is_large(version: Version, device: Device) -> bool:
    name = device.name.lower()
    if version < (0, 7, 0):
        return False
    if version < (0, 8, 5):
        return "h100" in name or "h200" in name
    if version >= (0, 33, 0) and device.capability == (12, 1):
        return device.memory_bytes >= 160 * GIB
    return device.memory_bytes >= 70 * GIB and (
        version < (0, 9, 0) or "a100" not in name or (version >= (0, 28, 0) and device.memory_bytes >= 160 * GIB)
    )


_POOLING_TOKENS, _MULTIMODAL_TOKENS, _BATCHED_DP_TOKENS = 32768, 5120, 256


def resolve_flags(
    flags: EngineFlags,
    *,
    version: Version,
    device: Device,
    max_position_embeddings: int,
    traits: ModelTraits | None = None,
) -> ResolvedFlags:
    """Fill in every flag that was not given.

    Args:
        flags: What the command line and the environment gave.
        version: vLLM's release.
        device: What one rank runs on.
        max_position_embeddings: Longest context that the model's config supports.
        traits: What else the defaults ask of the model; None for a dense decoder.
    """
    traits = traits or ModelTraits()
    is_v1 = uses_v1(flags, version=version, device=device, traits=traits)
    origins: dict[str, FlagOrigin] = {}

    def pick(name: str, default: Any, origin: FlagOrigin = "default") -> Any:
        value = getattr(flags, name)
        origins[name] = "given" if value is not None else origin
        return default if value is None else value

    def settle(name: str, value: Any) -> Any:
        """Take a value that vLLM puts in place of the one given."""
        if getattr(flags, name) != value:
            origins[name] = "derived"
        return value

    is_auto = flags.max_model_len == -1
    max_model_len = pick("max_model_len", max_position_embeddings, "derived")
    if is_auto:
        max_model_len = settle("max_model_len", max_position_embeddings)
    chunked = pick("enable_chunked_prefill", _chunks_prefill(flags, version, device, traits, max_model_len, is_v1))
    if device.is_cpu and traits.is_mla:
        chunked = settle("enable_chunked_prefill", False)
    seqs, tokens = _batch_sizes(flags, version, device, traits, max_model_len, is_v1, chunked=chunked)
    max_num_batched_tokens = pick("max_num_batched_tokens", tokens)
    if is_v1 and not chunked and (0, 9, 0) <= version < (0, 10, 0):
        max_num_batched_tokens = settle("max_num_batched_tokens", max_model_len)
    if is_v1 and version >= (0, 10, 0):
        seqs = min(seqs, max_num_batched_tokens)
    max_num_seqs = pick("max_num_seqs", seqs)

    kv_cache_dtype = pick("kv_cache_dtype", "auto")
    backend = pick("attention_backend", flags.environment.get("VLLM_ATTENTION_BACKEND"))
    block_size = pick(
        "block_size",
        kernel_size := default_block_size(
            device, version=version, traits=traits, kv_cache_dtype=kv_cache_dtype, attention_backend=backend
        ),
    )
    if _forces_block_size(version, device, traits) and kernel_size != 16:
        block_size = settle("block_size", kernel_size)

    prefix_caching = pick("enable_prefix_caching", _caches_prefixes(version, traits, is_v1))
    if is_v1 and traits.is_hybrid and version < (0, 12, 0):
        prefix_caching = settle("enable_prefix_caching", False)
    speculative = pick("speculative_config", _speculative(flags))
    drafted = _drafted(speculative)
    eager = pick("enforce_eager", False)
    if is_v1 and version < (0, 9, 0) and (flags.data_parallel_size or 1) > 1:
        eager = settle("enforce_eager", True)
    mode = cudagraph_mode(flags, version=version, is_v1=is_v1, is_cpu=device.is_cpu, traits=traits, enforce_eager=eager)
    origins["cudagraph_mode"] = "given" if "cudagraph_mode" in (flags.compilation_config or {}) else "default"
    sizes = capture_sizes(
        version,
        flags=flags,
        mode=mode,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        num_speculative_tokens=drafted,
        is_v1=is_v1,
        is_datacentre_blackwell=(device.capability or (0, 0))[0] == 10,
    )
    origins["cudagraph_capture_sizes"] = "given" if given_sizes(flags) else "derived"
    return ResolvedFlags(
        gpu_memory_utilization=pick("gpu_memory_utilization", default_gpu_memory_utilization(version)),
        kv_cache_dtype=kv_cache_dtype,
        kv_cache_dtype_skip_layers=pick("kv_cache_dtype_skip_layers", ()),
        block_size=block_size,
        kv_cache_memory_bytes=pick("kv_cache_memory_bytes", None),
        num_gpu_blocks_override=pick("num_gpu_blocks_override", None),
        enable_prefix_caching=prefix_caching,
        disable_hybrid_kv_cache_manager=pick("disable_hybrid_kv_cache_manager", False),
        disable_sliding_window=pick("disable_sliding_window", False),
        mamba_cache_dtype=pick("mamba_cache_dtype", "auto"),
        mamba_ssm_cache_dtype=pick("mamba_ssm_cache_dtype", "auto"),
        mamba_block_size=pick("mamba_block_size", None),
        mamba_cache_mode=_mamba_cache_mode(flags, version, traits, origins, is_cached=prefix_caching, drafted=drafted),
        swap_space=pick("swap_space", 4.0 if version < (0, 18, 0) else 0.0),
        cpu_offload_gb=pick("cpu_offload_gb", 0.0),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_scheduled_tokens=max_num_batched_tokens - _draft_slots(version, speculative) * max_num_seqs,
        enable_chunked_prefill=chunked,
        tensor_parallel_size=pick("tensor_parallel_size", 1),
        pipeline_parallel_size=pick("pipeline_parallel_size", 1),
        data_parallel_size=pick("data_parallel_size", 1),
        decode_context_parallel_size=pick("decode_context_parallel_size", 1),
        prefill_context_parallel_size=pick("prefill_context_parallel_size", 1),
        enable_expert_parallel=pick("enable_expert_parallel", False),
        disable_custom_all_reduce=pick("disable_custom_all_reduce", False),
        dtype=pick("dtype", "auto"),
        quantization=pick("quantization", None),
        enforce_eager=eager,
        cudagraph_mode=mode,
        cudagraph_capture_sizes=sizes,
        attention_backend=backend,
        max_logprobs=pick("max_logprobs", 20),
        enable_lora=pick("enable_lora", False),
        max_loras=pick("max_loras", 1),
        max_lora_rank=pick("max_lora_rank", 16),
        speculative_config=speculative,
        limit_mm_per_prompt=pick("limit_mm_per_prompt", None),
        skip_mm_profiling=pick("skip_mm_profiling", False),
        language_model_only=pick("language_model_only", False),
        mm_encoder_tp_mode=pick("mm_encoder_tp_mode", "weights"),
        is_v1=is_v1,
        is_max_model_len_auto=is_auto,
        origins=origins,
    )


def _chunks_prefill(
    flags: EngineFlags, version: Version, device: Device, traits: ModelTraits, max_model_len: int, is_v1: bool
) -> bool:
    """Whether a prompt may be computed in pieces: in V0 only long contexts of plain decoders, in V1 by default."""
    if is_v1:
        if traits.is_pooling and version >= (0, 9, 0):
            return traits.pools_last_token
        return not (traits.is_encoder_decoder and version >= (0, 12, 0))
    keeps_whole = (
        traits.is_multimodal
        or traits.is_mla
        or traits.has_sliding_window
        or traits.is_pooling
        or flags.enable_lora
        or _speculative(flags) is not None
        or device.is_cpu
    )
    return max_model_len > 32768 and not keeps_whole


def _caches_prefixes(version: Version, traits: ModelTraits, is_v1: bool) -> bool:
    """V1 does by default where the layers can: hybrids from 0.29 on (0.28 not read), states alone never."""
    if not is_v1:
        return False
    if traits.is_pooling and version >= (0, 9, 0):
        return traits.pools_last_token
    if traits.is_hybrid:
        return version >= (0, 28, 0)
    return not traits.is_attention_free and not (traits.is_encoder_decoder and version >= (0, 12, 0))


def _batch_sizes(
    flags: EngineFlags,
    version: Version,
    device: Device,
    traits: ModelTraits,
    max_model_len: int,
    is_v1: bool,
    *,
    chunked: bool,
) -> tuple[int, int]:
    """Return the defaults of max_num_seqs and max_num_batched_tokens, the first before the second limits it."""
    seqs = default_max_num_seqs(version, device, is_v1=is_v1)
    if not is_v1:
        tokens = (512 if version < (0, 6, 5) else 2048) if chunked else max(max_model_len, 2048)
        tokens = max(tokens, _POOLING_TOKENS) if traits.is_pooling else tokens
        tokens = max(tokens, _MULTIMODAL_TOKENS) if traits.is_multimodal else tokens
        if version >= (0, 9, 0):
            tokens = min(tokens, (flags.max_num_seqs or seqs) * max_model_len)
        return seqs, tokens
    tokens = default_max_num_batched_tokens(version, device, max_model_len, is_v1=True)
    world = (flags.tensor_parallel_size or 1) * (flags.pipeline_parallel_size or 1)
    if device.is_cpu and version >= (0, 10, 0):
        seqs, tokens = seqs * world, tokens * world
    if (
        version >= (0, 20, 0)
        and flags.all2all_backend in ("deepep_low_latency", "nixl_ep")
        and flags.enable_expert_parallel
        and (flags.data_parallel_size or 1) > 1
    ):
        tokens = _BATCHED_DP_TOKENS
    if version >= (0, 17, 0) and flags.performance_mode == "throughput":
        seqs, tokens = 2 * seqs, 2 * tokens
    if device.is_cpu and traits.is_mla:
        return seqs, max(max_model_len, 2048)
    if not chunked:
        tokens = max_model_len if version < (0, 12, 0) else max(max_model_len, tokens)
    if version >= (0, 22, 0) and traits.is_mm_prefix_lm and not flags.language_model_only:
        tokens = max(tokens, traits.max_mm_item_tokens or 0)
    if version >= (0, 12, 0):
        tokens = min(tokens, (flags.max_num_seqs or seqs) * max_model_len)
    return seqs, tokens


def _speculative(flags: EngineFlags) -> Mapping[str, Any] | None:
    """Return the speculative configuration, also from the flags that it replaced in 0.8."""
    if flags.speculative_config is not None or flags.speculative_model is None:
        return flags.speculative_config
    return {"model": flags.speculative_model, "num_speculative_tokens": flags.num_speculative_tokens}


def _drafted(speculative: Mapping[str, Any] | None) -> int:
    return int((speculative or {}).get("num_speculative_tokens") or 0)


def _draft_slots(version: Version, speculative: Mapping[str, Any] | None) -> int:
    """Tokens that 0.17 to 0.28 set aside of every step for each request (``max_num_new_slots_for_drafting``)."""
    if not speculative or not (0, 17, 0) <= version < (0, 29, 0):
        return 0
    slots = _drafted(speculative) - 1 if speculative.get("parallel_drafting") else 0
    return slots + (speculative.get("method") == "draft_model")


_ALL_STATES = frozenset(
    {"JambaForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM", "Zamba2ForCausalLM"}
    | {"GraniteMoeHybridForCausalLM", "FalconH1ForCausalLM"}
)
_ALL_STATES_BEFORE_0_26 = _ALL_STATES | {"BambaForCausalLM", "NemotronHForCausalLM"}


def _mamba_cache_mode(
    flags: EngineFlags,
    version: Version,
    traits: ModelTraits,
    origins: dict[str, FlagOrigin],
    *,
    is_cached: bool,
    drafted: int,
) -> str:
    """Which states are kept for reuse: all, those where blocks end (``align``), or none.

    Source: ``models/config.py:MambaModelConfig``; from 0.29 (0.28 not read) always ``align`` where prefixes are cached.
    """
    given = flags.mamba_cache_mode
    origins["mamba_cache_mode"] = "default" if given is None else "given"
    if not is_cached or not (traits.is_hybrid or traits.is_attention_free):
        return "none"
    keeps_all = traits.architecture in (_ALL_STATES if version >= (0, 26, 0) else _ALL_STATES_BEFORE_0_26)
    if given not in (None, "none"):
        return given if given != "all" or keeps_all else "align"
    drafts_align = (0, 20, 0) <= version < (0, 26, 0) and drafted > 0
    return "all" if keeps_all and version < (0, 28, 0) and not drafts_align else "align"

"""What one engine's KV cache holds: as it reports, and as theory says it should."""

import re
from dataclasses import dataclass

from advisor.defaults import Device, ResolvedFlags, resolve_flags
from advisor.estimate import Estimate, Origin, exactly
from advisor.flags import EngineFlags
from advisor.kv import KvLayout, kv_element_bytes, kv_layout
from advisor.memory import MemoryPlan, memory_plan
from advisor.readings import CacheConfig, Gpu
from advisor.spec import ModelSpec
from advisor.units import GIB
from advisor.versions import NEWEST_STUDIED, Version
from advisor.weights import TensorIndex, model_dtype, stage_weights

_POOLING_TASKS = frozenset({"embed", "embedding", "classify", "reward", "score"})

NULL_BLOCK = 1
"""Block 0 never holds tokens (``v1/core/block_pool.py:BlockPool``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Theory:
    """What an engine should hold, from its model, flags and device alone."""

    flags: ResolvedFlags
    layout: KvLayout
    plan: MemoryPlan | None
    """None on the CPU, whose KV memory is given and not found."""
    kv_tokens: Estimate
    full_context_concurrency: float


def reported_capacity(cache: CacheConfig) -> tuple[float, Origin] | None:
    """Return the tokens that vLLM says it has room for, None where it does not say.

    0.24 and later print ``kv_cache_size_tokens``; before, blocks x block size is the same number for models with one
    kind of layer, and only for those.
    """
    if cache.kv_cache_size_tokens is not None:
        return cache.kv_cache_size_tokens, Origin.REPORTED
    if cache.num_gpu_blocks is not None and cache.block_size is not None:
        return cache.num_gpu_blocks * cache.block_size, Origin.DERIVED
    return None


def cuda_total_bytes(gpu: Gpu) -> int | None:
    """Return the memory that CUDA sees: what NVML counts as installed, without what the driver reserves."""
    if gpu.memory_total_bytes is None:
        return None
    return gpu.memory_total_bytes - (gpu.memory_reserved_bytes or 0)


def _allows_no_items(limit_mm_per_prompt: str | None) -> bool:
    """Whether ``{"image": 0, "video": 0}`` or ``image=0,video=0`` forbids all, so that no encoder is loaded (0.11)."""
    counts = re.findall(r"[:=]\s*(\d+)", limit_mm_per_prompt or "")
    return bool(counts) and all(count == "0" for count in counts)


def engine_theory(
    spec: ModelSpec,
    *,
    flags: EngineFlags,
    version: Version | None,
    device: Device,
    files: TensorIndex | None,
    kv_cache_bytes: int | None = None,
) -> Theory:
    """Return what this engine should hold.

    Args:
        spec: Geometry of the model.
        flags: What the command line gave.
        version: vLLM's release; the newest studied one where it is unknown.
        device: What one rank runs on.
        files: What the weights' files say, where they can be read.
        kv_cache_bytes: KV bytes of one rank where the engine says them; they replace the memory plan's.

    Raises:
        ValueError: The flags contradict the model, or a part is of a kind these rules do not describe.
    """
    version = version or NEWEST_STUDIED
    resolved = resolve_flags(
        flags, version=version, device=device, max_position_embeddings=spec.max_position_embeddings
    )
    dtype = model_dtype(spec, flags.dtype, version, files)
    element_bytes = kv_element_bytes(resolved.kv_cache_dtype, dtype)
    layout = kv_layout(
        spec.layers,
        block_size=resolved.block_size,
        tensor_parallel_size=resolved.tensor_parallel_size,
        pipeline_parallel_size=resolved.pipeline_parallel_size,
        element_bytes=element_bytes,
    )
    plan = None
    kv_cache_bytes = kv_cache_bytes or resolved.kv_cache_memory_bytes
    if device.is_cpu:
        kv_cache_bytes = kv_cache_bytes or int(float(flags.environment.get("VLLM_CPU_KVCACHE_SPACE", 4)) * GIB)
        kv_bytes = exactly(kv_cache_bytes)
    else:
        stages = stage_weights(
            spec,
            dtype=dtype,
            tensor_parallel_size=resolved.tensor_parallel_size,
            pipeline_parallel_size=resolved.pipeline_parallel_size,
            version=version,
            enable_expert_parallel=bool(flags.enable_expert_parallel),
            data_parallel_size=flags.data_parallel_size or 1,
            quantization=flags.quantization,
            tensors=files,
            load_draft_layers=str((flags.speculative_config or {}).get("method", "")).endswith("mtp"),
            language_model_only=bool(flags.language_model_only)
            or (version >= (0, 11, 0) and _allows_no_items(flags.limit_mm_per_prompt)),
            replicate_encoder=flags.mm_encoder_tp_mode == "data",
            pooling=flags.runner == "pooling" or flags.task in _POOLING_TASKS,
            max_loras=(flags.max_loras or 1) if flags.enable_lora else 0,
            max_lora_rank=flags.max_lora_rank or 16,
            max_num_batched_tokens=resolved.max_num_batched_tokens,
        )
        plan = memory_plan(
            spec,
            version=version,
            total_bytes=device.memory_bytes,
            gpu_memory_utilization=resolved.gpu_memory_utilization,
            weights=max(stages, key=lambda each: each.expected),
            max_num_batched_tokens=resolved.max_num_batched_tokens,
            max_num_seqs=resolved.max_num_seqs,
            tensor_parallel_size=resolved.tensor_parallel_size,
            element_bytes=element_bytes,
            enforce_eager=resolved.enforce_eager,
            kv_cache_memory_bytes=kv_cache_bytes,
        )
        kv_bytes = plan.kv_cache

    def tokens(size_bytes: float) -> int:
        blocks = resolved.num_gpu_blocks_override or layout.num_blocks(size_bytes)
        return layout.size_tokens(blocks, resolved.max_model_len)

    blocks = resolved.num_gpu_blocks_override or layout.num_blocks(kv_bytes.expected)
    return Theory(
        flags=resolved,
        layout=layout,
        plan=plan,
        kv_tokens=Estimate(
            lower=tokens(kv_bytes.lower),
            expected=tokens(kv_bytes.expected),
            upper=tokens(kv_bytes.upper),
            origin=Origin.DERIVED if resolved.num_gpu_blocks_override else kv_bytes.origin,
        ),
        full_context_concurrency=layout.max_concurrency(blocks, resolved.max_model_len),
    )

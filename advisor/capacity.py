"""What one engine's KV cache holds as it reports, and the memory of a GPU as CUDA sees it."""

from advisor.estimate import Origin
from advisor.readings import CacheConfig, Gpu


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

"""The flags in effect: what was given, else the default of that vLLM release on that device.

Source: ``engine/arg_utils.py`` and ``config/`` of the releases named; see the table in each function.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from advisor.flags import EngineFlags
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

    @property
    def is_cpu(self) -> bool:
        """Whether this is the CPU build: no GPU memory, other defaults."""
        return self.name == "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedFlags:
    """The flags that decide memory and scheduling, each with a value."""

    gpu_memory_utilization: float
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    kv_cache_dtype: str
    enforce_eager: bool
    kv_cache_memory_bytes: int | None
    num_gpu_blocks_override: int | None
    origins: Mapping[str, FlagOrigin]

    def table(self) -> dict[str, dict[str, Any]]:
        """Return ``{flag: {"value", "origin"}}``."""
        return {name: {"value": getattr(self, name), "origin": origin} for name, origin in self.origins.items()}


def default_gpu_memory_utilization(version: Version) -> float:
    """0.90 through 0.19, 0.92 from 0.20 (``config/cache.py``)."""
    return 0.92 if version >= (0, 20, 0) else 0.90


def default_block_size(device: Device) -> int:
    """16 tokens on CUDA, 128 on the CPU (``platforms/*.py:check_and_update_config``)."""
    return 128 if device.is_cpu else 16


def default_max_num_seqs(version: Version, device: Device) -> int:
    """256 before V1; 1,024 on large GPUs from 0.8.0 (``EngineArgs.get_batch_defaults`` and its predecessors)."""
    if version < (0, 8, 0):
        return 256
    if device.is_cpu:
        return 128 if version >= (0, 10, 0) else 256
    if version < (0, 8, 4):
        return 1024
    return 1024 if _is_large(version, device) else 256


def default_max_num_batched_tokens(version: Version, device: Device, max_model_len: int) -> int:
    """Tokens in one step of an API server: 8,192 on large GPUs of V1, else 2,048; V0 takes a whole prompt."""
    if version < (0, 8, 0):
        return max(max_model_len, 2048)
    if device.is_cpu:
        return 2048
    if version >= (0, 28, 0) and device.memory_bytes >= 160 * GIB:
        return 16384
    return 8192 if _is_large(version, device) else 2048


def _is_large(version: Version, device: Device) -> bool:
    name = device.name.lower()
    if version < (0, 8, 5):
        return "h100" in name or "h200" in name
    return device.memory_bytes >= 70 * GIB and (version < (0, 9, 0) or "a100" not in name)


def resolve_flags(
    flags: EngineFlags, *, version: Version, device: Device, max_position_embeddings: int
) -> ResolvedFlags:
    """Fill in every flag that was not given."""
    origins: dict[str, FlagOrigin] = {}

    def pick(name: str, default: Any, origin: FlagOrigin = "default") -> Any:
        value = getattr(flags, name)
        origins[name] = "given" if value is not None else origin
        return default if value is None else value

    max_model_len = pick("max_model_len", max_position_embeddings, "derived")
    world = (flags.tensor_parallel_size or 1) * (flags.pipeline_parallel_size or 1)
    scale = world if device.is_cpu else 1
    seqs = default_max_num_seqs(version, device) * scale
    tokens = default_max_num_batched_tokens(version, device, max_model_len) * scale
    if flags.max_num_seqs is not None and version >= (0, 8, 0):
        tokens = min(tokens, flags.max_num_seqs * max_model_len)
    max_num_batched_tokens = pick("max_num_batched_tokens", tokens)
    if version >= (0, 8, 0):
        seqs = min(seqs, max_num_batched_tokens)
    return ResolvedFlags(
        gpu_memory_utilization=pick("gpu_memory_utilization", default_gpu_memory_utilization(version)),
        max_model_len=max_model_len,
        max_num_seqs=pick("max_num_seqs", seqs),
        max_num_batched_tokens=max_num_batched_tokens,
        block_size=pick("block_size", default_block_size(device)),
        tensor_parallel_size=pick("tensor_parallel_size", 1),
        pipeline_parallel_size=pick("pipeline_parallel_size", 1),
        kv_cache_dtype=pick("kv_cache_dtype", "auto"),
        enforce_eager=pick("enforce_eager", False),
        kv_cache_memory_bytes=pick("kv_cache_memory_bytes", None),
        num_gpu_blocks_override=pick("num_gpu_blocks_override", None),
        origins=origins,
    )

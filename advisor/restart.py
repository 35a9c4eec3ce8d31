"""Whether a server that runs would start again now: vLLM's own checks, with the memory that would be free then."""

from collections.abc import Iterable
from dataclasses import dataclass

from advisor.calibration import overheads
from advisor.memory import budget
from advisor.plan import EnginePlan
from advisor.start_up import FREE_IS_CHECKED_SINCE
from advisor.versions import Version


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuAtRestart:
    """One GPU of an engine."""

    total_bytes: float
    """CUDA-visible."""
    free_bytes: float
    held_bytes: float
    """What the server's own processes hold: free once they have ended."""

    @property
    def free_at_start_bytes(self) -> float:
        """What vLLM finds: its first look at free memory comes after its CUDA context is made."""
        return self.free_bytes + self.held_bytes - overheads.CUDA_CONTEXT.expected


def restart_shortfall_bytes(
    gpus: Iterable[GpuAtRestart],
    *,
    version: Version,
    gpu_memory_utilization: float,
    theory: EnginePlan | None,
    pool_bytes: float | None,
) -> float | None:
    """Return by how many bytes of one GPU the start-up checks would fail, 0 where they pass; None without GPUs.

    Args:
        gpus: Those that the engine runs on.
        version: vLLM's release.
        gpu_memory_utilization: In effect.
        theory: What it should hold; None where that cannot be said: then only free memory is checked.
        pool_bytes: The KV pool of one GPU as it came out of the present start, None where it is not told.
    """
    shortfalls = []
    for gpu in gpus:
        allowed = budget(gpu.total_bytes, gpu_memory_utilization)
        missing = allowed - gpu.free_at_start_bytes
        if version >= FREE_IS_CHECKED_SINCE:
            shortfalls.append(missing)
            kv_bytes = pool_bytes
        else:
            # The pool shrinks by whatever is no longer free.
            kv_bytes = None if pool_bytes is None else pool_bytes - max(0.0, missing)
        if theory is None or theory.flags.num_gpu_blocks_override is not None:
            continue
        if kv_bytes is None:
            kv_bytes = theory.kv_bytes.upper
        shortfalls.append(theory.layout.bytes_needed() - kv_bytes)
    return max(0.0, *shortfalls) if shortfalls else None

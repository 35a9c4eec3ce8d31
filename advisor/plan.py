"""What a vLLM command line will hold on a GPU, and whether it starts: theory in one call.

The daemon compares a running server with it, ``vllm-headroom plan`` prints it before there is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from advisor.activation import Step
from advisor.defaults import Device, ResolvedFlags, resolve_flags
from advisor.estimate import Estimate, Origin, exactly
from advisor.flags import EngineFlags
from advisor.kv import KvLayout, KvSettings, kv_layout
from advisor.memory import MemoryPlan, memory_plan
from advisor.runner import Runner, model_runner
from advisor.spec import ModelSpec
from advisor.start_up import StartUp, start_up
from advisor.units import GIB
from advisor.versions import NEWEST_STUDIED, Version
from advisor.weights import Tensors, model_dtype, stage_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class EnginePlan:
    """What one engine should hold, from its model, flags and device alone."""

    flags: ResolvedFlags
    runner: Runner
    layout: KvLayout
    memory: MemoryPlan | None
    """Of the rank with the least left for KV; None on the CPU, whose KV memory is given and not found."""
    kv_bytes: Estimate
    """KV cache of one GPU."""
    num_gpu_blocks: Estimate
    kv_tokens: Estimate
    """``GPU KV cache size`` as that release prints it."""
    full_context_concurrency: Estimate
    start_up: StartUp
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``fits``, ``does_not_fit`` or ``too_close_to_call``."""
        return self.start_up.verdict

    @property
    def error(self) -> str | None:
        """What vLLM would say, None where it would start."""
        return self.start_up.error

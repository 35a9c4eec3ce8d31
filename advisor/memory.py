"""Where a GPU's memory goes: parts first, the KV cache is what they leave."""

import math
from dataclasses import dataclass
from functools import cached_property

from advisor.activation import Step, activation_peak
from advisor.calibration import overheads
from advisor.cudagraphs import GraphCount
from advisor.estimate import Estimate, added, exactly
from advisor.runner import Runner
from advisor.spec import ModelSpec
from advisor.versions import Version

GRAPHS_CAN_BE_ESTIMATED_SINCE: Version = (0, 18, 0)
GRAPHS_IN_BUDGET_SINCE: Version = (0, 20, 0)
"""From here on vLLM subtracts its estimate of CUDA-graph memory from the KV cache (``v1/worker/gpu_worker.py``)."""
V2_ESTIMATES_GRAPHS_SINCE: Version = (0, 29, 0)
"""Until here Model Runner V2 answers zero (``v1/worker/gpu/model_runner.py:profile_cudagraph_memory``)."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """One GPU's memory as one engine will divide it, in bytes."""

    total: Estimate
    """CUDA-visible."""
    budget: Estimate
    """``gpu_memory_utilization`` x total, rounded up as vLLM does."""
    weights: Estimate
    activation_peak: Estimate
    non_torch: Estimate
    cuda_graphs: Estimate
    """What the captures will hold."""
    graphs_in_budget: bool
    """Whether start-up subtracts its estimate of them from the KV cache."""
    available_for_kv: Estimate
    """What the budget leaves, below zero where the parts exceed it."""
    kv_cache: Estimate

    @property
    def total_bytes(self) -> float:
        """The total as expected."""
        return self.total.expected

    @property
    def budget_bytes(self) -> float:
        """The budget as expected."""
        return self.budget.expected

    @cached_property
    def budget_and_beside(self) -> Estimate:
        """Bytes that the process comes to hold when vLLM sized the KV pool by its budget.

        Outside the budget stand the CUDA context, taken before the start-up snapshot, and CUDA graphs: all of them
        where that release does not subtract them, else what they exceed their estimate by.
        """
        captures = self.cuda_graphs.upper > 0
        graphs = overheads.CUDA_GRAPHS_OVER_ESTIMATE if self.graphs_in_budget and captures else self.cuda_graphs
        return added((exactly(self.budget_bytes), overheads.CUDA_CONTEXT, graphs))

    @cached_property
    def beside_kv(self) -> Estimate:
        """Bytes that the engine's process comes to hold beside the KV pool, CUDA context included."""
        parts = (self.weights, self.activation_peak, self.non_torch, self.cuda_graphs, overheads.CUDA_CONTEXT)
        return added(parts)

    @property
    def startup_peak(self) -> Estimate:
        """Most that the process holds while it starts: everything, once the sampler warms up behind the KV pool."""
        return added((self.beside_kv, self.kv_cache))


def budget(total_bytes: float, gpu_memory_utilization: float) -> float:
    """Return the bytes that vLLM allows itself (``v1/worker/utils.py:request_memory``: rounded up).

    Raises:
        ValueError: It is no share of anything.
    """
    if not math.isfinite(total_bytes * gpu_memory_utilization):
        raise ValueError(f"--gpu-memory-utilization {gpu_memory_utilization:g}: it is at most 1")
    return float(-int(-(total_bytes * gpu_memory_utilization) // 1))


def memory_plan(
    spec: ModelSpec,
    *,
    step: Step,
    total: Estimate,
    gpu_memory_utilization: float,
    weights: Estimate,
    captures: GraphCount,
    kv_cache_memory_bytes: int | None = None,
    estimates_graphs: bool | None = None,
    residual: Estimate | None = None,
) -> MemoryPlan:
    """Divide one GPU's memory as vLLM's start-up does (``gpu_worker.py:determine_available_memory``).

    Args:
        spec: Geometry of the model.
        step: What the profile run rehearses on this rank.
        total: CUDA-visible bytes of the GPU.
        gpu_memory_utilization: The flag in effect.
        weights: Bytes of this rank's weights.
        captures: How many CUDA graphs are captured.
        kv_cache_memory_bytes: The flag of that name, which replaces what the budget leaves.
        estimates_graphs: VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS, where it is set; releases before 0.18 have none.
        residual: What engines like this one turned out to have beyond the estimate; it replaces the estimate's bounds.
    """
    graphs = overheads.cuda_graphs(
        num_layers=-(-len(spec.layers) // step.pipeline_parallel_size),
        mixture=spec.experts is not None,
        captures=captures,
        tensor_parallel_size=step.tensor_parallel_size,
        capability_major=step.capability_major,
    )
    v2_counts = step.runner is not Runner.V2 or step.version >= V2_ESTIMATES_GRAPHS_SINCE
    by_default = step.version >= GRAPHS_IN_BUDGET_SINCE
    asked = None if step.version < GRAPHS_CAN_BE_ESTIMATED_SINCE else estimates_graphs
    in_budget = (by_default if asked is None else asked) and v2_counts
    activation = activation_peak(spec, step)
    non_torch = overheads.non_torch(
        step.version,
        step.runner,
        capability_major=step.capability_major,
        tensor_parallel_size=step.tensor_parallel_size,
        pipeline_parallel_size=step.pipeline_parallel_size,
        compiled=captures.piecewise + captures.full > 0,
    )
    allowed = total.mapped(lambda size: budget(size, gpu_memory_utilization))
    beside = added((weights, activation, non_torch, *((graphs,) if in_budget else ())))
    available = allowed.minus(beside, floor=float("-inf"))
    if residual is not None:
        without = available.expected
        available = residual.mapped(lambda missed: without + missed)
    kv_cache = available.at_least(0.0) if kv_cache_memory_bytes is None else exactly(kv_cache_memory_bytes)
    return MemoryPlan(
        total=total,
        budget=allowed,
        weights=weights,
        activation_peak=activation,
        non_torch=non_torch,
        cuda_graphs=graphs,
        graphs_in_budget=in_budget,
        available_for_kv=available,
        kv_cache=kv_cache,
    )

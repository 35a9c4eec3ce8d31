"""Where a GPU's memory goes: parts first, the KV cache is what they leave."""

from dataclasses import dataclass

from advisor.calibration import overheads
from advisor.estimate import Estimate, Origin, added, exactly
from advisor.model import ModelSpec
from advisor.versions import Version

GRAPHS_IN_BUDGET_SINCE: Version = (0, 20, 0)
"""From here on vLLM subtracts its estimate of CUDA-graph memory from the KV cache (``v1/worker/gpu_worker.py``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """One GPU's memory as one engine will divide it, in bytes."""

    total_bytes: float
    """CUDA-visible total."""
    budget_bytes: float
    """``gpu_memory_utilization`` x total, rounded up as vLLM does."""
    weights: Estimate
    activation_peak: Estimate
    non_torch: Estimate
    cuda_graphs: Estimate
    graphs_in_budget: bool
    kv_cache: Estimate

    @property
    def budget_and_beside(self) -> Estimate:
        """Bytes that the process comes to hold when vLLM sized the KV pool by its budget.

        Outside the budget stand the CUDA context, taken before the start-up snapshot, and CUDA graphs: all of them
        where that release does not subtract them, else what they exceed their estimate by.
        """
        captures = self.cuda_graphs.upper > 0
        graphs = overheads.CUDA_GRAPHS_OVER_ESTIMATE if self.graphs_in_budget and captures else self.cuda_graphs
        return added((exactly(self.budget_bytes), overheads.CUDA_CONTEXT, graphs))

    @property
    def beside_kv(self) -> Estimate:
        """Bytes that the engine's process comes to hold beside the KV pool, CUDA context included."""
        parts = (self.weights, self.activation_peak, self.non_torch, self.cuda_graphs, overheads.CUDA_CONTEXT)
        return added(parts)


def activation_peak(
    spec: ModelSpec,
    *,
    version: Version,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    tensor_parallel_size: int,
    element_bytes: int,
) -> Estimate:
    """Return the profile run's peak over what stays allocated: the larger of layer work and sampler work.

    Layers work on max_num_batched_tokens rows: residual, its copy, and the gated MLP's two halves with their
    product. The sampler works on min(max_num_seqs, max_num_batched_tokens) rows of the whole vocabulary, gathered to
    every rank, so it does not shrink with tensor parallelism.
    """
    mlp_width = 3 * spec.intermediate_size / tensor_parallel_size
    layers = max_num_batched_tokens * element_bytes * (mlp_width + 3 * spec.hidden_size)
    rows = min(max_num_seqs, max_num_batched_tokens)
    sampler = rows * spec.vocab_size * overheads.sampler_bytes_per_entry(version)
    expected = max(layers, sampler)
    return Estimate(lower=0.6 * expected, expected=expected, upper=1.6 * max(layers, sampler))


def memory_plan(
    spec: ModelSpec,
    *,
    version: Version,
    total_bytes: int,
    gpu_memory_utilization: float,
    weights: Estimate,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    tensor_parallel_size: int,
    element_bytes: int,
    enforce_eager: bool,
    kv_cache_memory_bytes: int | None,
) -> MemoryPlan:
    """Divide one GPU's memory as vLLM's start-up does (``gpu_worker.py:determine_available_memory``)."""
    graphs_in_budget = version >= GRAPHS_IN_BUDGET_SINCE
    graphs = exactly(0) if enforce_eager else overheads.CUDA_GRAPHS
    activation = activation_peak(
        spec,
        version=version,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        tensor_parallel_size=tensor_parallel_size,
        element_bytes=element_bytes,
    )
    non_torch = overheads.non_torch(tensor_parallel_size)
    budget = float(-int(-(total_bytes * gpu_memory_utilization) // 1))
    if kv_cache_memory_bytes is not None:
        kv_cache = exactly(kv_cache_memory_bytes, Origin.DERIVED)
    else:
        beside = (weights, activation, non_torch, *((graphs,) if graphs_in_budget else ()))
        kv_cache = exactly(budget).minus(added(beside))
    return MemoryPlan(
        total_bytes=total_bytes,
        budget_bytes=budget,
        weights=weights,
        activation_peak=activation,
        non_torch=non_torch,
        cuda_graphs=graphs,
        graphs_in_budget=graphs_in_budget,
        kv_cache=kv_cache,
    )

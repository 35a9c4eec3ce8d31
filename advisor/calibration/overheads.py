"""What a vLLM worker holds beside weights and KV cache.

Sources of the ranges: start-up logs of public deployments and the published validation runs of llm-d-planner
(docs/empirical-vllm-memory-results.md and accuracy/results/v0.19.0 of llm-d-incubation/llm-d-planner).
"""

from advisor.estimate import Estimate
from advisor.units import GIB, MIB
from advisor.versions import Version

FUSED_SAMPLER_SINCE: Version = (0, 17, 0)


def sampler_bytes_per_entry(version: Version) -> float:
    """Return the sampler's peak bytes for each sequence and vocabulary entry during the profile run.

    39 with the native top-k/top-p sampler (Qwen3-14B, 0.11: 5.64 GiB at 1,024 x 151,936), 15 from 0.17 on
    (Qwen3-14B, 0.17: 2.23 GiB at the same size).
    """
    return 15.0 if version >= FUSED_SAMPLER_SINCE else 39.0


def non_torch(tensor_parallel_size: int) -> Estimate:
    """Memory outside PyTorch that grows after the start-up snapshot: workspaces, NCCL buffers with several ranks."""
    if tensor_parallel_size == 1:
        return Estimate(lower=0.02 * GIB, expected=0.14 * GIB, upper=0.5 * GIB)
    return Estimate(lower=0.3 * GIB, expected=0.6 * GIB, upper=2.0 * GIB)


CUDA_CONTEXT = Estimate(lower=250 * MIB, expected=480 * MIB, upper=800 * MIB)
"""The CUDA context and loaded kernels of one process: taken before vLLM's start-up snapshot, so beside its budget."""

CUDA_GRAPHS_OVER_ESTIMATE = Estimate(lower=0.0, expected=0.0, upper=0.4 * GIB)
"""What captured graphs take beyond vLLM's own estimate: 0.05 GiB of 0.36 in its documentation's example."""

CUDA_GRAPHS = Estimate(lower=0.1 * GIB, expected=0.6 * GIB, upper=1.6 * GIB)
"""Captured CUDA graphs of a dense model at the default capture sizes."""

"""What a vLLM worker holds beside weights, activations and KV cache, measured.

Sources: the published validation runs of llm-d-planner (vLLM 0.15 to 0.19 on H100:
github.com/llm-d-incubation/llm-d-planner, accuracy/results) and start-up logs of public deployments on other GPUs;
bench/accuracy/deployments.jsonl lists each with its link.
"""

from advisor.cudagraphs import GraphCount
from advisor.estimate import Estimate, exactly
from advisor.runner import Runner
from advisor.units import GIB, MIB
from advisor.versions import Version


def _gib(lower: float, expected: float, upper: float) -> Estimate:
    return Estimate(lower=lower * GIB, expected=expected * GIB, upper=upper * GIB)


def non_torch(
    version: Version,
    runner: Runner,
    *,
    capability_major: int,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    compiled: bool,
) -> Estimate:
    """Return the memory outside PyTorch that grows between the start-up snapshot and the end of the profile run.

    One rank: kernels' modules and workspaces. Several: NCCL's buffers through 0.10, after that only custom all-reduce
    (the snapshot moved behind NCCL's start in 0.11.0, ``v1/worker/gpu_worker.py:init_device``), and from 0.18 on
    Hopper and Blackwell FlashInfer's workspaces for fused all-reduce.
    """
    datacentre = capability_major in (9, 10)
    if runner is Runner.V0:
        return _gib(0.0, 0.10, 0.35) if tensor_parallel_size == 1 else _gib(0.05, 0.25, 0.80)
    if version < (0, 9, 1):  # the CUDA context counts too: all that is used on the device but not PyTorch's
        if tensor_parallel_size == 1:
            return _gib(0.15, 0.50, 0.90)
        return _gib(0.60, 1.20, 2.60 if tensor_parallel_size <= 8 else 6.0)
    if tensor_parallel_size == 1:
        if version < (0, 11, 0):
            return _gib(0.0, 0.05, 0.15)
        if pipeline_parallel_size > 1:
            return _gib(0.03, 0.07, 0.30)
        if version < (0, 18, 0):
            return _gib(0.02, 0.13 if datacentre else 0.06, 0.20)
        return _gib(0.20, 0.25, 0.55) if datacentre else _gib(0.02, 0.09, 0.30)
    if not datacentre:
        return _gib(0.02, 0.12, 0.60)
    if version < (0, 11, 0):
        expected = 1.0 + 0.16 * min(tensor_parallel_size, 8)
        return _gib(0.50, expected, expected + (0.5 if tensor_parallel_size <= 8 else 4.0))
    if version < (0, 18, 0):
        return _gib(0.40, 0.54, 1.60)
    if not compiled:
        return _gib(0.40, 0.86, 1.40)
    if tensor_parallel_size >= 8:
        return _gib(1.20, 1.50, 2.30)
    return _gib(1.60, 2.09, 2.35)


def cuda_graphs(
    *, num_layers: int, mixture: bool, captures: GraphCount, tensor_parallel_size: int, capability_major: int
) -> Estimate:
    """Return vLLM's estimate of what its captures take, by their numbers.

    Fitted to 0.18-0.20 on an H100 at 51 piecewise and 35 full captures (Llama-3.1-8B 0.84 GiB, Llama-3.3-70B 1.8,
    Gemma-2-2B 0.52, Qwen3-30B-A3B 1.24; eight ranks Llama-3.3-70B 0.9), on an RTX 3090 (Qwen2.5-7B 0.55), confirmed at
    7 and 5 (Qwen3-Coder-30B-A3B on 0.26: 0.15). The estimate
    extrapolates from two captures and is off by up to three times at times, upwards mostly.
    """
    if captures.piecewise + captures.full == 0:
        return exactly(0)
    piecewise, full = captures.piecewise, captures.full
    expected = (0.25 + (0.15 if mixture else 0.0)) * full / 35 + 0.0165 * num_layers * max(piecewise, full) / 51
    if tensor_parallel_size >= 8:
        expected *= 0.55
    elif capability_major not in (9, 10):
        expected *= 0.8
    return _gib(0.55 * expected, expected, 1.35 * expected + 0.35 * max(piecewise, full) / 51)


CUDA_CONTEXT = Estimate(lower=250 * MIB, expected=480 * MIB, upper=800 * MIB)
"""The CUDA context and loaded kernels of one process: taken before vLLM's start-up snapshot, so beside its budget."""

CUDA_GRAPHS_OVER_ESTIMATE = Estimate(lower=0.0, expected=0.0, upper=0.4 * GIB)
"""What captured graphs take beyond vLLM's own estimate: 0.05 GiB of 0.36 in its documentation's example."""

"""What a vLLM command line will hold on a GPU, and whether it starts: theory in one call.

The daemon compares a running server with it, ``vllm-headroom plan`` prints it before there is one.
"""

from dataclasses import dataclass

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
from advisor.weights import TensorIndex, model_dtype, stage_weights, unmatched_tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class EnginePlan:
    """What one engine should hold, from its model, flags and device alone."""

    device_name: str
    gpus_needed: int
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
    quantized: str | None
    """Method by which the weights are quantised."""
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``fits``, ``does_not_fit`` or ``too_close_to_call``."""
        return self.start_up.verdict

    @property
    def error(self) -> str | None:
        """What vLLM would say, None where it would start."""
        return self.start_up.error

    def concurrency_at(self, num_tokens: int) -> Estimate:
        """Return how many requests of this length fit at once."""
        blocks = max(1, self.layout.blocks_per_request(num_tokens))
        return self.num_gpu_blocks.mapped(lambda count: count / blocks)


def plan_engine(
    spec: ModelSpec,
    flags: EngineFlags,
    *,
    version: Version | None,
    device: Device,
    gpu_count: int | None = None,
    tensors: TensorIndex | None = None,
    kv_cache_bytes: int | None = None,
) -> EnginePlan:
    """Return what this engine should hold.

    Args:
        spec: Geometry of the model.
        flags: What the command line gave.
        version: vLLM's release; the newest studied one where it is unknown.
        device: What one rank runs on.
        gpu_count: How many there are; None: as many as the flags need.
        tensors: What the weights' files say, where they can be read.
        kv_cache_bytes: KV bytes of one rank where the engine says them; they replace the memory plan's.

    Raises:
        ValueError: The flags contradict the model, or a part is of a kind these rules do not describe
            (`advisor.spec.DeclinedError`).
    """
    version = version or NEWEST_STUDIED
    resolved = resolve_flags(flags, version=version, device=device, spec=spec)
    needed = resolved.tensor_parallel_size * resolved.pipeline_parallel_size * resolved.data_parallel_size
    if gpu_count is not None and needed > gpu_count:
        raise ValueError(
            f"{needed} GPUs are needed (tensor x pipeline x data parallel size), there are {gpu_count}: "
            "lower --tensor-parallel-size, --pipeline-parallel-size or --data-parallel-size"
        )
    dtype = model_dtype(spec, flags.dtype, version)
    runner = Runner.V0 if not resolved.use_v1 else model_runner(version, spec)
    layout = kv_layout(spec.layers, _kv_settings(resolved, spec, version, device, dtype, runner))
    notes: tuple[str, ...] = ()
    memory = None
    given = kv_cache_bytes or resolved.kv_cache_memory_bytes
    if device.is_cpu:
        kv_bytes = exactly(given or int(float(flags.environment.get("VLLM_CPU_KVCACHE_SPACE", 4)) * GIB))
    else:
        memory = _fullest_rank(spec, resolved, version, device, dtype, runner, tensors, given)
        kv_bytes = memory.kv_cache
        notes = _notes(spec, resolved, tensors)
    blocks = Estimate(
        lower=layout.num_blocks(kv_bytes.lower),
        expected=layout.num_blocks(kv_bytes.expected),
        upper=layout.num_blocks(kv_bytes.upper),
        origin=Origin.DERIVED if resolved.num_gpu_blocks_override else kv_bytes.origin,
    )
    return EnginePlan(
        device_name=device.name,
        gpus_needed=needed,
        flags=resolved,
        runner=runner,
        layout=layout,
        memory=memory,
        kv_bytes=kv_bytes,
        num_gpu_blocks=blocks,
        kv_tokens=blocks.mapped(lambda count: layout.size_tokens(int(count))),
        full_context_concurrency=blocks.mapped(lambda count: layout.max_concurrency(int(count))),
        start_up=start_up(spec, resolved, version=version, device=device, layout=layout, memory=memory, kv=kv_bytes),
        quantized=flags.quantization or (spec.quantization.method if spec.quantization else None),
        notes=notes,
    )

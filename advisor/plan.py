"""What a vLLM command line will hold on a GPU, and whether it starts: theory in one call.

The daemon compares a running server with it, ``vllm-headroom plan`` prints it before there is one.
"""

import json
from dataclasses import dataclass, replace
from typing import Literal

from advisor.activation import Step
from advisor.cudagraphs import graph_count
from advisor.defaults import Device, ResolvedFlags, resolve_flags
from advisor.estimate import Estimate, exactly
from advisor.flags import EngineFlags
from advisor.gpus import num_sms
from advisor.kv import KvLayout, KvSettings, kv_layout
from advisor.memory import MemoryPlan, memory_plan
from advisor.runner import Runner, model_runner
from advisor.spec import ModelSpec
from advisor.traits import ModelTraits, model_traits
from advisor.units import GIB
from advisor.versions import NEWEST_STUDIED, Version
from advisor.weights import TensorIndex, model_dtype, stage_weights, unmatched_tensors

Verdict = Literal["fits", "does_not_fit", "too_close_to_call"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StartUp:
    """Whether the engine starts."""

    verdict: Verdict
    error: str | None
    margin_bytes: float | None


def _start_up(layout: KvLayout, memory: MemoryPlan | None, kv_bytes: Estimate, *, has_override: bool) -> StartUp:
    needed = layout.bytes_needed()
    if has_override:
        return StartUp(verdict="fits", error=None, margin_bytes=None)
    margin = kv_bytes.expected - needed
    verdict: Verdict = (
        "fits" if kv_bytes.lower >= needed else "does_not_fit" if kv_bytes.upper < needed else "too_close_to_call"
    )
    return StartUp(verdict=verdict, error=None if verdict == "fits" else "x", margin_bytes=margin)


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
    def verdict(self) -> Verdict:
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
    total: Estimate | None = None,
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
        total: CUDA-visible bytes of one GPU with their bounds; None: exactly the device's.
        kv_cache_bytes: KV bytes of one rank where the engine says them; they replace the memory plan's.

    Raises:
        ValueError: The flags contradict the model, or a part is of a kind these rules do not describe
            (`advisor.spec.DeclinedError`).
    """
    version = version or NEWEST_STUDIED
    traits = model_traits(spec, is_pooling=_is_pooling(spec, flags))
    resolved = resolve_flags(
        flags,
        version=version,
        device=device,
        max_position_embeddings=spec.max_position_embeddings,
        traits=traits,
    )
    needed = resolved.tensor_parallel_size * resolved.pipeline_parallel_size * resolved.data_parallel_size
    if gpu_count is not None and needed > gpu_count:
        raise ValueError(
            f"{needed} GPUs are needed (tensor x pipeline x data parallel size), there are {gpu_count}: "
            "lower --tensor-parallel-size, --pipeline-parallel-size or --data-parallel-size"
        )
    dtype = model_dtype(spec, flags.dtype, version)
    runner = model_runner(version, spec) if resolved.is_v1 else Runner.V0
    layout = kv_layout(spec.layers, _kv_settings(resolved, spec, version, device, dtype, runner))
    memory = None
    given = kv_cache_bytes or resolved.kv_cache_memory_bytes
    if device.is_cpu:
        kv_bytes = exactly(given or int(float(flags.environment.get("VLLM_CPU_KVCACHE_SPACE", 4)) * GIB))
    else:
        memory = _fullest_rank(
            spec,
            resolved,
            traits,
            version=version,
            device=device,
            total=total or exactly(device.memory_bytes),
            dtype=dtype,
            runner=runner,
            tensors=tensors,
            kv_cache_bytes=given,
        )
        kv_bytes = memory.kv_cache
    blocks = kv_bytes.mapped(layout.num_blocks)
    if resolved.num_gpu_blocks_override is not None:
        blocks = exactly(resolved.num_gpu_blocks_override)
    return EnginePlan(
        device_name=device.name,
        gpus_needed=needed,
        flags=replace(resolved, block_size=layout.block_size),
        runner=runner,
        layout=layout,
        memory=memory,
        kv_bytes=kv_bytes,
        num_gpu_blocks=blocks,
        kv_tokens=blocks.mapped(lambda count: layout.size_tokens(int(count))),
        full_context_concurrency=blocks.mapped(lambda count: layout.max_concurrency(int(count))),
        start_up=_start_up(layout, memory, kv_bytes, has_override=resolved.num_gpu_blocks_override is not None),
        quantized=flags.quantization or (spec.quantization.method if spec.quantization else None),
        notes=_notes(spec, tensors, resolved) if memory is not None else (),
    )


def _is_pooling(spec: ModelSpec, flags: EngineFlags) -> bool:
    asked = flags.runner or flags.task
    if asked is not None and asked not in ("auto", "generate"):
        return asked not in ("transcription", "draft")
    return not spec.architecture.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel"))


def _kv_settings(
    resolved: ResolvedFlags, spec: ModelSpec, version: Version, device: Device, dtype: str, runner: Runner
) -> KvSettings:
    own_choice = resolved.origins["block_size"] != "given"
    return KvSettings(
        max_model_len=resolved.max_model_len,
        version=version,
        model_dtype=dtype,
        kv_cache_dtype=resolved.kv_cache_dtype,
        kv_cache_dtype_skip_layers=resolved.kv_cache_dtype_skip_layers,
        block_size=None if own_choice else resolved.block_size,
        num_gpu_blocks_override=resolved.num_gpu_blocks_override,
        tensor_parallel_size=resolved.tensor_parallel_size,
        pipeline_parallel_size=resolved.pipeline_parallel_size,
        decode_context_parallel_size=resolved.decode_context_parallel_size,
        prefill_context_parallel_size=resolved.prefill_context_parallel_size,
        max_num_batched_tokens=resolved.max_num_batched_tokens,
        use_v2_model_runner=runner is Runner.V2,
        num_speculative_tokens=resolved.num_speculative_tokens,
        enable_prefix_caching=resolved.enable_prefix_caching,
        disable_hybrid_kv_cache_manager=resolved.disable_hybrid_kv_cache_manager,
        mamba_cache_dtype=resolved.mamba_cache_dtype,
        mamba_ssm_cache_dtype=resolved.mamba_ssm_cache_dtype,
        mamba_block_size=resolved.mamba_block_size,
        mamba_cache_mode=resolved.mamba_cache_mode,
        encoder_positions=spec.encoder_positions,
        is_cpu=device.is_cpu,
        compute_capability=device.capability or _USUAL_CAPABILITY,
        attention_backend=resolved.attention_backend,
        use_v1=resolved.is_v1,
    )


def _fullest_rank(
    spec: ModelSpec,
    resolved: ResolvedFlags,
    traits: ModelTraits,
    *,
    version: Version,
    device: Device,
    total: Estimate,
    dtype: str,
    runner: Runner,
    tensors: TensorIndex | None,
    kv_cache_bytes: int | None,
) -> MemoryPlan:
    """Divide the memory of each pipeline stage; the one with the least left decides for all."""
    capability = device.capability or _USUAL_CAPABILITY
    stages = stage_weights(
        spec,
        dtype=dtype,
        tensor_parallel_size=resolved.tensor_parallel_size,
        pipeline_parallel_size=resolved.pipeline_parallel_size,
        version=version,
        enable_expert_parallel=resolved.enable_expert_parallel,
        data_parallel_size=resolved.data_parallel_size,
        quantization=resolved.quantization,
        tensors=tensors,
        capability=10 * capability[0] + capability[1],
        load_draft_layers=_drafts_by_itself(resolved),
        language_model_only=resolved.language_model_only,
        replicate_encoder=resolved.mm_encoder_tp_mode == "data",
        pooling=traits.is_pooling,
        max_loras=resolved.max_loras if resolved.enable_lora else 0,
        max_lora_rank=resolved.max_lora_rank,
    )
    counts = graph_count(
        version,
        resolved.cudagraph_capture_sizes,
        resolved.cudagraph_mode,
        max_num_seqs=resolved.max_num_seqs,
        num_speculative_tokens=resolved.num_speculative_tokens,
        enable_lora=resolved.enable_lora,
    )
    plans = []
    for stage, weights in enumerate(stages):
        step = Step(
            version=version,
            runner=runner,
            max_num_batched_tokens=resolved.max_num_batched_tokens,
            max_num_seqs=resolved.max_num_seqs,
            tensor_parallel_size=resolved.tensor_parallel_size,
            pipeline_parallel_size=resolved.pipeline_parallel_size,
            expert_parallel=resolved.enable_expert_parallel,
            is_last_stage=stage == len(stages) - 1,
            element_bytes=4 if dtype == "float32" else 2,
            sm_count=num_sms(device.name) or _USUAL_SMS,
            capability_major=capability[0],
            pooling=traits.is_pooling,
            multimodal_items=_takes_items(resolved),
            max_model_len=resolved.max_model_len,
        )
        plans.append(
            memory_plan(
                spec,
                step=step,
                total=total,
                gpu_memory_utilization=resolved.gpu_memory_utilization,
                weights=_resident(weights, resolved.cpu_offload_gb),
                captures=counts,
                kv_cache_memory_bytes=kv_cache_bytes,
            )
        )
    return min(plans, key=lambda plan: plan.available_for_kv.expected)


def _drafts_by_itself(resolved: ResolvedFlags) -> bool:
    """Tell whether the model's own prediction layers are loaded to draft with."""
    return str((resolved.speculative_config or {}).get("method", "")).endswith("mtp")


_USUAL_CAPABILITY = (9, 0)
_USUAL_SMS = 132
"""Of an H100, where the GPU's name says nothing."""


def _resident(weights: Estimate, cpu_offload_gb: float) -> Estimate:
    """Weights that stay on the GPU: the flag names GiB a GPU that move to host memory."""
    if not cpu_offload_gb:
        return weights
    return weights.minus(exactly(min(cpu_offload_gb * GIB, 0.95 * weights.expected)))


def _takes_items(resolved: ResolvedFlags) -> bool:
    if resolved.language_model_only or resolved.skip_mm_profiling:
        return False
    limits = resolved.limit_mm_per_prompt
    if not limits:
        return True
    try:
        counts = json.loads(limits)
    except ValueError:
        counts = dict(pair.split("=", 1) for pair in limits.replace(" ", "").split(",") if "=" in pair)
    if not isinstance(counts, dict) or not counts:
        return True
    return any(str(count.get("count", 1) if isinstance(count, dict) else count) != "0" for count in counts.values())


def _notes(spec: ModelSpec, tensors: TensorIndex | None, resolved: ResolvedFlags) -> tuple[str, ...]:
    notes = []
    if tensors is not None and tensors.tensors:
        strange = unmatched_tensors(spec, tensors, load_draft_layers=_drafts_by_itself(resolved))
        if strange:
            notes.append(f"{len(strange)} tensors of the files are of no known use, {strange[0]} for one")
    if tensors is None:
        notes.append("no weights files were read: weights follow from the configuration")
    if resolved.speculative_config is not None and "model" in resolved.speculative_config:
        notes.append("the draft model of speculative decoding is not counted here")
    if resolved.is_max_model_len_auto:
        notes.append("max-model-len auto is taken as the model's own; vLLM shortens it where that does not fit")
    return tuple(notes)


_MOST_KEPT = 1024
_kept: dict[tuple[int, str, Version | None, Device, int | None], tuple[ModelSpec, TensorIndex | None, EnginePlan]] = {}


def plan_again(
    spec: ModelSpec,
    flags: EngineFlags,
    *,
    version: Version | None,
    device: Device,
    tensors: TensorIndex | None = None,
    kv_cache_bytes: int | None = None,
) -> EnginePlan:
    """`plan_engine` for a daemon that asks the same at every interval: an answer is worked out once and kept."""
    key = (id(spec), repr(flags), version, device, kv_cache_bytes)
    known = _kept.get(key)
    if known is not None and known[0] is spec and known[1] is tensors:
        return known[2]
    plan = plan_engine(spec, flags, version=version, device=device, tensors=tensors, kv_cache_bytes=kv_cache_bytes)
    if len(_kept) >= _MOST_KEPT:
        _kept.pop(next(iter(_kept)))
    _kept[key] = (spec, tensors, plan)
    return plan

"""What a vLLM command line will hold on a GPU, and whether it starts: theory in one call.

The daemon compares a running server with it, ``vllm-headroom plan`` prints it before there is one.
"""

import json
from dataclasses import dataclass, replace

from advisor.activation import Step
from advisor.calibration import overheads
from advisor.cudagraphs import graph_count
from advisor.defaults import Device, ResolvedFlags, context_lengths, resolve_flags
from advisor.estimate import Estimate, added, exactly
from advisor.flags import EngineFlags
from advisor.gpus import num_sms
from advisor.kv import KvLayout, KvSettings, checkpoint_kv_cache_dtype, kv_layout
from advisor.layers import DecoderLayer, LatentWindow, State
from advisor.memory import MemoryPlan, memory_plan
from advisor.runner import Runner, model_runner
from advisor.spec import ModelSpec
from advisor.start_up import (
    FREE_IS_CHECKED_SINCE,
    Fit,
    RankMemory,
    Requirement,
    Verdict,
    first_flag_error,
    first_memory_error,
    verdict,
)
from advisor.traits import ModelTraits, model_traits
from advisor.units import GIB
from advisor.versions import NEWEST_STUDIED, OLDEST_STUDIED, Version
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
    verdict: Fit
    margin: Estimate | None
    """Bytes of one GPU that are left by what decides the verdict, negative where they are missing; None where the
    number of blocks was given."""
    binding: str
    """What decides it: ``cache``, ``free memory``, ``loading``, ``profile run``, ``warm-up`` or ``flags``."""
    error: str | None
    """What vLLM would say, None where it would start."""
    quantized: str | None
    """Method by which the weights are quantised."""
    notes: tuple[str, ...] = ()

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
    residual: Estimate | None = None,
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
        residual: What engines like this one had beyond the estimate before (`advisor.residuals`).

    Raises:
        ValueError: The flags contradict the model, or a part is of a kind these rules do not describe
            (`advisor.spec.DeclinedError`).
    """
    version = version or NEWEST_STUDIED
    traits = model_traits(spec, is_pooling=is_pooling(spec, flags))
    resolved = resolve_flags(
        flags,
        version=version,
        device=device,
        max_position_embeddings=context_lengths(spec, version)[0],
        traits=traits,
    )
    _require_sizes(resolved)
    needed = resolved.tensor_parallel_size * resolved.pipeline_parallel_size * resolved.data_parallel_size
    if gpu_count is not None and needed > gpu_count:
        raise ValueError(
            f"{needed} GPUs are needed (tensor x pipeline x data parallel size), there are {gpu_count}: "
            "lower --tensor-parallel-size, --pipeline-parallel-size or --data-parallel-size"
        )
    dtype = model_dtype(spec, flags.dtype, version, tensors)
    runner = model_runner(version, spec) if resolved.is_v1 else Runner.V0
    ahead = _schedules_ahead(flags, resolved, traits, device, runner)
    partition = flags.environment.get("VLLM_PP_LAYER_PARTITION", "")
    layout = kv_layout(
        spec.layers,
        _kv_settings(resolved, spec, version, device, dtype, runner, ahead=ahead, partition=partition),
        draft_layers=_draft_layers(spec, resolved),
    )
    memory = None
    given = kv_cache_bytes or resolved.kv_cache_memory_bytes
    if device.is_cpu:
        kv_bytes = exactly(given or _cpu_cache_bytes(flags))
    else:
        memory = _fullest_rank(
            spec,
            flags,
            resolved,
            traits,
            partition=partition,
            version=version,
            device=device,
            total=total or exactly(device.memory_bytes),
            dtype=dtype,
            runner=runner,
            tensors=tensors,
            kv_cache_bytes=given,
            residual=residual,
        )
        kv_bytes = memory.kv_cache
    blocks = kv_bytes.mapped(layout.num_blocks)
    if resolved.num_gpu_blocks_override is not None:
        blocks = exactly(resolved.num_gpu_blocks_override)
    judged, error = _judge(
        spec,
        resolved,
        traits,
        version=version,
        device=device,
        layout=layout,
        memory=memory,
        allows_long_max_model_len=_switch(flags, "VLLM_ALLOW_LONG_MAX_MODEL_LEN") is True,
    )
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
        verdict=judged.fit if judged else "fits",
        margin=judged.margin if judged else None,
        binding=judged.binding if judged else "",
        error=error,
        quantized=flags.quantization or (spec.quantization.method if spec.quantization else None),
        notes=_notes(spec, tensors, resolved, version) if memory is not None else (),
    )


def is_pooling(spec: ModelSpec, flags: EngineFlags) -> bool:
    """Return whether a command line makes this model embed, classify or score instead of generate."""
    asked = flags.runner or flags.task
    if asked is not None and asked not in ("auto", "generate"):
        return asked not in ("transcription", "draft")
    return not spec.architecture.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel"))


def _kv_settings(
    resolved: ResolvedFlags,
    spec: ModelSpec,
    version: Version,
    device: Device,
    dtype: str,
    runner: Runner,
    *,
    ahead: bool,
    partition: str,
) -> KvSettings:
    own_choice = resolved.origins["block_size"] != "given"
    kv_cache_dtype = resolved.kv_cache_dtype
    if kv_cache_dtype == "auto":
        kv_cache_dtype = checkpoint_kv_cache_dtype(spec.quantization, version)
    return KvSettings(
        max_model_len=resolved.max_model_len,
        version=version,
        model_dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        kv_cache_dtype_skip_layers=resolved.kv_cache_dtype_skip_layers,
        block_size=None if own_choice else resolved.block_size,
        num_gpu_blocks_override=resolved.num_gpu_blocks_override,
        tensor_parallel_size=resolved.tensor_parallel_size,
        pipeline_parallel_size=resolved.pipeline_parallel_size,
        pipeline_partition=partition,
        decode_context_parallel_size=resolved.decode_context_parallel_size,
        prefill_context_parallel_size=resolved.prefill_context_parallel_size,
        max_num_batched_tokens=resolved.max_num_batched_tokens,
        async_scheduling=ahead,
        use_v2_model_runner=runner is Runner.V2,
        num_speculative_tokens=resolved.num_speculative_tokens,
        enable_prefix_caching=resolved.enable_prefix_caching,
        disable_hybrid_kv_cache_manager=resolved.disable_hybrid_kv_cache_manager,
        mamba_cache_dtype=resolved.mamba_cache_dtype,
        mamba_ssm_cache_dtype=_state_dtype(spec, resolved.mamba_ssm_cache_dtype, version),
        mamba_block_size=resolved.mamba_block_size,
        mamba_cache_mode=resolved.mamba_cache_mode,
        encoder_positions=spec.encoder_positions,
        is_cpu=device.is_cpu,
        compute_capability=device.capability or _USUAL_CAPABILITY,
        attention_backend=resolved.attention_backend,
        use_v1=resolved.is_v1,
    )


def _state_dtype(spec: ModelSpec, flag: str, version: Version) -> str:
    """Return what ``--mamba-ssm-cache-dtype auto`` comes to (``model_executor/models/config.py``)."""
    if flag != "auto":
        return flag
    if spec.architecture.startswith("NemotronH") and version >= (0, 13, 0):
        return spec.state_dtype or ("float32" if version >= _NEMOTRON_FLOAT32_SINCE else "float16")
    if spec.architecture.startswith("Qwen3_5") and version >= (0, 17, 0):
        return spec.state_dtype or "auto"
    return "auto"


_NEMOTRON_FLOAT32_SINCE: Version = (0, 20, 0)
"""Without a word in the config; half precision before."""
_DRAFTS_ON_THE_CPU = frozenset({"ngram", "suffix", "medusa", "mlp_speculator", "custom_class"})


def _schedules_ahead(
    flags: EngineFlags, resolved: ResolvedFlags, traits: ModelTraits, device: Device, runner: Runner
) -> bool:
    """Tell whether the next step is scheduled while one runs.

    Source: 0.32 ``config/vllm.py`` (what turns the default off) and ``platforms/cpu.py``.
    """
    if device.is_cpu:
        return False
    if flags.async_scheduling is not None:
        return flags.async_scheduling
    method = str((resolved.speculative_config or {}).get("method", ""))
    staged = resolved.pipeline_parallel_size > 1 and runner is not Runner.V2
    return not (traits.is_pooling or method in _DRAFTS_ON_THE_CPU or staged)


def _fullest_rank(
    spec: ModelSpec,
    flags: EngineFlags,
    resolved: ResolvedFlags,
    traits: ModelTraits,
    *,
    partition: str,
    version: Version,
    device: Device,
    total: Estimate,
    dtype: str,
    runner: Runner,
    tensors: TensorIndex | None,
    kv_cache_bytes: int | None,
    residual: Estimate | None,
) -> MemoryPlan:
    """Divide the memory of each pipeline stage; the one with the least left decides for all."""
    capability = device.capability or _USUAL_CAPABILITY
    stages = stage_weights(
        spec,
        dtype=dtype,
        tensor_parallel_size=resolved.tensor_parallel_size,
        pipeline_parallel_size=resolved.pipeline_parallel_size,
        pipeline_partition=partition,
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
        max_num_batched_tokens=resolved.max_num_batched_tokens,
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
            flashinfer_sampler=_switch(flags, "VLLM_USE_FLASHINFER_SAMPLER"),
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
                estimates_graphs=_switch(flags, "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS"),
                residual=residual,
            )
        )
    return min(plans, key=lambda plan: plan.available_for_kv.expected)


def _drafts_by_itself(resolved: ResolvedFlags) -> bool:
    """Tell whether the model's own prediction layers are loaded to draft with."""
    return str((resolved.speculative_config or {}).get("method", "")).endswith("mtp")


def _drafts_with_another(resolved: ResolvedFlags) -> bool:
    """Tell whether a draft model is loaded besides, of which nothing is known here; n-grams and suffixes need none."""
    config = resolved.speculative_config or {}
    without = {"ngram", "[ngram]", "suffix"} & {config.get("method"), config.get("model")}
    return "model" in config and not without and not _drafts_by_itself(resolved)


def _draft_layers(spec: ModelSpec, resolved: ResolvedFlags) -> tuple[DecoderLayer, ...]:
    """Return what the model's own prediction layers keep: as its last layer that attends, and no compressed latents.

    Sources: ``models/deepseek_mtp.py``, ``qwen3_next_mtp.py``, ``deepseek_v4/nvidia/mtp.py`` (0.32).
    """
    if not _drafts_by_itself(resolved):
        return ()
    attending = next(
        (layer for layer in reversed(spec.layers) if layer and not any(isinstance(kept, State) for kept in layer)), ()
    )
    windows = tuple(kept for kept in attending if isinstance(kept, LatentWindow))
    return (windows or attending,) * spec.draft_layers


_MOST_CPU_GIB = 1024**2
_USUAL_CAPABILITY = (9, 0)
_USUAL_SMS = 132
"""Of an H100, where the GPU's name says nothing."""


_SIZES = (
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
    *("prefill_context_parallel_size", "decode_context_parallel_size", "num_gpu_blocks_override"),
)


def _require_sizes(resolved: ResolvedFlags) -> None:
    """Refuse what is divided by, or is a count, and is below one, as vLLM's own configuration does.

    Raises:
        ValueError: One of them is.
    """
    for name in _SIZES:
        value = getattr(resolved, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: it is 1 or more")


def _cpu_cache_bytes(flags: EngineFlags) -> int:
    """Return what vLLM sets aside for the KV cache without a GPU.

    Raises:
        ValueError: It is no amount of memory. The environment is anybody's who starts a process.
    """
    text = flags.environment.get("VLLM_CPU_KVCACHE_SPACE", "4")
    try:
        gib = float(text)
    except ValueError:
        gib = -1.0
    if not 0 <= gib <= _MOST_CPU_GIB:
        raise ValueError(f"VLLM_CPU_KVCACHE_SPACE {text[:40]!r}: it must be a number of GiB")
    return int(gib * GIB)


def _switch(flags: EngineFlags, variable: str) -> bool | None:
    """Return whether an environment variable turns something on or off, None where it is not set."""
    value = flags.environment.get(variable, "").strip().lower()
    return None if not value else value in {"1", "true"}


def _judge(
    spec: ModelSpec,
    resolved: ResolvedFlags,
    traits: ModelTraits,
    *,
    version: Version,
    device: Device,
    layout: KvLayout,
    memory: MemoryPlan | None,
    allows_long_max_model_len: bool,
) -> tuple[Verdict | None, str | None]:
    """Hold the plan against the release's start-up checks on a GPU that nobody else uses."""
    refused = first_flag_error(
        resolved,
        spec,
        version=version,
        device=device,
        is_mla=traits.is_mla or device.is_cpu,
        allows_long_max_model_len=allows_long_max_model_len,
    )
    if refused is not None:
        return Verdict(fit="does_not_fit", margin=exactly(0.0), binding="flags"), refused.text
    if memory is None:
        return None, None
    free = exactly(memory.total_bytes).minus(overheads.CUDA_CONTEXT)
    cache = Requirement(name="cache", available=memory.kv_cache, needed=exactly(layout.bytes_needed()))
    held = added((memory.weights, memory.non_torch, memory.kv_cache, memory.cuda_graphs))
    requirements = [
        Requirement(name="loading", available=free, needed=memory.weights),
        Requirement(
            name="profile run",
            available=free,
            needed=added((memory.weights, memory.non_torch, memory.activation_peak)),
        ),
        cache,
        Requirement(name="warm-up", available=free, needed=held),
    ]
    if resolved.is_v1 and version >= FREE_IS_CHECKED_SINCE:
        requirements.insert(0, Requirement(name="free memory", available=free, needed=exactly(memory.budget_bytes)))
    if resolved.num_gpu_blocks_override is not None:
        requirements.remove(cache)
    found = verdict(requirements)
    if found.fit == "fits":
        # A draft model takes weights and KV cache beside this, how much cannot be said.
        return replace(found, fit="too_close_to_call") if _drafts_with_another(resolved) else found, None
    error = first_memory_error(
        RankMemory(
            total_bytes=memory.total_bytes,
            free_bytes=free.expected,
            weights_bytes=memory.weights.expected,
            kv_available_bytes=memory.kv_cache.expected,
            kv_needed_bytes=layout.bytes_needed() - layout.reserved_bytes,
            bytes_per_block=layout.bytes_per_block,
            activation_peak_bytes=memory.activation_peak.expected,
            non_torch_bytes=memory.non_torch.expected,
            cuda_graph_bytes=memory.cuda_graphs.expected,
        ),
        resolved,
        version=version,
        longest_max_model_len=layout.largest_max_model_len(memory.kv_cache.expected),
    )
    return found, error.text if error is not None else None


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


def _notes(spec: ModelSpec, tensors: TensorIndex | None, resolved: ResolvedFlags, version: Version) -> tuple[str, ...]:
    notes = []
    studied = min(max(version, OLDEST_STUDIED), NEWEST_STUDIED)
    if version[:2] != studied[:2]:
        word, extreme = ("newer", "newest") if version > studied else ("older", "oldest")
        asked, like = (f"{major}.{minor}" for major, minor, _ in (version, studied))
        notes.append(f"vLLM {asked} is {word} than {like}, the {extreme} that was studied: it is planned like that one")
    if tensors is not None and tensors.tensors:
        strange = unmatched_tensors(spec, tensors, load_draft_layers=_drafts_by_itself(resolved))
        if strange:
            notes.append(f"{len(strange)} tensors of the files are of no known use, {strange[0]} for one")
    if tensors is None:
        notes.append("no weights files were read: weights follow from the configuration")
    if _drafts_with_another(resolved):
        notes.append("the draft model of speculative decoding is not counted: its weights and KV cache come on top")
    if resolved.is_max_model_len_auto:
        notes.append("max-model-len auto is taken as the model's own; vLLM shortens it where that does not fit")
    return tuple(notes)


_MOST_MODELS = 64
_MOST_PLANS = 64
"""Of one model: some ten changes of flags are asked about for each engine that serves it."""
_Asked = tuple[str, Version | None, Device, int | None]
_kept: dict[int, tuple[ModelSpec, TensorIndex | None, dict[_Asked, EnginePlan]]] = {}
"""By the spec's identity, the least lately used first: one of 32 layers takes 56 KiB, beside its plans."""


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
    known = _kept.pop(id(spec), None)
    if known is None or known[0] is not spec or known[1] is not tensors:
        known = (spec, tensors, {})
    _kept[id(spec)] = known
    for unused in list(_kept)[:-_MOST_MODELS]:
        _kept.pop(unused, None)
    plans, key = known[2], (flags.text, version, device, kv_cache_bytes)
    plan = plans.get(key)
    if plan is None:
        plan = plan_engine(spec, flags, version=version, device=device, tensors=tensors, kv_cache_bytes=kv_cache_bytes)
        plans[key] = plan
        for oldest in list(plans)[:-_MOST_PLANS]:
            plans.pop(oldest, None)
    return plan

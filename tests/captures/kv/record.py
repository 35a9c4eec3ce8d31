"""Record what vLLM's own KV-cache planning makes of layers of every kind, under flags of every sort.

Each layer's cache is described by vLLM's layer class (``get_kv_cache_spec``), state sizes by its calculators, block
sizes by its platform code and attention backends, and groups, blocks, tokens, concurrency and the start-up check by
``get_kv_cache_configs``. Only the modules' weights and the model's configuration are stand-ins, and those attention
backends that cannot be imported without a GPU. Needs vLLM (0.20 to 0.33) and no GPU. The same release and arguments
write the same bytes. See README.md for the format.
"""

import argparse
import dataclasses
import gzip
import json
import os
import random
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import vllm
from vllm.config import CacheConfig, VllmConfig, set_current_vllm_config
from vllm.config.cache import CacheConfig as _CacheConfig
from vllm.model_executor.layers.attention.attention import Attention
from vllm.model_executor.layers.attention.chunked_local_attention import ChunkedLocalAttention
from vllm.model_executor.layers.attention.cross_attention import CrossAttention
from vllm.model_executor.layers.attention.mla_attention import MLAAttention
from vllm.model_executor.layers.mamba.abstract import MambaBase
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2
from vllm.model_executor.layers.mamba.mamba_utils import MambaStateDtypeCalculator, MambaStateShapeCalculator
from vllm.model_executor.layers.quantization.turboquant.config import TurboQuantConfig
from vllm.model_executor.models.config import MambaModelConfig
from vllm.model_executor.models.deepseek_v2 import DeepseekV32IndexerCache
from vllm.platforms import current_platform
from vllm.platforms.interface import Platform
from vllm.utils.torch_utils import STR_DTYPE_TO_TORCH_DTYPE, get_kv_cache_torch_dtype, nvfp4_kv_cache_full_dim
from vllm.v1.attention.backend import AttentionBackend, AttentionType, MultipleOf
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend
from vllm.v1.attention.backends.mamba2_attn import Mamba2AttentionBackend
from vllm.v1.attention.backends.mla.flashmla import FlashMLABackend
from vllm.v1.attention.backends.mla.flashmla_sparse import FlashMLASparseBackend
from vllm.v1.attention.backends.mla.indexer import DeepseekV32IndexerBackend
from vllm.v1.attention.backends.mla.sparse_swa import DeepseekV4SWACache
from vllm.v1.attention.backends.mla.triton_mla import TritonMLABackend
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum
from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
from vllm.v1.attention.backends.turboquant_attn import TurboQuantAttentionBackend
from vllm.v1.core import kv_cache_utils

try:
    from vllm.models.deepseek_v4.compressor import CompressorStateCache

    try:
        from vllm.models.deepseek_v4.attention import DeepseekV4Attention, DeepseekV4IndexerCache
    except ImportError:  # 0.22
        from vllm.models.deepseek_v4.attention import DeepseekV4IndexerCache
        from vllm.models.deepseek_v4.attention import DeepseekV4MLAAttention as DeepseekV4Attention
except ImportError:  # 0.20, 0.21
    from vllm.model_executor.layers.deepseek_compressor import CompressorStateCache
    from vllm.model_executor.layers.deepseek_v4_attention import DeepseekV4IndexerCache
    from vllm.model_executor.layers.deepseek_v4_attention import DeepseekV4MLAAttention as DeepseekV4Attention
try:
    from vllm.v1.core import kv_cache_planning as planning  # 0.33
except ImportError:
    planning = kv_cache_utils
from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs
from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

Cache = dict[str, Any]
Layers = list[list[Cache]]
VERSION = tuple(int(part) for part in vllm.__version__.split("+")[0].split(".")[:3])
GIB = 1 << 30
COMPRESSED = ("CompressedLatent", "LatentWindow", "CompressedIndex", "CompressorState")
STATES = ("Mamba1", "Mamba2", "GatedDeltaNet", "KimiDelta", "ShortConv", "LinearAttention")

REFUSALS = (
    "All attention layers in the same KV cache group must have the same window size",
    "Failed to promote local KV cache specs to one unified type",
    "Hybrid KV cache manager is disabled but failed to convert the KV cache specs to one unified type",
    "MLA is not supported for slidingwindow",
    "divisible by the maximum page size",
)
"""How vLLM says that it does not run a case, beside the assertions of ``unify_kv_cache_spec_page_size``."""


def _stand_in(name: str, sizes: list[Any]) -> type[AttentionBackend]:
    """Return a backend of which only the block sizes count; the real one needs a GPU to be imported."""
    members = {"get_supported_kernel_block_sizes": staticmethod(lambda kv_cache_spec=None: sizes)}
    members["get_name"] = staticmethod(lambda: name)
    members["indexes_kv_by_block_stride"] = staticmethod(lambda: "SPARSE" not in name and "CPU" not in name)
    return type(name, (AttentionBackend,), members)


class _FlashInfer(_stand_in("FLASHINFER", [16, 32, 64])):
    @classmethod
    def customize_spec(cls, spec: Any) -> Any:
        if spec.state_content_bytes is not None or not spec.kv_quant_mode.is_nvfp4:
            return spec
        content = nvfp4_kv_cache_full_dim(spec.head_size)
        return dataclasses.replace(spec, num_head_slots=2 * spec.num_kv_heads, state_content_bytes=content)


class _FlashInferBlackwell(_FlashInfer):
    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[Any]:
        return [16, 32, 64, 128, 256, 512, 1024]


BACKENDS = {
    "FLASHINFER_BLACKWELL": _FlashInferBlackwell,
    "FLASHINFER_MLA_SPARSE": _stand_in("FLASHINFER_MLA_SPARSE", [MultipleOf(32)]),
    "FLASH_ATTN": FlashAttentionBackend,
    "TRITON_ATTN": TritonAttentionBackend,
    "FLASHINFER": _FlashInfer,
    "TURBOQUANT": TurboQuantAttentionBackend,
    "CPU_ATTN": CPUAttentionBackend,
    "FLASH_ATTN_MLA": _stand_in("FLASH_ATTN_MLA", [MultipleOf(16)]),
    "FLASHMLA": FlashMLABackend,
    "FLASHINFER_MLA": _stand_in("FLASHINFER_MLA", [32, 64]),
    "CUTLASS_MLA": _stand_in("CUTLASS_MLA", [128]),
    "TRITON_MLA": TritonMLABackend,
    "CPU_MLA": _stand_in("CPU_MLA", [16]),
    "FLASHMLA_SPARSE": FlashMLASparseBackend,
    "FLASHMLA_SPARSE_DSV4": _stand_in("FLASHMLA_SPARSE_DSV4", [256]),
}


def backend_of(cache: Cache, dtype: str, settings: dict[str, Any]) -> type[AttentionBackend]:
    """Return the backend that vLLM prefers on the device for one layer."""
    major = settings["compute_capability"][0]
    if cache["kind"] == "SparseIndex":
        return DeepseekV32IndexerBackend
    if cache["kind"] == "Latent":
        if settings["is_cpu"]:
            return BACKENDS["CPU_MLA"]
        if cache.get("sparse"):
            return BACKENDS["FLASHINFER_MLA_SPARSE" if major == 10 and dtype.startswith("fp8") else "FLASHMLA_SPARSE"]
        if settings["attention_backend"]:
            return BACKENDS[settings["attention_backend"]]
        by_major = {9: "FLASHMLA" if dtype.startswith("fp8") else "FLASH_ATTN_MLA", 10: "FLASHINFER_MLA"}
        return BACKENDS[by_major.get(major, "TRITON_MLA")]
    if settings["is_cpu"]:
        return BACKENDS["CPU_ATTN"]
    if dtype.endswith("per_token_head"):
        return BACKENDS["TRITON_ATTN"]
    if dtype.startswith("turboquant"):
        return BACKENDS["TURBOQUANT"]
    if major == 10:
        return BACKENDS["FLASHINFER_BLACKWELL"]
    return BACKENDS["FLASHINFER" if dtype.startswith("nvfp4") else "FLASH_ATTN"]


def state_of(cache: Cache, config: VllmConfig) -> tuple[tuple[tuple[int, ...], ...], tuple[torch.dtype, ...]]:
    """Return shapes and dtypes of a layer's states, as its class asks vLLM's calculators for them."""
    shape, dtype = MambaStateShapeCalculator, MambaStateDtypeCalculator
    ranks = config.parallel_config.tensor_parallel_size
    model, conv, ssm = (
        config.model_config.dtype,
        config.cache_config.mamba_cache_dtype,
        config.cache_config.mamba_ssm_cache_dtype,
    )
    drafts = config.num_speculative_tokens
    geometry = {name: value for name, value in cache.items() if name != "kind"}
    match cache["kind"]:
        case "Mamba1":
            return shape.mamba1_state_shape(tp_world_size=ranks, **geometry), dtype.mamba1_state_dtype(model, conv, ssm)
        case "Mamba2":
            shapes = shape.mamba2_state_shape(tp_world_size=ranks, num_spec=drafts, **geometry)
            return shapes, dtype.mamba2_state_dtype(model, conv, ssm)
        case "GatedDeltaNet":
            geometry["conv_kernel_size"] = geometry.pop("conv_kernel")
            shapes = shape.gated_delta_net_state_shape(ranks, num_spec=drafts, **geometry)
            return shapes, dtype.gated_delta_net_state_dtype(model, conv, ssm)
        case "KimiDelta":
            geometry["conv_kernel_size"] = geometry.pop("conv_kernel")
            shapes = shape.kda_state_shape(ranks, num_spec=drafts, **geometry)
            return shapes, dtype.kda_state_dtype(model, conv, *([ssm] if VERSION >= (0, 30, 0) else []))
        case "ShortConv":
            spec = {"num_spec": drafts} if VERSION >= (0, 29, 0) else {}
            shapes = shape.short_conv_state_shape(tp_world_size=ranks, **spec, **geometry)
            return shapes, dtype.short_conv_state_dtype(model, conv)
        case _:
            shapes = shape.linear_attention_state_shape(tp_size=ranks, **geometry)
            return shapes, dtype.linear_attention_state_dtype(model, conv)


def compressed_layer_of(cache: Cache, config: VllmConfig) -> Any:
    """Return one of DeepSeek V4's caches, of vLLM's own class and, but for the attention, from its constructor."""
    cache_config, context = config.cache_config, config.compilation_config.static_forward_context
    cache_config.cache_dtype = "fp8_ds_mla"
    known = set(context)
    with set_current_vllm_config(config, check_compile=False):
        match cache["kind"]:
            case "CompressedLatent":
                members = dict.fromkeys(getattr(DeepseekV4Attention, "__abstractmethods__", ()), None)
                backend = BACKENDS["FLASHMLA_SPARSE_DSV4"]
                members["get_attn_backend"] = lambda self: backend
                layer = object.__new__(type("CompressedLatent", (DeepseekV4Attention,), members))
                layer.__dict__.update(
                    compress_ratio=cache["ratio"],
                    head_dim=cache["size"],
                    kv_cache_dtype="fp8_ds_mla",
                    kv_cache_torch_dtype=torch.uint8,
                )
            case "LatentWindow":
                layer = DeepseekV4SWACache(cache["size"], cache["window"], torch.uint8, "window", cache_config)
            case "CompressedIndex":
                size = cache["head_dim"] + cache["head_dim"] // 128 * 4
                layer = DeepseekV4IndexerCache(size, torch.uint8, "index", cache_config, cache["ratio"])
            case _:
                layer = CompressorStateCache(cache["size"], torch.float32, cache["ratio"], "state")
    for name in set(context) - known:
        del context[name]  # the caller puts it where it belongs
    return layer


def layer_of(cache: Cache, index: int, config: VllmConfig, settings: dict[str, Any]) -> Any:
    """Return an instance of vLLM's layer class that knows what ``get_kv_cache_spec`` asks it, and nothing else."""
    kind, cache_config = cache["kind"], config.cache_config
    if kind in COMPRESSED:
        return compressed_layer_of(cache, config)
    if kind in STATES:
        shapes, dtypes = state_of(cache, config)
        base = MambaMixer2 if kind == "Mamba2" else MambaBase
        mamba_type = MambaAttentionBackendEnum.MAMBA2 if kind == "Mamba2" else MambaAttentionBackendEnum.MAMBA1
        members = {
            "mamba_type": mamba_type,
            "get_state_shape": lambda self: shapes,
            "get_state_dtype": lambda self: dtypes,
            "get_attn_backend": lambda self: Mamba2AttentionBackend,
        }
        if kind == "GatedDeltaNet" and VERSION >= (0, 33, 0):
            # Its prefill is FlashInfer's on these GPUs, which stores states midway.
            from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention

            base = QwenGatedDeltaNetAttention
            exports = settings["compute_capability"][0] in (9, 10) and not settings["is_cpu"]
            is_aligned = exports and config.cache_config.mamba_cache_mode == "align"
            members |= {"_checkpoint_alignment": 64 if is_aligned else None, "vllm_config": config}
        return object.__new__(type(kind, (base,), members))
    dtype = cache_config.cache_dtype
    skipped = cache_config.kv_cache_dtype_skip_layers
    if str(index) in skipped or (kind == "SlidingWindow" and "sliding_window" in skipped):
        dtype = "auto"
    backend = backend_of(cache, dtype, settings)
    base = {
        "FullAttention": Attention,
        "SlidingWindow": Attention,
        "ChunkedLocal": ChunkedLocalAttention,
        "CrossAttention": CrossAttention,
        "Latent": MLAAttention,
        "SparseIndex": DeepseekV32IndexerCache,
    }[kind]
    layer = object.__new__(type(kind, (base,), {"get_attn_backend": lambda self: backend}))
    common = {"kv_cache_dtype": dtype, "attn_backend": backend, "kv_sharing_target_layer_name": None}
    if kind == "Latent":
        if backend is BACKENDS["FLASHMLA_SPARSE"] and dtype.startswith("fp8"):
            common["kv_cache_dtype"] = cache_config.cache_dtype = "fp8_ds_mla"
        size = cache["kv_lora_rank"] + cache["qk_rope_head_dim"]
        layer.__dict__.update(
            common,
            head_size=size,
            sliding_window=None,
            indexer=None,
            non_causal_multi_token_decode=False,
            topk_buffer_width=None,
        )
    elif kind == "SparseIndex":
        size = cache["head_dim"] + cache["head_dim"] // 128 * 4
        layer.__dict__.update(cache_config=cache_config, head_dim=size, dtype=torch.uint8)
    else:
        layer.__dict__.update(
            common,
            attn_type=AttentionType.DECODER,
            num_kv_heads=max(1, cache["num_kv_heads"] // settings["tensor_parallel_size"]),
            head_size=cache["head_size"],
            head_size_v=cache.get("head_size_v", cache["head_size"]),
            sliding_window=cache.get("window"),
            attention_chunk_size=cache.get("chunk"),
            kv_cache_torch_dtype=get_kv_cache_torch_dtype(dtype, config.model_config.dtype),
        )
    return layer


def config_of(layers: Layers, settings: dict[str, Any]) -> VllmConfig:
    """Return vLLM's configuration for one case, the model's part a stand-in."""
    caches = [cache for layer in layers for cache in layer]
    attention = next((cache for cache in caches if cache["kind"] == "Latent"), None)
    is_compressed = any(cache["kind"] in COMPRESSED for cache in caches)
    is_latent = attention is not None or is_compressed
    if not is_latent:
        attention = next((cache for cache in caches if cache["kind"] not in STATES), None)
    ranks = settings["tensor_parallel_size"]
    heads, size = 1, 0
    if is_compressed:
        size = 512
    elif is_latent:
        size = attention["kv_lora_rank"] + attention["qk_rope_head_dim"]
    elif attention is not None:
        heads, size = max(1, attention["num_kv_heads"] // ranks), attention["head_size"]
    has_state = any(cache["kind"] in STATES for cache in caches)
    model = SimpleNamespace(
        architecture="Case",
        model="case",
        dtype=STR_DTYPE_TO_TORCH_DTYPE[settings["model_dtype"]],
        max_model_len=settings["max_model_len"],
        original_max_model_len=settings["max_model_len"],
        is_hybrid=has_state and attention is not None,
        supports_mamba_prefix_caching={cache["kind"] for cache in caches} & {*STATES} <= {"Mamba1", "Mamba2"},
        get_mamba_chunk_size=lambda: settings["mamba_chunk_size"] or 2048,
        supports_kv_cache_grouping=False,
        use_mla=is_latent,
        get_num_kv_heads=lambda parallel: heads,
        get_num_attention_heads=lambda parallel: heads,
        get_head_size=lambda: size,
        hf_text_config=SimpleNamespace(num_hidden_layers=len(layers), layer_types=["full_attention"]),
        hf_config=SimpleNamespace(layer_types=["full_attention"]),
    )
    config = VllmConfig()
    config.model_config = model
    block_size = settings["block_size"]
    if settings["is_cpu"]:
        block_size = 16 if is_latent and VERSION >= (0, 29, 0) else block_size or 128
    config.cache_config = CacheConfig(
        **({} if block_size is None else {"block_size": block_size}),
        cache_dtype=settings["kv_cache_dtype"],
        enable_prefix_caching=settings["enable_prefix_caching"],
        mamba_cache_dtype=settings["mamba_cache_dtype"],
        mamba_ssm_cache_dtype=settings["mamba_ssm_cache_dtype"],
        num_gpu_blocks_override=settings["num_gpu_blocks_override"],
    )
    skipped = set(settings["kv_cache_dtype_skip_layers"])
    if settings["kv_cache_dtype"].startswith("turboquant"):
        skipped |= set(TurboQuantConfig.get_boundary_skip_layers(model if VERSION >= (0, 21, 0) else len(layers)))
    config.cache_config.kv_cache_dtype_skip_layers = sorted(skipped)
    if any(field.name == "kv_cache_layout" for field in dataclasses.fields(_CacheConfig)):
        config.cache_config.kv_cache_layout = "LBHNC" if settings["is_cpu"] else "LBNHC"
        if is_compressed:
            config.cache_config.kv_cache_layout = "BLHNC"
    config.scheduler_config.max_num_batched_tokens = settings["max_num_batched_tokens"]
    config.scheduler_config.max_num_encoder_input_tokens = settings["max_num_batched_tokens"]
    config.scheduler_config.async_scheduling = settings["async_scheduling"]
    config.scheduler_config.enable_chunked_prefill = True
    config.scheduler_config.disable_hybrid_kv_cache_manager = settings["disable_hybrid_kv_cache_manager"]
    config.parallel_config.tensor_parallel_size = ranks
    config.parallel_config.pipeline_parallel_size = settings["pipeline_parallel_size"]
    config.parallel_config.decode_context_parallel_size = settings["decode_context_parallel_size"]
    if settings["num_speculative_tokens"]:
        config.speculative_config = SimpleNamespace(
            num_speculative_tokens=settings["num_speculative_tokens"],
            method="ngram",
            use_eagle=lambda: False,
            use_eagle_block_drop=lambda: False,
            use_multi_module_mtp=lambda: False,
        )
    if has_state:
        MambaModelConfig.verify_and_update_config(config)
    return config


def plan(layers: Layers, settings: dict[str, Any], kv_cache_bytes: int) -> dict[str, Any]:
    """Return what vLLM makes of one case."""
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the other needs Triton to be configured
    config = config_of(layers, settings)
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1" if settings["use_v2_model_runner"] else "0"
    check: dict[str, Any] = {}
    original = planning._check_enough_kv_cache_memory

    def watch(available, get_needed, max_model_len, estimate):
        longest = estimate(available) if 0 < available < get_needed() else 0
        check.update(needed_bytes=get_needed(), available_bytes=available, largest_max_model_len=longest)
        original(available, get_needed, max_model_len, estimate)

    states = [cache for layer in layers for cache in layer if cache["kind"] in STATES]
    context = config.compilation_config.static_forward_context
    stages = stage_of(len(layers), settings["pipeline_parallel_size"])
    where: dict[str, int] = {}
    for index, (layer, stage) in enumerate(zip(layers, stages, strict=True)):
        for position, cache in enumerate(layer):
            name = f"model.layers.{index}.{position}"
            context[name] = layer_of(cache, index, config, settings)
            where[name] = stage
    model_class = SimpleNamespace(
        get_mamba_state_shape_from_config=lambda _: state_of(states[0], config)[0],
        get_mamba_state_dtype_from_config=lambda _: state_of(states[0], config)[1],
    )
    registry = mock.patch(
        "vllm.model_executor.models.ModelRegistry.resolve_model_cls", return_value=(model_class, "Case")
    )
    try:
        with registry, mock.patch.object(planning, "_check_enough_kv_cache_memory", watch):
            (type(current_platform) if settings["is_cpu"] else Platform).update_block_size_for_backend(config)
            specs = get_kv_cache_spec(config)
            by_stage = [
                {name: spec for name, spec in specs.items() if where[name] == stage}
                for stage in range(settings["pipeline_parallel_size"])
            ]
            groups = [planning.get_global_kv_cache_groups(config, by_stage)] if VERSION >= (0, 33, 0) else []
            configs = planning.get_kv_cache_configs(config, by_stage, [kv_cache_bytes] * len(by_stage), *groups)
    except (ValueError, AssertionError, NotImplementedError) as error:
        text = str(error)
        if text.startswith("No available memory"):
            return {"error": {"kind": "no_memory", **check, "largest_max_model_len": 0}}
        if text.startswith("To serve at least one request"):
            return {"error": {"kind": "too_long", **check}}
        if not is_refusal(error):
            raise
        return {"refused": f"{type(error).__name__}: {text}"}
    tokens, concurrency = capacity(config, configs[0])
    return {
        "block_size": config.cache_config.block_size,
        "groups": [_shown(group, config) for group in configs[0].kv_cache_groups],
        "stage_bytes": [_pool_bytes_per_block(config, each) for each in configs],
        "num_blocks": configs[0].num_blocks,
        "size_tokens": tokens,
        "max_concurrency": concurrency,
        "max_in_flight_tokens": getattr(config, "max_in_flight_tokens", config.scheduler_config.max_num_batched_tokens),
    }


def is_refusal(error: Exception) -> bool:
    """Tell whether vLLM does not run the case; anything else is a mistake of this recorder, or is to be looked at."""
    text = str(error)
    if isinstance(error, AssertionError) and not text:
        return any(frame.name == "unify_kv_cache_spec_page_size" for frame in traceback.extract_tb(error.__traceback__))
    return any(known in text for known in REFUSALS)


def capacity(config: VllmConfig, kv_cache_config: Any) -> tuple[int, float]:
    """Return "GPU KV cache size" and "Maximum concurrency"; up to 0.23 the former is only printed."""
    if hasattr(kv_cache_utils, "get_kv_cache_capacity"):
        return kv_cache_utils.get_kv_cache_capacity(config, kv_cache_config)
    printed: list[str] = []

    def note(text: str, *values: str, **_: Any) -> None:
        printed.append(text % values)

    with mock.patch.object(kv_cache_utils, "logger", SimpleNamespace(info=note, info_once=note)):
        kv_cache_utils._report_kv_cache_config(config, kv_cache_config)
    size = next(line for line in printed if line.startswith("GPU KV cache size: "))
    tokens = int(size.removeprefix("GPU KV cache size: ").removesuffix(" tokens").replace(",", ""))
    return tokens, kv_cache_utils.get_max_concurrency_for_kv_cache_config(config, kv_cache_config)


def _pool_bytes_per_block(config: VllmConfig, kv_cache_config: Any) -> int:
    if VERSION < (0, 21, 0):
        return sum(tensor.size for tensor in kv_cache_config.kv_cache_tensors) // kv_cache_config.num_blocks
    takes_config = planning._pool_bytes_per_block.__code__.co_argcount == 2
    return planning._pool_bytes_per_block(*([config] if takes_config else []), kv_cache_config.kv_cache_groups)


def _shown(group: Any, config: VllmConfig) -> list[Any]:
    spec = group.kv_cache_spec
    each = list(spec.kv_cache_specs.values()) if isinstance(spec, UniformTypeKVCacheSpecs) else [spec]
    return [
        type(spec).__name__,
        len(group.layer_names),
        spec.block_size,
        sorted({one.page_size_bytes for one in each}),
        -(-spec.max_memory_usage_bytes(config) // spec.page_size_bytes),
    ]


def stage_of(num_layers: int, stages: int) -> list[int]:
    """Return each layer's pipeline stage by vLLM's own split."""
    from vllm.distributed.utils import get_pp_indices

    return [stage for stage in range(stages) for _ in range(*get_pp_indices(num_layers, stage, stages))]


def full(heads: int, size: int, size_v: int | None = None) -> Cache:
    return {"kind": "FullAttention", "num_kv_heads": heads, "head_size": size, "head_size_v": size_v or size}


def window(heads: int, size: int, length: int) -> Cache:
    return {"kind": "SlidingWindow", "num_kv_heads": heads, "head_size": size, "head_size_v": size, "window": length}


def chunk(heads: int, size: int, length: int) -> Cache:
    return {"kind": "ChunkedLocal", "num_kv_heads": heads, "head_size": size, "head_size_v": size, "chunk": length}


def latent(*, sparse: bool = False) -> Cache:
    return {"kind": "Latent", "kv_lora_rank": 512, "qk_rope_head_dim": 64, "sparse": sparse}


def cross(heads: int, size: int) -> Cache:
    return {"kind": "CrossAttention", "num_kv_heads": heads, "head_size": size}


INDEX = {"kind": "SparseIndex", "head_dim": 128}


def compressed(ratio: int) -> list[Cache]:
    """Return what a layer of DeepSeek V4 keeps, in the order in which vLLM registers it."""
    local = {"kind": "LatentWindow", "size": 512, "window": 128}
    if ratio == 0:
        return [local]
    index = [
        {"kind": "CompressedIndex", "head_dim": 128, "ratio": 4},
        {"kind": "CompressorState", "size": 512, "ratio": 4},
    ]
    latents = {"kind": "CompressedLatent", "size": 512, "ratio": ratio}
    state = {"kind": "CompressorState", "size": 2048 if ratio == 4 else 1024, "ratio": ratio}
    return [*(index if ratio == 4 else ()), local, latents, state]


def draw_state(rng: random.Random) -> Cache:
    kind = rng.choice(STATES)
    heads = rng.choice((16, 32, 64))
    conv = rng.choice((3, 4))
    match kind:
        case "Mamba1":
            return {
                "kind": kind,
                "intermediate_size": rng.choice((4096, 8192)),
                "state_size": 16,
                "conv_kernel": conv,
            }
        case "Mamba2":
            return {
                "kind": kind,
                "intermediate_size": heads * 64,
                "n_groups": rng.choice((1, 2, 8)),
                "num_heads": heads,
                "head_dim": 64,
                "state_size": rng.choice((64, 128)),
                "conv_kernel": conv,
            }
        case "GatedDeltaNet":
            return {
                "kind": kind,
                "num_k_heads": 16,
                "num_v_heads": rng.choice((16, 32)),
                "head_k_dim": 128,
                "head_v_dim": rng.choice((64, 128)),
                "conv_kernel": conv,
            }
        case "KimiDelta":
            return {"kind": kind, "num_heads": heads, "head_dim": 128, "conv_kernel": conv}
        case "ShortConv":
            return {"kind": kind, "intermediate_size": rng.choice((1024, 2048)), "conv_kernel": conv}
        case _:
            return {"kind": kind, "num_heads": heads, "head_dim": rng.choice((64, 96, 128))}


def draw_layers(family: str, rng: random.Random) -> Layers:
    """Draw a model of one family."""
    heads, size = rng.choice((1, 2, 4, 8, 16)), rng.choice((64, 80, 96, 128, 256))
    count = rng.choice((4, 10, 24, 27, 36, 61, 62))
    every = rng.choice((2, 3, 4, 6))

    def mixed(most: Cache, last: Cache) -> Layers:
        return [[last if at % every == every - 1 else most] for at in range(count)]

    match family:
        case "full":
            return [[full(heads, size)] for _ in range(count)]
        case "full of two sizes":
            other = full(rng.choice((2, 4, 8)), rng.choice((64, 128, 192)), rng.choice((64, 128)))
            return [[other if at % every == 0 else full(heads, size)] for at in range(count)]
        case "shared":
            return [[full(heads, size)] if at < count * 2 // 3 else [] for at in range(count)]
        case "window":
            return [[window(heads, size, rng.choice((512, 4096)))]] * count
        case "window and full":
            return mixed(window(heads, size, rng.choice((128, 512, 1024, 4096))), full(heads, size))
        case "window and full of other sizes":
            local = window(heads, size, rng.choice((128, 1024)))
            rest = full(rng.choice((1, 2, 4, 8)), rng.choice((64, 128, 256, 512)))
            return mixed(local, rest)
        case "two windows":
            kinds = [window(heads, size, 512), window(heads, size, 1024), full(heads, size)]
            return [[kinds[at % 3]] for at in range(count)]
        case "chunk and full":
            return mixed(chunk(heads, size, rng.choice((1024, 8192))), full(heads, size))
        case "latent":
            return [[latent()] for _ in range(count)]
        case "latent and index":
            return [[INDEX, latent(sparse=True)] for _ in range(count)]
        case "latent and some index":
            return [[INDEX, latent(sparse=True)] if at % every == 0 else [latent(sparse=True)] for at in range(count)]
        case "compressed latent":
            first = rng.choice(([0, 0], [128, 128], [0], []))
            ratios = first + [4, 128] * count
            return [compressed(ratio) for ratio in ratios[: max(count, 4)]]
        case "latent and window":
            return mixed(window(heads, size, 1024), latent())
        case "latent and state":
            return mixed(draw_state(rng), latent())
        case "cross":
            return [[full(heads, size), cross(heads, size)] for _ in range(count)]
        case "state":
            return [[draw_state(rng)]] * count
        case "state and full":
            return mixed(draw_state(rng), full(heads, size))
        case "state beside full":
            state = draw_state(rng)
            return [[full(heads, size), state] for _ in range(count)]
        case "state, window and full":
            kinds = [draw_state(rng), window(heads, size, 2048), full(heads, size)]
            return [[kinds[at % 3]] for at in range(count)]
    raise ValueError(family)


FAMILIES = (
    "full",
    "full of two sizes",
    "shared",
    "window",
    "window and full",
    "window and full of other sizes",
    "two windows",
    "chunk and full",
    "latent",
    "latent and index",
    "latent and some index",
    "latent and window",
    "latent and state",
    "cross",
    "state",
    "state and full",
    "state beside full",
    "state, window and full",
    "compressed latent",
)

HEAD_DTYPES = (
    "fp8",
    "fp8_e5m2",
    "int8_per_token_head",
    "fp8_per_token_head",
    "int4_per_token_head",
    "nvfp4",
    "turboquant_4bit_nc",
    "turboquant_k8v4",
    "turboquant_k3v4_nc",
    "turboquant_3bit_nc",
)


def draw_settings(layers: Layers, rng: random.Random) -> dict[str, Any]:
    """Draw flags that vLLM accepts for the layers (its own checks of the model's configuration are not run here)."""
    caches = [cache for layer in layers for cache in layer]
    kinds = {cache["kind"] for cache in caches}
    ranks = rng.choice((1, 1, 2, 4, 8, 16))
    all_heads = [cache["num_kv_heads"] for cache in caches if "num_kv_heads" in cache]
    while any(heads % ranks and ranks % heads for heads in all_heads):
        ranks = rng.choice((1, 2, 4))
    shards = 1
    if "SlidingWindow" not in kinds and rng.random() < 0.3:
        most = min([ranks] + [ranks // heads for heads in all_heads]) if all_heads else ranks
        shards = rng.choice([each for each in (1, 2, 4, 8) if each <= max(1, most) and ranks % each == 0])
    is_cpu = rng.random() < 0.12 and "SparseIndex" not in kinds
    dtype = "auto"
    if rng.random() < 0.4:
        dtype = rng.choice(("fp8", "fp8_e4m3", "bfloat16", "float16"))
        if not is_cpu and not kinds & {"Latent", "CrossAttention", "ChunkedLocal"}:
            dtype = rng.choice(HEAD_DTYPES)
    quantized = dtype not in ("auto", "bfloat16", "float16")
    skip = []
    if quantized and not is_cpu and not kinds & {"Latent", "ChunkedLocal"} and rng.random() < 0.3:
        skip = rng.choice((["0"], ["1", "2"], ["sliding_window"]))
    stages = rng.choice((1, 1, 1, 2, 3, 4))
    split = stage_of(len(layers), stages)
    if {stage for layer, stage in zip(layers, split, strict=True) if layer} != set(range(stages)):
        stages = 1  # where a stage keeps nothing vLLM says nothing of use: it fails an assertion, or divides by zero
    return {
        "max_model_len": rng.choice((448, 1000, 4096, 8192, 32768, 40960, 131072, 262144, 1_000_000)),
        "model_dtype": rng.choice(("bfloat16", "bfloat16", "float16", "float32")),
        "kv_cache_dtype": dtype,
        "kv_cache_dtype_skip_layers": skip,
        "block_size": rng.choice((None, None, None, 16, 32, 64, 128)),
        "num_gpu_blocks_override": rng.choice((100, 5000)) if rng.random() < 0.05 else None,
        "tensor_parallel_size": ranks,
        "pipeline_parallel_size": stages,
        "decode_context_parallel_size": shards,
        "max_num_batched_tokens": rng.choice((512, 2048, 8192, 16384)),
        "async_scheduling": rng.random() < 0.6,
        "use_v2_model_runner": rng.random() < 0.6,
        "num_speculative_tokens": rng.choice((0, 0, 0, 1, 3)),
        "enable_prefix_caching": rng.random() < 0.7,
        "disable_hybrid_kv_cache_manager": rng.random() < 0.2,
        "mamba_cache_dtype": rng.choice(("auto", "auto", "float32")),
        "mamba_ssm_cache_dtype": rng.choice(("auto", "auto", "float32", "bfloat16")),
        "mamba_chunk_size": rng.choice((128, 256)) if "Mamba2" in kinds else None,
        "is_cpu": is_cpu,
        "compute_capability": rng.choice(([9, 0], [9, 0], [8, 0], [10, 0])),
        "attention_backend": None,
    }


def cases(seed: int, per_family: int) -> Iterator[tuple[str, Layers, dict[str, Any], int]]:
    for family in FAMILIES:
        for number in range(per_family):
            rng = random.Random(f"{seed} {family} {number}")
            layers = draw_layers(family, rng)
            settings = draw_settings(layers, rng)
            if family == "compressed latent":
                settings |= {
                    "kv_cache_dtype": rng.choice(("auto", "fp8")),
                    "kv_cache_dtype_skip_layers": [],
                    "block_size": rng.choice((None, 256)),
                    "decode_context_parallel_size": 1,
                    "disable_hybrid_kv_cache_manager": False,
                    "is_cpu": False,
                    "compute_capability": rng.choice(([9, 0], [10, 0])),
                }
            if VERSION < (0, 22, 0) and settings["mamba_ssm_cache_dtype"] == "bfloat16":
                settings["mamba_ssm_cache_dtype"] = "float16"
            kv_cache_bytes = rng.choice((0, 1 << 20, GIB // 4, 3 * GIB + 12345, 20 * GIB, 20 * GIB, 60 * GIB))
            yield f"{family} {number}", layers, settings, kv_cache_bytes


def packed(layers: Layers) -> list[list[Any]]:
    """Return the layers with runs of equal ones as [count, layer]."""
    runs: list[list[Any]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer:
            runs[-1][0] += 1
        else:
            runs.append([1, layer])
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-family", type=int, default=14)
    arguments = parser.parse_args()
    lines = []
    for name, layers, settings, kv_cache_bytes in cases(arguments.seed, arguments.per_family):
        result = plan(layers, settings, kv_cache_bytes)
        record = {
            "version": ".".join(map(str, VERSION)),
            "name": name,
            "layers": packed(layers),
            "settings": settings,
            "kv_cache_bytes": kv_cache_bytes,
            "result": result,
        }
        lines.append(json.dumps(record, separators=(",", ":")))
    arguments.output.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


if __name__ == "__main__":
    main()

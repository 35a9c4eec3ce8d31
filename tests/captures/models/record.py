"""Record what vLLM builds of small made-up models: parameters, caches, context length.

For each entry of configs.json vLLM's own `ModelConfig`, model class and loader run on the CPU, one process standing in
for rank 0 of 1, 2 and 4 tensor-parallel ranks. Tensors of the names and shapes that `advisor.model` lists go through
the model's own ``load_weights``; an entry is recorded only if every parameter is then written to the last element.
Needs vLLM 0.32 (its CPU build) with torchvision, and no GPU. See README.md for the format.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import re
import socket
import tempfile
from pathlib import Path

import torch
import vllm
import vllm.distributed.parallel_state as parallel
import vllm.model_executor.layers.fused_moe.config as moe_config
import vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method as moe_method
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    VllmConfig,
    set_current_vllm_config,
)
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models import registry
from vllm.platforms.cpu import CpuPlatform
from vllm.transformers_utils.config import _CONFIG_REGISTRY

from advisor.model import parse_model

BLOCK = 16
RANKS = (1, 2, 4)
WITHOUT_CPU_KERNEL = (MoEActivation.RELU2_NO_MUL, MoEActivation.SITU)
"""Experts' activations that vLLM has no CPU kernel for: of nemotron3 and nemotron3_latent, of kimik3 and kimik3text.

A kernel decides only to what the experts' width is rounded up, and the CPU's, like Triton's, rounds nothing
(``unquantized_round_up_hidden_size_and_intermediate_size``).
"""


def pretend_gpu():
    """Let the CPU build construct what only GPUs run: sparse attention, experts without gates, Kimi's kernels."""
    registry._run_in_subprocess = lambda function: function()
    backend, check = CpuPlatform.get_attn_backend_cls.__func__, CpuPlatform.check_and_update_config.__func__

    def without_sparse(cls, *arguments, **options):
        def plain(each):
            if not getattr(each, "use_sparse", False):
                return each
            replaced = getattr(each, "_replace", None)
            return replaced(use_sparse=False) if replaced else dataclasses.replace(each, use_sparse=False)

        return backend(cls, *map(plain, arguments), **{name: plain(each) for name, each in options.items()})

    def with_prefix_caching(cls, config):
        check(cls, config)
        config.cache_config.enable_prefix_caching = True

    CpuPlatform.get_attn_backend_cls = classmethod(without_sparse)
    CpuPlatform.check_and_update_config = classmethod(with_prefix_caching)

    class Platform:
        def __getattr__(self, name):
            return getattr(real_platform, name)

        def is_xpu(self):
            return True

    real_platform, moe_config.current_platform = moe_config.current_platform, Platform()
    select = moe_method.select_unquantized_moe_backend

    def with_kernels_of_gpus(moe_config):
        if moe_config.activation in WITHOUT_CPU_KERNEL:
            return UnquantizedMoeBackend.CPU, None
        return select(moe_config)

    moe_method.select_unquantized_moe_backend = with_kernels_of_gpus
    import vllm.models.kimi_k3.nvidia.model as kimi

    kimi.maybe_init_gemm_rs_ar = lambda *_, **__: None

    class Nothing:
        """In place of a CUDA stream or event."""

    torch.cuda.Stream = torch.cuda.Event = Nothing


def register(config):
    """Stand in for configuration classes that checkpoints bring along."""
    kind = config["model_type"]
    if kind in CONFIG_MAPPING or kind in _CONFIG_REGISTRY:
        return
    if kind == "nemotron-nas":
        made = _nemotron_nas_class()
    else:
        attributes = {"num_hidden_layers": "num_layers"} if kind == "exaone" else {}
        made = type(f"{kind}Config", (PretrainedConfig,), {"model_type": kind, "attribute_map": attributes})
    AutoConfig.register(kind, made)


def _nemotron_nas_class():
    class Bare:
        def __init__(self, values):
            for name, value in values.items():
                setattr(self, name, Bare(value) if isinstance(value, dict) else value)

    class NemotronNasConfig(PretrainedConfig):
        model_type = "nemotron-nas"

        def __init__(self, block_configs=(), **options):
            self.block_configs = [Bare(each) for each in block_configs]
            super().__init__(**options)

        def to_dict(self):
            return {}

    return NemotronNasConfig


def start():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with set_current_vllm_config(VllmConfig()):
        parallel.init_distributed_environment(
            world_size=1, rank=0, distributed_init_method=f"tcp://127.0.0.1:{port}", local_rank=0, backend="gloo"
        )
        parallel.ensure_model_parallel_initialized(1, 1)


@contextlib.contextmanager
def pretend_ranks(count):
    group = parallel.get_tp_group()
    group.world_size = count
    try:
        yield
    finally:
        group.world_size = 1


def build(entry, ranks):
    register(entry["config"])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(entry["config"]))
        model_config = ModelConfig(
            model=folder, tokenizer=folder, skip_tokenizer_init=True, runner=entry.get("runner", "auto")
        )
        types = getattr(model_config.hf_text_config, "layer_types", None)
        uniform = types is None or all(each == "sliding_attention" for each in types)
        config = VllmConfig(
            model_config=model_config,
            cache_config=CacheConfig(
                block_size=BLOCK,
                enable_prefix_caching=True,
                sliding_window=model_config.get_sliding_window() if uniform else None,
            ),
            parallel_config=ParallelConfig(),
            scheduler_config=SchedulerConfig(
                max_model_len=model_config.max_model_len,
                is_encoder_decoder=model_config.is_encoder_decoder,
                max_num_batched_tokens=max(model_config.max_model_len, 2048),
            ),
            device_config=DeviceConfig("cpu"),
        )
        config.parallel_config.tensor_parallel_size = ranks
        config.parallel_config.disable_custom_all_reduce = True
        torch.set_default_dtype(model_config.dtype)
        try:
            with pretend_ranks(ranks), set_current_vllm_config(config, check_compile=False):
                return config, initialize_model(vllm_config=config, model_config=model_config)
        finally:
            torch.set_default_dtype(torch.float32)


def caches(config):
    """Return what each layer keeps, [kind, sizes ...] by layer name; layers that read another's cache are left out."""
    found = {}
    for name, layer in config.compilation_config.static_forward_context.items():
        if not isinstance(layer, AttentionLayerBase) or getattr(layer, "kv_sharing_target_layer_name", None):
            continue
        spec = layer.get_kv_cache_spec(config)
        if spec is None:
            continue
        kind = type(spec).__name__.removesuffix("Spec")
        if kind == "Mamba":
            found[name] = [kind, *([*shape] for shape in spec.shapes)]
        elif kind == "MLAAttention":
            found[name] = [kind, spec.head_size]
        else:
            window = getattr(spec, "sliding_window", None) or getattr(spec, "attention_chunk_size", None)
            found[name] = [kind, spec.num_kv_heads, spec.head_size, spec.head_size_v, window]
    return found


def file_tensors(entry, spec, dtype):
    """Yield the checkpoint that the specification describes, all ones."""
    layouts = entry.get("file_layout", {})
    rows = {}
    for each in spec.parameters:
        rows[each.name] = rows.get(each.name, 0) + (each.shape[0] if each.shape else 0)
    for each in spec.parameters:
        if any(part in each.name for part in entry.get("not_in_file", ())) or each.name not in rows:
            continue
        layout = next((layouts[suffix] for suffix in layouts if each.name.endswith(suffix)), None)
        if "*" in each.name:
            for number in range(each.count):
                yield each.name.replace("*", str(number)), torch.ones(each.shape, dtype=dtype)
            continue
        shape = (rows.pop(each.name), *each.shape[1:])
        if layout == "transposed":
            shape = shape[::-1]
        elif layout == "joined":
            shape = (each.count * shape[0], *shape[1:])
        if each.count > 1 and layout != "joined":
            shape = (each.count, *shape)
        yield each.name, torch.ones(shape, dtype=dtype)


def unwritten(entry, spec):
    """Return the parameters that vLLM's loader leaves unwritten when given the specification's tensors."""
    config, model = build(entry, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data.fill_(math.nan)
    with set_current_vllm_config(config, check_compile=False), pretend_ranks(1), torch.no_grad():
        model.load_weights(file_tensors(entry, spec, config.model_config.dtype))
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and bool(torch.isnan(parameter.data.float()).any())
    ]


def record(name, entry):
    spec = parse_model(entry["config"])
    line = {"name": name, "vllm": vllm.__version__.partition("+")[0], **entry, "elements": {}}
    for ranks in entry.get("ranks", RANKS):
        config, model = build(entry, ranks)
        line["elements"][ranks] = sum(each.numel() for each in model.parameters())
        if ranks == 1:
            line["class"] = type(model).__name__
            line["max_model_len"] = config.model_config.max_model_len
            line["dtype"] = str(config.model_config.dtype).removeprefix("torch.")
            line["caches"] = caches(config)
    if not entry.get("loader_fails"):
        left = unwritten(entry, spec)
        assert not left, f"{name}: the loader leaves {left} unwritten"
        tensors = {}
        for each in spec.parameters:
            shape = "x".join(map(str, each.shape)) + (f"*{each.count}" if each.count > 1 else "")
            tensors.setdefault(each.name, []).append(shape)
        line["tensors"] = {
            tensor: " + ".join(shapes)
            for tensor, shapes in tensors.items()
            if not re.search(r"(layers|blocks|h|layer)\.([2-9]|\d\d+)\.", tensor)
        }
    return line


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("output", type=Path)
    arguments.add_argument("--only", nargs="*", default=())
    options = arguments.parse_args()
    entries = json.loads(Path(__file__).with_name("configs.json").read_text())
    pretend_gpu()
    start()
    with options.output.open("w") as output:
        for name, entry in entries.items():
            if options.only and name not in options.only:
                continue
            output.write(json.dumps(record(name, entry), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

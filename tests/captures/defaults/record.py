"""Record which flags a real vLLM takes where none are given: run by hand with the Python of a vLLM installation.

python tests/captures/defaults/record.py tests/captures/defaults/flags-0.32.0.jsonl

It needs no GPU: vLLM's CPU build makes its configuration as its CUDA build does once its platform is replaced by CUDA's
with a device of our choosing. Nothing is loaded or run.
"""

import argparse
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
for extension in ("vllm._C", "vllm._C_stable_libtorch", "vllm._moe_C"):
    sys.modules[extension] = types.ModuleType(extension)

import vllm  # noqa: E402 - what stands above has to come before it
import vllm.model_executor.model_loader.weight_utils  # noqa: E402 - loaded on the platform that it finds
from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.platforms.cuda import CudaPlatformBase  # noqa: E402
from vllm.platforms.interface import DeviceCapability  # noqa: E402
from vllm.usage.usage_lib import UsageContext  # noqa: E402

try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser

GIB = 1024**3
DEVICES = {
    "T4": ("Tesla T4", 14.56, (7, 5)),
    "RTX 4090": ("NVIDIA GeForce RTX 4090", 23.52, (8, 9)),
    "A100": ("NVIDIA A100-SXM4-80GB", 79.25, (8, 0)),
    "H100": ("NVIDIA H100 80GB HBM3", 79.19, (9, 0)),
    "RTX PRO 6000": ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 94.97, (12, 0)),
    "GB10": ("NVIDIA GB10", 119.7, (12, 1)),
    "B200": ("NVIDIA B200", 178.35, (10, 0)),
}
DENSE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}
MODELS: dict[str, dict[str, Any]] = {
    "dense": DENSE,
    "short": {**DENSE, "max_position_embeddings": 1024},
    "mixture": {
        **DENSE,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "latent": {
        **DENSE,
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "num_key_value_heads": 8,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "first_k_dense_replace": 1,
    },
    "hybrid": {
        **DENSE,
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 0,
    },
    "hybrid that keeps all states": {
        **DENSE,
        "architectures": ["FalconH1ForCausalLM"],
        "model_type": "falcon_h1",
        "mamba_d_ssm": 256,
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_n_groups": 1,
        "mamba_d_state": 16,
    },
    "encoder": {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "vocab_size": 1000,
        "max_position_embeddings": 512,
        "torch_dtype": "float32",
    },
}
CASES: list[tuple[str, str, str]] = [
    *(("dense", device, "") for device in DEVICES),
    *((model, "H100", "") for model in MODELS if model != "dense"),
    *(("latent", device, "") for device in ("A100", "RTX PRO 6000", "B200")),
    *(
        ("dense", device, flags)
        for device in ("RTX 4090", "H100")
        for flags in (
            "--max-num-seqs 16",
            "--max-num-seqs 300",
            "--max-model-len 64 --max-num-seqs 4",
            "--max-num-batched-tokens 512",
            "--max-num-batched-tokens 300 --max-num-seqs 300",
            "--performance-mode throughput",
            "--performance-mode interactivity",
            "--no-enable-chunked-prefill",
            "--enforce-eager",
            "--no-enable-prefix-caching",
            "--cudagraph-capture-sizes 1 7 64 4000",
            "--max-cudagraph-capture-size 100",
            "-O0",
            "-O1",
        )
    ),
    *(("dense", "B200", flags) for flags in ("--max-num-seqs 1024", "--max-num-seqs 100")),
    ("dense", "H100", "--max-model-len auto"),
    ("dense", "H100", "--max-model-len 8192 --gpu-memory-utilization 0.5 --kv-cache-dtype fp8"),
    ("dense", "H100", "--tensor-parallel-size 4"),
    ("dense", "H100", "--block-size 64"),
    ("mixture", "H100", "--data-parallel-size 2 --enable-expert-parallel"),
    ("mixture", "H100", "--data-parallel-size 2 --enable-expert-parallel --all2all-backend deepep_low_latency"),
    ("hybrid", "H100", "--enable-prefix-caching"),
    ("hybrid", "H100", "--no-enable-prefix-caching --max-num-seqs 64"),
    ("hybrid that keeps all states", "H100", "--enable-prefix-caching"),
    ("encoder", "RTX 4090", "--max-num-seqs 8"),
    # refused
    ("dense", "H100", "--max-num-batched-tokens 100 --max-num-seqs 300"),
    ("dense", "H100", "--max-num-batched-tokens 4096 --no-enable-chunked-prefill"),
    ("dense", "H100", "--max-model-len 50000"),
    ("dense", "H100", "--tensor-parallel-size 3"),
    ("dense", "T4", "--dtype bfloat16"),
    ("dense", "H100", "--tensor-parallel-size 4 --decode-context-parallel-size 2"),
]


class Platform(CudaPlatformBase):
    """CUDA with one device of our choosing."""

    chosen = DEVICES["H100"]

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
        return DeviceCapability(*cls.chosen[2])

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return cls.chosen[0]

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return int(cls.chosen[1] * GIB)

    @classmethod
    def is_fully_connected(cls, physical_device_ids: list[int]) -> bool:
        return True

    @classmethod
    def device_count(cls) -> int:
        return 8


def resolved(arguments: list[str]) -> dict[str, Any]:
    """Return what vLLM makes of a command line."""
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    parsed = parser.parse_args([*arguments, "--skip-tokenizer-init", "--load-format", "dummy"])
    config = AsyncEngineArgs.from_cli_args(parsed).create_engine_config(UsageContext.OPENAI_API_SERVER)
    cache, scheduler, compilation = config.cache_config, config.scheduler_config, config.compilation_config
    return {
        "gpu_memory_utilization": cache.gpu_memory_utilization,
        "block_size": cache.block_size,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "mamba_cache_mode": cache.mamba_cache_mode,
        "max_model_len": config.model_config.max_model_len,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "enable_chunked_prefill": scheduler.enable_chunked_prefill,
        "enforce_eager": config.model_config.enforce_eager,
        "cudagraph_mode": compilation.cudagraph_mode.name,
        "cudagraph_capture_sizes": list(compilation.cudagraph_capture_sizes or ()),
    }


def main() -> None:
    """Write a JSON document a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    current_platform.__class__ = Platform
    version = vllm.__version__.partition("+")[0]
    with tempfile.TemporaryDirectory() as folder, output.open("w", encoding="utf-8") as lines:
        for name, config in MODELS.items():
            Path(folder, name).mkdir()
            Path(folder, name, "config.json").write_text(json.dumps(config))
        for model, device, flags in CASES:
            Platform.chosen = DEVICES[device]
            named, memory, capability = Platform.chosen
            record: dict[str, Any] = {
                "version": version,
                "model": model,
                "device": {"name": named, "memory_bytes": int(memory * GIB), "compute_capability": capability},
                "args": flags.split(),
            }
            try:
                record["resolved"] = resolved(["--model", str(Path(folder, model)), *flags.split()])
            except (ValueError, AssertionError) as error:
                errors = getattr(error, "errors", list)()
                record["refused"] = errors[0]["msg"].partition(", ")[2] if errors else str(error)
            lines.write(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

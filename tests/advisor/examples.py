"""Small, readable examples that several tests start from."""

from dataclasses import fields

from hypothesis import strategies as st

from advisor.flags import ENVIRONMENT, EngineFlags, parse_flags
from advisor.readings import CacheConfig, EngineProcess, EngineReading, Gpu, GpuProcess, Histogram
from advisor.units import GIB

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}

DEEPSEEK_V4_FLASH = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "head_dim": 512,
    "vocab_size": 129280,
    "max_position_embeddings": 1048576,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 6,
    "num_hash_layers": 3,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1024,
    "o_lora_rank": 1024,
    "o_groups": 8,
    "qk_rope_head_dim": 64,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "hc_mult": 4,
    "sliding_window": 128,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
    "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536},
    "expert_dtype": "fp4",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "torch_dtype": "bfloat16",
}


def gpu(*, used=0, total=80 * GIB, reserved=GIB // 2, index=0, **more):
    return Gpu(
        gpu=str(index),
        uuid=f"GPU-{index}",
        name="Test GPU",
        memory_total_bytes=total,
        memory_used_bytes=used,
        memory_free_bytes=total - reserved - used,
        memory_reserved_bytes=reserved,
        **more,
    )


def gpu_process(pid, used, *, index=0):
    return GpuProcess(uuid=f"GPU-{index}", pid=pid, used_bytes=used)


def server(command="vllm serve /models/m", *, pids=(100, 101), port=8000, model_path="/models/m"):
    return EngineProcess(
        host="127.0.0.1",
        port=port,
        secure=False,
        flags=parse_flags(command.split()),
        pids=frozenset(pids),
        started_at_seconds=1.0,
        model_path=model_path,
    )


def histogram(mean, count=10):
    return Histogram(bounds=(float("inf"),), cumulative=(count,), sum=mean * count, count=count)


def reading(*, running=0.0, waiting=0.0, usage=0.0, tokens=100_000, **more):
    return EngineReading(
        engine="127.0.0.1:8000",
        url="http://127.0.0.1:8000",
        model_name="m",
        dp_rank="0",
        vllm_version="0.32.0",
        max_model_len=8192,
        requests_running=running,
        requests_waiting=waiting,
        kv_usage_ratio=usage,
        cache=CacheConfig(kv_cache_size_tokens=tokens, num_gpu_blocks=None if tokens is None else tokens // 16),
        **more,
    )


_ODD = st.sampled_from(
    [
        *(
            "0",
            "-1",
            "1",
            "7",
            "1000000",
            "4611686018427387904",
            "1e-300",
            "1e300",
            "auto",
            "fp8",
            "x",
            "{}",
            '{"a": 1}',
        ),
        *('{"cudagraph_mode": [1], "level": 9}', '{"num_speculative_tokens": 1000000}', '{"image": {"count": []}}'),
    ]
)


@st.composite
def odd_flags(draw):
    """What a command line and an environment say that ask for what nobody would."""
    names = st.sampled_from([each.name for each in fields(EngineFlags) if each.metadata])
    given = draw(st.lists(st.tuples(names, _ODD), min_size=1, max_size=4))
    words = [word for name, value in given for word in (f"--{name.replace('_', '-')}", value)]
    environment = draw(st.dictionaries(st.sampled_from(ENVIRONMENT), _ODD, max_size=1))
    return parse_flags(["vllm", "serve", "m", *words], environment=environment)

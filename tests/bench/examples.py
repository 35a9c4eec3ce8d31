"""Tiny made-up deployments and estimates."""

from advisor.estimate import Estimate, exactly
from advisor.units import GIB
from bench.accuracy.predict import Prediction
from bench.accuracy.rows import Deployment, Reported
from bench.accuracy.score import score

DENSE = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def gib(expected, spread=0.0):
    return Estimate(lower=(expected - spread) * GIB, expected=expected * GIB, upper=(expected + spread) * GIB)


def prediction(*, kv=10.0, weights=5.0, spread=0.5, budget=20.0, tokens=1000, verdict="fits"):
    return Prediction(
        budget_bytes=budget * GIB,
        weights=gib(weights),
        kv_cache=gib(kv, spread),
        activation_peak=gib(1),
        non_torch=gib(0.1),
        cuda_graphs=gib(0.5),
        kv_tokens=exactly(tokens),
        kv_bytes_per_token=kv * GIB / tokens,
        verdict=verdict,
    )


def deployment(*, args=("--gpu-memory-utilization", "0.9"), doubts=(), half="fitted", stated=True, **reported):
    return Deployment(
        id="row",
        source="https://example.org/log",
        author="example",
        half=half,
        model="org/model",
        geometry="org/model",
        gpu="NVIDIA L4",
        gpu_total_gib=None,
        gpu_count=1,
        vllm_version="0.19.0",
        args=args,
        environment={},
        utilization_stated=stated,
        reported=Reported(**reported),
        doubts=doubts,
    )


def scored(row, said, config=DENSE):
    return score([row], {"org/model": config}, lambda _row, _config: said)[0]

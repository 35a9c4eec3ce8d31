"""The worked examples of the five articles that the project grew from, computed.

The articles' figures are theirs; everything beside them comes from the estimator or from the lines of the log that the
article shows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.units import GIB, KIB
from bench.accuracy.predict import Declined, Prediction, parameter_count, predict
from bench.accuracy.rows import Deployment, Reported


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One figure of an article."""

    figure: str
    said: str
    computed: str
    why: str
    """``agrees``, or what the difference comes from."""


class _NoAnswerError(Exception):
    """The estimator declines an example."""


def examples(configs: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """Return the section of the page."""
    lines = [
        "## The articles' examples",
        "",
        "What the five articles compute, computed here. GB are 10^9 bytes, GiB 2^30, as vLLM prints them.",
        "",
    ]
    for title, each in (
        ("000: Qwen3-32B on 8 RTX 4090", article_000(configs)),
        ("001: does a 32B or a 72B-AWQ fit four cards of 24 GB", article_001(configs)),
        ("002: why Qwen3-4B takes 0.9 of the card", article_002(configs)),
        ("003: formulas for weights, KV cache, activation and overhead", article_003()),
        ("004: why the process of a 7B model holds 33.59 GiB", article_004(configs)),
    ):
        lines += [f"### {title}", "", "| figure | article | computed | |", "|---|---|---|---|"]
        try:
            for line in each:
                lines.append(f"| {line.figure} | {line.said} | {line.computed} | {line.why} |")
        except _NoAnswerError as problem:
            lines.append(f"| - | - | declined | {problem} |")
        lines.append("")
    return lines[:-1]


def _asked(
    configs: Mapping[str, Mapping[str, Any]], model: str, *, gpu: str, gpus: int, version: str, args: str
) -> Prediction:
    row = Deployment(
        id=model,
        source="",
        author="",
        half="fitted",
        model=model,
        geometry=model,
        gpu=gpu,
        gpu_total_gib=None,
        gpu_count=gpus,
        vllm_version=version,
        args=tuple(args.split()),
        environment={},
        utilization_stated=True,
        reported=Reported(),
        doubts=(),
    )
    answer = predict(row, configs[model])
    if isinstance(answer, Declined):
        raise _NoAnswerError(f"{model}: {answer.reason}")
    return answer


def _verdict(answer: Prediction) -> str:
    return {"fits": "fits", "does_not_fit": "does not fit", "too_close_to_call": "too close to call"}[answer.verdict]


def article_000(configs: Mapping[str, Mapping[str, Any]]) -> Iterable[Line]:
    """Tensor-parallel 8, utilization 0.75, 8,192 tokens, float16."""
    said = _asked(
        configs,
        "Qwen/Qwen3-32B",
        gpu="NVIDIA GeForce RTX 4090",
        gpus=8,
        version="0.8.5",
        args="--tensor-parallel-size 8 --gpu-memory-utilization 0.75 --dtype float16 --max-model-len 8192",
    )
    beside = said.activation_peak.expected + said.non_torch.expected
    layers = int(configs["Qwen/Qwen3-32B"]["num_hidden_layers"])
    yield Line(
        figure="usable memory",
        said="144 GB",
        computed=f"{8 * said.budget_bytes / GIB:.1f} GiB",
        why="CUDA shows less of a card than its 24 GB",
    )
    yield Line(
        figure="weights",
        said="64 GB",
        computed=f"{8 * said.weights.expected / 1e9:.1f} GB",
        why="32.8, not 32, billion parameters, norms on every card",
    )
    yield Line(
        figure="overhead of 8 cards",
        said="40 GB",
        computed=f"{8 * beside / 1e9:.1f} GB",
        why="a guess of 5 GB a card; vLLM measures it, and a smaller model leaves less",
    )
    per_token = said.kv_bytes_per_token * 8
    yield Line(
        figure="KV of one layer and token",
        said="4,096 B",
        computed=f"{per_token / layers:,.0f} B",
        why="agrees (head_dim is needed because Qwen3 sets it apart from hidden_size / heads, not because of GQA)",
    )
    yield Line(figure="KV of a token", said="262,144 B", computed=f"{per_token:,.0f} B", why="agrees")
    yield Line(
        figure="tokens",
        said="163,840",
        computed=f"{said.kv_tokens.expected:,.0f} ({said.kv_tokens.lower:,.0f} to {said.kv_tokens.upper:,.0f})",
        why="follows from the overhead",
    )
    yield Line(
        figure="requests of 8,192 tokens",
        said="20",
        computed=f"{said.kv_tokens.expected / 8192:.1f}",
        why="follows from the overhead",
    )


def article_001(configs: Mapping[str, Mapping[str, Any]]) -> Iterable[Line]:
    """Tensor-parallel 4 over cards of 24 GB, 8 requests of 8,192 tokens."""
    flags = "--tensor-parallel-size 4 --gpu-memory-utilization 0.9 --max-model-len 8192"
    card = "NVIDIA GeForce RTX 4090"
    plain = _asked(configs, "Qwen/Qwen1.5-32B-Chat", gpu=card, gpus=4, version="0.10.2", args=flags)
    four_bits = _asked(configs, "Qwen/Qwen2.5-72B-Instruct-AWQ", gpu=card, gpus=4, version="0.10.2", args=flags)
    for name, said, weights, needed, verdict in (
        ("32B in 16 bits", plain, "16 GB", "25.4 GB", "does not fit"),
        ("72B in AWQ", four_bits, "9 GB", "18.4 GB", "fits (23 GB at start-up)"),
    ):
        kv = 8 * 8192 * said.kv_bytes_per_token
        beside = said.activation_peak.expected + said.non_torch.expected
        total = said.weights.expected + kv + beside
        yield Line(
            figure=f"{name}: weights of a card",
            said=weights,
            computed=f"{said.weights.expected / 1e9:.1f} GB",
            why="agrees roughly" if said is plain else "embeddings, lm_head and scales are not 4 bits",
        )
        yield Line(
            figure=f"{name}: KV of 8 x 8,192 tokens on a card",
            said="6.4 GB",
            computed=f"{kv / 1e9:.2f} GB",
            why="0.0001 GB a token is a rule of thumb that grouped heads break, and every card holds a share only",
        )
        yield Line(
            figure=f"{name}: a card in all",
            said=needed,
            computed=f"{total / 1e9:.1f} GB of {said.budget_bytes / 1e9:.1f} GB",
            why="the pool is sized before; 8 requests are a wish, one is what start-up asks for",
        )
        tokens = f"{said.kv_tokens.expected:,.0f}"
        yield Line(
            figure=f"{name}: verdict for one request of 8,192",
            said=verdict,
            computed=f"{_verdict(said)}, {tokens} tokens",
            why="agrees" if verdict.startswith(_verdict(said)) else "its rule of thumb for KV is too dear",
        )
    yield Line(
        figure="start-up peak",
        said="15-30% above steady state",
        computed="within the budget",
        why="vLLM profiles the peak first and gives the KV cache what it leaves; graphs and the context stand beside",
    )


def article_002(configs: Mapping[str, Mapping[str, Any]]) -> Iterable[Line]:
    """One card of 24 GB, utilization 0.5."""
    config = configs["Qwen/Qwen3-4B"]
    said = _asked(
        configs,
        "Qwen/Qwen3-4B",
        gpu="NVIDIA GeForce RTX 4090",
        gpus=1,
        version="0.9.0",
        args="--gpu-memory-utilization 0.5 --max-model-len 10000",
    )
    per_token = said.kv_bytes_per_token
    yield Line(
        figure="weights", said="7.552 GiB (log)", computed=f"{said.weights.expected / GIB:.3f} GiB", why="agrees"
    )
    yield Line(
        figure="KV for 40,960 tokens",
        said="5.62 GiB (log)",
        computed=f"{40_960 * per_token / GIB:.3f} GiB",
        why="agrees: 5.625 with two digits",
    )
    yield Line(
        figure="KV for 10,000 tokens", said="1.37 GiB", computed=f"{10_000 * per_token / GIB:.3f} GiB", why="agrees"
    )
    model = 2 * int(config["num_hidden_layers"]) * int(config["hidden_size"]) * 2
    yield Line(
        figure="its formula, layers x 2 x d_model x 2 B, for 10,000 tokens",
        said="1.37 GiB",
        computed=f"{10_000 * model / GIB:.2f} GiB",
        why="the formula is for as many KV heads as heads; kv_heads x head_dim gives the 1.37 GiB that was measured",
    )
    yield Line(
        figure="KV cache at 0.5 of the card",
        said="17,440 tokens, 2.39 GiB (log)",
        computed=f"{said.kv_tokens.expected:,.0f} tokens, {said.kv_cache.expected / GIB:.2f} GiB "
        f"({said.kv_cache.lower / GIB:.2f} to {said.kv_cache.upper / GIB:.2f})",
        why="release and card are not printed; computed for 0.9.0 on an RTX 4090",
    )
    yield Line(
        figure="17,440 tokens in GiB", said="2.39 GiB", computed=f"{17_440 * per_token / GIB:.3f} GiB", why="agrees"
    )
    yield Line(
        figure="why 22 GB for a 4B model",
        said="0.9 of the card is set aside",
        computed="the KV cache takes whatever utilization x total leaves",
        why="agrees; throughput of one request does not depend on it, concurrency does",
    )


def article_003() -> Iterable[Line]:
    """A made-up model: 48 layers of 32 heads of 128, 12,000 tokens, 7.2 billion parameters."""
    kv = 2 * 48 * 128 * 32 * 12_000 * 2
    yield Line(
        figure="8-bit weights of 72 yi parameters",
        said="72,000,000,000 B = 72 GB",
        computed=f"{72 * 100_000_000:,} B = 7.2 GB",
        why="72 yi is 7.2 billion, not 72",
    )
    yield Line(
        figure="KV cache", said="9,437,184,000 B = 8.79 GB", computed=f"{kv:,} B = {kv / GIB:.2f} GiB", why="agrees"
    )
    yield Line(
        figure="activation",
        said="4,718,592,000 B",
        computed=f"{4096 * 12_000 * 48 * 2:,} B by its formula, but {4096 * 12_000 * 2:,} B a layer",
        why="inference frees a layer's activation before the next; vLLM's peak is that of max_num_batched_tokens "
        "through one layer, or of the sampler",
    )
    yield Line(
        figure="overhead",
        said="10-20% of the weights, 10.8 GB",
        computed="does not follow from the weights",
        why="context, NCCL and graphs are the same size for a small and a large model",
    )


def article_004(configs: Mapping[str, Mapping[str, Any]]) -> Iterable[Line]:
    """Baichuan-7B on vLLM 0.8.5, as its log has it."""
    model = "baichuan-inc/Baichuan-7B"
    said = _asked(
        configs,
        model,
        gpu="NVIDIA A100 40GB",
        gpus=1,
        version="0.8.5",
        args="--dtype float16 --max-model-len 4096 --gpu-memory-utilization 0.9",
    )
    per_token = said.kv_bytes_per_token
    pool = 37_120 * per_token
    count = parameter_count(configs[model])
    assert count is not None
    yield Line(
        figure="weights",
        said="13.0406 GiB (log), 14 GB file",
        computed=f"{said.weights.expected / GIB:.4f} GiB ({count:,} parameters)",
        why="agrees: 14 GB is 13.04 GiB",
    )
    yield Line(
        figure="KV of a token",
        said="-",
        computed=f"{per_token / KIB:,.0f} KiB",
        why="2 x 32 layers x 32 heads x 128 x 2 B",
    )
    yield Line(
        figure="KV cache of 37,120 tokens", said="12-18 GB", computed=f"{pool / GIB:.3f} GiB", why="set aside at start"
    )
    yield Line(figure="requests of 4,096 tokens", said="9.06x (log)", computed=f"{37_120 / 4096:.2f}x", why="agrees")
    yield Line(figure="CUDA graphs", said="1.42 GiB (log)", computed="1.42 GiB, as the log says", why="beside the pool")
    rest = 33.59 - 13.0406 - pool / GIB - 1.42
    yield Line(
        figure="the rest of 33.59 GiB",
        said="activation 3-5 GB, framework 2-3 GB, file cache 1-2 GB",
        computed=f"{rest:.2f} GiB",
        why="CUDA context, libraries and what PyTorch keeps of the profile run; the file cache is no GPU memory",
    )
    yield Line(
        figure="KV of 1,000 tokens",
        said="56 GB",
        computed=f"{1000 * per_token / GIB:.2f} GiB",
        why="it multiplies by the parameters instead of layers x heads x head_dim",
    )
    yield Line(figure="bfloat16 instead of float16", said="25% less", computed="the same", why="both take two bytes")

"""Other ways to answer the same question, on the same rows.

The five articles' formulas and two rules of thumb stand here as they are published. What each needs and does not say
how to get (parameters, card size) is given to it as kindly as can be: the exact parameter count, the exact card.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor.units import GIB
from bench.accuracy.rows import Deployment, text_part, weight_format
from bench.accuracy.score import max_model_len


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What a calculator is told: one deployment in the calculators' own terms."""

    parameters: float
    weight_bytes_per_parameter: float
    """2 for 16 bits, 1 for 8, 0.5 for 4."""
    total_bytes: float
    """Of one GPU."""
    gpu_memory_utilization: float
    gpus: int
    """Over which the model is split: tensor x pipeline parallel size."""
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    kv_element_bytes: float
    max_model_len: int

    @property
    def weights_bytes(self) -> float:
        """Of the whole model."""
        return self.parameters * self.weight_bytes_per_parameter

    @property
    def budget_bytes(self) -> float:
        """Of one GPU."""
        return self.total_bytes * self.gpu_memory_utilization


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerAnswer:
    """What a calculator says of one GPU; None where it has no word for it."""

    weights_bytes: float | None = None
    kv_bytes: float | None = None
    """Room for the KV cache, which may come out negative."""
    bytes_per_token: float | None = None
    """Of the whole model, all GPUs together."""

    def tokens(self, gpus: int) -> float | None:
        """Tokens that fit by this answer."""
        if self.kv_bytes is None or not self.bytes_per_token:
            return None
        return max(0.0, self.kv_bytes) * gpus / self.bytes_per_token

    def fits(self, case: Case) -> bool | None:
        """Whether one request of the full context fits, which is what vLLM asks at start-up."""
        tokens = self.tokens(case.gpus)
        return None if tokens is None else tokens >= case.max_model_len


def article_000(case: Case) -> PeerAnswer:
    """Budget minus parameters x dtype minus 5 GB a card; 2 x kv_heads x head_dim x dtype a layer and token."""
    share = case.weights_bytes / case.gpus
    return PeerAnswer(
        weights_bytes=share,
        kv_bytes=case.budget_bytes - share - 5e9,
        bytes_per_token=2 * case.layers * case.kv_heads * case.head_dim * case.kv_element_bytes,
    )


def article_001(case: Case) -> PeerAnswer:
    """The card minus quantised size / TP minus 3 GB, and a quarter above the sum at start-up; 0.0001 GB a token."""
    share = case.weights_bytes / case.gpus
    # Its KV term is not divided by the tensor-parallel size, so every card holds all of it.
    return PeerAnswer(
        weights_bytes=share, kv_bytes=case.total_bytes / 1.25 - share - 3e9, bytes_per_token=0.0001e9 * case.gpus
    )


def article_002(case: Case) -> PeerAnswer:
    """Budget minus weights minus 0.58 GiB of graphs; layers x 2 x d_model x sizeof(float16) a token."""
    share = case.weights_bytes / case.gpus
    return PeerAnswer(
        weights_bytes=share,
        kv_bytes=case.budget_bytes - share - 0.58 * GIB,
        bytes_per_token=case.layers * 2 * case.hidden_size * 2,
    )


def article_003(case: Case) -> PeerAnswer:
    """Weights with 15% overhead, activation of all layers over the context; KV of every head, not of KV heads."""
    share = case.weights_bytes / case.gpus
    activation = case.hidden_size * case.max_model_len * case.layers * 2 / case.gpus
    return PeerAnswer(
        weights_bytes=share,
        kv_bytes=case.budget_bytes - 1.15 * share - activation,
        bytes_per_token=2 * case.layers * case.head_dim * case.heads * case.kv_element_bytes,
    )


def article_004(case: Case) -> PeerAnswer:
    """Weights, 4 GB of activation, 2.5 GB of framework, 1.5 GB of file cache; 56 GB a thousand tokens of a 7B model."""
    share = case.weights_bytes / case.gpus
    return PeerAnswer(
        weights_bytes=share, kv_bytes=case.budget_bytes - share - 8e9, bytes_per_token=case.weights_bytes * 4 / 1000
    )


def single_gqa_formula(case: Case) -> PeerAnswer:
    """Budget minus weights; 2 x layers x kv_heads x head_dim x dtype a token: the usual calculator page."""
    share = case.weights_bytes / case.gpus
    return PeerAnswer(
        weights_bytes=share,
        kv_bytes=case.budget_bytes - share,
        bytes_per_token=2 * case.layers * case.kv_heads * case.head_dim * case.kv_element_bytes,
    )


def weights_times_1_2(case: Case) -> PeerAnswer:
    """Weights and a fifth for everything else."""
    share = case.weights_bytes / case.gpus
    return PeerAnswer(weights_bytes=share, kv_bytes=case.budget_bytes - 1.2 * share)


FORMULAS = {
    "article 000: a fixed 5 GB a card": article_000,
    "article 001: 0.0001 GB a token": article_001,
    "article 002: d_model, 0.58 GiB of graphs": article_002,
    "article 003: all heads, 15% overhead": article_003,
    "article 004: typical shares of a 7B": article_004,
    "single GQA formula": single_gqa_formula,
    "weights x 1.2": weights_times_1_2,
}


def case_of(row: Deployment, config: Mapping[str, Any], *, parameters: float, total_bytes: float) -> Case:
    """Put a deployment in the calculators' terms; keys are looked up as those pages do, by their common names."""
    text = text_part(config)
    heads = int(text["num_attention_heads"])
    kv_dtype = _value(row, "--kv-cache-dtype") or "auto"
    return Case(
        parameters=parameters,
        weight_bytes_per_parameter=_bytes_per_parameter(row, config),
        total_bytes=total_bytes,
        gpu_memory_utilization=float(_value(row, "--gpu-memory-utilization") or 0.9),
        gpus=int(_value(row, "--tensor-parallel-size") or 1) * int(_value(row, "--pipeline-parallel-size") or 1),
        layers=int(text["num_hidden_layers"]),
        hidden_size=int(text["hidden_size"]),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or int(text["hidden_size"]) // heads),
        kv_element_bytes=1 if kv_dtype.startswith("fp8") else 4 if "float32" in row.args else 2,
        max_model_len=max_model_len(row, config),
    )


_EIGHT_BITS = ("fp8", "compressed-tensors", "fbgemm_fp8", "experts_int8")
_FOUR_BITS = ("awq", "gptq", "bitsandbytes", "mxfp4", "modelopt")


def _bytes_per_parameter(row: Deployment, config: Mapping[str, Any]) -> float:
    stored = weight_format(row, config)
    if stored in _EIGHT_BITS:
        return 1
    if stored.startswith(_FOUR_BITS):
        return 0.5
    return 4 if stored == "float32" else 2


def _value(row: Deployment, flag: str) -> str | None:
    return row.args[row.args.index(flag) + 1] if flag in row.args else None

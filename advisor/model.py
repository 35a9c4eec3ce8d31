"""``config.json`` -> `ModelSpec`: the geometry that memory depends on.

An architecture is known by its name in `FAMILIES` or it is declined by that name; no formula is guessed for it.
Parameter shapes follow vLLM's own model files (``model_executor/models/<family>.py``, 0.32), key names the models'
published configurations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


class ModelConfigError(ValueError):
    """The configuration cannot be right; the message names the key and what would be."""


class DeclinedError(ValueError):
    """The model is of a kind whose memory these rules do not describe; the message names the kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FullAttention:
    """One layer that caches keys and values of every token (MHA, GQA, MQA)."""

    num_kv_heads: int
    head_size: int
    head_size_v: int


Layer = FullAttention

Sharding = Literal["split", "copied", "vocabulary"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """A group of parameters stored alike."""

    role: Literal["linear", "norm", "embedding", "lm_head"]
    """Quantisation replaces ``linear`` parameters only; the others keep the model's dtype."""
    sharding: Sharding
    """``split`` evenly over tensor parallel ranks, ``copied`` to each, or ``vocabulary``: split after padding."""
    elements: int
    layer: int | None = None
    """Index of the decoder layer, None for what stands before (embedding) or after (norm, lm_head) the layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Geometry of one model."""

    architecture: str
    layers: tuple[Layer, ...]
    """One entry a decoder layer, in order."""
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    dtype: str | None
    """What the weights are stored in: ``bfloat16``, ``float16``, ``float32``; None where the config does not say."""
    quantization: str | None
    """``quant_method`` of the config's quantization_config, None for plain weights."""
    max_position_embeddings: int
    """Longest context that the config supports, rope scaling included."""
    tie_word_embeddings: bool
    parameters: tuple[Parameters, ...]

    @property
    def num_parameters(self) -> int:
        """Count of all parameters, a tied lm_head not counted again."""
        return sum(group.elements for group in self.parameters)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dense:
    """How a family's dense decoder differs from Llama's."""

    qkv_bias: bool | str = False
    """Whether query, key and value projections have a bias; a string names the config key that says so."""
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    gated_mlp: bool = True
    norms_per_layer: int = 2
    norm_bias: bool = False
    qk_norm: bool = False
    learned_positions: bool = False
    position_offset: int = 0
    """OPT's position table has two rows more than positions."""
    final_norm: bool = True
    lm_head_bias: bool = False
    tied_by_default: bool = False


FAMILIES: Mapping[str, _Dense] = {
    "LlamaForCausalLM": _Dense(qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
    "MistralForCausalLM": _Dense(),
    "AquilaForCausalLM": _Dense(),
    "InternLM2ForCausalLM": _Dense(qkv_bias="bias", output_bias="bias"),
    "InternLM3ForCausalLM": _Dense(qkv_bias="qkv_bias", output_bias="bias", mlp_bias="bias"),
    "XverseForCausalLM": _Dense(),
    "SolarForCausalLM": _Dense(qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
    "Qwen2ForCausalLM": _Dense(qkv_bias=True),
    "Qwen3ForCausalLM": _Dense(qkv_bias="attention_bias", output_bias="attention_bias", qk_norm=True),
    "GraniteForCausalLM": _Dense(qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
    "Phi3ForCausalLM": _Dense(),
    "GemmaForCausalLM": _Dense(qkv_bias="attention_bias", tied_by_default=True),
    "BaichuanForCausalLM": _Dense(),
    "BaiChuanForCausalLM": _Dense(),
    "OPTForCausalLM": _Dense(
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        gated_mlp=False,
        norm_bias=True,
        learned_positions=True,
        position_offset=2,
        tied_by_default=True,
    ),
    "PhiForCausalLM": _Dense(
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        gated_mlp=False,
        norms_per_layer=1,
        norm_bias=True,
        lm_head_bias=True,
    ),
    "GPTNeoXForCausalLM": _Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias=True,
        gated_mlp=False,
        norm_bias=True,
    ),
    "StableLmForCausalLM": _Dense(qkv_bias="use_qkv_bias", norm_bias=True),
    "Starcoder2ForCausalLM": _Dense(
        qkv_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        gated_mlp=False,
        norm_bias=True,
        tied_by_default=True,
    ),
}
"""Every architecture whose memory these rules describe, by the name in the config's ``architectures``."""

_DEFAULT_TRUE_KEYS = frozenset({"attention_bias:GPTNeoXForCausalLM", "use_bias:Starcoder2ForCausalLM"})


def parse_model(config: Mapping[str, Any]) -> ModelSpec:
    """Return the geometry that a ``config.json`` describes.

    Raises:
        ModelConfigError: A number is missing or absurd; names the key.
        DeclinedError: The architecture or a layer kind is not one these rules describe; names it.
    """
    architecture = _architecture(config)
    family = FAMILIES.get(architecture)
    if family is None:
        raise DeclinedError(f"architecture {architecture} is not described by these rules")
    if _optional(config, "sliding_window") and config.get("use_sliding_window", True):
        raise DeclinedError(f"{architecture} with sliding-window layers is not described by these rules")
    hidden_size = _size(config, "hidden_size", "n_embd", "d_model")
    num_layers = _size(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _size(config, "num_attention_heads", "n_head")
    kv_heads = _optional(config, "num_key_value_heads", "num_kv_heads") or heads
    head_size = _optional(config, "head_dim")
    if head_size is None:
        if hidden_size % heads:
            raise ModelConfigError(
                f"config.json: hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}, "
                "and no head_dim is given"
            )
        head_size = hidden_size // heads
    if heads % kv_heads:
        raise ModelConfigError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    intermediate_size = _size(config, "intermediate_size", "ffn_dim", "n_inner")
    vocab_size = _size(config, "vocab_size")
    tied = bool(config.get("tie_word_embeddings", family.tied_by_default))
    positions = _size(config, "max_position_embeddings", "n_positions", "max_sequence_length", "model_max_length")
    quantization = config.get("quantization_config")
    return ModelSpec(
        architecture=architecture,
        layers=(FullAttention(num_kv_heads=kv_heads, head_size=head_size, head_size_v=head_size),) * num_layers,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_attention_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        vocab_size=vocab_size,
        dtype=_dtype(config),
        quantization=str(quantization["quant_method"]).lower()
        if isinstance(quantization, Mapping) and "quant_method" in quantization
        else None,
        max_position_embeddings=_supported_length(config, positions),
        tie_word_embeddings=tied,
        parameters=tuple(
            _parameters(
                family,
                config,
                architecture=architecture,
                num_layers=num_layers,
                hidden_size=hidden_size,
                intermediate_size=intermediate_size,
                heads=heads,
                kv_heads=kv_heads,
                head_size=head_size,
                vocab_size=vocab_size,
                positions=positions,
                tied=tied,
            )
        ),
    )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelConfigError('config.json: architectures must be a list such as ["LlamaForCausalLM"]')
    return names[0]


def _optional(config: Mapping[str, Any], *keys: str) -> int | None:
    """Return the first of several spellings that is present, checked to be a plausible size."""
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise ModelConfigError(f"config.json: {key} is {value!r}; it must be a whole number above zero")
        return value
    return None


def _size(config: Mapping[str, Any], *keys: str) -> int:
    value = _optional(config, *keys)
    if value is None:
        raise ModelConfigError(f"config.json: {keys[0]} is missing")
    return value


def _dtype(config: Mapping[str, Any]) -> str | None:
    name = config.get("torch_dtype", config.get("dtype"))
    return name.removeprefix("torch.") if isinstance(name, str) else None


def _supported_length(config: Mapping[str, Any], positions: int) -> int:
    """Longest context, with rope scaling as ``config/model.py:_get_and_verify_max_len`` applies it (0.32).

    Llama 3's scaling is already in max_position_embeddings; yarn counts from the original length.
    """
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(scaling, Mapping) or "factor" not in scaling:
        return positions
    kind = scaling.get("rope_type", scaling.get("type"))
    factor = scaling["factor"]
    if kind in ("su", "longrope", "llama3", "default", "mrope") or not isinstance(factor, int | float):
        return positions
    if kind == "yarn":
        positions = scaling.get("original_max_position_embeddings") or positions
    return int(positions * factor)


def _parameters(
    family: _Dense,
    config: Mapping[str, Any],
    *,
    architecture: str,
    num_layers: int,
    hidden_size: int,
    intermediate_size: int,
    heads: int,
    kv_heads: int,
    head_size: int,
    vocab_size: int,
    positions: int,
    tied: bool,
) -> list[Parameters]:
    def present(flag: bool | str) -> bool:
        if isinstance(flag, bool):
            return flag
        return bool(config.get(flag, f"{flag}:{architecture}" in _DEFAULT_TRUE_KEYS))

    query_and_output = 2 * hidden_size * heads * head_size
    key_and_value = 2 * hidden_size * kv_heads * head_size
    mlp = (3 if family.gated_mlp else 2) * hidden_size * intermediate_size
    split_bias = (
        present(family.qkv_bias) * (heads + 2 * kv_heads) * head_size
        + present(family.mlp_bias) * (2 if family.gated_mlp else 1) * intermediate_size
    )
    copied_bias = (present(family.output_bias) + present(family.mlp_bias)) * hidden_size
    norm = hidden_size * (2 if family.norm_bias else 1)
    layer_norms = family.norms_per_layer * norm + 2 * head_size * family.qk_norm + copied_bias
    groups = [Parameters(role="embedding", sharding="vocabulary", elements=vocab_size * hidden_size)]
    if family.learned_positions:
        rows = positions + family.position_offset
        groups.append(Parameters(role="embedding", sharding="copied", elements=rows * hidden_size))
    for layer in range(num_layers):
        groups += (
            Parameters(role="linear", sharding="split", elements=query_and_output + key_and_value + mlp, layer=layer),
            Parameters(role="norm", sharding="split", elements=split_bias, layer=layer),
            Parameters(role="norm", sharding="copied", elements=layer_norms, layer=layer),
        )
    if family.final_norm:
        groups.append(Parameters(role="norm", sharding="copied", elements=norm))
    if not tied:
        groups.append(Parameters(role="lm_head", sharding="vocabulary", elements=vocab_size * hidden_size))
    if family.lm_head_bias:
        groups.append(Parameters(role="norm", sharding="copied", elements=vocab_size))
    return [group for group in groups if group.elements]

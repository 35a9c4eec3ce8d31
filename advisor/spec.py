"""`ModelSpec`: the geometry of a model, as far as memory depends on it; `advisor.model` makes it of a config.json."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from advisor.layers import DecoderLayer
from advisor.versions import Version


class ModelConfigError(ValueError):
    """The configuration cannot be right; the message names the key and what would be."""


class DeclinedError(ValueError):
    """The model is of a kind whose memory these rules do not describe; the message names the kind."""


Role = Literal["linear", "expert", "norm", "embedding", "lm_head"]
"""What a tensor is to quantisation: methods replace ``linear`` and ``expert`` (unless their name is excluded), few
replace ``lm_head`` or ``embedding``, none ``norm``, which stands for everything small and one-dimensional."""

Sharding = Literal["column", "row", "kv_heads", "experts", "vocabulary", "copied"]
"""How tensor-parallel ranks share a tensor.

``column``: by its first dimension; ``row``: by its second; ``kv_heads``: by its first, but never finer than one KV head
a rank; ``experts``: each expert split like column or row, or whole experts dealt out under expert parallelism;
``vocabulary``: by its first dimension after padding it to a multiple of 64 rows; ``copied``: the whole on every rank.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One tensor of the checkpoint, or ``count`` matrices alike (experts, one file tensor each or all in one).

    A fused projection whose rows are shared in two ways stands as two entries of the same name; together they have the
    file tensor's elements.
    """

    name: str
    """As in the checkpoint, ``.weight`` and ``.bias`` included; ``*`` where the experts' numbers stand."""
    shape: tuple[int, ...]
    """Unquantised shape of one tensor, (out_features, in_features) for a matrix."""
    role: Role
    sharding: Sharding
    count: int = 1
    layer: int | None = None
    """Index of the decoder layer, which decides the pipeline stage; None before or after the layers."""
    kv_heads: int | None = None
    """For ``kv_heads``: the parts of the first dimension that no rank holds less than one of; None for one a KV head of
    the model. Layers may differ (Gemma 4), and the state spaces' groups are shared alike."""
    width_bytes: int | None = None
    """Of one element, where it is the same whatever the model's dtype; None: it is the model's."""
    last_stage: bool = False
    """For those outside the layers: whether the last pipeline stage holds it (final norm, lm_head), not the first."""

    @property
    def elements(self) -> int:
        """Elements of all ``count`` tensors."""
        return self.count * math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """The mixture-of-experts layers' common sizes."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    """Of one routed expert."""
    shared_intermediate_size: int = 0
    """Of all shared experts together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """A vision or audio tower beside the decoder."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_item_tokens: int | None
    """Decoder tokens of the largest single item (image, clip); None where it depends on more than the config."""
    tokens_per_output: int = 1
    """Encoder positions that are merged into one decoder token."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeTable:
    """Cosines and sines of one rotary embedding: not in the checkpoint, and on every rank."""

    positions: int
    dims: int
    """Columns: half of them cosines, half sines."""
    float32_since: Version | None = None
    """The release from which it is in float32 whatever the model's dtype; None: never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """The config's quantization_config, read no further than its method."""

    method: str
    """``quant_method`` in lower case: awq, gptq, fp8, compressed-tensors, bitsandbytes, mxfp4, modelopt ..."""
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)  # without slots, so that what is counted once can be kept
class ModelSpec:
    """Geometry of one model."""

    architecture: str
    layers: tuple[DecoderLayer, ...]
    """One entry a decoder layer, in order: what it keeps between steps."""
    hidden_size: int
    intermediate_size: int
    """Of the dense MLP; of one expert where all layers are mixtures."""
    num_attention_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    dtype: str | None
    """What the weights are stored in: ``bfloat16``, ``float16``, ``float32``; None where the config does not say."""
    quantization: Quantization | None
    max_position_embeddings: int
    """Longest context that vLLM 0.32 takes when ``--max-model-len`` is not given, rope scaling included."""
    tie_word_embeddings: bool
    parameters: tuple[Parameter, ...]
    """Every tensor that vLLM loads, a tied lm_head not repeated."""
    experts: Experts | None = None
    encoder: Encoder | None = None
    encoder_positions: int | None = None
    """Length of the encoder's output for encoder-decoder models (Whisper 1,500)."""
    extended_position_embeddings: int | None = None
    """A longer context that rope scaling allows: ``--max-model-len`` may ask for it (longrope), or releases to 0.29
    take it by themselves (yarn over an unscaled max_position_embeddings). None where there is none."""
    draft_layers: int = 0
    """Layers of a built-in multi-token predictor, loaded only for speculative decoding (DeepSeek, GLM, Qwen3-Next)."""
    gated_mlp: bool = True
    residual_streams: int = 1
    """Rows of hidden_size that a token is between layers: several with hyper-connections (DeepSeek V4)."""
    state_dtype: str | None = None
    """What the config asks the recurrent state to be kept in (Nemotron-H, Qwen3.5); None leaves it to vLLM."""
    rope_tables: tuple["RopeTable", ...] | None = None
    """What `advisor.rope.rope_tables` makes of the config; None takes one plain table of the model's length."""

    @cached_property
    def num_parameters(self) -> int:
        """Count of all parameters, a tied lm_head not counted again."""
        return sum(each.elements for each in self.parameters)

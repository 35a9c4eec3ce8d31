"""Which of vLLM's three engines runs a model: its profile run decides what start-up takes from the KV cache.

Source: ``config/vllm.py:use_v2_model_runner`` and its table of architectures, each release from 0.21 to 0.33.
"""

from enum import StrEnum

from advisor.layers import GatedDeltaNet, KimiDelta, LinearAttention, Mamba1, Mamba2, ShortConv
from advisor.spec import ModelSpec
from advisor.versions import Version

_STATES = (Mamba1, Mamba2, GatedDeltaNet, KimiDelta, ShortConv, LinearAttention)

_DENSE_SINCE_0_22 = {"Qwen3ForCausalLM"}
_DENSE_SINCE_0_23 = {"Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"}
_MIXTURES_SINCE_0_24 = {"DeepseekV2ForCausalLM", "Qwen2MoeForCausalLM", "GraniteMoeForCausalLM"}


class Runner(StrEnum):
    """vLLM's engine and model runner."""

    V0 = "V0"
    """The engine through 0.7, the fallback through 0.10."""
    V1 = "V1"
    """The V1 engine with its first model runner."""
    V2 = "V2"
    """The V1 engine with Model Runner V2."""


def model_runner(version: Version, spec: ModelSpec) -> Runner:
    """Return the runner that a release picks by itself for a model."""
    if version < (0, 8, 0):
        return Runner.V0
    if version < (0, 22, 0):
        return Runner.V1
    return Runner.V2 if _prefers_v2(version, spec) else Runner.V1


def _prefers_v2(version: Version, spec: ModelSpec) -> bool:
    plain = spec.experts is None and spec.quantization is None
    kinds = {type(cache) for layer in spec.layers for cache in layer}
    has_state = bool(kinds.intersection(_STATES))
    if version < (0, 23, 0):
        return plain and spec.architecture in _DENSE_SINCE_0_22
    if version < (0, 24, 0):
        return plain and spec.architecture in _DENSE_SINCE_0_23
    if version < (0, 25, 0):
        return spec.architecture in _DENSE_SINCE_0_23 | _MIXTURES_SINCE_0_24
    if version < (0, 29, 0):
        return not has_state and (spec.experts is None or spec.architecture in _MIXTURES_SINCE_0_24)
    return True

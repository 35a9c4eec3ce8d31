"""``config.json`` -> `ModelSpec`: the geometry that memory depends on.

An architecture is known by its name in one of the families' tables or it is declined by that name; no formula is
guessed for it. A new family is one entry in one table.
"""

from collections.abc import Callable, Mapping
from typing import Any

from advisor.model import classic, compressed, dense, gemma, hybrid, latent, linear, moe, pooling, uneven
from advisor.model.keys import Keys
from advisor.model.length import context_length
from advisor.model.multimodal import WRAPPERS, Whole
from advisor.model.tensors import Decoder, parameters
from advisor.rope import rope_tables
from advisor.spec import DeclinedError, ModelConfigError, ModelSpec, Quantization

TEXT_FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    **dense.FAMILIES,
    **classic.FAMILIES,
    **moe.FAMILIES,
    **latent.FAMILIES,
    **compressed.FAMILIES,
    **hybrid.FAMILIES,
    **linear.FAMILIES,
    **gemma.FAMILIES,
    **uneven.FAMILIES,
    **pooling.FAMILIES,
}

__all__ = ["parse_model"]


def parse_model(config: Mapping[str, Any]) -> ModelSpec:
    """Return the geometry that a ``config.json`` describes.

    Raises:
        ModelConfigError: A number is missing or absurd; names the key.
        DeclinedError: The architecture or a layer kind is not one these rules describe; names it.
    """
    if not isinstance(config, Mapping):
        raise ModelConfigError(f"config.json holds a {type(config).__name__}; it must be an object")
    architecture = _architecture(config)
    keys = Keys(config)
    whole = _whole(keys, architecture)
    decoder, text = whole.decoder, whole.text
    length, extended = context_length(text)
    return ModelSpec(
        architecture=architecture,
        layers=decoder.layers,
        hidden_size=decoder.hidden_size,
        intermediate_size=decoder.intermediate_size,
        num_attention_heads=decoder.num_attention_heads,
        num_kv_heads=decoder.num_kv_heads,
        head_size=decoder.head_size,
        vocab_size=decoder.vocab_size,
        dtype=_dtype(keys, text),
        quantization=_quantization(architecture, keys, text),
        max_position_embeddings=length,
        extended_position_embeddings=extended,
        tie_word_embeddings=decoder.tied,
        parameters=parameters(decoder, whole.towers, whole.renaming),
        experts=decoder.experts,
        encoder=decoder.encoder,
        encoder_positions=decoder.encoder_positions,
        draft_layers=decoder.draft_layers,
        gated_mlp=decoder.gated_mlp,
        residual_streams=decoder.residual_streams,
        state_dtype=_state_dtype(architecture, text),
        rope_tables=rope_tables(
            text.merged(),
            architecture=architecture,
            head_size=decoder.head_size,
            max_position_embeddings=length,
        ),
    )


def _whole(keys: Keys, architecture: str) -> Whole:
    family = TEXT_FAMILIES.get(architecture)
    if family is not None:
        return Whole(text=keys, decoder=family(keys))
    wrapper = WRAPPERS.get(architecture)
    if wrapper is None:
        raise DeclinedError(f"architecture {architecture} is not described by these rules")
    return wrapper(keys)


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelConfigError('config.json: architectures must be a list such as ["LlamaForCausalLM"]')
    return names[0]


def _dtype(keys: Keys, text: Keys) -> str | None:
    for each in (keys, text):
        name = each.text("torch_dtype", "dtype")
        if name and name != "auto":
            return name.removeprefix("torch.")
    return None


def _state_dtype(architecture: str, text: Keys) -> str | None:
    """Return the config's own dtype of the state (``models/config.py``, Nemotron-H from 0.13, Qwen3.5 from 0.17)."""
    if architecture.startswith("NemotronH"):
        return text.text("mamba_ssm_cache_dtype") or None
    return text.text("mamba_ssm_dtype") or None if architecture.startswith("Qwen3_5") else None


def _quantization(architecture: str, keys: Keys, text: Keys) -> Quantization | None:
    """Return the config's quantisation, also where a wrapper keeps it beside the text model or inside it.

    Source: ``model_arch_config_convertor.py:get_quantization_config`` (0.32). DeepSeek V4 has a method of its own and
    says beside it how its experts are held (``models/deepseek_v4/quant_config.py``).
    """
    for each in (keys, text):
        name, found = each.raw("quantization_config", "compression_config")
        if found is None:
            continue
        if not isinstance(found, Mapping):
            raise each.error(name, found, "an object")
        method = found.get("quant_method") or found.get("quant_algo") or ""
        if not isinstance(method, str):
            raise each.error(f"{name}.quant_method", method, "a string")
        method = method.lower().replace("compressed_tensors", "compressed-tensors")
        if method == "fp8" and architecture.startswith("DeepseekV4"):
            return Quantization(method="deepseek_v4_fp8", config={**found, "expert_dtype": text.text("expert_dtype")})
        return Quantization(method=method, config=found)
    return None

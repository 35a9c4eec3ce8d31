"""The tables of cosines and sines that rotary embeddings keep on every rank beside the weights.

They count as weights in what vLLM prints: 0.03 GiB of Llama 3.1's 14.99 GiB, a fifth of a percent, and more where
tensor parallelism shrinks all else. Source: ``layers/rotary_embedding`` (0.6.3 to 0.33).
"""

from collections.abc import Mapping
from typing import Any

from advisor.spec import RopeTable
from advisor.versions import Version

_WITHOUT = frozenset(
    {
        "BaiChuanForCausalLM",
        "BloomForCausalLM",
        "GPT2LMHeadModel",
        "GPTBigCodeForCausalLM",
        "JAISLMHeadModel",
        "JambaForCausalLM",
        "MPTForCausalLM",
        "NemotronHForCausalLM",
        "OPTForCausalLM",
        "WhisperForConditionalGeneration",
    }
)
"""Positions are learned, or come by ALiBi, or not at all."""

_POSITION_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length", "model_max_length")
_ALWAYS: Version = (0, 0, 0)
_FLASHINFER_ROPE: Version = (0, 14, 0)
"""From here on DeepSeek's yarn is left to FlashInfer's kernel (``deepseek_scaling_rope.py``)."""

_MROPE_FACTOR = 4
"""Multimodal rope is prepared for so many times the positions."""

_MROPE_FAMILIES = ("Qwen2VL", "Qwen2_5_VL", "Qwen2_5Omni", "Qwen3VL", "Qwen3Omni", "Qwen3_5")
"""Every published model of these has it, also where an abridged config leaves ``mrope_section`` out."""

_GEMMA3_SCALING = {"rope_type": "linear", "factor": 8.0}
"""Of the global layers of every published Gemma 3 that sees, where an abridged config leaves it out."""


def rope_tables(
    config: Mapping[str, Any], *, architecture: str, head_size: int, max_position_embeddings: int
) -> tuple[RopeTable, ...]:
    """Return the tables that a text model keeps, each once however many layers share it.

    What is odd in the config yields no table: a table is seldom over a percent, and the model's own parser says what is
    wrong with a config.

    Args:
        config: The text model's config.
        architecture: Its class in vLLM.
        head_size: Of a head, where the config does not say what of it is rotated.
        max_position_embeddings: Where the config leaves it to the model's class.
    """
    if architecture in _WITHOUT or config.get("alibi"):
        return ()
    positions = next(
        (config[key] for key in _POSITION_KEYS if isinstance(config.get(key), int)), max_position_embeddings
    )
    if architecture.startswith("DeepseekV4"):
        return _of_compressed(config, positions)
    assumed = _GEMMA3_SCALING if architecture == "Gemma3ForConditionalGeneration" else {}
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or assumed
    if not isinstance(scaling, Mapping):
        return ()
    by_layer_type = {kind: each for kind, each in scaling.items() if isinstance(each, Mapping)}
    tables = [
        _table(config, each, positions, architecture, head_size, full_attention=kind == "full_attention")
        for kind, each in (by_layer_type or {"": scaling}).items()
    ]
    if not by_layer_type and ("rope_local_base_freq" in config or architecture.startswith("Gemma3")):
        tables.append(_table(config, {}, positions, architecture, head_size, full_attention=False))
    return tuple(tables)


def _of_compressed(config: Mapping[str, Any], positions: int) -> tuple[RopeTable, ...]:
    """Return DeepSeek V4's two tables: of the layers that compress and of those with a window alone.

    Source: ``models/deepseek_v4/common/rope.py`` (0.32).
    """
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        return ()
    inner = scaling.get("compress")
    scaling = inner if isinstance(inner, Mapping) else scaling
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    compressed = positions
    if isinstance(original, int) and isinstance(factor, int | float) and factor > 0:
        compressed = int(original * factor)
    dims = config.get("qk_rope_head_dim")
    ratios = config.get("compress_ratios")
    if not isinstance(dims, int) or not isinstance(ratios, list):
        return ()
    layers = config.get("num_hidden_layers")
    held = [ratio > 1 for ratio in ratios[:layers] if isinstance(ratio, int)]
    rows = ([compressed] if True in held else []) + ([positions] if False in held else [])
    return tuple(RopeTable(positions=each, dims=dims, float32_since=_ALWAYS) for each in rows)


def _table(
    config: Mapping[str, Any],
    scaling: Mapping[str, Any],
    positions: int,
    architecture: str,
    head_size: int,
    *,
    full_attention: bool,
) -> RopeTable:
    kind = scaling.get("rope_type", scaling.get("type")) or "default"
    dims = _dims(config, scaling, head_size, full_attention=full_attention, proportional=kind == "proportional")
    factor = scaling.get("factor")
    factor = factor if isinstance(factor, int | float) and factor > 0 else 1
    original = scaling.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    original = original if isinstance(original, int) else None
    if kind in {"yarn", "deepseek_yarn"}:
        rows = int((original or positions) * factor)
    elif kind == "linear":  # dynamic NTK multiplied, too, until 0.19
        rows = int(positions * factor)
    elif kind in {"longrope", "su"}:
        rows = positions + (original or 0)
    else:
        rows = positions
    if "mrope_section" in scaling or architecture.startswith(_MROPE_FAMILIES):
        rows *= _MROPE_FACTOR
    since = None
    if architecture == "GptOssForCausalLM":
        since = _ALWAYS  # models/gpt_oss.py asks for it
    elif config.get("kv_lora_rank") is not None and kind in {"yarn", "deepseek_yarn"}:
        since = _FLASHINFER_ROPE
    return RopeTable(positions=rows, dims=dims, float32_since=since)


def _dims(
    config: Mapping[str, Any],
    scaling: Mapping[str, Any],
    head_size: int,
    *,
    full_attention: bool,
    proportional: bool,
) -> int:
    """Return the rotated part of a head: MLA's own, a stated number, or a share of the head."""
    for key in ("qk_rope_head_dim", "rotary_dim"):
        if isinstance(config.get(key), int):
            return int(config[key])
    head = config.get("global_head_dim") if full_attention else None
    head = head or config.get("head_dim")
    head = head if isinstance(head, int) else head_size
    share = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", config.get("rotary_pct", 1.0)))
    if proportional or not isinstance(share, int | float) or not 0 < share <= 1:
        share = 1.0
    return int(head * share)

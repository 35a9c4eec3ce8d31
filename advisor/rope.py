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

_USUAL_POSITIONS = 2048
"""Of the model classes whose configs say nothing (Falcon)."""

_MROPE_FACTOR = 4
"""Multimodal rope is prepared for so many times the positions."""


def rope_tables(config: Mapping[str, Any]) -> tuple[RopeTable, ...]:
    """Return the tables that a config.json's text model keeps, each once however many layers share it.

    Args:
        config: The text model's config, with ``architectures``; what is missing or odd yields no table, for the table
            is at most a percent and the model's own parser says what is wrong with a config.
    """
    if _architecture(config) in _WITHOUT or config.get("alibi"):
        return ()
    positions = next((config[key] for key in _POSITION_KEYS if isinstance(config.get(key), int)), _USUAL_POSITIONS)
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        return ()
    by_layer_type = {kind: each for kind, each in scaling.items() if isinstance(each, Mapping)}
    tables = {}
    for kind, each in (by_layer_type or {"": scaling}).items():
        table = _table(config, each, positions, full_attention=kind == "full_attention")
        if table is not None:
            tables[kind] = table
    if not by_layer_type and config.get("rope_local_base_freq") is not None:
        local = _table(config, {}, positions, full_attention=False)
        if local is not None:
            tables["sliding_attention"] = local
    return tuple(tables.values())


def _architecture(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def _table(
    config: Mapping[str, Any], scaling: Mapping[str, Any], positions: int, *, full_attention: bool
) -> RopeTable | None:
    kind = scaling.get("rope_type", scaling.get("type")) or "default"
    dims = _dims(config, scaling, full_attention=full_attention, proportional=kind == "proportional")
    if dims is None:
        return None
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
    if "mrope_section" in scaling:
        rows *= _MROPE_FACTOR
    since = None
    if _architecture(config) == "GptOssForCausalLM":
        since = _ALWAYS  # models/gpt_oss.py asks for it
    elif config.get("kv_lora_rank") is not None and kind in {"yarn", "deepseek_yarn"}:
        since = _FLASHINFER_ROPE
    return RopeTable(positions=rows, dims=dims, float32_since=since)


def _dims(
    config: Mapping[str, Any], scaling: Mapping[str, Any], *, full_attention: bool, proportional: bool
) -> int | None:
    """Return the rotated part of a head: MLA's own, a stated number, or a share of the head."""
    if isinstance(config.get("qk_rope_head_dim"), int):
        return int(config["qk_rope_head_dim"])
    if isinstance(config.get("rotary_dim"), int):
        return int(config["rotary_dim"])
    head = config.get("global_head_dim") if full_attention else None
    head = head or config.get("head_dim")
    if not isinstance(head, int):
        hidden = config.get("hidden_size", config.get("n_embd"))
        heads = config.get("num_attention_heads", config.get("n_head"))
        if not isinstance(hidden, int) or not isinstance(heads, int) or not heads:
            return None
        head = hidden // heads
    share = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", config.get("rotary_pct", 1.0)))
    if proportional or not isinstance(share, int | float) or not 0 < share <= 1:
        share = 1.0
    return int(head * share)

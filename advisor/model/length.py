"""Longest context of a model, as vLLM derives it from the config alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from advisor.model.keys import Keys, is_finite
from advisor.rope import LARGEST_FACTOR
from advisor.spec import Extension

_LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_ALREADY_SCALED = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})
_UNKNOWN_LENGTH = 2048
"""What vLLM assumes of a config that names no length."""


def context_length(text: Keys) -> tuple[int, int | None, Extension | None]:
    """Return (what vLLM 0.32 takes by default, a longer length or None, which scaling that is of), in tokens.

    Source: ``config/model.py:_get_and_verify_max_len`` (0.32) and ``derive_max_model_len_and_key`` of
    ``transformers_utils/model_arch_config_convertor.py``: the smallest of the keys, times the factor of a rope scaling
    that max_position_embeddings does not hold yet. Releases to 0.29 count yarn from the original length.

    Raises:
        ModelConfigError: A length is not a whole number above zero.
    """
    found = [length for key in _LENGTH_KEYS if (length := text.optional_length(key)) is not None]
    length = min(found, default=_UNKNOWN_LENGTH)
    scalings = tuple(_scalings(text))
    if "gemma3" in text.text("model_type"):
        return length, None, None
    extended: int | None = None
    factor: float = 1.0
    for kind, stated, original in scalings:
        if kind not in _ALREADY_SCALED and stated is not None:
            factor = stated
        elif kind == "yarn" and stated is not None and is_finite(original) and 0 < original * stated < 2**40:
            scaled = int(original * stated)
            extended = scaled if scaled > length else None
        elif kind in {"longrope", "su"}:
            unscaled = text.optional_length("original_max_position_embeddings")
            if unscaled is not None:
                return (unscaled, length, "longrope") if length > unscaled else (unscaled, None, None)
    return int(length * factor), extended, None if extended is None else "yarn"


def _scalings(text: Keys) -> Iterator[tuple[str | None, float | None, Any]]:
    """Give each scaling's kind, factor and original length, the first two checked."""
    name, found = text.raw("rope_scaling", "rope_parameters")
    if found is None:
        return
    if not isinstance(found, Mapping):
        raise text.error(name, found, "an object")
    by_layer_type = [each for each in found.values() if isinstance(each, Mapping)]
    for scaling in by_layer_type or [found]:
        kind = scaling.get("rope_type", scaling.get("type"))
        if not isinstance(kind, str | None):
            raise text.error(f"{name} rope_type", kind, "a string")
        stated = scaling.get("factor")
        if stated is not None and not (is_finite(stated) and 0 < stated <= LARGEST_FACTOR):
            raise text.error(f"{name} factor", stated, f"a number from 0 to {LARGEST_FACTOR:,}")
        yield kind, stated, scaling.get("original_max_position_embeddings")

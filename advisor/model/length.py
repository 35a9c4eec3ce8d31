"""Longest context of a model, as vLLM derives it from the config alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from advisor.model.keys import Keys, is_finite

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
_LARGEST_FACTOR = 2**16
_UNKNOWN_LENGTH = 2048
"""What vLLM assumes of a config that names no length."""


def context_length(text: Keys) -> tuple[int, int | None]:
    """Return (what vLLM takes by default, a longer length that the scaling allows or None), in tokens.

    Source: ``config/model.py:_get_and_verify_max_len`` (0.32) and ``derive_max_model_len_and_key`` of
    ``transformers_utils/model_arch_config_convertor.py``: the smallest of the keys, times the factor of a rope scaling
    that max_position_embeddings does not hold yet. Releases to 0.29 count yarn from the original length.

    Raises:
        ModelConfigError: A length is not a whole number above zero.
    """
    found = [length for key in _LENGTH_KEYS if (length := text.optional_length(key)) is not None]
    length = min(found, default=_UNKNOWN_LENGTH)
    if "gemma3" in text.text("model_type"):
        return length, None
    extended: int | None = None
    factor: float = 1.0
    for scaling in _scalings(text):
        kind = scaling.get("rope_type", scaling.get("type"))
        if not isinstance(kind, str | None):
            raise text.error("rope_scaling rope_type", kind, "a string")
        stated = scaling.get("factor")
        original = scaling.get("original_max_position_embeddings")
        if stated is not None and not (is_finite(stated) and 0 < stated <= _LARGEST_FACTOR):
            raise text.error("rope_scaling factor", stated, f"a number from 0 to {_LARGEST_FACTOR:,}")
        if kind not in _ALREADY_SCALED and stated is not None:
            factor = stated
        elif kind == "yarn" and stated is not None and is_finite(original) and 0 < original * stated < 2**40:
            scaled = int(original * stated)
            extended = scaled if scaled > length else None
        elif kind in {"longrope", "su"}:
            original = text.optional_length("original_max_position_embeddings")
            if original is not None:
                return original, length if length > original else None
    return int(length * factor), extended


def _scalings(text: Keys) -> Iterator[Mapping[str, Any]]:
    name, scaling = text.raw("rope_scaling", "rope_parameters")
    if scaling is None:
        return
    if not isinstance(scaling, Mapping):
        raise text.error(name, scaling, "an object")
    by_layer_type = [each for each in scaling.values() if isinstance(each, Mapping)]
    yield from by_layer_type or [scaling]

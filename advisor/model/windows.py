"""Which layers keep only a window of tokens."""

from collections.abc import Callable, Sequence

from advisor.layers import DecoderLayer, FullAttention, SlidingWindow
from advisor.model.keys import Keys

WindowRule = Callable[[Keys, int], Sequence[int | None]]
"""From a config and its number of layers to each layer's window, None for all tokens."""

SLIDING = "sliding_attention"
FULL = "full_attention"


def attention_layer(kv_heads: int, head_size: int, window: int | None, value_size: int | None = None) -> DecoderLayer:
    """Return what a layer with keys and values keeps."""
    values = head_size if value_size is None else value_size
    if window is None:
        return (FullAttention(num_kv_heads=kv_heads, head_size=head_size, head_size_v=values),)
    return (SlidingWindow(num_kv_heads=kv_heads, head_size=head_size, head_size_v=values, window=window),)


def sliding_window(keys: Keys) -> int | None:
    """Return the config's window; zero, null and ``use_sliding_window: false`` are none."""
    if not keys.flag("use_sliding_window", default=True):
        return None
    return keys.count("sliding_window") or None


def layer_types(keys: Keys, layers: int) -> tuple[str, ...] | None:
    """Return the config's ``layer_types``, one a layer, or None where it has none."""
    types = keys.words("layer_types")
    return None if types is None else keys.per_layer("layer_types", types, layers)


def one_window_for_all(keys: Keys, layers: int) -> Sequence[int | None]:
    """Return each layer's window for models that leave the choice to vLLM's cache configuration.

    Source: ``engine/arg_utils.py:create_engine_config``: the window applies to all layers where ``layer_types`` is
    absent or names nothing else, and to none where it is mixed.
    """
    types = layer_types(keys, layers)
    if types is not None and any(each != SLIDING for each in types):
        return (None,) * layers
    return (sliding_window(keys),) * layers


def window_by_layer_type(keys: Keys, layers: int) -> Sequence[int | None]:
    """Return each layer's window for models that follow ``layer_types``."""
    types = layer_types(keys, layers)
    if types is None:
        return one_window_for_all(keys, layers)
    window = sliding_window(keys)
    return tuple(window if each == SLIDING else None for each in types)


def window_from_layer(keys: Keys, layers: int) -> Sequence[int | None]:
    """Return each layer's window where layers from ``max_window_layers`` on have it and no ``layer_types`` is given.

    Source: transformers' Qwen2 and Qwen3 configurations, which derive ``layer_types`` so.
    """
    if keys.words("layer_types") is None and sliding_window(keys) is not None:
        first = keys.count("max_window_layers", default=28)
        if 0 < first < layers:
            return (None,) * layers
        return (None if first >= layers else sliding_window(keys),) * layers
    return one_window_for_all(keys, layers)


def no_window(keys: Keys, layers: int) -> Sequence[int | None]:
    """Return no window for any layer."""
    return (None,) * layers


def every_nth_full(period: int) -> WindowRule:
    """Return the rule of ``layer_types``, or where they are absent of a full layer every ``period`` layers."""

    def rule(keys: Keys, layers: int) -> Sequence[int | None]:
        if keys.words("layer_types") is not None:
            return window_by_layer_type(keys, layers)
        window = sliding_window(keys)
        return tuple(None if (layer + 1) % period == 0 else window for layer in range(layers))

    return rule

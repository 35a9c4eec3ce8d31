"""Gemma 2, 3, 3n and 4: sandwich norms, windows between full layers, layers that read another layer's cache.

Sources: vLLM 0.32 ``model_executor/models/gemma2.py``, ``gemma3.py``, ``gemma3n.py``, ``gemma4.py``; defaults from
transformers' text configurations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advisor.layers import DecoderLayer
from advisor.model.dense import Dense, assembled, read_heads
from advisor.model.keys import Keys
from advisor.model.tensors import (
    Decoder,
    Heads,
    Part,
    Parts,
    attention,
    embedding,
    matrix,
    mlp,
    norm,
    repeated,
    router,
    small,
    stacked_experts,
)
from advisor.model.windows import FULL, SLIDING, attention_layer, every_nth_full, layer_types
from advisor.spec import Experts

_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_GEMMA2: Mapping[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
}
_GEMMA3: Mapping[str, Any] = {**_GEMMA2, "vocab_size": 262208}
_GEMMA3N: Mapping[str, Any] = {
    "vocab_size": 262400,
    "vocab_size_per_layer_input": 262144,
    "hidden_size": 2048,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 16384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "sliding_window": 512,
    "num_kv_shared_layers": 15,
    "altup_num_inputs": 4,
    "laurel_rank": 64,
}
_GEMMA4: Mapping[str, Any] = {
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
    "hidden_size": 2304,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "sliding_window": 512,
}


def _by_pattern(keys: Keys, layers: int) -> Sequence[int | None]:
    """Return the rule of ``layer_types``, or of the config's own pattern where they are absent."""
    period = keys.size("sliding_window_pattern", "_sliding_window_pattern", default=6)
    return every_nth_full(period)(keys, layers)


_SANDWICH = Dense(
    defaults=_GEMMA2,
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    norms=_NORMS,
    tied=True,
    windows=every_nth_full(2),
)
gemma3 = Dense(
    defaults=_GEMMA3,
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    norms=_NORMS,
    qk_norm=True,
    tied=True,
    windows=_by_pattern,
)


def _per_layer_input(per_layer: int, hidden: int) -> Parts:
    """Return how a layer takes in its own embedding of each token, ``per_layer`` wide."""
    return (
        *matrix("per_layer_input_gate", per_layer, hidden, "copied"),
        *matrix("per_layer_projection", hidden, per_layer, "copied"),
        *norm("post_per_layer_input_norm", hidden),
    )


def _per_layer_embeddings(keys: Keys, layers: int, per_layer: int, hidden: int) -> Parts:
    """Return those embeddings, of all layers together."""
    width = layers * per_layer
    return (
        embedding("model.embed_tokens_per_layer", keys.size("vocab_size_per_layer_input"), width),
        *matrix("model.per_layer_model_projection", width, hidden, "column"),
        *norm("model.per_layer_projection_norm", per_layer),
    )


def gemma3n(keys: Keys) -> Decoder:
    """Gemma 3n: alternating updates, per-layer embeddings, and last layers that keep nothing of their own."""
    keys = keys.with_defaults(_GEMMA3N)
    sizes, layers = read_heads(keys), keys.layers()
    hidden, per_layer = sizes.hidden_size, keys.size("hidden_size_per_layer_input")
    inputs, rank = keys.size("altup_num_inputs", most=64), keys.size("laurel_rank")
    listed = keys.raw("intermediate_size")[1]
    if isinstance(listed, list):
        inners = keys.per_layer("intermediate_size", keys.whole_numbers("intermediate_size") or (), layers)
        if not all(inners):
            raise keys.error("intermediate_size", listed, "a width above zero for each layer")
    else:
        inners = (keys.size("intermediate_size"),) * layers
    first_shared = layers - keys.count("num_kv_shared_layers")
    types = layer_types(keys, layers) or tuple(SLIDING if (layer + 1) % 5 else FULL for layer in range(layers))
    window = keys.size("sliding_window")
    common = (
        *norm("self_attn.q_norm", sizes.head_size),
        *(part for name in _NORMS for part in norm(name, hidden)),
        *matrix("altup.correction_coefs", inputs, inputs, "copied"),
        *matrix("altup.prediction_coefs", inputs * inputs, inputs, "copied"),
        *matrix("altup.modality_router", inputs, hidden, "copied"),
        *norm("altup.router_norm", hidden),
        small("altup.correct_output_scale", hidden),
        *matrix("laurel.linear_left", rank, hidden, "column"),
        *matrix("laurel.linear_right", hidden, rank, "row"),
        *norm("laurel.post_laurel_norm", hidden),
        *_per_layer_input(per_layer, hidden),
    )
    own = (
        *attention("self_attn", sizes),
        *norm("self_attn.k_norm", sizes.head_size),
    )
    reading = _without_keys_and_values(own)
    made: dict[tuple[int, bool], Parts] = {}
    for layer in range(layers):
        key = (inners[layer], layer >= first_shared)
        if key not in made:
            made[key] = (*common, *(reading if key[1] else own), *mlp("mlp", hidden, key[0]))
    kept: dict[bool, DecoderLayer] = {
        True: attention_layer(sizes.kv_heads, sizes.head_size, window),
        False: attention_layer(sizes.kv_heads, sizes.head_size, None),
    }
    aside, after = (
        repeated(f"model.altup_{name}.", inputs - 1, (Part("weight", (hidden, hidden), "linear", "column"),))
        for name in ("projections", "unembed_projections")
    )
    return assembled(
        keys,
        sizes,
        layers=[() if layer >= first_shared else kept[types[layer] == SLIDING] for layer in range(layers)],
        parts=[made[inners[layer], layer >= first_shared] for layer in range(layers)],
        intermediate_size=max(inners),
        tied=keys.flag("tie_word_embeddings", default=True),
        beside_embedding=(*_per_layer_embeddings(keys, layers, per_layer, hidden), *aside),
        before_norm=after,
    )


def _without_keys_and_values(parts: Parts) -> Parts:
    left_out = ("k_proj.weight", "v_proj.weight", "k_norm.weight", "k_proj.bias", "v_proj.bias")
    return tuple(part for part in parts if not part.name.endswith(left_out))


def gemma4(keys: Keys) -> Decoder:
    """Gemma 4: full layers have other heads than window layers, and may use their keys as values."""
    keys = keys.with_defaults(_GEMMA4)
    sizes, layers = read_heads(keys), keys.layers()
    hidden, inner = sizes.hidden_size, keys.size("intermediate_size")
    window = keys.size("sliding_window")
    if keys.text("use_bidirectional_attention") == "all":
        window = window // 2 + 1
    keys_are_values = keys.flag("attention_k_eq_v")
    full_kv = (keys.optional_size("num_global_key_value_heads") if keys_are_values else None) or sizes.kv_heads
    first_shared = layers - keys.count("num_kv_shared_layers")
    types = layer_types(keys, layers) or tuple(SLIDING if (layer + 1) % 6 else FULL for layer in range(layers))
    types = (*types[:-1], FULL)
    bias = keys.flag("attention_bias")
    per_layer = keys.count("hidden_size_per_layer_input")
    mixture, extra = _gemma4_mixture(keys, hidden)
    common = (
        *(part for name in _NORMS for part in norm(name, hidden)),
        *(_per_layer_input(per_layer, hidden) if per_layer else ()),
        *extra,
    )

    def side(sizes: Heads) -> Parts:
        # where values are keys, the checkpoint has no v_proj, but vLLM holds the key projection twice
        return (
            *attention("self_attn", sizes, qkv_bias=bias, output_bias=bias),
            *norm("self_attn.q_norm", sizes.head_size),
            *norm("self_attn.k_norm", sizes.head_size),
        )

    full = Heads(hidden_size=hidden, heads=sizes.heads, kv_heads=full_kv, head_size=keys.size("global_head_dim"))
    attentions = {True: side(sizes), False: side(full)}
    kept: dict[bool, DecoderLayer] = {
        True: attention_layer(sizes.kv_heads, sizes.head_size, window),
        False: attention_layer(full.kv_heads, full.head_size, None),
    }
    wide = 2 * inner if keys.flag("use_double_wide_mlp") else inner
    made: dict[tuple[bool, bool], Parts] = {}
    parts, caches = [], []
    for layer, kind in enumerate(types):
        key = (kind == SLIDING, layer >= first_shared > 0)
        if key not in made:
            own = _without_keys_and_values(attentions[key[0]]) if key[1] else attentions[key[0]]
            made[key] = (*common, *own, *mlp("mlp", hidden, wide if key[1] else inner))
        parts.append(made[key])
        caches.append(() if key[1] else kept[key[0]])
    return assembled(
        keys,
        sizes,
        layers=caches,
        parts=parts,
        intermediate_size=inner,
        tied=keys.flag("tie_word_embeddings", default=True),
        beside_embedding=_per_layer_embeddings(keys, layers, per_layer, hidden) if per_layer else (),
        mixture=mixture,
    )


def _gemma4_mixture(keys: Keys, hidden: int) -> tuple[Experts | None, Parts]:
    count = keys.count("num_experts")
    if not count:
        return None, ()
    inner = keys.size("moe_intermediate_size", "expert_intermediate_size")
    parts = (
        *router("router.proj", count, hidden),
        small("router.scale", hidden),
        small("router.per_expert_scale", count),
        *stacked_experts("experts.gate_up_proj", "experts.down_proj", count, hidden, inner),
        *norm("post_feedforward_layernorm_1", hidden),
        *norm("post_feedforward_layernorm_2", hidden),
        *norm("pre_feedforward_layernorm_2", hidden),
    )
    return (
        Experts(num_experts=count, experts_per_token=keys.size("top_k_experts"), intermediate_size=inner),
        parts,
    )


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    "Gemma2ForCausalLM": _SANDWICH,
    "Gemma3ForCausalLM": gemma3,
    "Gemma3nForCausalLM": gemma3n,
    "Gemma4ForCausalLM": gemma4,
}
"""Every Gemma since the second, by the name in the config's ``architectures``."""

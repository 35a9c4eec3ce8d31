"""Decoders whose layers are not alike: Nemotron's searched networks, Zamba2's shared blocks.

Sources: vLLM 0.32 ``model_executor/models/nemotron_nas.py`` and ``zamba2.py``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from advisor.layers import DecoderLayer, Mamba2
from advisor.model.dense import assembled
from advisor.model.hybrid import mamba2_parts
from advisor.model.keys import Keys, divided
from advisor.model.tensors import Decoder, Heads, Part, Parts, attention, matrix, mlp, norm, prefixed
from advisor.model.windows import attention_layer

_FFN_MULTIPLE = 256


def _blocks(keys: Keys, layers: int) -> list[Keys]:
    name, found = keys.raw("block_configs")
    if not isinstance(found, list):
        raise keys.error(name, found, "a list of one object a layer")
    listed = keys.per_layer(name, tuple(found), layers)
    if not all(isinstance(each, Mapping) for each in listed):
        raise keys.error(name, found, "a list of one object a layer")
    return [Keys(each, path=f"{name}[{index}].") for index, each in enumerate(listed)]


def _searched_ffn(block: Keys, hidden: int) -> int | None:
    ffn = block.nested("ffn")
    if ffn.flag("no_op"):
        return None
    if ffn.raw("ffn_mult")[1] is None:
        return ffn.size("intermediate_size")
    factor = ffn.number("ffn_mult")
    width = int(2 * factor * hidden / 3)
    if width < 1:
        raise ffn.error("ffn_mult", factor, f"enough above zero for a width of 2/3 of it x hidden_size {hidden}")
    return -(-width // _FFN_MULTIPLE) * _FFN_MULTIPLE


def _searched(keys: Keys) -> Decoder:
    """Llama-Nemotron Super and Ultra: some layers have no attention or no MLP."""
    hidden, layers = keys.size("hidden_size"), keys.layers()
    heads = keys.size("num_attention_heads")
    head = keys.optional_size("head_dim") or divided(keys, hidden, "hidden_size", heads, "num_attention_heads")
    bias, mlp_bias = keys.flag("attention_bias"), keys.flag("mlp_bias")
    caches: list[DecoderLayer] = []
    parts: list[Parts] = []
    widest, kv_heads_seen = 0, 1
    for block in _blocks(keys, layers):
        attending = block.nested("attention")
        made: list[Part] = []
        if attending.flag("no_op"):
            caches.append(())
        else:
            kv_heads = divided(attending, heads, "num_attention_heads", attending.size("n_heads_in_group"), "group")
            kv_heads_seen = max(kv_heads_seen, kv_heads)
            caches.append(attention_layer(kv_heads, head, None))
            sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=kv_heads, head_size=head)
            made += attention("self_attn", sizes, qkv_bias=bias, output_bias=bias)
            made += norm("input_layernorm", hidden)
        width = _searched_ffn(block, hidden)
        if width is not None:
            widest = max(widest, width)
            made += mlp("mlp", hidden, width, bias=mlp_bias)
            made += norm("post_attention_layernorm", hidden)
        parts.append(tuple(made))
    return assembled(
        keys,
        Heads(hidden_size=hidden, heads=heads, kv_heads=kv_heads_seen, head_size=head),
        layers=caches,
        parts=parts,
        intermediate_size=widest or hidden,
        tied=keys.flag("tie_word_embeddings"),
    )


_ZAMBA2: Mapping[str, Any] = {
    "mamba_d_state": 64,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_ngroups": 1,
    "n_mamba_heads": 8,
    "adapter_rank": 128,
    "num_mem_blocks": 1,
}


def _zamba2(keys: Keys) -> Decoder:
    """Zamba2: few attention blocks, each used by many layers, which keep their own keys and values."""
    keys = keys.with_defaults(_ZAMBA2)
    hidden, layers = keys.size("hidden_size"), keys.layers()
    heads = keys.size("num_attention_heads")
    width = keys.size("attention_hidden_size", default=2 * hidden)
    head = keys.size("attention_head_dim", default=divided(keys, width, "attention width", heads, "heads"))
    inner = keys.size("intermediate_size", default=4 * hidden)
    mamba_inner, mamba_heads = keys.size("mamba_expand") * hidden, keys.size("n_mamba_heads")
    state = Mamba2(
        intermediate_size=mamba_inner,
        n_groups=keys.size("mamba_ngroups"),
        num_heads=mamba_heads,
        head_dim=divided(keys, mamba_inner, "mamba width", mamba_heads, "n_mamba_heads"),
        state_size=keys.size("mamba_d_state"),
        conv_kernel=keys.size("mamba_d_conv"),
    )
    mixer = (
        *prefixed("mamba.", mamba2_parts(state, hidden, projection_bias=keys.flag("add_bias_linear"))),
        *norm("input_layernorm", hidden),
    )
    hybrids = keys.whole_numbers("hybrid_layer_ids")
    if hybrids is None:
        raise keys.missing("hybrid_layer_ids")
    blocks, rank = keys.size("num_mem_blocks"), keys.size("adapter_rank")
    adapted = keys.flag("use_shared_attention_adapter")
    bias = keys.flag("add_bias_linear")
    with_mamba = (*prefixed("mamba_decoder.", mixer), *matrix("linear", hidden, hidden, "copied"))

    def shared(block: int) -> Parts:
        parts: list[Part] = [
            *attention("self_attn", Heads(hidden_size=width, heads=heads, kv_heads=heads, head_size=head))[:3],
            *matrix("self_attn.o_proj", hidden, width, "row"),
            *matrix("feed_forward.gate_up_proj", 2 * inner, hidden, "column", bias=bias),
            *matrix("feed_forward.down_proj", hidden, inner, "row", bias=bias),
            *norm("input_layernorm", 2 * hidden),
            *norm("pre_ff_layernorm", hidden),
        ]
        for index in range(block, len(hybrids), blocks):
            if adapted:
                for name in ("q", "k", "v"):
                    adapter = f"self_attn.linear_{name}_adapter_list.{index}"
                    parts += matrix(f"{adapter}.0", rank, width, "column")
                    parts += matrix(f"{adapter}.1", width, rank, "column")
            adapter = f"feed_forward.gate_up_proj_adapter_list.{index}"
            parts += matrix(f"{adapter}.0", rank, hidden, "column")
            parts += matrix(f"{adapter}.1", 2 * inner, rank, "column")
        return prefixed("shared_transformer.", parts)

    attended = attention_layer(heads, head, None)
    made: list[Parts] = []
    caches: list[DecoderLayer] = []
    block = 0
    for layer in range(layers):
        if layer not in hybrids:
            made.append(mixer)
            caches.append((state,))
            continue
        made.append((*shared(block), *with_mamba) if block < blocks else with_mamba)
        caches.append((*attended, state))
        block += 1
    return assembled(
        keys,
        Heads(hidden_size=hidden, heads=heads, kv_heads=heads, head_size=head),
        layers=caches,
        parts=made,
        intermediate_size=inner,
        tied=keys.flag("tie_word_embeddings", default=True),
        final_norm="model.final_layernorm",
    )


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    "DeciLMForCausalLM": _searched,
    "Zamba2ForCausalLM": _zamba2,
}
"""Every architecture of that kind, by the name in the config's ``architectures``."""

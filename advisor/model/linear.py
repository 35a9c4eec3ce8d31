"""Linear attention between full attention: Qwen3-Next, Qwen 3.5, Kimi-Linear, MiniMax-Text-01.

Sources: vLLM 0.32 ``model_executor/models/qwen3_next.py``, ``qwen3_5.py``, ``models/kimi_k3`` and
``layers/mamba/gdn``; MiniMax-Text-01 from 0.22, which later releases dropped.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from advisor.layers import DecoderLayer, GatedDeltaNet, KimiDelta, Latent, LinearAttention
from advisor.model.dense import assembled, read_heads
from advisor.model.keys import Keys
from advisor.model.latent import latent_attention
from advisor.model.moe import qwen_block, qwen_sparsity
from advisor.model.tensors import (
    Decoder,
    Heads,
    Part,
    Parts,
    attention,
    experts,
    four_kinds,
    matrix,
    mlp,
    norm,
    prefixed,
    router,
    small,
)
from advisor.model.windows import FULL, attention_layer, layer_types
from advisor.spec import Experts

_LINEAR = "linear_attention"


def _delta_net(keys: Keys, hidden: int, *, separate: bool) -> tuple[GatedDeltaNet, Parts]:
    state = GatedDeltaNet(
        num_k_heads=keys.size("linear_num_key_heads", default=16),
        num_v_heads=keys.size("linear_num_value_heads", default=32),
        head_k_dim=keys.size("linear_key_head_dim", default=128),
        head_v_dim=keys.size("linear_value_head_dim", default=128),
        conv_kernel=keys.size("linear_conv_kernel_dim", default=4),
    )
    keys_size, values_size = state.num_k_heads * state.head_k_dim, state.num_v_heads * state.head_v_dim
    heads = state.num_v_heads
    projections = (
        (
            *matrix("in_proj_qkv", 2 * keys_size + values_size, hidden, "column"),
            *matrix("in_proj_z", values_size, hidden, "column"),
            *matrix("in_proj_b", heads, hidden, "column"),
            *matrix("in_proj_a", heads, hidden, "column"),
        )
        if separate
        else (
            *matrix("in_proj_qkvz", 2 * keys_size + 2 * values_size, hidden, "column"),
            *matrix("in_proj_ba", 2 * heads, hidden, "column"),
        )
    )
    parts = (
        *projections,
        Part("conv1d.weight", (2 * keys_size + values_size, 1, state.conv_kernel), "norm", "column"),
        small("dt_bias", heads, sharding="column"),
        small("A_log", heads, sharding="column"),
        *norm("norm", state.head_v_dim),
        *matrix("out_proj", hidden, values_size, "row"),
    )
    return state, prefixed("linear_attn.", parts)


def _qwen_delta(keys: Keys, *, separate: bool, stacked: bool, mixture: bool) -> Decoder:
    """Qwen3-Next and Qwen 3.5.

    Args:
        keys: The text model's config.
        separate: Whether the linear attention's projections are separate tensors (3.5).
        stacked: Whether the experts are one tensor a projection (3.5).
        mixture: Whether the feed-forward blocks may be mixtures.
    """
    keys = keys.with_defaults({"head_dim": 256, "num_key_value_heads": 2 if mixture else 4})
    sizes, layers = read_heads(keys), keys.layers()
    hidden = sizes.hidden_size
    state, linear = _delta_net(keys, hidden, separate=separate)
    gate = 2 if keys.flag("attn_output_gate", default=True) else 1
    bias = keys.flag("attention_bias")
    attending = (
        *attention("self_attn", sizes, qkv_bias=bias, output_bias=bias, query_factor=gate),
        *norm("self_attn.q_norm", sizes.head_size),
        *norm("self_attn.k_norm", sizes.head_size),
    )
    described: Experts | None = None
    block: Parts = ()
    if mixture and keys.count("num_experts"):
        block, described = qwen_block(keys, stacked=stacked)
    sparse = qwen_sparsity(keys)
    mixes = [described is not None and sparse(layer) for layer in range(layers)]
    intermediate = (
        keys.optional_size("intermediate_size") or (described.intermediate_size if described else 0)
        if all(mixes)
        else keys.size("intermediate_size")
    )
    dense = () if all(mixes) else mlp("mlp", hidden, intermediate)
    norms = (*norm("input_layernorm", hidden), *norm("post_attention_layernorm", hidden))
    types = layer_types(keys, layers)
    if types is None:
        every = keys.size("full_attention_interval", default=4)
        types = tuple(_LINEAR if (layer + 1) % every else FULL for layer in range(layers))
    linears = [each == _LINEAR for each in types]
    made = four_kinds((attending, linear), (dense, block), norms)
    kept = attention_layer(sizes.kv_heads, sizes.head_size, None)
    return assembled(
        keys,
        sizes,
        layers=[(state,) if each else kept for each in linears],
        parts=[made[each] for each in zip(linears, mixes, strict=True)],
        intermediate_size=intermediate,
        tied=keys.flag("tie_word_embeddings"),
        mixture=described,
        draft_layers=keys.count("mtp_num_hidden_layers", "num_nextn_predict_layers"),
    )


def _qwen3_next(keys: Keys) -> Decoder:
    # every published Qwen3-Next checkpoint has one predictor layer, which its config does not mention
    return _qwen_delta(keys.with_defaults({"num_nextn_predict_layers": 1}), separate=False, stacked=False, mixture=True)


def qwen3_5(keys: Keys) -> Decoder:
    """Qwen 3.5 and 3.6, dense."""
    return _qwen_delta(keys, separate=True, stacked=True, mixture=False)


def qwen3_5_moe(keys: Keys) -> Decoder:
    """Qwen 3.5 and 3.6, mixture."""
    return _qwen_delta(keys, separate=True, stacked=True, mixture=True)


def _kimi_delta(keys: Keys, hidden: int) -> tuple[KimiDelta, Parts]:
    linear = keys.nested("linear_attn_config")
    state = KimiDelta(
        num_heads=linear.size("num_heads"),
        head_dim=linear.size("head_dim"),
        conv_kernel=linear.size("short_conv_kernel_size", default=4),
    )
    heads, head = state.num_heads, state.head_dim
    width = heads * head
    parts = (
        *(part for name in ("q_proj", "k_proj", "v_proj") for part in matrix(name, width, hidden, "column")),
        *(Part(f"{name}_conv1d.weight", (width, 1, state.conv_kernel), "norm", "column") for name in ("q", "k", "v")),
        small("A_log", heads, sharding="column"),
        *matrix("f_a_proj", head, hidden, "copied"),
        *matrix("f_b_proj", width, head, "column"),
        small("dt_bias", width, sharding="column"),
        *matrix("b_proj", heads, hidden, "column"),
        *(
            matrix("g_proj", width, hidden, "column")
            if linear.flag("use_full_rank_gate")
            else (*matrix("g_a_proj", head, hidden, "copied"), *matrix("g_b_proj", width, head, "column"))
        ),
        *norm("o_norm", head),
        *matrix("o_proj", hidden, width, "row"),
    )
    return state, prefixed("self_attn.", parts)


def kimi_linear(keys: Keys) -> Decoder:
    """Kimi-Linear and Kimi K3, which adds full gates, experts in a latent space and residuals over layers."""
    hidden, layers = keys.size("hidden_size"), keys.layers()
    heads = keys.size("num_attention_heads")
    state, linear = _kimi_delta(keys, hidden)
    rank, rope = keys.size("kv_lora_rank"), keys.size("qk_rope_head_dim")
    values = keys.size("v_head_dim")
    attending = latent_attention(
        "self_attn",
        hidden_size=hidden,
        heads=heads,
        kv_lora_rank=rank,
        q_lora_rank=keys.optional_size("q_lora_rank"),
        qk_nope_head_dim=keys.size("qk_nope_head_dim"),
        qk_rope_head_dim=rope,
        v_head_dim=values,
    )
    if keys.flag("mla_use_output_gate"):
        attending = (*attending, *matrix("self_attn.g_proj", heads * values, hidden, "column"))
    count = keys.count("num_experts")
    inner = keys.size("moe_intermediate_size", default=1)
    shared = inner * keys.count("num_shared_experts")
    described = (
        Experts(
            num_experts=count,
            experts_per_token=keys.size("num_experts_per_token", "num_experts_per_tok"),
            intermediate_size=inner,
            shared_intermediate_size=shared,
        )
        if count
        else None
    )
    latent = keys.optional_size("routed_expert_hidden_size")
    block = (
        *router("block_sparse_moe.gate", count, hidden),
        small("block_sparse_moe.gate.e_score_correction_bias", count),
        *experts("block_sparse_moe.experts", count, latent or hidden, inner, names=("w1", "w3", "w2")),
        *(mlp("block_sparse_moe.shared_experts", hidden, shared) if shared else ()),
        *(
            (
                *matrix("block_sparse_moe.routed_expert_down_proj", latent, hidden, "copied"),
                *matrix("block_sparse_moe.routed_expert_up_proj", hidden, latent, "copied"),
                *(norm("block_sparse_moe.routed_expert_norm", latent) if keys.flag("latent_moe_use_norm") else ()),
            )
            if latent
            else ()
        ),
    )
    intermediate = keys.size("intermediate_size")
    dense = mlp("mlp", hidden, intermediate)
    residuals = keys.raw("attn_res_block_size")[1] is not None
    norms = (
        *norm("input_layernorm", hidden),
        *norm("post_attention_layernorm", hidden),
        *(
            part
            for name in ("self_attention_res", "mlp_res")
            if residuals
            for part in (*norm(f"{name}_norm", hidden), *matrix(f"{name}_proj", 1, hidden, "copied"))
        ),
    )
    first, every = keys.count("first_k_dense_replace"), keys.size("moe_layer_freq", default=1)
    # the config counts these layers from one
    deltas = frozenset(keys.nested("linear_attn_config").whole_numbers("kda_layers") or ())
    linears = [layer + 1 in deltas for layer in range(layers)]
    mixes = [bool(count) and layer >= first and layer % every == 0 for layer in range(layers)]
    made = four_kinds((attending, linear), (dense, block), norms)
    kept: DecoderLayer = (Latent(kv_lora_rank=rank, qk_rope_head_dim=rope),)
    decoder = assembled(
        keys,
        Heads(hidden_size=hidden, heads=heads, kv_heads=1, head_size=rank + rope),
        layers=[(state,) if each else kept for each in linears],
        parts=[made[each] for each in zip(linears, mixes, strict=True)],
        intermediate_size=intermediate,
        tied=keys.flag("tie_word_embeddings"),
        mixture=described,
        draft_layers=keys.count("num_nextn_predict_layers"),
    )
    if not residuals:
        return decoder
    over_layers = (
        *norm("model.output_attn_res_norm", hidden),
        *matrix("model.output_attn_res_proj", 1, hidden, "copied"),
    )
    return replace(decoder, after=(*over_layers, *decoder.after))


def _minimax_text(keys: Keys) -> Decoder:
    """MiniMax-Text-01 and M1."""
    sizes, layers = read_heads(keys), keys.layers()
    hidden, inner = sizes.hidden_size, keys.size("intermediate_size")
    width = sizes.heads * sizes.head_size
    linear = (
        *matrix("self_attn.qkv_proj", 3 * width, hidden, "column"),
        *matrix("self_attn.output_gate", width, hidden, "column"),
        *matrix("self_attn.out_proj", hidden, width, "row"),
        *norm("self_attn.norm", width, sharding="column"),
    )
    attending = attention("self_attn", sizes)
    count = keys.size("num_local_experts")
    shared = keys.count("shared_intermediate_size")
    block = (
        *router("block_sparse_moe.gate", count, hidden),
        *experts("block_sparse_moe.experts", count, hidden, inner, names=("w1", "w3", "w2")),
        *(
            (
                *mlp("shared_mlp", hidden, shared),
                *matrix("coefficient", 1, hidden, "copied"),
            )
            if shared
            else ()
        ),
        *norm("input_layernorm", hidden),
        *norm("post_attention_layernorm", hidden),
    )
    types = keys.whole_numbers("attn_type_list", "decoder_attention_types")
    if types is None:
        words = keys.words("layer_types")
        if words is None:
            raise keys.missing("attn_type_list")
        types = tuple(int(each == FULL) for each in words)
    full = keys.per_layer("attn_type_list", types, layers)
    made = ((*linear, *block), (*attending, *block))
    state: DecoderLayer = (LinearAttention(num_heads=sizes.heads, head_dim=sizes.head_size),)
    kept = attention_layer(sizes.kv_heads, sizes.head_size, None)
    return assembled(
        keys,
        sizes,
        layers=[kept if each else state for each in full],
        parts=[made[bool(each)] for each in full],
        intermediate_size=inner,
        tied=keys.flag("tie_word_embeddings"),
        mixture=Experts(
            num_experts=count,
            experts_per_token=keys.size("num_experts_per_tok"),
            intermediate_size=inner,
            shared_intermediate_size=shared,
        ),
    )


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    "Qwen3NextForCausalLM": _qwen3_next,
    "Qwen3_5ForCausalLM": qwen3_5,
    "Qwen3_5MoeForCausalLM": qwen3_5_moe,
    "KimiLinearForCausalLM": kimi_linear,
    "MiniMaxText01ForCausalLM": _minimax_text,
    "MiniMaxM1ForCausalLM": _minimax_text,
    "MiniMaxForCausalLM": _minimax_text,
}
"""Every architecture with linear attention, by the name in the config's ``architectures``."""

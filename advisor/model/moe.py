"""Mixtures of experts over plain (grouped) attention.

Sources: vLLM ``model_executor/models/<family>.py`` (0.32; Dots1 from 0.22,
HunYuan's mixture runs on the transformers backend since 0.24).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from advisor.layers import ChunkedLocal, DecoderLayer
from advisor.model.dense import Dense, assembled, read_heads
from advisor.model.keys import Keys, divided
from advisor.model.tensors import (
    Decoder,
    Heads,
    Part,
    Parts,
    attention,
    experts,
    four_kinds,
    fused_qkv,
    matrix,
    mlp,
    norm,
    router,
    small,
    stacked_experts,
)
from advisor.model.windows import attention_layer, every_nth_full, window_by_layer_type
from advisor.spec import Experts

_EXPERT_COUNT = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k")


def _mixture(keys: Keys, intermediate_size: int, shared_intermediate_size: int = 0) -> Experts:
    return Experts(
        num_experts=keys.size(*_EXPERT_COUNT),
        experts_per_token=keys.size(*_EXPERTS_PER_TOKEN),
        intermediate_size=intermediate_size,
        shared_intermediate_size=shared_intermediate_size,
    )


def _by_sparsity(sparse: Callable[[int], bool], mixture: Parts, dense: Parts) -> Callable[[int], Parts]:
    return lambda layer: mixture if sparse(layer) else dense


def _mixtral(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 8})
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    mixture = _mixture(keys, inner)
    count = mixture.num_experts
    block = (
        *router("block_sparse_moe.gate", count, hidden),
        *experts("block_sparse_moe.experts", count, hidden, inner, names=("w1", "w3", "w2")),
    )
    return Dense().decoder(keys, lambda _: block, mixture=mixture)


def _phimoe(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 8})
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    mixture = _mixture(keys, inner)
    block = (
        *router("block_sparse_moe.gate", mixture.num_experts, hidden),
        *experts("block_sparse_moe.experts", mixture.num_experts, hidden, inner, names=("w1", "w3", "w2")),
    )
    family = Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        norm_bias=True,
        head_bias=keys.flag("lm_head_bias"),
    )
    return family.decoder(keys, lambda _: block, mixture=mixture)


def qwen_sparsity(keys: Keys) -> Callable[[int], bool]:
    """Return the rule by which Qwen's layers are mixtures."""
    step = keys.size("decoder_sparse_step", default=1)
    dense_only = frozenset(keys.whole_numbers("mlp_only_layers") or ())
    return lambda layer: layer not in dense_only and (layer + 1) % step == 0


def qwen_block(keys: Keys, *, stacked: bool = False) -> tuple[Parts, Experts]:
    """Return the feed-forward tensors of Qwen's mixtures, with the gated shared expert where there is one.

    ``stacked``: the experts are one tensor a projection.
    """
    hidden, inner = keys.size("hidden_size"), keys.size("moe_intermediate_size")
    shared = keys.count("shared_expert_intermediate_size")
    mixture = _mixture(keys, inner, shared)
    count = mixture.num_experts
    routed = (
        stacked_experts("mlp.experts.gate_up_proj", "mlp.experts.down_proj", count, hidden, inner)
        if stacked
        else experts("mlp.experts", count, hidden, inner)
    )
    beside = (*mlp("mlp.shared_expert", hidden, shared), *matrix("mlp.shared_expert_gate", 1, hidden, "copied"))
    return (*router("mlp.gate", count, hidden), *routed, *(beside if shared else ())), mixture


def _qwen2_moe(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 16, "use_sliding_window": False})
    block, mixture = qwen_block(keys)
    dense = mlp("mlp", keys.size("hidden_size"), keys.size("intermediate_size"))
    return Dense(qkv_bias=keys.flag("qkv_bias", default=True)).decoder(
        keys, _by_sparsity(qwen_sparsity(keys), block, dense), mixture=mixture
    )


def qwen3_moe(keys: Keys, *, stacked: bool = False) -> Decoder:
    """Qwen 3's mixture; the vision models' checkpoints stack the experts."""
    keys = keys.with_defaults({"num_key_value_heads": 4, "use_sliding_window": False})
    block, mixture = qwen_block(keys, stacked=stacked)
    sparse = qwen_sparsity(keys)
    all_sparse = all(sparse(layer) for layer in range(keys.layers()))
    dense = () if all_sparse else mlp("mlp", keys.size("hidden_size"), keys.size("intermediate_size"))
    return Dense(qkv_bias=keys.flag("attention_bias"), output_bias="attention_bias", qk_norm=True).decoder(
        keys,
        _by_sparsity(sparse, block, dense),
        mixture=mixture,
        intermediate_size=keys.optional_size("intermediate_size") or mixture.intermediate_size,
    )


def _gpt_oss(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128})
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    mixture = _mixture(keys, inner)
    count = mixture.num_experts
    block = (
        *router("mlp.router", count, hidden, bias=True),
        *stacked_experts("mlp.experts.gate_up_proj", "mlp.experts.down_proj", count, hidden, inner),
        Part("mlp.experts.gate_up_proj_bias", (2 * inner,), "norm", "experts", count),
        Part("mlp.experts.down_proj_bias", (hidden,), "norm", "copied", count),
    )

    def sinks(keys: Keys, sizes: Heads) -> Parts:
        return (small("self_attn.sinks", sizes.heads, sharding="column"),)

    family = Dense(qkv_bias=True, output_bias=True, windows=every_nth_full(2), further=sinks)
    return family.decoder(keys, lambda _: block, mixture=mixture)


def llama4(keys: Keys) -> Decoder:
    """Llama 4: layers without positions see all tokens, the others only their chunk."""
    keys = keys.with_defaults({"num_key_value_heads": 8, "head_dim": 128, "attention_chunk_size": 8192})
    sizes = read_heads(keys)
    hidden, inner = sizes.hidden_size, keys.size("intermediate_size")
    layers = keys.layers()
    mixture = _mixture(keys, inner, inner)
    count = mixture.num_experts
    step = keys.count("interleave_moe_layer_step", default=1)
    listed = keys.whole_numbers("moe_layers")
    moe_layers = frozenset(listed if listed is not None else range(step - 1, layers, step) if step else ())
    block = (
        *router("feed_forward.router", count, hidden),
        *stacked_experts("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj", count, hidden, inner),
        *mlp("feed_forward.shared_expert", hidden, inner),
    )
    dense = mlp("feed_forward", hidden, keys.size("intermediate_size_mlp", default=inner))
    family = Dense(qkv_bias=keys.flag("attention_bias"), output_bias="attention_bias")
    decoder = family.decoder(keys, _by_sparsity(moe_layers.__contains__, block, dense), mixture=mixture)
    every, chunk = keys.count("no_rope_layer_interval", default=4), keys.count("attention_chunk_size")
    no_rope = keys.whole_numbers("no_rope_layers")
    full: DecoderLayer = decoder.layers[0]
    local: DecoderLayer = (
        (
            ChunkedLocal(
                num_kv_heads=sizes.kv_heads, head_size=sizes.head_size, head_size_v=sizes.head_size, chunk=chunk
            ),
        )
        if chunk
        else full
    )
    if no_rope:
        with_positions = [bool(each) for each in keys.per_layer("no_rope_layers", no_rope, layers)]
    else:
        with_positions = [not every or (layer + 1) % every != 0 for layer in range(layers)]
    return replace(decoder, layers=tuple(local if each else full for each in with_positions))


def deepseek_block(keys: Keys, *, correction_bias: bool) -> tuple[Parts, Experts]:
    """Return the feed-forward tensors of DeepSeek's mixtures, with the shared experts where there are any."""
    inner, hidden = keys.size("moe_intermediate_size"), keys.size("hidden_size")
    shared = inner * keys.count("n_shared_experts")
    mixture = Experts(
        num_experts=keys.size("n_routed_experts"),
        experts_per_token=keys.size("num_experts_per_tok"),
        intermediate_size=inner,
        shared_intermediate_size=shared,
    )
    parts = (
        *router("mlp.gate", mixture.num_experts, hidden),
        *((small("mlp.gate.e_score_correction_bias", mixture.num_experts),) if correction_bias else ()),
        *experts("mlp.experts", mixture.num_experts, hidden, inner),
        *(mlp("mlp.shared_experts", hidden, shared) if shared else ()),
    )
    return parts, mixture


def glm4_moe(keys: Keys) -> Decoder:
    """GLM 4.5 to 4.7."""
    keys = keys.with_defaults({"num_key_value_heads": 8, "n_shared_experts": 1, "first_k_dense_replace": 1})
    block, mixture = deepseek_block(keys, correction_bias=True)
    dense = mlp("mlp", keys.size("hidden_size"), keys.size("intermediate_size"))
    first = keys.count("first_k_dense_replace")
    family = Dense(qkv_bias="attention_bias", qk_norm="use_qk_norm")
    return family.decoder(
        keys,
        _by_sparsity(lambda layer: layer >= first, block, dense),
        mixture=mixture,
        draft_layers=keys.count("num_nextn_predict_layers"),
    )


def _dots1(keys: Keys) -> Decoder:
    correction_bias = keys.text("topk_method", default="noaux_tc") == "noaux_tc"
    block, mixture = deepseek_block(keys, correction_bias=correction_bias)
    dense = mlp("mlp", keys.size("hidden_size"), keys.size("intermediate_size"))
    first, step = keys.count("first_k_dense_replace"), keys.size("moe_layer_freq", default=1)
    family = Dense(qkv_bias="attention_bias", qk_norm=True)
    return family.decoder(
        keys,
        _by_sparsity(lambda layer: layer >= first and layer % step == 0, block, dense),
        mixture=mixture,
    )


def _deepseek_v1(keys: Keys) -> Decoder:
    block, mixture = deepseek_block(keys, correction_bias=False)
    dense = mlp("mlp", keys.size("hidden_size"), keys.size("intermediate_size"))
    first, step = keys.count("first_k_dense_replace"), keys.size("moe_layer_freq", default=1)
    return Dense(qkv_bias="attention_bias").decoder(
        keys,
        _by_sparsity(lambda layer: layer >= first and layer % step == 0, block, dense),
        mixture=mixture,
    )


def _minimax_m2(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 8, "head_dim": 128})
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    mixture = _mixture(keys, inner)
    count = mixture.num_experts
    block = (
        *router("block_sparse_moe.gate", count, hidden),
        *((small("block_sparse_moe.e_score_correction_bias", count),) if keys.flag("use_routing_bias") else ()),
        *experts("block_sparse_moe.experts", count, hidden, inner, names=("w1", "w3", "w2")),
    )

    def qk_norms(keys: Keys, sizes: Heads) -> Parts:
        return (
            small("self_attn.q_norm.weight", sizes.heads * sizes.head_size, sharding="column"),
            small(
                "self_attn.k_norm.weight",
                sizes.kv_heads * sizes.head_size,
                sharding="kv_heads",
                kv_heads=sizes.kv_heads,
            ),
        )

    family = Dense(qkv_bias="attention_bias", further=qk_norms)
    return family.decoder(keys, lambda _: block, mixture=mixture, draft_layers=keys.count("num_mtp_modules"))


def _olmoe(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 16})
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    mixture = _mixture(keys, inner)
    block = (
        *router("mlp.gate", mixture.num_experts, hidden),
        *experts("mlp.experts", mixture.num_experts, hidden, inner),
    )
    return Dense(qk_norm=True, qk_norm_whole=True).decoder(keys, lambda _: block, mixture=mixture)


def granite_block(keys: Keys) -> tuple[Parts, Experts]:
    """Return the feed-forward tensors of Granite's mixtures, with the shared expert where there is one."""
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    shared = keys.count("shared_intermediate_size")
    mixture = _mixture(keys, inner, shared)
    count = mixture.num_experts
    return (
        (
            *stacked_experts(
                "block_sparse_moe.input_linear.weight",
                "block_sparse_moe.output_linear.weight",
                count,
                hidden,
                inner,
            ),
            *router("block_sparse_moe.router.layer", count, hidden),
            *granite_shared(hidden, shared),
        ),
        mixture,
    )


def granite_shared(hidden_size: int, shared: int) -> Parts:
    """Return Granite's shared expert."""
    if not shared:
        return ()
    return (
        *matrix("shared_mlp.input_linear", 2 * shared, hidden_size, "column"),
        *matrix("shared_mlp.output_linear", hidden_size, shared, "row"),
    )


def _granite_moe(keys: Keys) -> Decoder:
    block, mixture = granite_block(keys)
    return Dense(qkv_bias="attention_bias", output_bias="attention_bias").decoder(
        keys, lambda _: block, mixture=mixture
    )


def _dbrx(keys: Keys) -> Decoder:
    hidden, heads = keys.size("d_model"), keys.size("n_heads")
    attn, ffn = keys.nested("attn_config", defaults={}), keys.nested("ffn_config", defaults={})
    kv_heads = attn.size("kv_n_heads", default=1)
    head_size = divided(keys, hidden, "d_model", heads, "n_heads")
    divided(keys, heads, "n_heads", kv_heads, "attn_config.kv_n_heads")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=kv_heads, head_size=head_size)
    inner, count = ffn.size("ffn_hidden_size", default=3584), ffn.size("moe_num_experts", default=4)
    layers = keys.layers("n_layers")
    block = (
        *fused_qkv("norm_attn_norm.attn.Wqkv", sizes),
        *matrix("norm_attn_norm.attn.out_proj", hidden, hidden, "row"),
        *norm("norm_attn_norm.norm_1", hidden),
        *norm("norm_attn_norm.norm_2", hidden),
        *router("ffn.router.layer", count, hidden),
        Part("ffn.experts.mlp.w1", (inner, hidden), "expert", "experts", count),
        Part("ffn.experts.mlp.v1", (inner, hidden), "expert", "experts", count),
        Part("ffn.experts.mlp.w2", (inner, hidden), "expert", "experts", count),
    )
    return assembled(
        keys,
        sizes,
        layers=(attention_layer(kv_heads, head_size, None),) * layers,
        parts=(block,) * layers,
        intermediate_size=inner,
        tied=keys.flag("tie_word_embeddings"),
        layer_prefix="transformer.blocks.",
        embedding_name="transformer.wte",
        final_norm="transformer.norm_f",
        mixture=Experts(
            num_experts=count,
            experts_per_token=ffn.size("moe_top_k", default=1),
            intermediate_size=inner,
        ),
    )


def _ernie(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 4, "moe_num_shared_experts": 2})
    hidden, inner = keys.size("hidden_size"), keys.size("moe_intermediate_size")
    shared = inner * keys.count("moe_num_shared_experts")
    mixture = _mixture(keys, inner, shared)
    count, layers = mixture.num_experts, keys.layers()
    bias = keys.flag("use_bias")
    block = (
        *router("mlp.gate", count, hidden),
        small("mlp.moe_statics.e_score_correction_bias", 1, count),
        *experts("mlp.experts", count, hidden, inner),
        *(mlp("mlp.shared_experts", hidden, shared) if shared else ()),
    )
    dense = mlp("mlp", hidden, keys.size("intermediate_size"), bias=bias)
    first = keys.count("moe_layer_start_index", default=0)
    last = (
        layers - 1
        if keys.raw("moe_layer_end_index")[1] == -1
        else keys.count("moe_layer_end_index", default=layers - 1)
    )
    interval = keys.size("moe_layer_interval", default=1)
    return Dense(qkv_bias=bias, output_bias=bias, tied=True).decoder(
        keys,
        _by_sparsity(lambda layer: first <= layer <= last and (layer + 1) % interval == 0, block, dense),
        mixture=mixture,
        draft_layers=keys.count("num_nextn_predict_layers"),
    )


def _hunyuan_moe(keys: Keys) -> Decoder:
    hidden = keys.size("hidden_size")
    inner = _first_or_size(keys, "moe_intermediate_size", keys.size("intermediate_size"))
    count = _first_or_size(keys, "num_experts", 1)
    shared = (
        _first_or_size(keys, "num_shared_expert", 1) * keys.size("intermediate_size")
        if keys.flag("use_mixed_mlp_moe", default=True)
        else 0
    )
    mixture = Experts(
        num_experts=count,
        experts_per_token=_first_or_size(keys, "moe_topk", 1),
        intermediate_size=inner,
        shared_intermediate_size=shared,
    )
    block = (
        *router("mlp.gate.wg", count, hidden),
        *experts("mlp.experts", count, hidden, inner),
        *(mlp("mlp.shared_mlp", hidden, shared) if shared else ()),
    )
    family = Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=keys.flag("use_qk_norm", default=True),
        qk_norm_names=("query_layernorm", "key_layernorm"),
    )
    return family.decoder(keys, lambda _: block, mixture=mixture)


def _first_or_size(keys: Keys, name: str, default: int) -> int:
    """Return a size that some configs spell as a list of equal entries, one a layer."""
    value = keys.raw(name)[1]
    if not isinstance(value, list):
        return keys.size(name, default=default)
    listed = keys.whole_numbers(name) or ()
    if len(set(listed)) != 1 or not listed[0]:
        raise keys.error(name, value, "one size, the same for every layer")
    return listed[0]


def _bailing(keys: Keys) -> Decoder:
    """Ling and Ring of the first two generations."""
    sizes = read_heads(keys)
    hidden, inner = sizes.hidden_size, keys.size("moe_intermediate_size")
    shared = keys.count("num_shared_experts") * keys.size("moe_shared_expert_intermediate_size", default=inner)
    mixture = _mixture(keys, inner, shared)
    count, layers = mixture.num_experts, keys.layers()
    bias, qkv_bias = keys.flag("use_bias"), keys.flag("use_qkv_bias")
    head = sizes.head_size
    common = (
        *fused_qkv("attention.query_key_value", sizes, bias=bias or qkv_bias),
        *(
            (*norm("attention.query_layernorm", head), *norm("attention.key_layernorm", head))
            if keys.flag("use_qk_norm")
            else ()
        ),
        *matrix("attention.dense", hidden, sizes.heads * head, "row", bias=bias),
        *norm("input_layernorm", hidden),
        *norm("post_attention_layernorm", hidden),
    )
    block = (
        *common,
        *router("mlp.gate", count, hidden),
        *((small("mlp.gate.expert_bias", count),) if keys.flag("moe_router_enable_expert_bias") else ()),
        *experts("mlp.experts", count, hidden, inner),
        *(mlp("mlp.shared_experts", hidden, shared) if shared else ()),
    )
    dense = (*common, *mlp("mlp", hidden, keys.size("intermediate_size"), bias=bias))
    first = keys.count("first_k_dense_replace")
    return assembled(
        keys,
        sizes,
        layers=(attention_layer(sizes.kv_heads, head, None),) * layers,
        parts=[dense if layer < first else block for layer in range(layers)],
        intermediate_size=keys.size("intermediate_size"),
        tied=keys.flag("tie_word_embeddings"),
        embedding_name="model.word_embeddings",
        mixture=mixture,
        draft_layers=keys.count("num_nextn_predict_layers"),
    )


def _mimo_v2(keys: Keys) -> Decoder:
    """MiMo-V2: the window layers have their own heads."""
    sizes = read_heads(keys)
    hidden, layers = sizes.hidden_size, keys.layers()
    inner = keys.size("moe_intermediate_size")
    mixture = _mixture(keys, inner)
    count = mixture.num_experts
    pattern = keys.whole_numbers("hybrid_layer_pattern")
    frequency = keys.whole_numbers("moe_layer_freq")
    if pattern is None or frequency is None:
        raise keys.missing("moe_layer_freq" if pattern else "hybrid_layer_pattern")
    pattern = keys.per_layer("hybrid_layer_pattern", pattern, layers)
    frequency = keys.per_layer("moe_layer_freq", frequency, layers)
    window = keys.size("sliding_window_size", "sliding_window")
    bias = keys.flag("attention_bias")

    def side(sizes: Heads, value_size: int, *, sinks: bool) -> Parts:
        return (
            *attention("self_attn", sizes, value_size=value_size, qkv_bias=bias),
            *((small("self_attn.attention_sink_bias", sizes.heads, sharding="column"),) if sinks else ()),
            *norm("input_layernorm", hidden),
            *norm("post_attention_layernorm", hidden),
        )

    value_size = keys.optional_size("v_head_dim") or sizes.head_size
    swa = Heads(
        hidden_size=hidden,
        heads=keys.size("swa_num_attention_heads"),
        kv_heads=keys.size("swa_num_key_value_heads"),
        head_size=keys.size("swa_head_dim"),
    )
    swa_value_size = keys.optional_size("swa_v_head_dim") or swa.head_size
    attentions = (
        side(sizes, value_size, sinks=keys.flag("add_full_attention_sink_bias")),
        side(swa, swa_value_size, sinks=keys.flag("add_swa_attention_sink_bias")),
    )
    kinds = (
        attention_layer(sizes.kv_heads, sizes.head_size, None, value_size),
        attention_layer(swa.kv_heads, swa.head_size, window, swa_value_size),
    )
    blocks = (
        mlp("mlp", hidden, keys.size("intermediate_size")),
        (
            *router("mlp.gate", count, hidden),
            small("mlp.gate.e_score_correction_bias", count),
            *experts("mlp.experts", count, hidden, inner),
        ),
    )
    made = four_kinds(attentions, blocks)
    return assembled(
        keys,
        sizes,
        layers=[kinds[each == 1] for each in pattern],
        parts=[made[a == 1, b != 0] for a, b in zip(pattern, frequency, strict=True)],
        intermediate_size=keys.size("intermediate_size"),
        tied=keys.flag("tie_word_embeddings"),
        mixture=mixture,
        draft_layers=keys.count("num_nextn_predict_layers"),
    )


def _exaone_moe(keys: Keys) -> Decoder:
    hidden, inner = keys.size("hidden_size"), keys.size("moe_intermediate_size")
    shared = inner * keys.count("num_shared_experts")
    mixture, layers = _mixture(keys, inner, shared), keys.layers()
    kinds = keys.words("mlp_layer_types")
    if kinds is None:
        first = keys.count("first_k_dense_replace", "first_last_k_dense_replace", default=1)
        kinds = tuple("dense" if layer < first else "sparse" for layer in range(layers))
    kinds = keys.per_layer("mlp_layer_types", kinds, layers)
    block = (
        *router("mlp.gate", mixture.num_experts, hidden),
        small("mlp.e_score_correction_bias", mixture.num_experts),
        *experts("mlp.experts", mixture.num_experts, hidden, inner),
        *(mlp("mlp.shared_experts", hidden, shared) if shared else ()),
    )
    dense = mlp("mlp", hidden, keys.size("intermediate_size"))
    return Dense(qk_norm=True, windows=window_by_layer_type).decoder(
        keys,
        _by_sparsity(lambda layer: kinds[layer] == "sparse", block, dense),
        mixture=mixture,
        draft_layers=keys.count("num_nextn_predict_layers"),
    )


def _afmoe(keys: Keys) -> Decoder:
    hidden, inner = keys.size("hidden_size"), keys.size("moe_intermediate_size")
    shared = inner * keys.count("num_shared_experts")
    mixture = _mixture(keys, inner, shared)
    block = (
        *router("mlp.router.gate", mixture.num_experts, hidden),
        small("mlp.expert_bias", mixture.num_experts),
        *experts("mlp.experts", mixture.num_experts, hidden, inner),
        *(mlp("mlp.shared_experts", hidden, shared) if shared else ()),
    )
    dense = mlp("mlp", hidden, keys.size("intermediate_size"))
    first = keys.count("num_dense_layers")

    def gates(keys: Keys, sizes: Heads) -> Parts:
        heads = sizes.heads * sizes.head_size
        return matrix("self_attn.gate_proj", heads, keys.size("hidden_size"), "column")

    family = Dense(
        qk_norm=True,
        norms=("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"),
        windows=window_by_layer_type,
        further=gates,
    )
    return family.decoder(keys, _by_sparsity(lambda layer: layer >= first, block, dense), mixture=mixture)


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    "MixtralForCausalLM": _mixtral,
    "PhiMoEForCausalLM": _phimoe,
    "Qwen2MoeForCausalLM": _qwen2_moe,
    "Qwen3MoeForCausalLM": qwen3_moe,
    "GptOssForCausalLM": _gpt_oss,
    "Llama4ForCausalLM": llama4,
    "Glm4MoeForCausalLM": glm4_moe,
    "Dots1ForCausalLM": _dots1,
    "DeepseekForCausalLM": _deepseek_v1,
    "MiniMaxM2ForCausalLM": _minimax_m2,
    "OlmoeForCausalLM": _olmoe,
    "GraniteMoeForCausalLM": _granite_moe,
    "GraniteMoeSharedForCausalLM": _granite_moe,
    "DbrxForCausalLM": _dbrx,
    "Ernie4_5_MoeForCausalLM": _ernie,
    "HunYuanMoEV1ForCausalLM": _hunyuan_moe,
    "BailingMoeForCausalLM": _bailing,
    "BailingMoeV2ForCausalLM": _bailing,
    "MiMoV2FlashForCausalLM": _mimo_v2,
    "MiMoV2ForCausalLM": _mimo_v2,
    "ExaoneMoeForCausalLM": _exaone_moe,
    "ExaoneMoEForCausalLM": _exaone_moe,
    "AfmoeForCausalLM": _afmoe,
}
"""Every mixture over plain attention, by the name in the config's ``architectures``."""

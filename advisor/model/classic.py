"""Decoders of GPT-2's generation, each with its own key names, biases and positions.

Sources: vLLM ``model_executor/models/<family>.py`` (0.32; MPT, QWen and Jais from 0.22, which later releases dropped).
"""

from collections.abc import Callable, Mapping

from advisor.model.keys import Keys, divided
from advisor.model.tensors import (
    Decoder,
    Heads,
    Part,
    Parts,
    attention,
    embedding,
    fused_qkv,
    lm_head,
    matrix,
    mlp,
    norm,
)
from advisor.model.windows import attention_layer


def _decoder(
    keys: Keys,
    sizes: Heads,
    *,
    intermediate_size: int,
    layers: int,
    vocab_size: int,
    parts: Parts,
    layer_prefix: str,
    embedding_name: str,
    before: Parts = (),
    after: Parts,
    tied: bool,
    head: str = "lm_head",
    head_bias: bool = False,
    embedding_size: int | None = None,
    gated_mlp: bool = False,
) -> Decoder:
    divided(keys, sizes.heads, "number of heads", sizes.kv_heads, "number of KV heads")
    width = embedding_size or sizes.hidden_size
    return Decoder(
        hidden_size=sizes.hidden_size,
        intermediate_size=intermediate_size,
        num_attention_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        head_size=sizes.head_size,
        vocab_size=vocab_size,
        layers=(attention_layer(sizes.kv_heads, sizes.head_size, None),) * layers,
        layer_parts=(parts,) * layers,
        before=(embedding(embedding_name, vocab_size, width), *before),
        after=(*after, *(() if tied else lm_head(head, vocab_size, width, bias=head_bias))),
        tied=tied,
        layer_prefix=layer_prefix,
        gated_mlp=gated_mlp,
    )


def _positions(name: str, rows: int, hidden_size: int) -> Part:
    return Part(f"{name}.weight", (rows, hidden_size), "embedding", "copied")


def _gpt2(keys: Keys) -> Decoder:
    return _gpt2_kin(keys, keys.size("n_embd", "hidden_size", default=768))


def _gpt_bigcode(keys: Keys) -> Decoder:
    return _gpt2_kin(keys, keys.size("n_embd", "hidden_size"), multi_query=keys.flag("multi_query", default=True))


def _gpt2_kin(keys: Keys, hidden: int, *, multi_query: bool = False) -> Decoder:
    """Return GPT-2's decoder; with ``multi_query`` all its heads share one key and value."""
    heads = keys.size("n_head", "num_attention_heads")
    inner = keys.optional_size("n_inner") or 4 * hidden
    head_size = divided(keys, hidden, "n_embd", heads, "n_head")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=1 if multi_query else heads, head_size=head_size)
    return _decoder(
        keys,
        sizes,
        intermediate_size=inner,
        layers=keys.layers("n_layer", "num_hidden_layers"),
        vocab_size=keys.size("vocab_size"),
        parts=(
            *fused_qkv("attn.c_attn", sizes, bias=True),
            *matrix("attn.c_proj", hidden, hidden, "row", bias=True),
            *mlp("mlp", hidden, inner, bias=True, names=("c_fc", "c_proj")),
            *norm("ln_1", hidden, bias=True),
            *norm("ln_2", hidden, bias=True),
        ),
        layer_prefix="transformer.h.",
        embedding_name="transformer.wte",
        before=(_positions("transformer.wpe", keys.size("n_positions", "max_position_embeddings"), hidden),),
        after=norm("transformer.ln_f", hidden, bias=True),
        tied=keys.flag("tie_word_embeddings", default=True),
    )


def _gpt_j(keys: Keys) -> Decoder:
    hidden, heads = keys.size("n_embd", "hidden_size"), keys.size("n_head", "num_attention_heads")
    inner = keys.optional_size("n_inner") or 4 * hidden
    head_size = divided(keys, hidden, "n_embd", heads, "n_head")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=heads, head_size=head_size)
    return _decoder(
        keys,
        sizes,
        intermediate_size=inner,
        layers=keys.layers("n_layer", "num_hidden_layers"),
        vocab_size=keys.size("vocab_size"),
        parts=(
            *attention("attn", sizes, names=("q_proj", "k_proj", "v_proj", "out_proj")),
            *mlp("mlp", hidden, inner, bias=True, names=("fc_in", "fc_out")),
            *norm("ln_1", hidden, bias=True),
        ),
        layer_prefix="transformer.h.",
        embedding_name="transformer.wte",
        after=norm("transformer.ln_f", hidden, bias=True),
        tied=False,
        head_bias=True,
    )


def _gpt_neox(keys: Keys) -> Decoder:
    hidden, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    inner = keys.size("intermediate_size")
    bias = keys.flag("attention_bias", default=True)
    head_size = divided(keys, hidden, "hidden_size", heads, "num_attention_heads")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=heads, head_size=head_size)
    return _decoder(
        keys,
        sizes,
        intermediate_size=inner,
        layers=keys.layers(),
        vocab_size=keys.size("vocab_size"),
        parts=(
            *fused_qkv("attention.query_key_value", sizes, bias=bias),
            *matrix("attention.dense", hidden, hidden, "row", bias=bias),
            *mlp("mlp", hidden, inner, bias=True, names=("dense_h_to_4h", "dense_4h_to_h")),
            *norm("input_layernorm", hidden, bias=True),
            *norm("post_attention_layernorm", hidden, bias=True),
        ),
        layer_prefix="gpt_neox.layers.",
        embedding_name="gpt_neox.embed_in",
        after=norm("gpt_neox.final_layer_norm", hidden, bias=True),
        tied=keys.flag("tie_word_embeddings"),
        head="embed_out",
    )


def _bloom(keys: Keys) -> Decoder:
    hidden, heads = keys.size("hidden_size", "n_embed"), keys.size("n_head", "num_attention_heads")
    head_size = divided(keys, hidden, "hidden_size", heads, "n_head")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=heads, head_size=head_size)
    return _decoder(
        keys,
        sizes,
        intermediate_size=4 * hidden,
        layers=keys.layers("n_layer", "num_hidden_layers"),
        vocab_size=keys.size("vocab_size"),
        parts=(
            *fused_qkv("self_attention.query_key_value", sizes, bias=True),
            *matrix("self_attention.dense", hidden, hidden, "row", bias=True),
            *mlp("mlp", hidden, 4 * hidden, bias=True, names=("dense_h_to_4h", "dense_4h_to_h")),
            *norm("input_layernorm", hidden, bias=True),
            *norm("post_attention_layernorm", hidden, bias=True),
        ),
        layer_prefix="transformer.h.",
        embedding_name="transformer.word_embeddings",
        before=norm("transformer.word_embeddings_layernorm", hidden, bias=True),
        after=norm("transformer.ln_f", hidden, bias=True),
        tied=keys.flag("tie_word_embeddings", default=True),
    )


def _mpt(keys: Keys) -> Decoder:
    hidden, heads = keys.size("d_model"), keys.size("n_heads")
    inner = keys.size("expansion_ratio", default=4) * hidden
    attn = keys.nested("attn_config", defaults={})
    kv_heads = attn.optional_size("kv_n_heads") or (1 if attn.text("attn_type") == "multiquery_attention" else heads)
    bias = not keys.flag("no_bias", default=True)
    head_size = divided(keys, hidden, "d_model", heads, "n_heads")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=kv_heads, head_size=head_size)
    qk_norms = (
        (*norm("attn.q_ln", hidden, bias=bias), *norm("attn.k_ln", kv_heads * head_size, bias=bias))
        if attn.flag("qk_ln")
        else ()
    )
    return _decoder(
        keys,
        sizes,
        intermediate_size=inner,
        layers=keys.layers("n_layers"),
        vocab_size=keys.size("vocab_size"),
        parts=(
            *fused_qkv("attn.Wqkv", sizes, bias=bias),
            *matrix("attn.out_proj", hidden, hidden, "row", bias=bias),
            *qk_norms,
            *mlp("ffn", hidden, inner, bias=bias, names=("up_proj", "down_proj")),
            *norm("norm_1", hidden, bias=bias),
            *norm("norm_2", hidden, bias=bias),
        ),
        layer_prefix="transformer.blocks.",
        embedding_name="transformer.wte",
        after=norm("transformer.norm_f", hidden, bias=bias),
        tied=True,
    )


def _falcon(keys: Keys) -> Decoder:
    hidden, heads = keys.size("hidden_size"), keys.size("num_attention_heads", "n_head")
    inner = keys.optional_size("ffn_hidden_size") or 4 * hidden
    new = keys.flag("new_decoder_architecture")
    if new:
        kv_heads = keys.size("num_kv_heads", "n_head_kv", default=heads)
    else:
        kv_heads = 1 if keys.flag("multi_query", default=True) else heads
    bias = keys.flag("bias")
    parallel = keys.flag("parallel_attn", default=True)
    if new and (keys.optional_size("num_ln_in_parallel_attn") or 2) == 2:
        norms = (*norm("ln_attn", hidden, bias=True), *norm("ln_mlp", hidden, bias=True))
    elif parallel or new:
        norms = norm("input_layernorm", hidden, bias=True)
    else:
        norms = (
            *norm("post_attention_layernorm", hidden, bias=True),
            *norm("input_layernorm", hidden, bias=True),
        )
    head_size = divided(keys, hidden, "hidden_size", heads, "num_attention_heads")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=kv_heads, head_size=head_size)
    return _decoder(
        keys,
        sizes,
        intermediate_size=inner,
        layers=keys.layers("num_hidden_layers", "n_layer"),
        vocab_size=keys.size("vocab_size"),
        parts=(
            *fused_qkv("self_attention.query_key_value", sizes, bias=bias),
            *matrix("self_attention.dense", hidden, hidden, "row", bias=bias),
            *mlp("mlp", hidden, inner, bias=bias, names=("dense_h_to_4h", "dense_4h_to_h")),
            *norms,
        ),
        layer_prefix="transformer.h.",
        embedding_name="transformer.word_embeddings",
        after=norm("transformer.ln_f", hidden, bias=True),
        tied=keys.flag("tie_word_embeddings", default=True),
    )


def _opt(keys: Keys) -> Decoder:
    hidden, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    inner = keys.size("ffn_dim")
    width = keys.optional_size("word_embed_proj_dim") or hidden
    bias = keys.flag("enable_bias", default=True)
    affine = keys.flag("layer_norm_elementwise_affine", default=True)
    head_size = divided(keys, hidden, "hidden_size", heads, "num_attention_heads")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=heads, head_size=head_size)
    before: list[Part] = [_positions("model.decoder.embed_positions", keys.size("max_position_embeddings") + 2, hidden)]
    after: list[Part] = []
    if width != hidden:
        before += matrix("model.decoder.project_in", hidden, width, "copied")
        after += matrix("model.decoder.project_out", width, hidden, "copied")
    if keys.flag("do_layer_norm_before", default=True) and not keys.flag("_remove_final_layer_norm") and affine:
        after += norm("model.decoder.final_layer_norm", hidden, bias=True)
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    return _decoder(
        keys,
        sizes,
        intermediate_size=inner,
        layers=keys.layers(),
        vocab_size=keys.size("vocab_size"),
        parts=(
            *attention("self_attn", sizes, qkv_bias=bias, output_bias=bias, names=names),
            *mlp("", hidden, inner, bias=bias, names=("fc1", "fc2")),
            *(norm("self_attn_layer_norm", hidden, bias=True) if affine else ()),
            *(norm("final_layer_norm", hidden, bias=True) if affine else ()),
        ),
        layer_prefix="model.decoder.layers.",
        embedding_name="model.decoder.embed_tokens",
        before=tuple(before),
        after=tuple(after),
        tied=keys.flag("tie_word_embeddings", default=True),
        embedding_size=width,
    )


def _chatglm(keys: Keys) -> Decoder:
    """ChatGLM 2 and 3 and the first GLM-4."""
    hidden, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    inner = keys.size("ffn_hidden_size")
    kv_heads = (
        keys.size("multi_query_group_num", default=1)
        if keys.flag("multi_query_attention", default=keys.raw("multi_query_group_num")[1] is not None)
        else heads
    )
    head_size = keys.optional_size("kv_channels") or divided(keys, hidden, "hidden_size", heads, "num_attention_heads")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=kv_heads, head_size=head_size)
    bias = keys.flag("add_bias_linear")
    vocab = keys.size("padded_vocab_size", "vocab_size")
    norm_bias = not keys.flag("rmsnorm", default=True)
    last = norm("transformer.encoder.final_layernorm", hidden, bias=norm_bias)
    return _decoder(
        keys,
        sizes,
        intermediate_size=inner,
        layers=keys.layers("num_layers", "num_hidden_layers"),
        vocab_size=vocab,
        parts=(
            *fused_qkv("self_attention.query_key_value", sizes, bias=bias or keys.flag("add_qkv_bias")),
            *matrix("self_attention.dense", hidden, heads * head_size, "row", bias=bias),
            *matrix("mlp.dense_h_to_4h", 2 * inner, hidden, "column", bias=bias),
            *matrix("mlp.dense_4h_to_h", hidden, inner, "row", bias=bias),
            *norm("input_layernorm", hidden, bias=norm_bias),
            *norm("post_attention_layernorm", hidden, bias=norm_bias),
        ),
        layer_prefix="transformer.encoder.layers.",
        embedding_name="transformer.embedding.word_embeddings",
        after=last if keys.flag("post_layer_norm", default=True) else (),
        tied=keys.flag("tie_word_embeddings"),
        head="transformer.output_layer",
        gated_mlp=True,
    )


def _qwen(keys: Keys) -> Decoder:
    hidden, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    inner = divided(keys, keys.size("intermediate_size"), "intermediate_size", 2, "its halves")
    head_size = divided(keys, hidden, "hidden_size", heads, "num_attention_heads")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=heads, head_size=head_size)
    return _decoder(
        keys,
        sizes,
        intermediate_size=inner,
        layers=keys.layers(),
        vocab_size=keys.size("vocab_size"),
        parts=(
            *fused_qkv("attn.c_attn", sizes, bias=True),
            *matrix("attn.c_proj", hidden, hidden, "row"),
            *mlp("mlp", hidden, inner, names=("w1", "w2", "c_proj")),
            *norm("ln_1", hidden),
            *norm("ln_2", hidden),
        ),
        layer_prefix="transformer.h.",
        embedding_name="transformer.wte",
        after=norm("transformer.ln_f", hidden),
        tied=keys.flag("tie_word_embeddings"),
        gated_mlp=True,
    )


def _jais(keys: Keys) -> Decoder:
    hidden, heads = keys.size("n_embd", "hidden_size"), keys.size("n_head", "num_attention_heads")
    inner = keys.optional_size("n_inner") or 4 * hidden
    gated = keys.text("activation_function") == "swiglu"
    positions = (
        (_positions("transformer.wpe", keys.size("n_positions", "max_position_embeddings"), hidden),)
        if keys.text("position_embedding_type", default="learned") != "alibi"
        else ()
    )
    head_size = divided(keys, hidden, "n_embd", heads, "n_head")
    sizes = Heads(hidden_size=hidden, heads=heads, kv_heads=heads, head_size=head_size)
    return _decoder(
        keys,
        sizes,
        intermediate_size=inner,
        layers=keys.layers("n_layer", "num_hidden_layers"),
        vocab_size=keys.size("vocab_size"),
        parts=(
            *fused_qkv("attn.c_attn", sizes, bias=True),
            *matrix("attn.c_proj", hidden, hidden, "row", bias=True),
            *mlp("mlp", hidden, inner, bias=True, names=("c_fc", "c_fc2", "c_proj") if gated else ("c_fc", "c_proj")),
            *norm("ln_1", hidden, bias=True),
            *norm("ln_2", hidden, bias=True),
        ),
        layer_prefix="transformer.h.",
        embedding_name="transformer.wte",
        before=positions,
        after=norm("transformer.ln_f", hidden, bias=True),
        tied=keys.flag("tie_word_embeddings", default=True),
        gated_mlp=gated,
    )


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    "GPT2LMHeadModel": _gpt2,
    "GPTBigCodeForCausalLM": _gpt_bigcode,
    "GPTJForCausalLM": _gpt_j,
    "GPTNeoXForCausalLM": _gpt_neox,
    "BloomForCausalLM": _bloom,
    "MPTForCausalLM": _mpt,
    "MptForCausalLM": _mpt,
    "FalconForCausalLM": _falcon,
    "RWForCausalLM": _falcon,
    "OPTForCausalLM": _opt,
    "ChatGLMModel": _chatglm,
    "ChatGLMForConditionalGeneration": _chatglm,
    "QWenLMHeadModel": _qwen,
    "JAISLMHeadModel": _jais,
}
"""Every architecture of that generation, by the name in the config's ``architectures``."""

"""Multi-head latent attention: DeepSeek V2 to V3.2, Kimi K2, GLM-4.7-Flash and GLM-5, MiniCPM3.

Sources: vLLM 0.32 ``model_executor/models/deepseek_v2.py`` and ``models/deepseek_v32/attention.py``. The
projections down to the latent are whole on every tensor-parallel rank, those from it are split by heads. A built-in
multi-token predictor (layers after the last) is not loaded unless speculative decoding asks for it, so it is only
counted.
"""

from collections.abc import Callable, Mapping

from advisor.layers import Cache, DecoderLayer, Latent, SparseIndex
from advisor.model.dense import assembled
from advisor.model.keys import Keys
from advisor.model.moe import deepseek_block
from advisor.model.tensors import (
    Decoder,
    Heads,
    Parts,
    matrix,
    mlp,
    norm,
    prefixed,
)
from advisor.model.windows import attention_layer


def latent_attention(
    module: str,
    *,
    hidden_size: int,
    heads: int,
    kv_lora_rank: int,
    q_lora_rank: int | None,
    qk_nope_head_dim: int,
    qk_rope_head_dim: int,
    v_head_dim: int,
) -> Parts:
    """Return the projections of one latent attention."""
    query_size = heads * (qk_nope_head_dim + qk_rope_head_dim)
    if q_lora_rank is None:
        query = matrix(f"{module}.q_proj", query_size, hidden_size, "column")
    else:
        query = (
            *matrix(f"{module}.q_a_proj", q_lora_rank, hidden_size, "copied"),
            *norm(f"{module}.q_a_layernorm", q_lora_rank),
            *matrix(f"{module}.q_b_proj", query_size, q_lora_rank, "column"),
        )
    return (
        *query,
        *matrix(f"{module}.kv_a_proj_with_mqa", kv_lora_rank + qk_rope_head_dim, hidden_size, "copied"),
        *norm(f"{module}.kv_a_layernorm", kv_lora_rank),
        *matrix(f"{module}.kv_b_proj", heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank, "column"),
        *matrix(f"{module}.o_proj", hidden_size, heads * v_head_dim, "row"),
    )


def _attention_of(keys: Keys) -> tuple[Parts, Latent]:
    rank, rope = keys.size("kv_lora_rank"), keys.size("qk_rope_head_dim")
    parts = latent_attention(
        "self_attn",
        hidden_size=keys.size("hidden_size"),
        heads=keys.size("num_attention_heads"),
        kv_lora_rank=rank,
        q_lora_rank=keys.optional_size("q_lora_rank"),
        qk_nope_head_dim=keys.size("qk_nope_head_dim"),
        qk_rope_head_dim=rope,
        v_head_dim=keys.size("v_head_dim"),
    )
    return parts, Latent(kv_lora_rank=rank, qk_rope_head_dim=rope)


def deepseek(keys: Keys, *, sparse: bool = False, correction_bias: bool | None = None) -> Decoder:
    """DeepSeek V2 and its descendants; ``sparse`` with V3.2's token index."""
    hidden, layers = keys.size("hidden_size"), keys.layers()
    attention, latent = _attention_of(keys)
    common = (*attention, *norm("input_layernorm", hidden), *norm("post_attention_layernorm", hidden))
    if correction_bias is None:
        correction_bias = keys.text("topk_method") == "noaux_tc"
    has_experts = keys.count("n_routed_experts") > 0
    block, mixture = deepseek_block(keys, correction_bias=correction_bias) if has_experts else ((), None)
    dense = (*common, *mlp("mlp", hidden, keys.size("intermediate_size")))
    sparse_block = (*common, *block)
    is_sparse = _sparse_layers(keys, layers) if mixture else (False,) * layers
    index, indexed = _index(keys, layers) if sparse else ((), (False,) * layers)
    made: dict[tuple[bool, bool], Parts] = {}
    parts = []
    caches: list[DecoderLayer] = []
    attention_cache = Latent(kv_lora_rank=latent.kv_lora_rank, qk_rope_head_dim=latent.qk_rope_head_dim, sparse=sparse)
    plain: tuple[Cache, ...] = (attention_cache,)
    with_index = (attention_cache, SparseIndex(head_dim=keys.size("index_head_dim", default=128))) if sparse else plain
    for mixed, has_index in zip(is_sparse, indexed, strict=True):
        key = (mixed, has_index)
        if key not in made:
            made[key] = (*(sparse_block if mixed else dense), *(index if has_index else ()))
        parts.append(made[key])
        caches.append(with_index if has_index else plain)
    size = latent.kv_lora_rank + latent.qk_rope_head_dim
    return assembled(
        keys,
        Heads(hidden_size=hidden, heads=keys.size("num_attention_heads"), kv_heads=1, head_size=size),
        layers=caches,
        parts=parts,
        intermediate_size=keys.size("intermediate_size"),
        tied=keys.flag("tie_word_embeddings"),
        mixture=mixture,
        draft_layers=keys.count("num_nextn_predict_layers"),
    )


def _sparse_layers(keys: Keys, layers: int) -> tuple[bool, ...]:
    kinds = keys.words("mlp_layer_types")
    if kinds is not None:
        return tuple(each == "sparse" for each in keys.per_layer("mlp_layer_types", kinds, layers))
    first, every = keys.count("first_k_dense_replace"), keys.size("moe_layer_freq", default=1)
    return tuple(layer >= first and layer % every == 0 for layer in range(layers))


def _index(keys: Keys, layers: int) -> tuple[Parts, tuple[bool, ...]]:
    """Return the token index's tensors and which layers have their own; the others reuse the last one's choice.

    Source: ``models/deepseek_v32/attention.py`` (0.32); nothing of the index is split.
    """
    heads, head_dim = keys.size("index_n_heads"), keys.size("index_head_dim")
    hidden, q_lora_rank = keys.size("hidden_size"), keys.size("q_lora_rank")
    parts = prefixed(
        "self_attn.indexer.",
        (
            *matrix("wq_b", heads * head_dim, q_lora_rank, "copied"),
            *matrix("wk", head_dim, hidden, "copied"),
            *matrix("weights_proj", heads, hidden, "copied"),
            *norm("k_norm", head_dim, bias=True),
        ),
    )
    pattern = keys.raw("index_topk_pattern")[1]
    if isinstance(pattern, str | list):
        return parts, tuple(layer >= len(pattern) or pattern[layer] != "S" for layer in range(layers))
    every, offset = keys.size("index_topk_freq", default=1), keys.count("index_skip_topk_offset", default=2)
    return parts, tuple(max(layer - offset + 1, 0) % every == 0 for layer in range(layers))


def _sparse(keys: Keys) -> Decoder:
    return deepseek(keys, sparse=True)


def _glm_lite(keys: Keys) -> Decoder:
    return deepseek(keys, correction_bias=True)


def _glm_sparse(keys: Keys) -> Decoder:
    return deepseek(keys.with_defaults({"topk_method": "noaux_tc"}), sparse=True)


def _minicpm3(keys: Keys) -> Decoder:
    """MiniCPM 3: latent projections, but vLLM caches the expanded keys and values of every head."""
    hidden, layers = keys.size("hidden_size"), keys.layers()
    heads, inner = keys.size("num_attention_heads"), keys.size("intermediate_size")
    nope, rope = keys.size("qk_nope_head_dim"), keys.size("qk_rope_head_dim")
    values = keys.optional_size("v_head_dim") or hidden // heads
    parts = (
        *latent_attention(
            "self_attn",
            hidden_size=hidden,
            heads=heads,
            kv_lora_rank=keys.size("kv_lora_rank"),
            q_lora_rank=keys.size("q_lora_rank"),
            qk_nope_head_dim=nope,
            qk_rope_head_dim=rope,
            v_head_dim=values,
        ),
        *mlp("mlp", hidden, inner),
        *norm("input_layernorm", hidden),
        *norm("post_attention_layernorm", hidden),
    )
    return assembled(
        keys,
        Heads(hidden_size=hidden, heads=heads, kv_heads=heads, head_size=nope + rope),
        layers=(attention_layer(heads, nope + rope, None),) * layers,
        parts=(parts,) * layers,
        intermediate_size=inner,
        tied=keys.flag("tie_word_embeddings", default=True),
    )


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    "DeepseekV2ForCausalLM": deepseek,
    "DeepseekV3ForCausalLM": deepseek,
    "DeepseekV32ForCausalLM": _sparse,
    "GlmMoeDsaForCausalLM": _glm_sparse,
    "Glm4MoeLiteForCausalLM": _glm_lite,
    "MiniCPM3ForCausalLM": _minicpm3,
}
"""Every architecture with a latent attention, by the name in the config's ``architectures``."""

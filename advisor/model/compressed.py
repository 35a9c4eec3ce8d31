"""DeepSeek V4: latents of several tokens in one, a window beside them, hyper-connections instead of a residual.

Sources: vLLM 0.32 ``models/deepseek_v4`` (``attention.py``, ``compressor.py``, ``nvidia/model.py``) and 0.20
``model_executor/models/deepseek_v4.py``. Every layer mixes experts; the first ones choose them by a table of tokens.
"""

from collections.abc import Callable, Mapping

from advisor.layers import Cache, CompressedIndex, CompressedLatent, CompressorState, DecoderLayer, LatentWindow
from advisor.model.keys import Keys, divided
from advisor.model.tensors import (
    Decoder,
    Parts,
    embedding,
    experts,
    lm_head,
    matrix,
    mlp,
    norm,
    prefixed,
    router,
    small,
)
from advisor.spec import DeclinedError, Experts

_RATIOS = (0, 1, 4, 128)
"""That vLLM knows: 0 and 1 keep the window alone, 4 is picked from by an index, 128 is read whole."""
_INDEXED_RATIO = 4
_FLOAT32 = 4


def _compressor(module: str, hidden_size: int, head_dim: int, ratio: int) -> Parts:
    """Return what makes one vector of ``ratio`` tokens; of four, overlapping and twice as wide."""
    width = head_dim * _overlap(ratio)
    return prefixed(
        f"{module}.",
        (
            *matrix("wkv", width, hidden_size, "copied"),
            *matrix("wgate", width, hidden_size, "copied"),
            small("ape", ratio, width, width_bytes=_FLOAT32),
            *norm("norm", head_dim),
        ),
    )


def _overlap(ratio: int) -> int:
    return 2 if ratio == _INDEXED_RATIO else 1


def _attention(keys: Keys, ratio: int) -> Parts:
    hidden, heads, head_dim = keys.size("hidden_size"), keys.size("num_attention_heads"), keys.size("head_dim")
    q_rank, o_rank, groups = keys.size("q_lora_rank"), keys.size("o_lora_rank"), keys.size("o_groups")
    grouped = divided(keys, heads * head_dim, "num_attention_heads x head_dim", groups, "o_groups")
    parts: Parts = (
        *matrix("wq_a", q_rank, hidden, "copied"),
        *matrix("wkv", head_dim, hidden, "copied"),
        *norm("q_norm", q_rank),
        *norm("kv_norm", head_dim),
        *matrix("wq_b", heads * head_dim, q_rank, "column"),
        *matrix("wo_a", groups * o_rank, grouped, "column"),
        *matrix("wo_b", hidden, groups * o_rank, "row"),
        small("attn_sink", heads, sharding="column", width_bytes=_FLOAT32),
    )
    if ratio == _INDEXED_RATIO:
        index_heads, index_dim = keys.size("index_n_heads"), keys.size("index_head_dim")
        parts += (
            *matrix("indexer.wq_b", index_heads * index_dim, q_rank, "copied"),
            *matrix("indexer.weights_proj", index_heads, hidden, "copied"),
            *_compressor("indexer.compressor", hidden, index_dim, ratio),
        )
    if ratio > 1:
        parts += _compressor("compressor", hidden, head_dim, ratio)
    return prefixed("attn.", parts)


def _caches(keys: Keys, ratio: int) -> DecoderLayer:
    """Return what a layer keeps, in the order in which vLLM registers it."""
    size = keys.size("head_dim")
    window: Cache = LatentWindow(size=size, window=keys.size("sliding_window"))
    if ratio <= 1:
        return (window,)
    index: tuple[Cache, ...] = ()
    if ratio == _INDEXED_RATIO:
        head_dim = keys.size("index_head_dim")
        index = (
            CompressedIndex(head_dim=head_dim, ratio=ratio),
            CompressorState(size=2 * _overlap(ratio) * head_dim, ratio=ratio),
        )
    state = CompressorState(size=2 * _overlap(ratio) * size, ratio=ratio)
    return (*index, window, CompressedLatent(size=size, ratio=ratio), state)


def _mixture(keys: Keys, *, by_table: bool) -> Parts:
    hidden, count, inner = keys.size("hidden_size"), keys.size("n_routed_experts"), keys.size("moe_intermediate_size")
    shared = inner * keys.count("n_shared_experts")
    if by_table:
        chosen = small("gate.tid2eid", keys.size("vocab_size"), keys.size("num_experts_per_tok"), width_bytes=4)
    else:
        chosen = small("gate.bias", count, width_bytes=_FLOAT32)
    names = ("w1", "w3", "w2")
    return prefixed(
        "ffn.",
        (
            *router("gate", count, hidden),
            chosen,
            *experts("experts", count, hidden, inner, names=names),
            *(mlp("shared_experts", hidden, shared, names=names) if shared else ()),
        ),
    )


def _connections(name: str, streams: int, hidden_size: int) -> Parts:
    """Return how one block reads from and writes to the ``streams`` residuals (hyper-connections)."""
    mixes = (2 + streams) * streams
    return (
        small(f"hc_{name}_fn", mixes, streams * hidden_size, width_bytes=_FLOAT32),
        small(f"hc_{name}_base", mixes, width_bytes=_FLOAT32),
        small(f"hc_{name}_scale", 3, width_bytes=_FLOAT32),
    )


def deepseek_v4(keys: Keys) -> Decoder:
    """DeepSeek V4, Flash and Pro."""
    if keys.count("vision_n_layers"):
        raise DeclinedError("DeepSeek V4 that sees images is not described by these rules")
    hidden, layers, vocab = keys.size("hidden_size"), keys.layers(), keys.size("vocab_size")
    streams, by_table = keys.size("hc_mult"), keys.count("num_hash_layers")
    stated = keys.whole_numbers("compress_ratios")
    if stated is None:
        raise keys.missing("compress_ratios")
    ratios = keys.per_layer("compress_ratios", stated, layers)
    unknown = sorted(set(ratios) - set(_RATIOS))
    if unknown:
        raise DeclinedError(f"a compress_ratio of {unknown[0]} (DeepSeek V4) is not described by these rules")
    around = (
        *norm("attn_norm", hidden),
        *norm("ffn_norm", hidden),
        *_connections("attn", streams, hidden),
        *_connections("ffn", streams, hidden),
    )
    attention = {ratio: (*around, *_attention(keys, ratio)) for ratio in set(ratios)}
    mixtures = {each: _mixture(keys, by_table=each) for each in (True, False)}
    caches = {ratio: _caches(keys, ratio) for ratio in set(ratios)}
    inner = keys.size("moe_intermediate_size")
    return Decoder(
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=keys.size("num_attention_heads"),
        num_kv_heads=1,
        head_size=keys.size("head_dim"),
        vocab_size=vocab,
        layers=tuple(caches[ratio] for ratio in ratios),
        layer_parts=[(*attention[ratio], *mixtures[layer < by_table]) for layer, ratio in enumerate(ratios)],
        layer_prefix="layers.",
        before=(embedding("embed", vocab, hidden),),
        after=(
            *norm("norm", hidden),
            small("hc_head_fn", streams, streams * hidden, width_bytes=_FLOAT32),
            small("hc_head_base", streams, width_bytes=_FLOAT32),
            small("hc_head_scale", 1, width_bytes=_FLOAT32),
            *lm_head("head", vocab, hidden),
        ),
        tied=False,
        experts=Experts(
            num_experts=keys.size("n_routed_experts"),
            experts_per_token=keys.size("num_experts_per_tok"),
            intermediate_size=inner,
            shared_intermediate_size=inner * keys.count("n_shared_experts"),
        ),
        residual_streams=streams,
        draft_layers=keys.count("num_nextn_predict_layers"),
    )


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {"DeepseekV4ForCausalLM": deepseek_v4}
"""Every architecture that compresses its latents, by the name in the config's ``architectures``."""

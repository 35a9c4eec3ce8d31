"""KV cache arithmetic as vLLM does it, release by release, for every kind of cache.

``settings``: the flags it depends on. ``dtypes``, ``states``, ``heads``: bytes of one token or state on one rank.
``blocks``: the block size that a release settles on. ``specs``: one layer's pages. ``groups``: which layers share a
block table; ``compressed``: how DeepSeek V4's do. ``layout``: blocks, tokens, concurrency and the start-up check.
"""

from advisor.kv.dtypes import checkpoint_kv_cache_dtype
from advisor.kv.heads import kv_heads_per_rank
from advisor.kv.layout import KvGroup, KvLayout, KvShortage, kv_layout, stage_layer_counts
from advisor.kv.settings import KvSettings

__all__ = [
    "KvGroup",
    "KvLayout",
    "KvSettings",
    "KvShortage",
    "checkpoint_kv_cache_dtype",
    "kv_heads_per_rank",
    "kv_layout",
    "stage_layer_counts",
]

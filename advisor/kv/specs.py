"""What each layer's cache is to vLLM: its kind, its block size, the bytes of a block, the blocks a request takes.

Sources: vLLM ``v1/kv_cache_interface.py`` (the specs) and each layer's ``get_kv_cache_spec``, 0.8 to 0.33.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from advisor.kv.blocks import COMPRESSED_BLOCK_SIZE, BlockSizes, window_block_size
from advisor.kv.dtypes import head_token_bytes, is_turboquant, latent_token_bytes, stored_dtype
from advisor.kv.heads import kv_heads_per_rank
from advisor.kv.settings import KvSettings
from advisor.kv.states import state_bytes
from advisor.layers import (
    Cache,
    ChunkedLocal,
    Compressed,
    CompressedIndex,
    CompressedLatent,
    CompressorState,
    CrossAttention,
    DecoderLayer,
    FullAttention,
    Latent,
    LatentWindow,
    Mamba2,
    SlidingWindow,
    SparseIndex,
    State,
)
from advisor.versions import Version

Kind = Literal[
    "FullAttentionSpec",
    "TQFullAttentionSpec",
    "MLAAttentionSpec",
    "SlidingWindowSpec",
    "SlidingWindowMLASpec",
    "ChunkedLocalAttentionSpec",
    "CrossAttentionSpec",
    "MambaSpec",
]
"""vLLM's own class names."""

_LATENT_WINDOW_BLOCK = 64
_COMPRESSOR_BLOCK = {4: 4, 128: 8}
"""Tokens in a block of a compressor's state, by its ratio."""

_PACKED_LATENT_BYTES = 448 + 2 * 64 + 8
"""One latent of DeepSeek V4: 448 numbers in fp8, 64 rotated ones in bfloat16, scales."""

_LATENT_ALIGNMENT = 576

FULL_KINDS = ("FullAttentionSpec", "TQFullAttentionSpec", "MLAAttentionSpec")
"""Kinds that keep every token; vLLM puts them into one group although they are not alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpec:
    """One layer's cache on one rank. Layers whose specs are equal are alike to vLLM."""

    kind: Kind
    block_size: int
    identity: tuple[int | str, ...]
    """What else vLLM compares: heads and sizes, the latent's layout, the state's shape."""
    token_bytes: int = 0
    state_bytes: int = 0
    padded_page_bytes: int | None = None
    window: int = 0
    """Tokens of the sliding window or of the chunk."""
    state_blocks: int | None = None
    """Blocks of one request's states; None where they grow with the tokens (prefix caching of every block)."""
    draft_blocks: int = 0
    is_paddable: bool = False
    """Whether vLLM may pad its blocks to the size of other layers': attention's from 0.25, a state's from 0.26."""

    @property
    def page_bytes(self) -> int:
        """Bytes of one block of this layer."""
        if self.padded_page_bytes is not None:
            return self.padded_page_bytes
        return self.token_bytes * self.block_size + self.state_bytes

    def blocks(self, num_tokens: int, settings: KvSettings) -> int:
        """Return the blocks that vLLM reserves for one request of this length (``max_memory_usage_bytes``)."""
        in_flight = settings.max_in_flight_tokens
        match self.kind:
            case "FullAttentionSpec" | "TQFullAttentionSpec" | "MLAAttentionSpec":
                return _blocks(-(-num_tokens // settings.context_shards), self.block_size)
            case "SlidingWindowSpec" | "SlidingWindowMLASpec":
                # One more, because the window need not begin where a block does.
                return _blocks(min(self.window - 1 + in_flight, num_tokens), self.block_size) + 1
            case "ChunkedLocalAttentionSpec":
                return _blocks(min(self.window + in_flight, num_tokens), self.block_size)
            case "CrossAttentionSpec":
                return _blocks(_encoder_tokens(settings), self.block_size)
            case "MambaSpec":
                if self.state_blocks is not None:
                    return self.state_blocks
                return _blocks(num_tokens, self.block_size) + self.draft_blocks


def _blocks(num_tokens: int, block_size: int) -> int:
    return -(-num_tokens // block_size)


def _encoder_tokens(settings: KvSettings) -> int:
    """Return ``max_num_encoder_input_tokens``: the encoder's length up to 0.12, then the batch's."""
    if settings.version < (0, 13, 0):
        if settings.encoder_positions is None:
            raise ValueError("the encoder's length is needed for cross-attention up to vLLM 0.12")
        return settings.encoder_positions
    return settings.max_num_batched_tokens


def layer_specs(
    layers: Sequence[DecoderLayer], sizes: BlockSizes, settings: KvSettings
) -> tuple[tuple[LayerSpec, ...], ...]:
    """Return the specs of each decoder layer, in the order in which vLLM registers them.

    Raises:
        ValueError: Tensor parallelism or the dtype does not fit a layer.
        DeclinedError: vLLM stores this dtype for a layer in a way not described here.
    """
    has_state = any(isinstance(cache, State) for layer in layers for cache in layer)
    specs = []
    for index, layer in enumerate(layers):
        dtypes = [stored_dtype(cache, index, len(layers), settings, has_state=has_state) for cache in layer]
        specs.append(tuple(_spec(cache, dtype, sizes, settings) for cache, dtype in zip(layer, dtypes, strict=True)))
    return tuple(specs)


def _spec(cache: Cache, dtype: str, sizes: BlockSizes, settings: KvSettings) -> LayerSpec:
    match cache:
        case FullAttention() | SlidingWindow() | ChunkedLocal() | CrossAttention():
            return _heads_spec(cache, dtype, sizes, settings)
        case Latent():
            size = cache.kv_lora_rank + cache.qk_rope_head_dim
            token = latent_token_bytes(settings.kv_cache_dtype, size, sparse=cache.sparse, settings=settings)
            if (0, 7, 2) <= settings.version < (0, 8, 0) and not settings.is_v1:
                token = -(-token // 256) * 256
            kind: Kind = "MLAAttentionSpec" if settings.version >= (0, 11, 0) else "FullAttentionSpec"
            return LayerSpec(
                kind=kind,
                block_size=sizes.block_size,
                identity=("latent", size),
                token_bytes=token,
                is_paddable=settings.version < (0, 29, 0) and not cache.sparse and _pads(dtype, settings),
            )
        case SparseIndex():
            token = _index_token_bytes(cache.head_dim)
            return LayerSpec(
                kind="MLAAttentionSpec", block_size=sizes.block_size, identity=("index", token), token_bytes=token
            )
        case CompressedLatent() | CompressedIndex() | LatentWindow() | CompressorState():
            return _compressed_spec(cache)
        case _:
            blocks, drafts = _state_blocks(cache, sizes, settings)
            return LayerSpec(
                kind="MambaSpec",
                block_size=sizes.mamba_block_size,
                identity=(repr(cache),),
                state_bytes=state_bytes(cache, settings),
                padded_page_bytes=sizes.mamba_page_bytes,
                is_paddable=settings.version >= (0, 26, 0),
                state_blocks=blocks,
                draft_blocks=drafts,
            )


def _compressed_spec(cache: Compressed) -> LayerSpec:
    """Return one cache's spec; its pages are padded for the kernel's sake.

    Sources: vLLM ``models/deepseek_v4/{attention,compressor}.py`` and ``v1/attention/backends/mla/sparse_swa.py``, 0.20
    to 0.33, in the ``fp8_ds_mla`` layout.
    """
    match cache:
        case CompressedLatent(size=size, ratio=ratio):
            return LayerSpec(
                kind="MLAAttentionSpec",
                block_size=COMPRESSED_BLOCK_SIZE,
                identity=("compressed", size, ratio),
                padded_page_bytes=_aligned(COMPRESSED_BLOCK_SIZE // ratio * _PACKED_LATENT_BYTES),
            )
        case CompressedIndex(head_dim=head_dim, ratio=ratio):
            token = _index_token_bytes(head_dim)
            return LayerSpec(
                kind="MLAAttentionSpec",
                block_size=COMPRESSED_BLOCK_SIZE,
                identity=("index", token, ratio),
                padded_page_bytes=_aligned(COMPRESSED_BLOCK_SIZE // ratio * token),
            )
        case LatentWindow(size=size, window=window):
            return LayerSpec(
                kind="SlidingWindowMLASpec",
                block_size=_LATENT_WINDOW_BLOCK,
                identity=("window", size),
                padded_page_bytes=_aligned(_LATENT_WINDOW_BLOCK * _PACKED_LATENT_BYTES),
                window=window,
            )
        case CompressorState(size=size, ratio=ratio):
            block_size = _COMPRESSOR_BLOCK[ratio]
            # Ratio 4 overlaps with the vector before.
            return LayerSpec(
                kind="SlidingWindowMLASpec",
                block_size=block_size,
                identity=("state", size),
                padded_page_bytes=_aligned(block_size * size * 4),
                window=2 * ratio if ratio == 4 else ratio,
            )


def _index_token_bytes(head_dim: int) -> int:
    """Return the bytes of a token in an index: fp8, and an fp32 scale for every 128 (``DeepseekV32IndexerCache``)."""
    return head_dim + head_dim // 128 * 4


def _aligned(size: int) -> int:
    return -(-size // _LATENT_ALIGNMENT) * _LATENT_ALIGNMENT


def _heads_spec(
    cache: FullAttention | SlidingWindow | ChunkedLocal | CrossAttention,
    dtype: str,
    sizes: BlockSizes,
    settings: KvSettings,
) -> LayerSpec:
    version = settings.version
    heads = kv_heads_per_rank(cache.num_kv_heads, settings.tensor_parallel_size)
    head_size = cache.head_size
    head_size_v = head_size
    match cache:  # other kinds take a value to be as large as a key; MiMo V2 padded its values to that through 0.19
        case FullAttention() | SlidingWindow() if version >= (0, 20, 0):
            head_size_v = cache.head_size_v
    content = head_token_bytes(
        _page_dtype(cache, dtype, version), head_size, head_size_v, model_dtype=settings.model_dtype
    )
    # The first releases with groups compared windows and pages alone (type_id).
    identity = () if (0, 9, 1) <= version < (0, 10, 1) else (heads, head_size, head_size_v, dtype)
    token = heads * content
    kind: Kind = "FullAttentionSpec"
    window = 0
    padded = None
    block_size = sizes.block_size
    match cache:
        case FullAttention() if is_turboquant(dtype) and version < (0, 29, 0):
            kind = "TQFullAttentionSpec"
        case SlidingWindow() if version >= (0, 8, 3):
            kind, window, padded = "SlidingWindowSpec", cache.window, sizes.skip_page_bytes
            if version >= (0, 25, 0):
                block_size = window_block_size(token, dtype, sizes, settings)
        case ChunkedLocal() if version >= (0, 10, 0):
            kind, window = "ChunkedLocalAttentionSpec", cache.chunk
        case CrossAttention():
            kind = "CrossAttentionSpec"
    return LayerSpec(
        kind=kind,
        block_size=block_size,
        identity=identity,
        token_bytes=token,
        padded_page_bytes=padded,
        window=window,
        is_paddable=_pads(dtype, settings),
    )


def _page_dtype(cache: Cache, dtype: str, version: Version) -> str:
    """Return the dtype by which a page is measured: up to 0.28 windows know some packings for one byte an element."""
    if version >= (0, 29, 0) or isinstance(cache, FullAttention):
        return dtype
    if is_turboquant(dtype) or (version < (0, 21, 0) and dtype.startswith("nvfp4")):
        return "fp8"
    return "int8_per_token_head" if dtype == "int4_per_token_head" and isinstance(cache, SlidingWindow) else dtype


def _pads(dtype: str, settings: KvSettings) -> bool:
    """Tell whether an attention layer's blocks can be padded: at first only where the backend strides over blocks."""
    if settings.version < (0, 29, 0):
        return settings.version >= (0, 25, 0) and not settings.is_cpu and not is_turboquant(dtype)
    return True


def _state_blocks(state: State, sizes: BlockSizes, settings: KvSettings) -> tuple[int | None, int]:
    """Return the blocks of a request's states, None where they grow, and what drafts add then."""
    version = settings.version
    drafts = settings.num_speculative_tokens
    if version < (0, 11, 1):
        return 1, 0
    if version < (0, 15, 0) or sizes.mamba_cache_mode == "all":
        return None, drafts if version >= (0, 22, 0) else 0
    if sizes.mamba_cache_mode == "align":
        # One more where the state at a block's end is stored from within a prefill: MambaMixer2.get_kv_cache_spec.
        exports = sizes.exports_checkpoints or (isinstance(state, Mamba2) and version >= (0, 31, 0))
        return 2 + drafts + exports, 0
    return 1 + drafts, 0

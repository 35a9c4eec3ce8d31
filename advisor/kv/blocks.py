"""Which block size vLLM settles on: the attention backend's, then large enough that a state fits one block.

Sources, by release: ``platforms/cuda.py:check_and_update_config`` (0.8 to 0.17), ``platforms/interface.py:
update_block_size_for_backend`` (0.18 to 0.33), ``platforms/cpu.py``; for states ``models/config.py:
HybridAttentionMambaModelConfig`` (0.10.2 to 0.19), ``platforms/interface.py:_align_hybrid_block_size`` (0.20 to 0.33).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm

from advisor.kv.dtypes import head_token_bytes, is_turboquant, latent_token_bytes, stored_dtype
from advisor.kv.heads import kv_heads_per_rank
from advisor.kv.settings import KvSettings
from advisor.kv.states import state_bytes
from advisor.layers import (
    ChunkedLocal,
    Compressed,
    CrossAttention,
    DecoderLayer,
    FullAttention,
    GatedDeltaNet,
    Latent,
    Mamba1,
    Mamba2,
    SlidingWindow,
    SparseIndex,
    State,
)
from advisor.spec import DeclinedError

_DEFAULT_BLOCK_SIZE = 16

# Smallest block of each latent attention backend (v1/attention/backends/mla); all others take multiples of 16.
_BACKEND_BLOCK = {
    "FLASHMLA": 64,
    "CUTLASS_MLA": 128,
    "FLASHINFER_MLA": 32,
    "TOKENSPEED_MLA": 32,
}

COMPRESSED_BLOCK_SIZE = 256
"""Tokens in a block of DeepSeek V4's compressed latents: the only size that the kernels have."""

_FLASHINFER_BLOCKS = (16, 32, 64)
_FLASHINFER_LARGE_BLOCKS = (128, 256, 512, 1024)
"""On Blackwell, where several query heads share a KV head, as in all but the oldest models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockSizes:
    """What vLLM decides before any layer is asked for its cache."""

    block_size: int
    """Tokens in a block of attention: ``cache_config.block_size``."""
    mamba_block_size: int
    mamba_cache_mode: str
    """``none``, ``align`` or ``all``."""
    mamba_page_bytes: int | None = None
    """What a state's block is padded to, so that it is as large as attention's; None: not padded."""
    skip_page_bytes: int | None = None
    """What sliding-window layers are padded to where some layers are left out of quantisation."""
    exports_checkpoints: bool = False
    """Whether a gated delta net stores a state from within a prefill, which takes one more block."""


def block_sizes(layers: Sequence[DecoderLayer], settings: KvSettings) -> BlockSizes:
    """Return the block sizes for a model.

    Raises:
        ValueError: ``--block-size`` is one that vLLM cannot use.
        DeclinedError: A number that only vLLM's ``all`` mode needs is missing.
    """
    block_size = _attention_block_size(layers, settings)
    states = [cache for layer in layers for cache in layer if isinstance(cache, State)]
    mode = _mamba_cache_mode(states, settings)
    sizes = BlockSizes(
        block_size=block_size,
        # Without prefix caching one block holds the state whatever the length.
        mamba_block_size=settings.max_model_len if mode == "none" else settings.mamba_block_size or block_size,
        mamba_cache_mode=mode,
        exports_checkpoints=_exports_checkpoints(states, mode, settings),
    )
    if states and settings.is_v1 and any(not isinstance(cache, State) for layer in layers for cache in layer):
        sizes = _align_with_states(sizes, layers, states, settings)
    return _align_with_skipped(sizes, layers, settings, has_state=bool(states))


def window_block_size(token_bytes: int, dtype: str, sizes: BlockSizes, settings: KvSettings) -> int:
    """Return the block size of a sliding-window layer, which chooses its own from 0.25.

    At first the smallest (it is scaled up beside others), from 0.30 the largest of the kernel's that fits the page of
    other layers: ``model_executor/layers/attention/attention.py:_largest_kernel_block_within``.
    """
    kernels, multiple_of = _kernel_blocks(dtype, settings)
    if settings.version < (0, 30, 0):
        most = (sizes.skip_page_bytes or 0) // token_bytes
        sizes_known = kernels or (multiple_of,)
        return max((each for each in sizes_known if each <= most), default=sizes_known[0])
    most = (sizes.skip_page_bytes or token_bytes * sizes.block_size) // token_bytes
    if kernels:
        return max((each for each in kernels if each <= most), default=kernels[0])
    return max(multiple_of, most // multiple_of * multiple_of)


def _kernel_blocks(dtype: str, settings: KvSettings) -> tuple[tuple[int, ...], int]:
    """Return the block sizes of an attention backend that has only some, else what they are multiples of."""
    major = settings.compute_capability[0]
    if settings.is_cpu:
        return (), 32 if settings.version >= (0, 29, 0) else _DEFAULT_BLOCK_SIZE
    if is_turboquant(dtype):
        return (16, 32, 64, 128), _DEFAULT_BLOCK_SIZE
    if dtype.startswith("nvfp4") or (major == 10 and not dtype.endswith("per_token_head")):
        return _FLASHINFER_BLOCKS + (_FLASHINFER_LARGE_BLOCKS if major == 10 else ()), _DEFAULT_BLOCK_SIZE
    return (), _DEFAULT_BLOCK_SIZE


def _attention_block_size(layers: Sequence[DecoderLayer], settings: KvSettings) -> int:
    version, asked = settings.version, settings.block_size
    if asked is not None and asked < 1:
        raise ValueError(f"--block-size {asked}: it is 1 or more; GPUs take multiples of {_DEFAULT_BLOCK_SIZE}")
    if any(isinstance(cache, Compressed) for layer in layers for cache in layer):
        return COMPRESSED_BLOCK_SIZE
    latent = next((cache for layer in layers for cache in layer if isinstance(cache, Latent)), None)
    if settings.is_cpu:
        if latent and version >= (0, 29, 0):
            return 16
        return asked or (128 if version >= (0, 8, 5) else 16)
    if asked is not None and settings.is_v1 and asked % _DEFAULT_BLOCK_SIZE:
        raise ValueError(f"--block-size {asked}: attention kernels take multiples of {_DEFAULT_BLOCK_SIZE}")
    if latent is None or version < (0, 8, 0):
        return asked or _DEFAULT_BLOCK_SIZE
    backend = settings.attention_backend or _latent_backend(latent, settings)
    wanted = 64 if latent.sparse else _BACKEND_BLOCK.get(backend, _DEFAULT_BLOCK_SIZE)
    if version >= (0, 18, 0):
        if version < (0, 30, 0) and not _starts_latent(layers):
            wanted = _DEFAULT_BLOCK_SIZE
        return asked or wanted
    if not latent.sparse and backend not in _BACKEND_BLOCK:
        return asked or _DEFAULT_BLOCK_SIZE
    if backend == "FLASHINFER_MLA":
        wanted = 64
    current = asked or _DEFAULT_BLOCK_SIZE
    is_taken = current == wanted if version < (0, 12, 0) or latent.sparse else current % wanted == 0
    return current if is_taken or (backend == "FLASHINFER_MLA" and current == 32) else wanted


def _starts_latent(layers: Sequence[DecoderLayer]) -> bool:
    """Tell whether the first attention layer is latent: up to 0.29 its backend alone is asked."""
    attention = (cache for layer in layers for cache in layer if not isinstance(cache, State))
    return isinstance(next(attention, None), Latent | SparseIndex)


def _latent_backend(latent: Latent, settings: KvSettings) -> str:
    """Return the backend that vLLM picks for latent attention where none is asked for (``platforms/cuda.py``)."""
    major, version = settings.compute_capability[0], settings.version
    if major == 10 and version >= (0, 10, 0):
        return "FLASHINFER_MLA" if version >= (0, 14, 0) else "CUTLASS_MLA"
    if major == 9:
        quantized = settings.kv_cache_dtype.startswith(("fp8", "int", "nvfp4"))
        return "FLASH_ATTN_MLA" if version >= (0, 18, 0) and not quantized else "FLASHMLA"
    return "TRITON_MLA"


def _mamba_cache_mode(states: Sequence[State], settings: KvSettings) -> str:
    """Return what ``MambaModelConfig.verify_and_update_config`` makes of ``--mamba-cache-mode`` (0.15 and later).

    Up to 0.14 there is no such flag, and prefix caching works like ``all``.
    """
    if not states or not settings.caches_prefixes(has_state=True):
        return "none"
    version = settings.version
    caches_all = all(isinstance(state, Mamba1 | Mamba2) for state in states)
    if version < (0, 15, 0):
        return "all" if caches_all else "none"
    asked = settings.mamba_cache_mode
    if asked in (None, "none"):
        by_drafts = (0, 20, 0) <= version < (0, 22, 0) and settings.num_speculative_tokens > 0
        return "all" if caches_all and version < (0, 28, 0) and not by_drafts else "align"
    if asked == "align" or (asked == "all" and (not caches_all or version >= (0, 32, 0))):
        return "align"
    if asked == "all":
        return "all"
    raise ValueError(f"--mamba-cache-mode {asked}: it is none, align or all")


def _align_with_states(
    sizes: BlockSizes, layers: Sequence[DecoderLayer], states: Sequence[State], settings: KvSettings
) -> BlockSizes:
    """Raise attention's block until it holds a state, then pad the state to exactly that."""
    state = state_bytes(states[0], settings)
    if state == 0 or (settings.is_cpu and (0, 20, 0) <= settings.version < (0, 21, 0)):  # 0.20 left CPUs out
        return sizes
    token, latent = _token_bytes(layers, settings)
    kernel = _kernel_alignment(sizes.block_size, latent, settings)
    if sizes.mamba_cache_mode == "all":
        chunk = lcm(settings.mamba_block_size or _chunk_size(states, settings), kernel)
        attention = chunk * _cdiv(_cdiv(state, token), chunk)
    else:
        if sizes.exports_checkpoints:
            kernel = lcm(kernel, 64)
        attention = kernel * _cdiv(state, kernel * token)
    block_size = max(sizes.block_size, attention)
    mamba_block_size = sizes.mamba_block_size
    if sizes.mamba_cache_mode == "all":
        mamba_block_size = attention
    elif sizes.mamba_cache_mode == "align":
        mamba_block_size = block_size
    page = block_size * token
    return replace(
        sizes,
        block_size=block_size,
        mamba_block_size=mamba_block_size,
        mamba_page_bytes=None if page == state else page,
    )


def _kernel_alignment(block_size: int, latent: Latent | None, settings: KvSettings) -> int:
    version = settings.version
    if version < (0, 20, 0):
        if latent is not None and version >= (0, 11, 1):
            return 128 if settings.attention_backend == "CUTLASS_MLA" else 64
        return _DEFAULT_BLOCK_SIZE
    smallest = _kernel_blocks("auto", settings)[1]
    alignment = max(smallest, block_size)
    return max(alignment, 128) if latent is not None and version >= (0, 27, 0) else alignment


def _exports_checkpoints(states: Sequence[State], mode: str, settings: KvSettings) -> bool:
    """Tell whether FlashInfer's prefill of gated delta nets is used, which stores states midway (0.33)."""
    if not states or mode != "align" or settings.is_cpu or settings.version < (0, 33, 0):
        return False
    major = settings.compute_capability[0]
    return all(
        isinstance(state, GatedDeltaNet) and (major == 9 or (major in (10, 12) and state.head_k_dim == 128))
        for state in states
    )


def _chunk_size(states: Sequence[State], settings: KvSettings) -> int:
    if settings.mamba_chunk_size is not None:
        return settings.mamba_chunk_size
    if all(isinstance(state, Mamba1) for state in states):
        return 2048
    raise DeclinedError("--mamba-cache-mode all: the model's chunk_size is not known, and blocks are multiples of it")


def _token_bytes(layers: Sequence[DecoderLayer], settings: KvSettings) -> tuple[int, Latent | None]:
    """Return the bytes of one token in the model's typical attention layer, and that layer if it is latent."""
    for index, layer in enumerate(layers):
        for cache in layer:
            if isinstance(cache, Latent):
                size = cache.kv_lora_rank + cache.qk_rope_head_dim
                bytes_ = latent_token_bytes(settings.kv_cache_dtype, size, sparse=cache.sparse, settings=settings)
                return bytes_, cache
            if isinstance(cache, FullAttention | SlidingWindow | ChunkedLocal | CrossAttention):
                dtype = settings.kv_cache_dtype
                stored = stored_dtype(cache, index, len(layers), settings, has_state=True)
                if stored != dtype and settings.version >= (0, 29, 0) and not is_turboquant(dtype):
                    dtype = _as_unquantized_backend_reads(dtype, settings)
                token = _heads_token_bytes(cache, dtype, settings)
                if is_turboquant(settings.kv_cache_dtype) and settings.kv_cache_dtype_skip_layers:
                    token = lcm(token, _heads_token_bytes(cache, "auto", settings))
                return token, None
    raise ValueError("no attention layer among those given")


def _heads_token_bytes(
    cache: FullAttention | SlidingWindow | ChunkedLocal | CrossAttention, dtype: str, settings: KvSettings
) -> int:
    heads = kv_heads_per_rank(cache.num_kv_heads, settings.tensor_parallel_size)
    return heads * head_token_bytes(dtype, cache.head_size, cache.head_size, model_dtype=settings.model_dtype)


def _align_with_skipped(
    sizes: BlockSizes, layers: Sequence[DecoderLayer], settings: KvSettings, *, has_state: bool
) -> BlockSizes:
    """Raise the block where some layers are left out of quantisation (``_align_heterogeneous_kv_block_size``, 0.25)."""
    if settings.version < (0, 25, 0) or settings.is_cpu:
        return sizes
    if not settings.kv_cache_dtype_skip_layers and (not is_turboquant(settings.kv_cache_dtype) or has_state):
        return sizes
    attention = (
        (index, cache)
        for index, layer in enumerate(layers)
        for cache in layer
        if isinstance(cache, FullAttention | SlidingWindow)
    )
    index, first = next(attention, (0, None))
    if first is None:
        return sizes
    primary_dtype = settings.kv_cache_dtype
    is_skipped = stored_dtype(first, index, len(layers), settings, has_state=has_state) == "auto"
    if is_skipped or settings.version < (0, 29, 0):
        primary_dtype = _as_unquantized_backend_reads(primary_dtype, settings)
    primary = _heads_token_bytes(first, primary_dtype, settings)
    largest = _heads_token_bytes(first, "auto", settings)
    if largest == primary:
        return sizes
    alignment = max(_DEFAULT_BLOCK_SIZE, sizes.block_size)
    required = max(largest * _DEFAULT_BLOCK_SIZE, sizes.mamba_page_bytes or 0)
    block_size = max(sizes.block_size, alignment * _cdiv(required, alignment * primary))
    page = block_size * primary
    return replace(
        sizes,
        block_size=block_size,
        skip_page_bytes=page,
        mamba_page_bytes=None if sizes.mamba_page_bytes is None else page,
    )


def _as_unquantized_backend_reads(dtype: str, settings: KvSettings) -> str:
    """Return what the quantised cache is measured as where not the backend that packs it is asked.

    From 0.29 vLLM asks the first layer's, which may be one left out of quantisation; before, none knew TurboQuant's.
    """
    knows = dtype.startswith("nvfp4") and settings.compute_capability[0] == 10
    if settings.version < (0, 29, 0):
        knows = not is_turboquant(dtype)
    return dtype if knows else "fp8"


def _cdiv(total: int, by: int) -> int:
    return -(-total // by)

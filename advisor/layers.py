"""What a decoder layer keeps between steps: one small class per kind of cache, geometry only.

Numbers are those of the whole model; what one rank holds follows from the parallel sizes in `advisor.kv`.
Sources: vLLM 0.32 ``v1/kv_cache_interface.py`` and ``model_executor/layers/mamba/mamba_utils.py``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FullAttention:
    """Keys and values of every token (MHA, GQA, MQA)."""

    num_kv_heads: int
    head_size: int
    head_size_v: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SlidingWindow:
    """Keys and values of the last ``window`` tokens."""

    num_kv_heads: int
    head_size: int
    head_size_v: int
    window: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkedLocal:
    """Keys and values of the current chunk of ``chunk`` tokens (Llama 4)."""

    num_kv_heads: int
    head_size: int
    head_size_v: int
    chunk: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Latent:
    """One compressed vector a token, the same on every tensor-parallel rank (MLA)."""

    kv_lora_rank: int
    qk_rope_head_dim: int
    sparse: bool = False
    """Whether an index picks the tokens (DeepSeek V3.2): it allows the ``fp8_ds_mla`` layout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseIndex:
    """The index keys beside a sparse `Latent`: one fp8 vector with scales a token."""

    head_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedLatent:
    """One latent vector for every ``ratio`` tokens, the same on every rank (DeepSeek V4)."""

    size: int
    ratio: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentWindow:
    """The latent vectors of the last ``window`` tokens, beside or instead of compressed ones (DeepSeek V4)."""

    size: int
    window: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedIndex:
    """The index keys beside a `CompressedLatent`: one fp8 vector with scales for every ``ratio`` tokens."""

    head_dim: int
    ratio: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressorState:
    """What a compressor keeps of the tokens that it has not yet made one vector of: ``size`` fp32 numbers each."""

    size: int
    ratio: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossAttention:
    """Keys and values of the encoder's tokens (Whisper)."""

    num_kv_heads: int
    head_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mamba1:
    """A selective state space of one vector per channel (Jamba)."""

    intermediate_size: int
    state_size: int
    conv_kernel: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mamba2:
    """A selective state space by heads (Bamba, Nemotron-H, Granite 4)."""

    intermediate_size: int
    n_groups: int
    num_heads: int
    head_dim: int
    state_size: int
    conv_kernel: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedDeltaNet:
    """The linear attention of Qwen3-Next and Qwen3.5."""

    num_k_heads: int
    num_v_heads: int
    head_k_dim: int
    head_v_dim: int
    conv_kernel: int


@dataclass(frozen=True, kw_only=True, slots=True)
class KimiDelta:
    """The linear attention of Kimi-Linear."""

    num_heads: int
    head_dim: int
    conv_kernel: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShortConv:
    """A short convolution's last inputs (LFM2)."""

    intermediate_size: int
    conv_kernel: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearAttention:
    """One square state a head (MiniMax-Text-01)."""

    num_heads: int
    head_dim: int


State = Mamba1 | Mamba2 | GatedDeltaNet | KimiDelta | ShortConv | LinearAttention
"""Kinds whose size does not grow with the tokens."""

Compressed = CompressedLatent | LatentWindow | CompressedIndex | CompressorState
"""Kinds that stand together in DeepSeek V4 and nowhere else."""

Cache = FullAttention | SlidingWindow | ChunkedLocal | Latent | SparseIndex | Compressed | CrossAttention | State

DecoderLayer = tuple[Cache, ...]
"""What one decoder layer keeps: nothing where it has no attention or reads another layer's cache, two things where
it has both an attention and a state, or an attention and an index."""

"""What vLLM's defaults and start-up checks ask of a model, beyond the sizes of its tensors."""

from dataclasses import dataclass

from advisor.layers import (
    ChunkedLocal,
    Compressed,
    CrossAttention,
    FullAttention,
    Latent,
    SlidingWindow,
    SparseIndex,
    State,
)
from advisor.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTraits:
    """The defaults describe a dense decoder with full attention that generates text."""

    architecture: str = ""
    is_mla: bool = False
    """Whether its attention keeps one compressed vector a token (DeepSeek)."""
    is_sparse: bool = False
    """Whether an index picks the tokens that the compressed attention reads (DeepSeek V3.2, V4)."""
    qk_nope_head_dim: int = 128
    """Only of MLA models: which kernels fit."""
    is_hybrid: bool = False
    """Whether some layers keep a state and others attend."""
    is_attention_free: bool = False
    is_encoder_decoder: bool = False
    is_multimodal: bool = False
    has_sliding_window: bool = False
    """Whether all of its layers attend within one window: vLLM calls a mixed model's windows interleaved."""
    is_pooling: bool = False
    """Whether it embeds or classifies instead of generating."""
    pools_last_token: bool = True
    """Of pooling models: whether it attends causally and pools the last token, so that prompts can be cut in chunks."""
    max_mm_item_tokens: int | None = None
    """Tokens of the largest single image or clip, None where not known."""
    is_mm_prefix_lm: bool = False
    """Whether an image's tokens attend to each other both ways, so that it cannot be cut (Gemma 3, PaliGemma)."""


_MM_PREFIX_LM = ("BagelFor", "Gemma3For", "Gemma4For", "Molmo2For", "Moondream3", "PaliGemmaFor")


def model_traits(spec: ModelSpec, *, is_pooling: bool = False) -> ModelTraits:
    """Return a model's traits.

    Args:
        spec: Geometry of the model.
        is_pooling: Whether it is served for embeddings or scores (``--runner pooling``), which its config may not say.
    """
    kept = [cache for layer in spec.layers for cache in layer]
    states = [cache for cache in kept if isinstance(cache, State)]
    attention = [cache for cache in kept if isinstance(cache, FullAttention | SlidingWindow | ChunkedLocal | Latent)]
    latent = [cache for cache in attention if isinstance(cache, Latent)]
    is_compressed = any(isinstance(cache, Compressed) for cache in kept)
    return ModelTraits(
        architecture=spec.architecture,
        is_mla=bool(latent) or is_compressed,
        is_sparse=is_compressed
        or any(cache.sparse for cache in latent)
        or any(isinstance(cache, SparseIndex) for cache in kept),
        is_hybrid=bool(states) and bool(attention),
        is_attention_free=bool(states) and not attention,
        is_encoder_decoder=spec.encoder_positions is not None
        or any(isinstance(cache, CrossAttention) for cache in kept),
        is_multimodal=spec.encoder is not None,
        has_sliding_window=bool(attention) and all(isinstance(cache, SlidingWindow) for cache in attention),
        is_pooling=is_pooling,
        max_mm_item_tokens=spec.encoder.max_item_tokens if spec.encoder is not None else None,
        is_mm_prefix_lm=spec.encoder is not None and spec.architecture.startswith(_MM_PREFIX_LM),
    )

"""What of a vLLM command line decides the KV cache: `KvSettings`, and the values that follow from it."""

from dataclasses import dataclass

from advisor.versions import NEWEST_STUDIED, Version


@dataclass(frozen=True, kw_only=True, slots=True)
class KvSettings:
    """The flags that the KV cache depends on, under vLLM's names; defaults are those of a one-GPU server."""

    max_model_len: int
    version: Version = NEWEST_STUDIED
    model_dtype: str = "bfloat16"
    """What ``--dtype`` came to: ``bfloat16``, ``float16`` or ``float32``."""
    kv_cache_dtype: str = "auto"
    kv_cache_dtype_skip_layers: tuple[str, ...] = ()
    """Decoder layers (``"0"``) or ``"sliding_window"`` that keep the model's dtype."""
    block_size: int | None = None
    """None: vLLM's own choice, by release, device and attention backend."""
    num_gpu_blocks_override: int | None = None

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    pipeline_partition: str = ""
    """VLLM_PP_LAYER_PARTITION: layers of each stage."""
    decode_context_parallel_size: int = 1
    prefill_context_parallel_size: int = 1

    max_num_batched_tokens: int = 2048
    async_scheduling: bool = True
    """Whether the next step is scheduled while one runs: it doubles what a sliding window keeps, from 0.26."""
    use_v2_model_runner: bool | None = None
    """Only matters to sliding windows under pipeline parallelism; None: from 0.29."""
    num_speculative_tokens: int = 0
    enable_prefix_caching: bool | None = None
    """None: vLLM's default, which is off for models with a state before 0.28."""
    disable_hybrid_kv_cache_manager: bool = False

    mamba_cache_dtype: str = "auto"
    mamba_ssm_cache_dtype: str = "auto"
    mamba_block_size: int | None = None
    mamba_cache_mode: str | None = None
    """``none``, ``align`` or ``all``; None: what the release makes of prefix caching."""
    mamba_chunk_size: int | None = None
    """The model's ``mamba_chunk_size`` or ``chunk_size``, which mode ``all`` aligns blocks to."""

    encoder_positions: int | None = None
    """Length of the encoder's output, which cross-attention caches up to 0.12; later the batch decides."""
    is_cpu: bool = False
    compute_capability: tuple[int, int] = (9, 0)
    """Of the GPU; it decides the attention backend of latent (MLA) models, and that their block size."""
    attention_backend: str | None = None
    """``--attention-backend``; None: vLLM's choice."""
    use_v1: bool | None = None
    """Whether the V1 engine runs (``VLLM_USE_V1``); None: from 0.8.0."""

    @property
    def is_v1(self) -> bool:
        """Whether the V1 engine runs."""
        if self.use_v1 is None or self.version >= (0, 11, 0):
            return self.version >= (0, 8, 0)
        return self.use_v1 and self.version >= (0, 7, 0)

    @property
    def max_in_flight_tokens(self) -> int:
        """Tokens scheduled but not settled, whose blocks a window cannot drop yet.

        ``VllmConfig.max_in_flight_tokens`` (0.26 to 0.33); before that, one batch.
        """
        batches = 1
        if self.version >= (0, 26, 0):
            stages = self.pipeline_parallel_size
            v2 = self.version >= (0, 29, 0) if self.use_v2_model_runner is None else self.use_v2_model_runner
            overlaps = self.async_scheduling and (v2 or stages == 1)
            batches = stages + 1 if overlaps else stages
        return batches * self.max_num_batched_tokens

    @property
    def context_shards(self) -> int:
        """Ranks among which a full-attention request's tokens are dealt out."""
        prefill = self.prefill_context_parallel_size if (0, 12, 0) <= self.version < (0, 26, 0) else 1
        return self.decode_context_parallel_size * prefill

    def caches_prefixes(self, *, has_state: bool) -> bool:
        """Tell whether prefix caching is on for a model with or without a state beside its attention."""
        if has_state and self.version < (0, 12, 0):
            return False
        if self.enable_prefix_caching is None:
            return not has_state or self.version >= (0, 28, 0)
        return self.enable_prefix_caching

"""The profile run's peak: what start-up takes from the KV cache so that the largest step fits.

vLLM runs one step of max_num_batched_tokens dummy tokens, then samples for min(max_num_seqs, that many) requests, and
counts the allocator's peak over what stays (``gpu_model_runner.py:profile_run``; ``worker.py`` of V0). Layers work on
the tokens, the sampler on requests x vocabulary; the larger of the two is the peak, and what both find allocated
already adds to either: the mixture-of-experts workspaces, the encoder's outputs.

All sizes are bytes on one GPU.
"""

from dataclasses import dataclass

from advisor.calibration import sampler
from advisor.estimate import Estimate
from advisor.layers import Compressed, CompressedIndex, CompressedLatent, LatentWindow, SparseIndex
from advisor.runner import Runner
from advisor.spec import Encoder, ModelSpec
from advisor.units import MIB
from advisor.versions import Version

_WORKSPACES_STAY_SINCE: Version = (0, 13, 0)
"""From here on the two workspaces of mixture-of-experts layers stay allocated, and add to the sampler's work
(``layers/fused_moe/modular_kernel.py`` with ``v1/worker/workspace.py``); before, each layer gave them back."""
_HIDDEN_COPIES = 4
"""Rows of hidden_size alive together in a layer: the residual, its normed copy, a projection's output, the sum."""
_OLD_KERNELS_BYTES_PER_TOKEN = 230_000
"""What attention took beside on a T4 under V0, at most: 1.4 GiB at 8,192 tokens, 3.5 at 16,384."""
_ONE_BYTE_ACTIVATIONS = {"compressed-tensors", "fp8", "modelopt", "fbgemm_fp8"}
"""Methods whose linear layers first copy their input into 8 bits."""
_GATED_COPIES = 3
"""Rows of intermediate_size alive together in a gated MLP: both halves and their product."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The largest step that the profile run rehearses."""

    version: Version
    runner: Runner
    max_num_batched_tokens: int
    max_num_seqs: int
    tensor_parallel_size: int = 1
    expert_parallel: bool = False
    is_last_stage: bool = True
    """Whether this rank samples: only the last pipeline stage does."""
    pipeline_parallel_size: int = 1
    element_bytes: int = 2
    sm_count: int = 132
    capability_major: int = 9
    pooling: bool = False
    """Whether the model embeds or classifies: no sampler runs."""
    multimodal_items: bool = True
    """Whether images or clips may come at all (``--limit-mm-per-prompt`` of zero, ``--language-model-only``)."""
    max_model_len: int | None = None
    flashinfer_sampler: bool | None = None
    """VLLM_USE_FLASHINFER_SAMPLER, where it is set."""


def activation_peak(spec: ModelSpec, step: Step) -> Estimate:
    """Return the peak over what stays allocated.

    Bounds: 5% and 64 MiB either way from how the two walls reproduce measured peaks; the encoder's part, whose
    kernels differ by model, from half to twice; where the release leaves the sampler to what is installed, the
    smaller and the larger one. DeepSeek V4's layers were read, not measured: up to twice.
    """
    rows = step.max_num_batched_tokens
    hidden_rows = rows * spec.hidden_size * step.element_bytes
    layers = layer_work(spec, step) + _index_logits(spec, step)
    workspaces = max(expert_workspaces(spec, step), sparse_workspaces(spec, step))
    resident = workspaces if step.version >= _WORKSPACES_STAY_SINCE else 0.0
    layers += workspaces - resident
    seeing = encoder_work(spec, step)
    base = sampler.LIBRARIES_BYTES
    lower_entry, entry, upper_entry = sampler.bytes_per_entry(
        step.version, step.runner, flashinfer=step.flashinfer_sampler
    )
    scale = step.element_bytes / 2 if step.element_bytes > 2 else 1.0

    def peak(entry_bytes: float, tower_share: float, outputs: float) -> float:
        sampling = 0.0
        if step.is_last_stage and not step.pooling:
            sampling = hidden_rows + _sampler_work(spec, step, entry_bytes * (1 + 0.28 * (scale - 1)))
        return resident + outputs + max(layers, sampling, seeing.peak * tower_share) + base

    expected = peak(entry, 1.0, seeing.resident)
    slip = 0.05 * expected + 64 * MIB
    unmeasured = expected if _is_compressed(spec) else 0.0
    if step.runner is Runner.V0:
        # V0 measures on the device: what the allocator keeps around the peak counts, and old kernels add their own.
        slip += 0.1 * expected + (_OLD_KERNELS_BYTES_PER_TOKEN if step.capability_major < 8 else 0) * rows
    return Estimate(
        lower=max(0.0, min(peak(lower_entry, 0.5, seeing.resident), expected) - slip),
        expected=expected,
        upper=max(peak(upper_entry, 2.0, seeing.most_resident), expected) + slip + unmeasured,
    )


def _sampler_work(spec: ModelSpec, step: Step, entry_bytes: float) -> float:
    rows = min(step.max_num_seqs, step.max_num_batched_tokens)
    if step.runner is Runner.V0 and spec.encoder is not None and step.multimodal_items:
        # V0 rehearses only as many requests as have room for an item each (``worker/model_runner.py:profile_run``).
        rows = min(rows, max(1, step.max_num_batched_tokens // (spec.encoder.max_item_tokens or _LARGEST_IMAGE_TOKENS)))
    vocabulary = -(-spec.vocab_size // 64) * 64
    buffer = sampler.triton_buffer_bytes(step.version, step.runner, sm_count=step.sm_count, vocab_size=vocabulary)
    return rows * vocabulary * entry_bytes + buffer


def layer_work(spec: ModelSpec, step: Step) -> float:
    """Return the peak inside one decoder layer.

    Confirmed by models whose vocabulary is small: CodeLlama-7B 0.77 GiB and Granite-8B 0.85 at 8,192 tokens (vLLM
    0.19 on an H100).
    """
    inner_copies = _GATED_COPIES if spec.gated_mlp else 2
    mlp = 0.0 if _only_experts(spec) else inner_copies * spec.intermediate_size / step.tensor_parallel_size
    if spec.quantization is not None and spec.quantization.method in _ONE_BYTE_ACTIVATIONS:
        mlp += spec.intermediate_size / step.tensor_parallel_size / step.element_bytes
    heads = (spec.num_attention_heads + 2 * spec.num_kv_heads) * spec.head_size
    attention = 2 * heads / step.tensor_parallel_size
    if _is_compressed(spec):
        own = -(-spec.num_attention_heads // step.tensor_parallel_size)
        attention = (own + 2 * (64 if own <= 64 else 128)) * spec.head_size  # query and output are padded for FlashMLA
    copies = _HIDDEN_COPIES + 2 * (spec.residual_streams - 1) + (2 if step.pipeline_parallel_size > 1 else 0)
    hidden = copies * spec.hidden_size
    return step.max_num_batched_tokens * step.element_bytes * (max(mlp, attention) + hidden)


def _only_experts(spec: ModelSpec) -> bool:
    return spec.experts is not None and spec.intermediate_size <= spec.experts.intermediate_size


def expert_workspaces(spec: ModelSpec, step: Step) -> float:
    """Return the two workspaces of the mixture-of-experts kernels.

    One holds the first projection's output or the second's, the other the activation's output or, from 0.13 on, the
    gathered hidden rows; each for max_num_batched_tokens x experts a token (``fused_moe.py:workspace_shapes``).
    Confirmed on vLLM 0.19: Mixtral-8x7B, Qwen3-30B-A3B, Qwen1.5-MoE-A2.7B, DeepSeek-V2-Lite.
    """
    experts = spec.experts
    if experts is None:
        return 0.0
    width = experts.intermediate_size
    if not step.expert_parallel:
        width = -(-width // step.tensor_parallel_size)
    rows = step.max_num_batched_tokens * experts.experts_per_token
    second = max(width, spec.hidden_size) if step.version >= _WORKSPACES_STAY_SINCE else width
    return rows * (max(2 * width, spec.hidden_size) + second) * step.element_bytes


_INDEX_ENTRIES_PER_TOKEN = 40
"""Index keys that prefills gather at once, for each token of max-model-len (``mla/indexer.py``, 0.13 to 0.33)."""
_INDEX_LOGITS_BYTES = 512 * MIB
"""Set aside for the index's scores in the profile run (``VLLM_SPARSE_INDEXER_MAX_LOGITS_MB``, 0.19 to 0.33)."""
_PREFILL_CHUNK = 4
"""Requests whose compressed latents prefills expand to 16 bits at once (``deepseek_v4/attention.py``, 0.20 to 0.33)."""


def sparse_workspaces(spec: ModelSpec, step: Step) -> float:
    """Return the workspace that attention with an index reserves; it is the mixture-of-experts layers' own, too.

    The larger of what gathers index keys and, for DeepSeek V4, what expands latents
    (``layers/sparse_attn_indexer.py`` from 0.16, before ``models/deepseek_v2.py``; ``deepseek_v4/nvidia/flashmla.py``).
    """
    if step.version < _WORKSPACES_STAY_SINCE or step.max_model_len is None:
        return 0.0
    index = expanded = 0
    windows = [kept.window for layer in spec.layers for kept in layer if isinstance(kept, LatentWindow)]
    for kept in {kept for layer in spec.layers for kept in layer}:
        match kept:
            case SparseIndex():
                index = _INDEX_ENTRIES_PER_TOKEN * step.max_model_len * (kept.head_dim + 4)
            case CompressedIndex():
                index = _INDEX_ENTRIES_PER_TOKEN * step.max_model_len // kept.ratio * (kept.head_dim + 4)
            case CompressedLatent():
                tokens = -(-step.max_model_len // kept.ratio) + max(windows, default=0) + step.max_num_batched_tokens
                expanded = max(expanded, _PREFILL_CHUNK * tokens * kept.size * 2)
            case _:
                pass
    return max(index, expanded)


def _index_logits(spec: ModelSpec, step: Step) -> float:
    indexed = any(isinstance(kept, SparseIndex | CompressedIndex) for layer in spec.layers for kept in layer)
    return _INDEX_LOGITS_BYTES if indexed and step.version >= (0, 19, 0) else 0.0


def _is_compressed(spec: ModelSpec) -> bool:
    return any(isinstance(kept, Compressed) for layer in spec.layers for kept in layer)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderWork:
    """What the encoder adds to the profile run, in bytes."""

    resident: float = 0.0
    """Outputs, which wait beside the decoder's step."""
    most_resident: float = 0.0
    """Their bound from above, where the largest item cannot be told from the configuration."""
    peak: float = 0.0
    """Inside the encoder, over before the decoder runs."""


def encoder_work(spec: ModelSpec, step: Step) -> EncoderWork:
    """Return what rehearsing the largest images or clips takes.

    V1: as many of the largest items as the encoder's budget holds, which is the larger of max_num_batched_tokens and
    one item (``v1/core/encoder_cache_manager.py:compute_encoder_budget``). V0: one item for each rehearsed request.
    Where an item's size depends on its pixels, the usual processor's largest image stands for it; a clip may be as
    long as the context, with several features a token.
    """
    encoder = spec.encoder
    if encoder is None or not step.multimodal_items or not encoder.hidden_size:
        return EncoderWork()
    item_tokens = encoder.max_item_tokens or _LARGEST_IMAGE_TOKENS
    if step.max_model_len is not None:
        item_tokens = min(item_tokens, step.max_model_len)
    items = max(1, step.max_num_batched_tokens // item_tokens)
    if step.runner is Runner.V0:
        items = min(items, step.max_num_seqs)
    row = spec.hidden_size * step.element_bytes
    outputs = items * item_tokens * row
    inputs_embeds = step.max_num_batched_tokens * row
    most = outputs
    if encoder.max_item_tokens is None:
        most = max(outputs, (step.max_model_len or item_tokens) * row * _MOST_FEATURES)
    peak = tower_work(encoder, items * item_tokens * encoder.tokens_per_output, step.element_bytes)
    return EncoderWork(resident=outputs + inputs_embeds, most_resident=most + inputs_embeds, peak=peak)


_LARGEST_IMAGE_TOKENS = 16_384
"""Of Qwen2-VL's processor and its successors: 12,845,056 pixels in squares of 28 x 28."""
_MOST_FEATURES = 8
"""Rows kept for each token of a clip, at most: Qwen3-VL keeps four, and vLLM once more for where they are put."""


def tower_work(encoder: Encoder, positions: int, element_bytes: int) -> float:
    """Return the peak inside one encoder layer over all positions of the items in it.

    Confirmed by Gemma 3 on vLLM 0.19 (32 images of 4,096 positions: 3.94 GiB for 12B, 3.99 for 27B).
    """
    return positions * element_bytes * (2 * encoder.intermediate_size + 6 * encoder.hidden_size)

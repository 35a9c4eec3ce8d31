"""Bytes of the model's weights on one GPU."""

from dataclasses import dataclass

from advisor.estimate import Estimate, Origin, exactly
from advisor.kv import stage_layer_counts
from advisor.model import DeclinedError, ModelSpec, Parameters

_VOCABULARY_PADDING = 64
"""Rows that an embedding is padded to a multiple of (``layers/vocab_parallel_embedding.py``, 0.4 to 0.33)."""

_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFiles:
    """What the files of a model directory say about its weights."""

    total_bytes: int
    """Bytes of all tensors."""
    source: str
    """``safetensors headers``, ``safetensors index`` or ``file sizes``, for people."""


def model_dtype(spec: ModelSpec, dtype_flag: str | None) -> str:
    """Return the dtype that vLLM computes in: the flag's, else the config's with float32 lowered to 16 bits.

    Source: ``config/model.py:_get_and_verify_dtype`` (0.4 to 0.33): ``auto`` serves a float32 model in float16,
    from 0.9 in bfloat16; both take two bytes.
    """
    if dtype_flag not in (None, "auto"):
        assert dtype_flag is not None
        return {"half": "float16", "float": "float32"}.get(dtype_flag, dtype_flag)
    stored = spec.dtype or "float16"
    return "float16" if stored == "float32" else stored


def weights_per_gpu(
    spec: ModelSpec,
    *,
    dtype: str,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    files: WeightFiles | None = None,
) -> Estimate:
    """Return the weight bytes of the fullest rank.

    Without files every plain parameter is counted in ``dtype``. With files of the same dtype their total decides and
    the parameter table only says how it is split.

    Raises:
        DeclinedError: The weights are quantised, or stored in a dtype these rules do not describe.
    """
    if spec.quantization is not None:
        raise DeclinedError(f"weights quantised with {spec.quantization} are not described by these rules")
    if dtype not in _DTYPE_BYTES:
        raise DeclinedError(f"weights in {dtype} are not described by these rules")
    counts = stage_layer_counts(len(spec.layers), pipeline_parallel_size)
    boundaries = [sum(counts[:stage]) for stage in range(len(counts) + 1)]
    width = _DTYPE_BYTES[dtype]
    whole = sum(_elements(group, spec, 1) for group in spec.parameters) * width
    fullest = 0
    for stage in range(len(counts)):
        held = sum(
            _elements(group, spec, tensor_parallel_size)
            for group in spec.parameters
            if _on_stage(group, spec, stage, boundaries)
        )
        fullest = max(fullest, held * width)
    if files is None or dtype != spec.dtype:
        return Estimate(lower=fullest * 0.99, expected=fullest, upper=fullest * 1.03)
    share = files.total_bytes / whole
    if not 0.97 < share < 1.03:  # the table and the files describe different models: say so by the bounds
        by_files = fullest * share
        return Estimate(lower=min(by_files, fullest), expected=by_files, upper=max(by_files, fullest))
    return exactly(fullest * share, Origin.DERIVED)


def _on_stage(group: Parameters, spec: ModelSpec, stage: int, boundaries: list[int]) -> bool:
    last = len(boundaries) - 2
    if group.layer is not None:
        return boundaries[stage] <= group.layer < boundaries[stage + 1]
    if group.role == "embedding":
        return stage == 0 or (stage == last and spec.tie_word_embeddings)
    return stage == last


def _elements(group: Parameters, spec: ModelSpec, ranks: int) -> int:
    if group.sharding == "split":
        return -(-group.elements // ranks)
    if group.sharding == "vocabulary":
        rows = -(-spec.vocab_size // _VOCABULARY_PADDING) * _VOCABULARY_PADDING
        return -(-rows // ranks) * (group.elements // spec.vocab_size)
    return group.elements

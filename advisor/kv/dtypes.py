"""Bytes of one cached token of one KV head, by ``--kv-cache-dtype``.

Sources: vLLM 0.32 ``utils/torch_utils.py`` (STR_DTYPE_TO_TORCH_DTYPE, nvfp4_kv_cache_full_dim) and the attention
backends' ``customize_spec``; 0.20 to 0.28 compute the same in ``v1/kv_cache_interface.py``.
"""

from advisor.kv.settings import KvSettings
from advisor.layers import Cache, SlidingWindow
from advisor.spec import DeclinedError, Quantization
from advisor.versions import Version

_ELEMENT_BYTES = {
    "float32": 4,
    "float": 4,
    "float16": 2,
    "half": 2,
    "bfloat16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "fp8_inc": 1,
}

# Key bits, value bits (quantization/turboquant/config.py:TQ_PRESETS).
_TURBOQUANT = {
    "turboquant_k8v4": (8, 4),
    "turboquant_4bit_nc": (4, 4),
    "turboquant_k3v4_nc": (3, 4),
    "turboquant_3bit_nc": (3, 3),
}

_PER_TOKEN_HEAD = {"int4_per_token_head": 2, "int8_per_token_head": 1, "fp8_per_token_head": 1}
"""Elements in a byte; keys and values have an fp32 scale each for every token and head."""

_NVFP4 = ("nvfp4", "nvfp4_4over6")

LATENT_LAYOUT_BYTES = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}
"""Bytes of a token in DeepSeek's own latent layouts (``mla_attention.py:get_kv_cache_spec``)."""

_SINCE: dict[str, Version] = {
    "bfloat16": (0, 11, 0),
    "float16": (0, 18, 0),
    "fp8_inc": (0, 10, 0),
    "fp8_ds_mla": (0, 11, 0),
    "int8_per_token_head": (0, 20, 0),
    "fp8_per_token_head": (0, 20, 0),
    "nvfp4": (0, 20, 0),
    "int4_per_token_head": (0, 24, 0),
    "nvfp4_4over6": (0, 28, 0),
    "nvfp4_ds_mla": (0, 30, 0),
    **dict.fromkeys(_TURBOQUANT, (0, 20, 0)),
}


def is_turboquant(kv_cache_dtype: str) -> bool:
    """Tell whether the dtype is one that vLLM keeps from the first and last two layers."""
    return kv_cache_dtype in _TURBOQUANT


def check_kv_cache_dtype(settings: KvSettings) -> None:
    """Refuse a ``--kv-cache-dtype`` that the release does not have.

    Raises:
        ValueError: The release has no such dtype.
        DeclinedError: vLLM has it, but its layout is not described here.
    """
    name = settings.kv_cache_dtype
    if name == "auto":
        return
    if name == "ultraquant_4bit":
        raise DeclinedError("--kv-cache-dtype ultraquant_4bit is not described by these rules")
    known = {"bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", *_PER_TOKEN_HEAD, *_NVFP4, *_TURBOQUANT}
    if name not in known | set(LATENT_LAYOUT_BYTES):
        raise ValueError(f"--kv-cache-dtype {name}: not one that vLLM has; it takes auto, {', '.join(sorted(known))}")
    since = _SINCE.get(name)
    if since and settings.version < since:
        raise ValueError(
            f"--kv-cache-dtype {name}: vLLM {'.'.join(map(str, settings.version))} has no such dtype; "
            f"it came with {since[0]}.{since[1]}"
        )


def element_bytes(name: str, model_dtype: str) -> int:
    """Return the bytes of one stored element; ``auto`` takes the model's dtype.

    Raises:
        ValueError: The dtype is none that vLLM runs models in.
    """
    resolved = model_dtype if name == "auto" else name
    try:
        return _ELEMENT_BYTES[resolved]
    except KeyError:
        raise ValueError(f"dtype {resolved}: vLLM runs models in bfloat16, float16 or float32") from None


def head_token_bytes(kv_cache_dtype: str, head_size: int, head_size_v: int, *, model_dtype: str) -> int:
    """Return the bytes of one token of one KV head: key, value and their scales.

    Raises:
        ValueError: The dtype is for latent (MLA) caches only.
    """
    both = head_size + head_size_v
    if kv_cache_dtype in _PER_TOKEN_HEAD:
        packing = _PER_TOKEN_HEAD[kv_cache_dtype]
        return head_size // packing + head_size_v // packing + 2 * 4
    if kv_cache_dtype in _NVFP4:
        return 2 * (head_size // 2 + head_size // 16)
    if kv_cache_dtype in _TURBOQUANT:
        key_bits, value_bits = _TURBOQUANT[kv_cache_dtype]
        key = head_size if key_bits == 8 else -(-head_size * key_bits // 8) + 2
        slot = key + -(-head_size * value_bits // 8) + 4
        return slot + slot % 2
    if kv_cache_dtype in LATENT_LAYOUT_BYTES:
        raise ValueError(f"--kv-cache-dtype {kv_cache_dtype}: only sparse latent (MLA) models have this layout")
    return both * element_bytes(kv_cache_dtype, model_dtype)


def latent_token_bytes(kv_cache_dtype: str, size: int, *, sparse: bool, settings: KvSettings) -> int:
    """Return the bytes of one token of one latent (MLA) layer, the same on every rank.

    Raises:
        ValueError: The layout needs a sparse model.
        DeclinedError: vLLM stores this dtype for latents in a way not described here.
    """
    name = kv_cache_dtype
    if sparse and _becomes_ds_mla(name, settings):
        name = "fp8_ds_mla"
    if name in LATENT_LAYOUT_BYTES:
        if not sparse:
            raise ValueError(f"--kv-cache-dtype {name}: only sparse latent (MLA) models have this layout")
        return LATENT_LAYOUT_BYTES[name]
    if name not in _ELEMENT_BYTES and name != "auto":
        raise DeclinedError(f"--kv-cache-dtype {name} for a latent (MLA) cache is not described by these rules")
    return size * element_bytes(name, settings.model_dtype)


def _becomes_ds_mla(name: str, settings: KvSettings) -> bool:
    """Tell whether vLLM stores a sparse latent in DeepSeek's fp8 layout although another dtype was named.

    ``DeepseekV32ForCausalLM.verify_and_update_config`` up to 0.19, then by attention backend:
    ``mla_attention.py:_canonicalize_sparse_mla_kv_cache_dtype``.
    """
    major = settings.compute_capability[0]
    if name == "auto":
        return settings.version < (0, 11, 1) or (settings.version >= (0, 26, 0) and major == 12)
    if not name.startswith("fp8") or name == "fp8_ds_mla":
        return False
    return settings.version < (0, 20, 0) or major != 10 or settings.attention_backend == "FLASHMLA_SPARSE"


def stored_dtype(cache: Cache, index: int, num_layers: int, settings: KvSettings, *, has_state: bool) -> str:
    """Return the dtype one layer is cached in: ``auto`` where it is left out of quantisation (0.19 and later).

    TurboQuant keeps itself out of the first and last two layers (``get_boundary_skip_layers``).
    """
    skipped = set(settings.kv_cache_dtype_skip_layers)
    if is_turboquant(settings.kv_cache_dtype) and not has_state:
        ends = min(2, num_layers // 2)
        skipped |= {str(each) for each in (*range(ends), *range(num_layers - ends, num_layers))}
    if str(index) in skipped or (isinstance(cache, SlidingWindow) and "sliding_window" in skipped):
        return "auto"
    return settings.kv_cache_dtype


_FROM_CHECKPOINT_SINCE: Version = (0, 14, 0)
"""0.13 did not look, 0.16 does; the two releases between were not read."""


def checkpoint_kv_cache_dtype(quantization: Quantization | None, version: Version) -> str:
    """Return what ``--kv-cache-dtype auto`` comes to for a checkpoint that brings scales for its cache.

    Sources: ``utils/torch_utils.py:get_kv_cache_quant_algo_string`` (ModelOpt) and ``attention.py`` (the
    ``kv_cache_scheme`` of compressed-tensors).
    """
    if quantization is None or version < _FROM_CHECKPOINT_SINCE:
        return "auto"
    config = quantization.config
    inner = config.get("quantization")
    inner = inner if isinstance(inner, dict) else config
    scheme = inner.get("kv_cache_scheme") or config.get("kv_cache_scheme")
    if quantization.method == "compressed-tensors":
        return "fp8" if scheme else "auto"
    if not quantization.method.startswith("modelopt"):
        return "auto"
    if isinstance(scheme, dict):
        is_float = scheme.get("type") == "float"
        if is_float and scheme.get("num_bits") == 8 and scheme.get("dynamic") is False:
            return "fp8"
        return "nvfp4" if is_float and scheme.get("num_bits") == 4 and version >= _SINCE["nvfp4"] else "auto"
    named = str(scheme or inner.get("kv_cache_quant_algo") or config.get("kv_cache_quant_algo") or "").lower()
    if named == "nvfp4" and version >= _SINCE["nvfp4"]:
        return "nvfp4"
    return "fp8" if named.startswith("fp8") else "auto"

"""One function a quantisation method: its config -> which matrix is held how.

Each says where vLLM reads the same; sizes are those after ``process_weights_after_loading`` has repacked, which keeps
the values' size everywhere, so that what differs is which scales and zero points stay.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from advisor.quantization.names import Names, in_tower
from advisor.quantization.scheme import (
    FP8_CHANNEL,
    FP8_TENSOR,
    INT8_CHANNEL,
    MXFP4,
    MXFP8,
    NVFP4,
    Choice,
    ExpertPadding,
    Scheme,
    fp8_blocks,
)
from advisor.spec import DeclinedError, ModelConfigError
from advisor.versions import Version

Config = Mapping[str, Any]
Method = Callable[[Config, Version, int | None], Choice]
"""(the method's config, vLLM's release, compute capability as in 90 or None) -> choice for every matrix."""


def fp8(config: Config, version: Version, capability: int | None) -> Choice:
    """Checkpoints stored in fp8, per tensor or per block (``fp8.py``, 0.5 to 0.33)."""
    if "moe_quant_algo" in config:
        return modelopt(config, version, capability)
    return _everything_but(_fp8_scheme(config), _ignored(config))


def deepseek_v4(config: Config, version: Version, capability: int | None) -> Choice:
    """DeepSeek V4: blocks of fp8, experts in four bits unless ``expert_dtype`` says fp8 (``quant_config.py``, 0.32).

    What weighs the index's heads and what compresses are left alone.
    """
    blocks, ignored = _fp8_scheme(config), Names(_texts(config, "ignored_layers"))
    dtype = config.get("expert_dtype") or "fp4"
    if dtype not in ("fp4", "fp8"):
        raise ModelConfigError(f"config.json: expert_dtype is {dtype!r}; it must be fp4 or fp8")
    experts = MXFP4
    if dtype == "fp8":
        experts = blocks
    elif str(config.get("moe_quant_algo", "")).upper() == "NVFP4":
        experts = NVFP4

    def choose(name: str, layer: int | None, is_expert: bool) -> Scheme | None:
        if ignored.matches(name, layer) or name.endswith(".weights_proj") or ".compressor." in name:
            return None
        return experts if is_expert else blocks

    return choose


def fbgemm_fp8(config: Config, version: Version, capability: int | None) -> Choice:
    """Rows scaled alone (``fbgemm_fp8.py``, 0.5 to 0.33)."""
    return _everything_but(FP8_CHANNEL, _ignored(config))


def experts_int8(config: Config, version: Version, capability: int | None) -> Choice:
    """Routed experts quantised when they are loaded, all else left alone (``experts_int8.py``, 0.5.5 to 0.33).

    Until 0.9 Jamba's dense layers were mixtures of one expert (``models/jamba.py:JambaMLP``).
    """

    def choose(name: str, layer: int | None, is_expert: bool) -> Scheme | None:
        return INT8_CHANNEL if is_expert or (version < (0, 10, 0) and ".feed_forward." in name) else None

    return choose


def awq(config: Config, version: Version, capability: int | None) -> Choice:
    """Groups of four-bit values with scale and zero point, which Marlin keeps (``awq.py``, ``awq_marlin.py``)."""
    scheme = _grouped(config, zero_point=bool(config.get("zero_point", True)))
    skipped = Names(_texts(config, "modules_to_not_convert"), substrings=True)
    return _everything_but(scheme, skipped, towers=False)


def gptq(config: Config, version: Version, capability: int | None) -> Choice:
    """Groups of two- to eight-bit values (``gptq.py``, ``gptq_marlin.py``, ``auto_gptq.py``).

    Marlin drops the zero points of symmetric weights; with ``desc_act`` it keeps two orders of the columns, and every
    rank of a row-split matrix holds all scales.
    """
    base = _gptq_scheme(config)
    rules = config.get("dynamic")
    if not isinstance(rules, Mapping) or not rules:
        return _everything_but(base, Names(()), towers=False)
    excluded = Names(f"re:{_after_sign(rule)}" for rule in rules if rule.startswith("-"))
    changed = [
        (Names([f"re:{_after_sign(rule)}"]), _gptq_scheme({**config, **overrides}))
        for rule, overrides in rules.items()
        if not rule.startswith("-") and isinstance(overrides, Mapping)
    ]
    return _everything_but(base, excluded, named=changed, towers=False)


def auto_round(config: Config, version: Version, capability: int | None) -> Choice:
    """AutoRound: GPTQ's or AWQ's layout with exceptions by name (``inc/``, ``auto_round.py``, 0.8 to 0.33)."""
    symmetric = bool(config.get("sym", True))
    data_type = str(config.get("data_type", "int"))
    if "fp" in data_type:
        base: Scheme | None = _float_scheme(data_type, _whole(config, "bits", 4), _whole(config, "group_size", -1))
    else:
        base = _grouped(config, zero_point=not symmetric)
    blocks = config.get("block_name_to_quantize")
    blocks = blocks.split(",") if isinstance(blocks, str) else blocks
    inside = Names(blocks) if isinstance(blocks, list) and blocks else None
    extra = config.get("extra_config")
    exceptions = [
        (
            Names([name if set(name) <= _PLAIN else f"re:{name}"]),
            None if _whole(each, "bits", 4) >= 16 else _grouped({**config, **each}, zero_point=not symmetric),
        )
        for name, each in (extra.items() if isinstance(extra, Mapping) else ())
        if isinstance(each, Mapping)
    ]

    def choose(name: str, layer: int | None, is_expert: bool) -> Scheme | None:
        for names, scheme in exceptions:
            if names.matches(name, layer):
                return scheme
        if inside is not None and not inside.matches(name, layer):
            return None
        return None if inside is None and in_tower(name) else base

    return choose


def bitsandbytes(config: Config, version: Version, capability: int | None) -> Choice:
    """Four or eight bits (``bitsandbytes.py``, 0.5 to 0.33).

    The four-bit scales of 64 values each are float32; before 0.9 weights that were quantised while loading kept them in
    eight bits, with scales of their own for 256 of them (``bitsandbytes_loader.py:dequantize_dq``).
    """
    if config.get("load_in_8bit") is True or config.get("_load_in_8bit") is True:
        scheme = INT8_CHANNEL
    else:
        nested = version < (0, 9, 0) and config.get("bnb_4bit_use_double_quant", not config)
        scheme = Scheme(bits=4, scale_bytes=1 + 4 / 256 if nested else 4, group_columns=64)
    return _everything_but(scheme, Names(_texts(config, "llm_int8_skip_modules")))


def mxfp4(config: Config, version: Version, capability: int | None) -> Choice:
    """gpt-oss: the experts alone, padded as the kernel needs (``mxfp4.py``, ``oracle/mxfp4.py``, 0.10.1 to 0.33)."""
    scheme = replace(MXFP4, expert_padding=_mxfp4_padding(capability), spread_ratio=0.03 if capability is None else 0.0)

    def choose(name: str, layer: int | None, is_expert: bool) -> Scheme | None:
        return scheme if is_expert else None

    return choose


def _mxfp4_padding(capability: int | None) -> ExpertPadding:
    """Return what the kernel of a GPU pads: Triton on Hopper, FlashInfer on data-centre Blackwell, else Marlin.

    Triton's Hopper layout pads the packed columns to 128 bytes, which is 256 values; seen as 64.38 GiB of gpt-oss-120b
    on one H100 (0.11 and 0.14).
    """
    if capability == 90:
        return ExpertPadding(intermediate=64, value_columns=256)
    return ExpertPadding(intermediate=128, hidden=256)


def compressed_tensors(config: Config, version: Version, capability: int | None) -> Choice:
    """Groups of targets with a scheme each, and an ignore list (``compressed_tensors/``, 0.5 to 0.33)."""
    ignored = Names(_texts(config, "ignore"))
    whole_format = str(config.get("format", ""))
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        return _everything_but(_by_format(whole_format), Names([*_texts(config, "ignore"), "lm_head"]), towers=False)
    by_name: list[tuple[Names, Scheme | None]] = []
    by_class: Scheme | None = None
    for key, group in groups.items():
        if not isinstance(group, Mapping):
            raise ModelConfigError(f"config.json: quantization_config.config_groups.{key} must be an object")
        scheme = _compressed(group, str(group.get("format") or whole_format))
        targets = _texts(group, "targets") or ["Linear"]
        named = [target for target in targets if target not in _CLASSES]
        if named:
            by_name.append((Names(named), scheme))
        if len(named) < len(targets):
            by_class = scheme
    return _everything_but(by_class, ignored, named=by_name)


def modelopt(config: Config, version: Version, capability: int | None) -> Choice:
    """NVIDIA ModelOpt: fp8, nvfp4, mxfp8, or a mixture by layer (``modelopt.py``, 0.6 to 0.33)."""
    config = config.get("quantization", config) if isinstance(config.get("quantization"), Mapping) else config
    excluded = Names([*_texts(config, "exclude_modules"), *_texts(config, "ignore")])
    layers = config.get("quantized_layers")
    algorithm = str(config.get("quant_algo") or config.get("moe_quant_algo") or _modelopt_algorithm(config)).upper()
    if not isinstance(layers, Mapping) or not layers:
        return _everything_but(_modelopt_scheme(algorithm), excluded, towers=False)
    by_algorithm: dict[str, list[str]] = {}
    for name, entry in layers.items():
        kind = str(entry.get("quant_algo", algorithm)) if isinstance(entry, Mapping) else algorithm
        by_algorithm.setdefault(kind.upper(), []).append(name)
    listed = [(Names(names), _modelopt_scheme(kind)) for kind, names in by_algorithm.items()]
    rest = _fp8_scheme(config) if config.get("quant_method") == "fp8" else None

    def choose(name: str, layer: int | None, is_expert: bool) -> Scheme | None:
        for names, scheme in listed:
            if names.matches(name, layer):
                return scheme
        return None if rest is None or excluded.matches(name, layer) else rest

    return choose


def quark(config: Config, version: Version, capability: int | None) -> Choice:
    """AMD Quark: one scheme, others by layer, and exclusions (``quark/quark.py``, 0.6.4 to 0.33)."""
    excluded = Names(_texts(config, "exclude"))
    whole = config.get("global_quant_config")
    base = _quark_scheme(whole) if isinstance(whole, Mapping) else None
    layers = config.get("layer_quant_config")
    listed = [
        (Names([pattern]), _quark_scheme(each))
        for pattern, each in (layers.items() if isinstance(layers, Mapping) else ())
        if isinstance(each, Mapping)
    ]
    return _everything_but(base, excluded, named=listed)


def torchao(config: Config, version: Version, capability: int | None) -> Choice:
    """TorchAO's weight types (``torchao.py``, 0.8.5 to 0.33)."""
    kind = config.get("quant_type")
    kind = kind.get("default", kind) if isinstance(kind, Mapping) else kind
    data = kind.get("_data", {}) if isinstance(kind, Mapping) else {}
    name = str(kind.get("_type", "") if isinstance(kind, Mapping) else kind).lower().replace("_", "")
    if "int4" in name:
        group = _whole(data, "group_size", 128)
        scheme = Scheme(bits=4, scale_bytes=4, group_columns=group)
    elif "float8" in name or "int8" in name:
        scheme = FP8_CHANNEL
    else:
        raise DeclinedError(f"weights quantised with torchao {kind!r} are not described by these rules")
    return _everything_but(scheme, Names(_texts(config, "modules_to_not_convert")))


def online(scheme: Scheme) -> Method:
    """Return the method that quantises a 16-bit checkpoint while it is loaded (``--quantization fp8``, ``online/``)."""

    def method(config: Config, version: Version, capability: int | None) -> Choice:
        return _everything_but(scheme, _ignored(config))

    return method


_CLASSES = frozenset({"Linear", "FusedMoE", "FusedMoEFactory", "RoutedExperts", "MoEGate"})
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")


def _everything_but(
    scheme: Scheme | None,
    skipped: Names,
    *,
    named: Sequence[tuple[Names, Scheme | None]] = (),
    towers: bool = True,
) -> Choice:
    """Every matrix alike, but those skipped, those ``named`` and, without ``towers``, encoders of other modalities."""

    def choose(name: str, layer: int | None, is_expert: bool) -> Scheme | None:
        if skipped.matches(name, layer) or (layer is None and not towers and in_tower(name)):
            return None
        return next((its_own for names, its_own in named if names.matches(name, layer)), scheme)

    return choose


def _texts(config: Config, key: str) -> list[str]:
    values = config.get(key)
    return [each for each in values if isinstance(each, str)] if isinstance(values, Sequence) else []


def _ignored(config: Config) -> Names:
    names = [*_texts(config, "ignored_layers"), *_texts(config, "modules_to_not_convert"), *_texts(config, "ignore")]
    return Names(names)


def _whole(config: Config, key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelConfigError(f"config.json: quantization_config.{key} is {value!r}; it must be a whole number")
    return value


def _grouped(config: Config, *, zero_point: bool) -> Scheme:
    bits = _whole(config, "bits", _whole(config, "w_bit", 4))
    group = _whole(config, "group_size", _whole(config, "q_group_size", 128))
    if bits not in (2, 3, 4, 5, 6, 7, 8):
        raise ModelConfigError(f"config.json: quantization_config.bits is {bits}; it must be from 2 to 8")
    return Scheme(
        bits=bits,
        scale_bytes=2,
        group_columns=group if group > 0 else None,
        zero_point_bits=bits if zero_point else 0,
    )


def _gptq_scheme(config: Config) -> Scheme:
    scheme = _grouped(config, zero_point=not config.get("sym", True))
    if not config.get("desc_act"):
        return scheme
    return replace(scheme, column_bytes=8, whole_groups=True)


def _after_sign(rule: str) -> str:
    return rule[2:] if rule[:2] in ("+:", "-:") else rule


def _fp8_scheme(config: Config) -> Scheme:
    block = config.get("weight_block_size")
    if block is None:
        return FP8_TENSOR
    if not isinstance(block, list) or len(block) != 2 or not all(isinstance(each, int) and each > 0 for each in block):
        raise ModelConfigError(
            f"config.json: quantization_config.weight_block_size is {block!r}; it must be a pair such as [128, 128]"
        )
    return fp8_blocks(block[0], block[1])


_BY_FORMAT = {
    "int-quantized": INT8_CHANNEL,
    "float-quantized": FP8_CHANNEL,
    "naive-quantized": FP8_CHANNEL,
    "pack-quantized": Scheme(bits=4, scale_bytes=2, group_columns=128),
    "nvfp4-pack-quantized": NVFP4,
    "mxfp4-pack-quantized": MXFP4,
    "mxfp8-quantized": MXFP8,
}


def _by_format(name: str) -> Scheme:
    try:
        return _BY_FORMAT[name]
    except KeyError:
        raise DeclinedError(f"weights compressed as {name or 'an unnamed format'} are not described") from None


def _compressed(group: Config, stored_as: str) -> Scheme | None:
    """One group of compressed-tensors: the strategy says what shares a scale."""
    weights = group.get("weights")
    if weights is None:
        return None
    if not isinstance(weights, Mapping):
        raise ModelConfigError("config.json: quantization_config.config_groups: weights must be an object")
    bits = _whole(weights, "num_bits", 8)
    kind = str(weights.get("type", "int"))
    strategy = str(weights.get("strategy") or ("group" if weights.get("group_size") else "tensor"))
    group_size = _whole(weights, "group_size", 0)
    if stored_as == "marlin-24":
        return Scheme(bits=bits / 2 + 1, scale_bytes=2, group_columns=group_size or None)
    if kind == "float" and bits == 4:
        return MXFP4 if "mxfp4" in stored_as or group_size == 32 else NVFP4
    if kind == "float" and bits == 8 and group_size == 32:
        return MXFP8
    if kind not in ("int", "float") or (kind == "float" and bits != 8):
        raise DeclinedError(f"compressed-tensors weights of {bits}-bit {kind} are not described by these rules")
    if strategy == "block":
        block = weights.get("block_structure")
        return _fp8_scheme({"weight_block_size": block if isinstance(block, list) else [128, 128]})
    packed = stored_as == "pack-quantized" or bits < 8
    scale_bytes = 2 if packed else 4
    if strategy == "tensor":
        return FP8_TENSOR
    if strategy == "channel":
        return Scheme(bits=bits, scale_bytes=scale_bytes, group_columns=None)
    if strategy in ("group", "tensor_group"):
        symmetric = bool(weights.get("symmetric", True))
        ordered = weights.get("actorder") in ("group", True)
        return Scheme(
            bits=bits,
            scale_bytes=scale_bytes,
            group_columns=group_size if group_size > 0 else None,
            zero_point_bits=0 if symmetric else bits,
            column_bytes=8 if ordered else 0,
            whole_groups=ordered,
        )
    raise DeclinedError(f"compressed-tensors strategy {strategy} is not described by these rules")


def _modelopt_algorithm(config: Config) -> str:
    """Newer exports say the algorithm in ``config_groups`` alone."""
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            return "NVFP4" if weights.get("num_bits") == 4 else "FP8"
    return "FP8"


_MODELOPT = {
    "FP8": FP8_TENSOR,
    "FP8_PER_CHANNEL_PER_TOKEN": FP8_CHANNEL,
    "FP8_PB_WO": fp8_blocks(128, 128),
    "NVFP4": NVFP4,
    "W4A16_NVFP4": NVFP4,
    "NVFP4_AWQ": NVFP4,
    "MXFP8": MXFP8,
    "MXFP4": MXFP4,
    "W4A16_MXFP4": MXFP4,
}


def _modelopt_scheme(algorithm: str) -> Scheme:
    try:
        return _MODELOPT[algorithm]
    except KeyError:
        raise DeclinedError(f"weights quantised with modelopt {algorithm} are not described by these rules") from None


def _float_scheme(data_type: str, bits: int, group_size: int) -> Scheme:
    if bits == 4:
        return MXFP4 if "mx" in data_type else NVFP4
    if bits == 8:
        return MXFP8 if "mx" in data_type or group_size == 32 else FP8_CHANNEL
    raise DeclinedError(f"weights of auto-round {data_type} with {bits} bits are not described by these rules")


def _quark_scheme(config: Config) -> Scheme | None:
    weight = config.get("weight")
    if isinstance(weight, list):  # nested quantisation: the last entry is what is stored
        weight = weight[-1] if weight else None
    if not isinstance(weight, Mapping):
        return None
    kind = str(weight.get("dtype", "")).lower()
    scheme = str(weight.get("qscheme", "per_tensor")).lower()
    if kind in ("fp8_e4m3", "int8"):
        return FP8_TENSOR if scheme == "per_tensor" else FP8_CHANNEL
    if kind == "fp4":
        return MXFP4
    if kind in ("fp6_e3m2", "fp6_e2m3"):
        return Scheme(bits=6, scale_bytes=1, group_columns=32)
    if kind in ("int4", "uint4"):
        group = _whole(weight, "group_size", 128)
        return Scheme(bits=4, scale_bytes=2, group_columns=group, zero_point_bits=4 if kind == "uint4" else 0)
    raise DeclinedError(f"weights quantised with quark {kind or 'of no dtype'} are not described by these rules")

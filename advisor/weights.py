"""Bytes of the model's weights on each rank, as vLLM holds them once they are loaded.

Every tensor is counted as its layer keeps it: sharded by its kind, the vocabulary padded, quantised matrices with their
scales, the tables of rotary embeddings beside them. The file headers say what is really stored; without them the config
does, with bounds. The figure is what vLLM prints as "Model loading took" (`DeviceMemoryProfiler`, 0.6 to 0.33), which
counts what the CUDA allocator handed out.
"""

import math
import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from advisor.estimate import Estimate, Origin
from advisor.kv import stage_layer_counts
from advisor.layers import Latent
from advisor.quantization import Choice, Scheme, choice_of
from advisor.quantization.names import LAYER, in_tower
from advisor.spec import DeclinedError, ModelSpec, Parameter, RopeTable
from advisor.units import MIB
from advisor.versions import Version

_VOCABULARY_PADDING = 64
"""Rows that an embedding is padded to a multiple of (``layers/vocab_parallel_embedding.py``, 0.4 to 0.33)."""

_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}

STORED_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I8": 8, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "F4_E2M1": 4, "C64": 64,
}  # fmt: skip
"""Bits of an element by the safetensors format's names."""

_PLAIN_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file, as its header says."""

    dtype: str
    """In the safetensors format's words: ``BF16``, ``F8_E4M3``, ``U8`` ..."""
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Count of stored elements, which for packed dtypes hold several values each."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes in the file; an unknown dtype counts a byte an element."""
        return -(-self.elements * STORED_BITS.get(self.dtype, 8) // 8)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TensorIndex:
    """What the files of a model say about its weights."""

    total_bytes: int
    """Bytes of all tensors."""
    source: str
    """``safetensors headers``, ``safetensors index`` or ``file sizes``, for people."""
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    """By name; empty where only the total could be read."""
    mistral_format: bool = False
    """Whether Mistral's own params.json stands beside: from 0.12 vLLM reads the model by that, and its image encoder is
    then not split."""


def model_dtype(spec: ModelSpec, dtype_flag: str | None, version: Version, tensors: TensorIndex | None = None) -> str:
    """Return the dtype that vLLM computes in: the flag's, else the config's with float32 lowered to 16 bits.

    Source: ``config/model.py:_get_and_verify_dtype``: ``auto`` serves a float32 model in float16, from 0.9 in the
    device's preferred bfloat16. A config that names no dtype is read as float32 until 0.8, later by the files' headers.
    """
    flag = (dtype_flag or "auto").lower()
    if flag != "auto":
        return {"half": "float16", "float": "float32"}.get(flag, flag)
    stored = spec.dtype or "float32"
    if stored != "float32":
        return stored
    if version < (0, 9, 0):
        return "float16"
    if spec.dtype is None and tensors is not None:
        plain = {each.dtype for each in tensors.tensors.values()} & _PLAIN_DTYPES
        return "float16" if plain == {"F16"} else "bfloat16"
    return "bfloat16"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """How the ranks share the model."""

    tensor_parallel_size: int
    expert_tensor_parallel_size: int
    expert_parallel_size: int
    width: int
    """Bytes of one element in the model's dtype."""


def stage_weights(
    spec: ModelSpec,
    *,
    dtype: str,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    version: Version,
    pipeline_partition: str = "",
    enable_expert_parallel: bool = False,
    data_parallel_size: int = 1,
    quantization: str | None = None,
    tensors: TensorIndex | None = None,
    capability: int | None = None,
    load_draft_layers: bool = False,
    language_model_only: bool = False,
    replicate_encoder: bool = False,
    pooling: bool = False,
    max_loras: int = 0,
    max_lora_rank: int = 16,
    max_num_batched_tokens: int = 0,
) -> tuple[Estimate, ...]:
    """Return the weight bytes of the fullest rank of each pipeline stage.

    Args:
        spec: Geometry of the model.
        dtype: What it is computed in (`model_dtype`).
        tensor_parallel_size: Ranks that share each layer.
        pipeline_parallel_size: Stages that share the layers.
        version: vLLM's release.
        pipeline_partition: VLLM_PP_LAYER_PARTITION, where it is set.
        enable_expert_parallel: Whether whole experts are dealt out to the ranks.
        data_parallel_size: Replicas; together they share the routed experts.
        quantization: ``--quantization``.
        tensors: What the files say, where they can be read.
        capability: The GPU's compute capability, as in 90, which decides what some kernels pad.
        load_draft_layers: Whether the built-in multi-token predictor is loaded, for speculative decoding.
        language_model_only: Whether the encoders of other modalities are left out.
        replicate_encoder: Whether they stand whole on every rank (``--mm-encoder-tp-mode data``).
        pooling: Whether it is served for embeddings or scores, which leaves the output head out.
        max_loras: Adapters that there is room for at once (``--max-loras`` with ``--enable-lora``).
        max_lora_rank: ``--max-lora-rank``.
        max_num_batched_tokens: What wrappers' buffers for a step's embeddings are made for (Qwen3-VL, Gemma 3n).

    Raises:
        DeclinedError: The weights are held in a way that these rules do not describe.
        ModelConfigError: The quantisation's config cannot be right.
        ValueError: There are more stages than layers.
    """
    if dtype not in _DTYPE_BYTES:
        raise DeclinedError(f"weights in {dtype} are not described by these rules")
    if pipeline_parallel_size > len(spec.layers):
        raise ValueError(f"pipeline-parallel-size {pipeline_parallel_size} exceeds the {len(spec.layers)} layers")
    choice = choice_of(spec.quantization, quantization, version=version, capability=capability)
    replicas = data_parallel_size if spec.experts is not None else 1
    ranks = tensor_parallel_size * replicas
    layout = _Layout(
        tensor_parallel_size=tensor_parallel_size,
        expert_tensor_parallel_size=1 if enable_expert_parallel else ranks,
        expert_parallel_size=ranks if enable_expert_parallel else 1,
        width=_DTYPE_BYTES[dtype],
    )
    stored = _stored(tensors) if tensors is not None and tensors.tensors else None
    if tensors is not None and tensors.mistral_format and version >= (0, 12, 0):
        replicate_encoder = True
    counter = _Counter(spec, layout, choice, stored, replicate_encoder=replicate_encoder)
    stages = _by_stage(
        spec,
        pipeline_parallel_size,
        version,
        pipeline_partition,
        language_model_only=language_model_only,
        pooling=pooling,
    )
    sums = [counter.sum_of(parameters) for parameters in stages]
    if load_draft_layers and spec.draft_layers:
        last = tuple(each for each in spec.parameters if each.layer == len(spec.layers) - 1)
        draft = counter.sum_of(last)
        sums[-1] = sums[-1].plus(draft, spec.draft_layers)
    tables = sum(_table_bytes(table, layout.width, version) for table in _tables(spec))
    if spec.architecture.startswith(_DEEPSTACK_FAMILIES) and not language_model_only:
        tables += _DEEPSTACK_LEVELS * max_num_batched_tokens * spec.hidden_size * layout.width
    if spec.encoder is not None:
        tables += max_num_batched_tokens * _per_layer_width(spec) * layout.width
    beside = [
        tables
        + (max_loras * max_lora_rank * layout.width * _lora_width(parameters, spec, layout) if max_loras else 0)
        + counter.latent_bytes(parameters, version)
        for parameters in stages
    ]
    unknown = _unmatched_bytes(spec, tensors, load_draft_layers=load_draft_layers)
    whole = _whole_bytes(spec, choice) if tensors is not None and stored is None else None
    return tuple(
        _estimate(each, beside_bytes=extra, unknown_bytes=unknown, tensors=tensors, whole_bytes=whole)
        for each, extra in zip(sums, beside, strict=True)
    )


def unmatched_tensors(spec: ModelSpec, tensors: TensorIndex, *, load_draft_layers: bool = False) -> tuple[str, ...]:
    """Return the names in the files that no parameter of the model claims, those that vLLM skips left out.

    All routed experts of a layer have one name. Their bytes are in the upper bound of `stage_weights`.
    """
    return tuple(sorted(_unmatched(spec, tensors, load_draft_layers=load_draft_layers)))


@dataclass(frozen=True, slots=True)
class _Sum:
    """Bytes of some parameters on one rank."""

    held: float = 0
    """Their sizes."""
    rounding: float = 0
    """What the allocator adds."""
    spread: float = 0
    """How far quantised sizes may be off."""
    missing: float = 0
    """Of ``held``, what the files do not hold."""
    scales: float = 0
    """Of ``held``, what quantised matrices take."""

    def plus(self, other: "_Sum", times: int = 1) -> "_Sum":
        return _Sum(
            self.held + times * other.held,
            self.rounding + times * other.rounding,
            self.spread + times * other.spread,
            self.missing + times * other.missing,
            self.scales + times * other.scales,
        )


class _Counter:
    """Counts parameters; equal ones are counted once and remembered."""

    def __init__(
        self,
        spec: ModelSpec,
        layout: _Layout,
        choice: Choice | None,
        stored: "Mapping[str, _Stored] | None",
        *,
        replicate_encoder: bool,
    ) -> None:
        self._spec = spec
        self._layout = layout
        self._choice = choice
        self._stored = stored
        self._replicate_encoder = replicate_encoder
        self._known: dict[object, tuple[int, int]] = {}
        self._expected: dict[str, int] = {}
        if stored is not None:
            for each in spec.parameters:
                name = _together(each.name)
                self._expected[name] = self._expected.get(name, 0) + each.elements

    def sum_of(self, parameters: Iterable[Parameter]) -> _Sum:
        """Return the bytes of these parameters on the fullest rank that holds them."""
        held = spread = missing = quantised = 0.0
        fused: dict[str, int] = {}
        known, choice, stored = self._known, self._choice, self._stored
        wide_routers = self._spec.architecture in _FLOAT32_ROUTERS
        for each in parameters:
            scheme = None
            if choice is not None and (len(each.shape) > 1 or each.role == "expert"):
                scheme = self._scheme(each, choice)
            key = (each.shape, each.sharding, each.role, each.count, each.kv_heads, each.width_bytes, id(scheme))
            sizes = known.get(key)
            if sizes is None or each.layer is None:
                sizes = self._sizes(each, scheme)
                known[key] = sizes
            size, values = sizes
            if wide_routers and each.sharding == "copied" and each.name.removesuffix(".weight").endswith(".gate"):
                size = values = size // self._layout.width * 4
            if stored is not None:
                found = _find(stored, each.name)
                if found is None:
                    missing += size
                elif scheme is None and found.plain_elements and each.width_bytes is None:
                    size = values = round(size * found.plain_elements / self._expected[_together(each.name)])
            if scheme is not None:
                quantised += size
                spread += size * scheme.spread_ratio
            held += size
            if values >= _MOSTLY_SMALL:
                module, _, leaf = each.name.removesuffix(".weight").rpartition(".")
                fused_key = f"{module}.{_FUSED.get(leaf, leaf)}"
                fused[fused_key] = fused.get(fused_key, 0) + values
        rounding = _rounding_bytes(fused.values())
        return _Sum(held, rounding, spread, missing, quantised)

    def latent_bytes(self, parameters: Iterable[Parameter], version: Version) -> int:
        """Return what MLA keeps of these parameters beside themselves (``layers/attention/mla_attention.py``).

        What expands keys and values stands in 16 bits, too, where it is quantised. 0.7 kept its products with the
        query's and the output's projection on top (``attention/backends/mla/utils.py``, matrix absorption).
        """
        latent = _latent(self._spec)
        if latent is None:
            return 0
        total = _FLASHINFER_MLA_WORKSPACE if (0, 12, 0) <= version < (0, 25, 0) else 0
        ranks = self._layout.tensor_parallel_size
        absorbs = (0, 7, 0) <= version < (0, 8, 0)
        heads = -(-self._spec.num_attention_heads // ranks)
        for each in parameters:
            if each.layer is None or len(each.shape) != 2:
                continue
            module = each.name.removesuffix(".weight").rpartition(".")[2]
            quantised = self._choice is not None and self._scheme(each, self._choice) is not None
            if module == "kv_b_proj" and quantised:
                total += self._sizes(each, None)[0]
            elif absorbs and module in {"q_proj", "q_b_proj", "o_proj"}:
                other = each.shape[0] if module == "o_proj" else each.shape[1]
                total += other * heads * latent.kv_lora_rank * (1 if quantised else self._layout.width)
                if module != "o_proj":
                    total += other * heads * latent.qk_rope_head_dim * self._layout.width
        return total

    def _scheme(self, each: Parameter, choice: Choice) -> Scheme | None:
        if each.role not in ("linear", "expert", "lm_head"):
            return None
        name = each.name.removesuffix(".weight")
        if name.rpartition(".")[2] in _ROUTERS:
            return None
        if each.layer is not None:
            name = name.replace(f".{each.layer}.", f".{LAYER}.", 1)
        found = _find(self._stored, each.name) if self._stored is not None else None
        if found is not None and found.plain_elements and self._spec.quantization is not None:
            return None  # the file holds it as it is, whatever the config's lists say
        if each.role == "lm_head" and (found is None or not found.packed):
            return None  # no method quantises it unless the checkpoint did
        return choice(name, each.layer, each.role == "expert")

    def _sizes(self, each: Parameter, scheme: Scheme | None) -> tuple[int, int]:
        """Return (bytes of the fullest rank's share, those of its values alone)."""
        rows, columns, count = _share(each, self._spec, self._layout, replicate_encoder=self._replicate_encoder)
        if scheme is None:
            size = rows * columns * count * (each.width_bytes or self._layout.width)
            return size, size
        whole_columns = each.shape[1] if len(each.shape) > 1 else 1
        if each.role == "expert" and scheme.expert_padding is not None and self._spec.experts is not None:
            intermediate = self._spec.experts.intermediate_size
            values, scales = _padded_expert_bytes(each, scheme, intermediate, self._layout)
        else:
            values, scales = scheme.value_bytes(rows, columns), scheme.scales_bytes(rows, columns, whole_columns)
        return count * (values + scales), count * values


_FLASHINFER_MLA_WORKSPACE = 128 * MIB
"""Taken when its module is imported, which choosing among MLA's backends does, whichever is chosen
(``flashinfer_mla.py``, 0.12 to 0.24); seen as the same 0.125 GiB more of DeepSeek-V2-Lite on one, two and four H100."""

_MOSTLY_SMALL = 64 * 1024
"""Tensors below this share the allocator's pool of small ones, which adds next to nothing."""

_ROUTERS = frozenset({"gate", "router", "shared_expert_gate", "wg"})
"""Built without a quantisation config in vLLM's models, so that no method touches them."""

_DEEPSTACK_FAMILIES = ("Qwen3VL", "Qwen3Omni")
_DEEPSTACK_LEVELS = 3
"""Layers of the encoder whose outputs go into the decoder, each by a buffer of its own (``models/qwen3_vl.py``)."""

_FLOAT32_ROUTERS = frozenset(
    {
        "AfmoeForCausalLM",
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_VLMoeForConditionalGeneration",
        "Glm4MoeForCausalLM",
        "HYV3ForCausalLM",
        "MiniMaxM1ForCausalLM",
        "MiniMaxM2ForCausalLM",
        "MiniMaxText01ForCausalLM",
        "Step3p5ForCausalLM",
    }
)
"""Whose routers are in float32 whatever the model's dtype (``models/*.py``, params_dtype, 0.19 and 0.33)."""

_DOWN = frozenset({"down_proj", "w2", "c_proj", "output_linear", "wo", "fc2", "dense_4h_to_h", "linear_2"})

_FUSED = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up", "w1": "gate_up",
    "w3": "gate_up",
}  # fmt: skip
"""Checkpoint names that vLLM puts into one allocation."""


def _share(each: Parameter, spec: ModelSpec, layout: _Layout, *, replicate_encoder: bool) -> tuple[int, int, int]:
    """Return (rows, columns, count) of the fullest rank's share; what is one-dimensional has one column."""
    rows, columns = each.shape[0], math.prod(each.shape[1:])
    ranks, count = layout.tensor_parallel_size, each.count
    if each.sharding == "copied" or (replicate_encoder and each.layer is None and in_tower(each.name)):
        return rows, columns, count
    if each.sharding == "vocabulary":
        rows = -(-rows // _VOCABULARY_PADDING) * _VOCABULARY_PADDING
    elif each.sharding == "kv_heads":
        heads = each.kv_heads or spec.num_kv_heads
        return rows // heads * -(-heads // ranks), columns, count
    elif each.sharding == "experts":
        count = -(-count // layout.expert_parallel_size)
        ranks = layout.expert_tensor_parallel_size
        if _is_down(each, spec):
            return rows, -(-columns // ranks), count
    elif each.sharding == "row":
        return rows, -(-columns // ranks), count
    return -(-rows // ranks), columns, count


def _is_down(each: Parameter, spec: ModelSpec) -> bool:
    leaf = each.name.removesuffix(".weight").rpartition(".")[2]
    if leaf in _DOWN:
        return True
    experts = spec.experts
    return experts is not None and each.shape == (spec.hidden_size, experts.intermediate_size) != each.shape[::-1]


def _padded_expert_bytes(each: Parameter, scheme: Scheme, intermediate_size: int, layout: _Layout) -> tuple[int, int]:
    """Return (values, scales) in bytes of one expert's matrix whose kernel rounds sizes up."""
    padding = scheme.expert_padding
    assert padding is not None
    share = _up(-(-intermediate_size // layout.expert_tensor_parallel_size), padding.intermediate)
    down = each.shape[1] == intermediate_size and each.name.removesuffix(".weight").rpartition(".")[2] in _DOWN
    hidden = _up(each.shape[0] if down else each.shape[1], padding.hidden)
    rows, columns = (hidden, share) if down else (each.shape[0] // intermediate_size * share, hidden)
    values = scheme.value_bytes(rows, _up(columns, padding.value_columns))
    return values, scheme.scales_bytes(rows, columns, columns)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _rounding_bytes(sizes: Iterable[int]) -> int:
    """What the CUDA caching allocator adds to allocations that are made in this order and kept.

    From 10 MiB on it asks for multiples of 2 MiB, below for 20 MiB, and gives out the smallest free piece that is large
    enough, with up to 1 MiB more where that is left of it (PyTorch 2.x ``c10/cuda/CUDACachingAllocator.cpp``:
    get_allocation_size, should_split). Seen as 14.249 GiB of Qwen2-7B, whose tensors are 14.185 and tables 0.008.
    """
    added = 0
    pieces: list[int] = []
    for size in sizes:
        if size <= MIB:
            continue
        if size >= 10 * MIB:
            piece = _up(size, 2 * MIB)
        else:
            position = bisect_left(pieces, size)
            piece = pieces.pop(position) if position < len(pieces) else 20 * MIB
        rest = piece - size
        if rest > MIB:
            insort(pieces, rest)
        else:
            added += rest
    return added


def _latent(spec: ModelSpec) -> Latent | None:
    return next((kept for layer in spec.layers for kept in layer if isinstance(kept, Latent)), None)


def _per_layer_width(spec: ModelSpec) -> int:
    """Return the width of per-layer embeddings, which wrappers keep a step of (``models/gemma3n_mm.py``, 0.32)."""
    name = "embed_tokens_per_layer.weight"
    return next((each.shape[1] for each in spec.parameters if each.name.endswith(name)), 0)


def _by_stage(
    spec: ModelSpec,
    pipeline_parallel_size: int,
    version: Version,
    partition: str,
    *,
    language_model_only: bool,
    pooling: bool,
) -> tuple[list[Parameter], ...]:
    """Return what each stage holds: its layers, the ends' embeddings, and every stage the encoders."""
    counts = stage_layer_counts(len(spec.layers), pipeline_parallel_size, version, partition)
    stage_of = [stage for stage, count in enumerate(counts) for _ in range(count)]
    stages: tuple[list[Parameter], ...] = tuple([] for _ in counts)
    last = stages[-1]
    for each in spec.parameters:
        if each.layer is not None:
            stages[stage_of[each.layer]].append(each)
        elif each.last_stage:
            if each.role != "lm_head" or not pooling:
                last.append(each)
        elif in_tower(each.name):
            for stage in () if language_model_only else stages:
                stage.append(each)
        else:
            stages[0].append(each)
            heads_too = spec.tie_word_embeddings and each.role == "embedding" and each.sharding == "vocabulary"
            if heads_too and last is not stages[0]:
                last.append(each)
    return stages


def _tables(spec: ModelSpec) -> tuple[RopeTable, ...]:
    if spec.rope_tables is not None:
        return spec.rope_tables
    learned = any(
        each.layer is None and each.role == "embedding" and each.sharding == "copied" for each in spec.parameters
    )
    if learned or not any(spec.layers):
        return ()
    latent = _latent(spec)
    dims = spec.head_size if latent is None else latent.qk_rope_head_dim
    return (RopeTable(positions=spec.max_position_embeddings, dims=dims),)


def _table_bytes(table: RopeTable, width: int, version: Version) -> int:
    if table.float32_since is not None and version >= table.float32_since:
        width = 4
    return table.positions * table.dims * width


def _lora_width(parameters: Iterable[Parameter], spec: ModelSpec, layout: _Layout) -> int:
    """Rows and columns of what adapters apply to: each rank of an adapter holds a vector of either size for a matrix.

    A rank that holds a share of the rows sees whole inputs, and the other way round (``lora/layers``, 0.5 to 0.33).
    Adapters of routed experts are left out.
    """
    total = 0
    for each in parameters:
        if each.role == "linear" and each.layer is not None and len(each.shape) == 2 and each.sharding != "copied":
            rows, columns, _ = _share(each, spec, layout, replicate_encoder=False)
            total += rows + columns
    return total


_PLAIN_SPREAD_RATIO = 0.003
"""Small buffers, and tensors of a few names that a checkpoint may hold beside those of its family."""

_QUANTISED_SPREAD_RATIO = 0.012
"""Kernels keep scales in different shapes and dtypes, and lists of exceptions may be told in the files alone."""


def _estimate(
    counted: _Sum,
    *,
    beside_bytes: int,
    unknown_bytes: int,
    tensors: TensorIndex | None,
    whole_bytes: float | None,
) -> Estimate:
    expected = counted.held + counted.rounding + beside_bytes
    if tensors is not None and whole_bytes is None:
        return Estimate(
            lower=counted.held - counted.missing - counted.spread + beside_bytes,
            expected=expected,
            upper=max(expected, 1.004 * counted.held + beside_bytes) + counted.spread + unknown_bytes,
            origin=Origin.DERIVED,
        )
    plain = counted.held - counted.scales
    slack = _PLAIN_SPREAD_RATIO * plain + _QUANTISED_SPREAD_RATIO * counted.scales + counted.spread
    lower, upper = expected - slack, expected + slack + counted.rounding
    if tensors is None or whole_bytes is None:
        return Estimate(lower=lower, expected=expected, upper=upper)
    share = tensors.total_bytes / whole_bytes
    if 0.97 < share < 1.03:
        return Estimate(lower=lower, expected=expected, upper=upper, origin=Origin.DERIVED)
    by_files = expected * share  # the table and the files describe different models: say so by the bounds
    return Estimate(lower=min(lower, by_files), expected=by_files, upper=max(upper, by_files))


def _whole_bytes(spec: ModelSpec, choice: Choice | None) -> float:
    """What the files should add up to: every tensor once, as the checkpoint stores it."""
    stored_width = _DTYPE_BYTES.get(spec.dtype or "bfloat16", 2)
    alone = _Layout(tensor_parallel_size=1, expert_tensor_parallel_size=1, expert_parallel_size=1, width=stored_width)
    counter = _Counter(spec, alone, choice if spec.quantization else None, None, replicate_encoder=False)
    return counter.sum_of(spec.parameters).held


@dataclass(slots=True)
class _Stored:
    """What the files hold of one module's parameter."""

    plain_elements: int = 0
    """Elements of its tensor where that is stored in a plain dtype."""
    packed: bool = False
    """Whether its values are stored quantised."""
    size_bytes: int = 0
    """With scales and all."""


_PARTS_OF_A_WEIGHT = frozenset(
    {"qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_scale_inv", "weight_scale_2"}
    | {"weight_zero_point", "weight_g_idx", "weight_shape", "weight_global_scale", "weight_format", "SCB", "scale"}
    | {"input_scale", "input_global_scale", "input_zero_point", "output_scale", "pre_quant_scale"}
    | {"k_scale", "v_scale", "q_scale", "prob_output_scale"}
)
"""Last components of a quantised weight's tensors."""

_ENDS_OF_A_STACK = tuple(f"_proj{end}" for end in ("_blocks", "_scales", "_packed", "_scale", "_scale_inv"))
"""Ends of the names of stacked experts' tensors (gpt-oss), which have no ``.weight``."""

_VALUES = ("qweight", "weight_packed", "_blocks", "_packed")


@lru_cache(maxsize=16)
def _stored(tensors: TensorIndex) -> Mapping[str, _Stored]:
    """Return what the files hold by parameter; a layer's experts and a quantised weight's parts are put together."""
    found: dict[str, _Stored] = {}
    for name, info in tensors.tensors.items():
        base, is_part = _parameter_name(name)
        entry = found.get(base)
        if entry is None:
            entry = found[base] = _Stored()
        entry.size_bytes += info.size_bytes
        if is_part:
            entry.packed = entry.packed or name.endswith(_VALUES)
        elif info.dtype in _PLAIN_DTYPES:
            entry.plain_elements += info.elements
        else:
            entry.packed = True
    return found


def _parameter_name(tensor_name: str) -> tuple[str, bool]:
    """Return (the parameter that a file's tensor belongs to, whether it is a part of it and not the whole)."""
    module, _, leaf = tensor_name.rpartition(".")
    if leaf in ("weight", "bias"):
        return _together(tensor_name), False
    if leaf in _PARTS_OF_A_WEIGHT:
        return _together(f"{module}.weight"), True
    module, of_weight, _ = tensor_name.partition(".weight.")
    if of_weight:
        return _together(f"{module}.weight"), True
    is_part = leaf.endswith(_ENDS_OF_A_STACK)
    return _together(tensor_name), is_part


def _together(name: str) -> str:
    """Return the name that all routed experts of a layer share: one file has a tensor each, another all in one."""
    head, is_expert, _ = name.partition(".experts.")
    return f"{head}.experts" if is_expert and not name.endswith("bias") else name


_WRAPPERS = re.compile(r"^(?:model\.language_model\.|language_model\.model\.|language_model\.|model\.)")


def _find(stored: Mapping[str, _Stored], name: str) -> _Stored | None:
    """Return what the files hold of a parameter, whichever wrapper's prefix stands before it."""
    name = _together(name)
    found = stored.get(name)
    if found is not None:
        return found
    bare = _WRAPPERS.sub("", name)
    for prefix in ("", "model.", "language_model.model.", "model.language_model.", "language_model."):
        found = stored.get(prefix + bare)
        if found is not None:
            return found
    return None


_SKIPPED = re.compile(
    r"rotary_emb\.|\.inv_freq$|\.masked_bias$|\.attn\.bias$|position_ids$|\.rotary_pos_emb|^mtp\.|\.mtp\.|^model\.mtp"
    r"|embed_positions\.weights$|\.attention\.bias$|k_proj\.[kv]_scale|v_proj\.[kv]_scale"
)
_LAYER_NUMBER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def _unmatched(spec: ModelSpec, tensors: TensorIndex, *, load_draft_layers: bool) -> dict[str, int]:
    if not tensors.tensors:
        return {}
    claimed = {_WRAPPERS.sub("", _together(each.name)) for each in spec.parameters}
    unmatched = {}
    for name, entry in _stored(tensors).items():
        bare = _WRAPPERS.sub("", name)
        if bare in claimed or _SKIPPED.search(name):
            continue
        if spec.tie_word_embeddings and bare.startswith("lm_head."):
            continue
        number = _LAYER_NUMBER.search(bare)
        if number is not None and not in_tower(bare) and int(number[1]) >= len(spec.layers):
            continue  # a multi-token predictor's layers stand after the model's
        if not entry.plain_elements and not entry.packed:
            continue  # scales of the KV cache and the like
        unmatched[name] = entry.size_bytes
    return unmatched


def _unmatched_bytes(spec: ModelSpec, tensors: TensorIndex | None, *, load_draft_layers: bool) -> int:
    if tensors is None:
        return 0
    return sum(_unmatched(spec, tensors, load_draft_layers=load_draft_layers).values())

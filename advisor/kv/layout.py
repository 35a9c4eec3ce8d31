"""KV cache arithmetic as vLLM does it: blocks, tokens, concurrency and the start-up check, for every kind of cache.

Sources: vLLM ``v1/core/kv_cache_utils.py`` (0.33: ``kv_cache_planning.py``) and ``v1/kv_cache_interface.py`` for V1;
``worker/cache_engine.py`` and ``worker/worker.py`` for V0 (0.4 to 0.10.2). All sizes are bytes on one GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from advisor.kv.blocks import block_sizes
from advisor.kv.compressed import (
    check_compressed,
    compressed_check_bytes,
    compressed_concurrency_blocks,
    compressed_pool_bytes,
    group_compressed,
    has_compressed,
)
from advisor.kv.dtypes import check_kv_cache_dtype, is_turboquant
from advisor.kv.groups import Group, StagedSpec, group_layers
from advisor.kv.settings import KvSettings
from advisor.kv.specs import FULL_KINDS, Kind, LayerSpec, layer_specs
from advisor.layers import (
    Cache,
    ChunkedLocal,
    CrossAttention,
    DecoderLayer,
    FullAttention,
    Latent,
    SlidingWindow,
    State,
)
from advisor.spec import DeclinedError
from advisor.versions import NEWEST_STUDIED, Version


def _partition(text: str, num_layers: int, pipeline_parallel_size: int) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    counts = tuple(int(part) for part in parts if part.isdecimal() and len(part) <= len(str(num_layers)))
    if (
        len(counts) < len(parts)
        or len(counts) != pipeline_parallel_size
        or sum(counts) != num_layers
        or not all(counts)
    ):
        raise ValueError(
            f"VLLM_PP_LAYER_PARTITION {text[:40]!r}: it must be {pipeline_parallel_size} whole numbers above zero, one "
            f"for each stage, that add up to {num_layers} layers"
        )
    return counts


def stage_layer_counts(
    num_layers: int,
    pipeline_parallel_size: int,
    version: Version = NEWEST_STUDIED,
    partition: str = "",
) -> tuple[int, ...]:
    """Return how many layers each pipeline stage holds (``distributed/utils.py:get_pp_indices``).

    What does not divide evenly goes to the stages before the last, from the back; up to 0.7 all of it to the last.
    ``partition`` is VLLM_PP_LAYER_PARTITION, such as ``16,32``, which replaces all of that where it is set.

    Raises:
        ValueError: There are more stages than layers, or the partition is not of these stages and layers.
    """
    if not 1 <= pipeline_parallel_size <= num_layers:
        raise ValueError(
            f"--pipeline-parallel-size {pipeline_parallel_size} and {num_layers} layers: "
            "every stage needs one, so it is between 1 and their number"
        )
    if partition:
        return _partition(partition, num_layers, pipeline_parallel_size)
    base, rest = divmod(num_layers, pipeline_parallel_size)
    counts = [base] * pipeline_parallel_size
    if version < (0, 8, 0):
        counts[-1] += rest
        return tuple(counts)
    for position in range(2, rest + 2):
        counts[-position] += 1
    return tuple(counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class KvGroup:
    """Layers that share a block table, on one pipeline stage."""

    kind: Kind | Literal["UniformTypeKVCacheSpecs"]
    """vLLM's name for it; ``UniformTypeKVCacheSpecs`` where the layers keep the same tokens in different sizes."""
    layers: int
    block_size: int
    page_bytes: tuple[int, ...]
    """Bytes of one block of one layer, ascending; several where the layers differ."""
    bytes_per_block: int
    """Of all its layers together."""
    blocks_per_request: int
    """Blocks of one request of max-model-len tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KvShortage:
    """Why vLLM stops at start-up; the numbers of its message."""

    kind: Literal["no_memory", "too_long"]
    """``no_memory``: nothing is left for blocks. ``too_long``: one request of max-model-len does not fit."""
    needed_bytes: int
    """What one request of max-model-len needs."""
    available_bytes: int
    """What there is, less the null block from 0.29."""
    largest_max_model_len: int
    """The longest that vLLM would name; 0 where it names none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KvLayout:
    """How one GPU's KV memory is cut into blocks."""

    settings: KvSettings
    block_size: int
    """Tokens in a block of attention: what vLLM calls ``block_size``."""
    stages: tuple[tuple[KvGroup, ...], ...]
    """The groups of every pipeline stage."""
    stage_bytes: tuple[int, ...]
    """Bytes of one block over all layers, by pipeline stage."""
    plan: tuple[Group, ...]
    """The groups over all stages."""
    ungrouped: tuple[StagedSpec, ...]
    """Every layer before grouping, which the check of older releases goes by."""
    is_packed: bool = False
    """Whether pages of several sizes share the blocks (DeepSeek V4)."""

    @property
    def groups(self) -> tuple[KvGroup, ...]:
        """The groups as the scheduler sees them, which are those of the first pipeline stage."""
        return self.stages[0]

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block over all layers of the stage with the fewest blocks."""
        return max(self.stage_bytes)

    @property
    def bytes_per_token(self) -> float:
        """Bytes that one more token of a long request costs on this GPU; 0 where no layer keeps all tokens."""
        growing = (group.spec for group in self.plan if _grows(group.spec, self.settings.max_model_len))
        shards = self.settings.context_shards
        return sum(
            self.bytes_per_block / (spec.block_size * (shards if spec.kind in FULL_KINDS else 1)) for spec in growing
        )

    @property
    def reserved_bytes(self) -> int:
        """Bytes that the start-up check sets aside for the null block (from 0.29)."""
        return max(map(self._reserved, range(len(self.stage_bytes))))

    def num_blocks(self, kv_cache_bytes: float) -> int:
        """Return ``num_gpu_blocks`` for so many bytes on every GPU, null block included."""
        if self.settings.num_gpu_blocks_override is not None:
            return self.settings.num_gpu_blocks_override
        return max(0, int(kv_cache_bytes // self.bytes_per_block))

    def blocks_per_request(self, num_tokens: int) -> int:
        """Return the blocks that vLLM reserves for one request of this many tokens, over all groups."""
        return sum(group.blocks(num_tokens, self.settings) for group in self.plan)

    def max_concurrency(self, num_blocks: int) -> float:
        """Return "Maximum concurrency for N tokens per request" for so many blocks, N being max-model-len."""
        length = self.settings.max_model_len
        if self.settings.version < (0, 9, 1) or not self.settings.is_v1:
            return num_blocks * self.block_size / length
        if self.is_packed:
            return num_blocks / compressed_concurrency_blocks(self.plan, length, self.settings)
        return num_blocks / self.blocks_per_request(length)

    def size_tokens(self, num_blocks: int) -> int:
        """Return "GPU KV cache size: N tokens" as this release prints it.

        From 0.21 what a full context's share of blocks makes of the pool; before that tokens of one group.
        """
        version = self.settings.version
        if version >= (0, 21, 0):
            return int(self.max_concurrency(num_blocks) * self.settings.max_model_len)
        if len(self.plan) == 1 and version < (0, 11, 0):
            return num_blocks * self.block_size * self.settings.context_shards
        smallest = min(group.spec.block_size for group in self.plan)
        return num_blocks // len(self.plan) * smallest * self.settings.context_shards

    def bytes_needed(self, max_model_len: int | None = None) -> int:
        """Return the least bytes with which this GPU's start-up check passes, null block included where it counts."""
        length = self.settings.max_model_len if max_model_len is None else max_model_len
        if not self.settings.is_v1:
            return self._v0_blocks(length) * self.bytes_per_block
        return max(self._needed(stage, length) + self._reserved(stage) for stage in range(len(self.stage_bytes)))

    def largest_max_model_len(self, kv_cache_bytes: float, limit: int | None = None) -> int:
        """Return the longest max-model-len that passes the check with so many bytes; 0 where none does.

        Args:
            kv_cache_bytes: What every GPU has for its KV cache.
            limit: Where to stop; None: the max-model-len of the settings, as vLLM stops.
        """
        top = self.settings.max_model_len if limit is None else limit
        if not self.settings.is_v1:
            return min(top, self._v0_tokens(kv_cache_bytes))
        return min(
            longest_that_fits(top, self._check_bytes(stage, kv_cache_bytes), partial(self._needed, stage))
            for stage in range(len(self.stage_bytes))
        )

    def start_up_error(self, kv_cache_bytes: float) -> KvShortage | None:
        """Return why vLLM would stop with so many bytes on every GPU, None where it starts.

        ``check_enough_kv_cache_memory``; V0: ``raise_if_cache_size_invalid``.
        """
        length = self.settings.max_model_len
        if not self.settings.is_v1:
            return self._v0_error(kv_cache_bytes)
        for stage in range(len(self.stage_bytes)):
            available = int(self._check_bytes(stage, kv_cache_bytes))
            needed = self._needed(stage, length)
            if available <= 0:
                return KvShortage(
                    kind="no_memory", needed_bytes=needed, available_bytes=available, largest_max_model_len=0
                )
            if needed > available:
                longest = longest_that_fits(length, available, partial(self._needed, stage))
                return KvShortage(
                    kind="too_long", needed_bytes=needed, available_bytes=available, largest_max_model_len=longest
                )
        return None

    def _check_bytes(self, stage: int, kv_cache_bytes: float) -> float:
        """Return the bytes the check compares with: those of the override's blocks from 0.21."""
        version, override = self.settings.version, self.settings.num_gpu_blocks_override
        if override is not None and version >= (0, 21, 0):
            kv_cache_bytes = override * self.stage_bytes[stage]
        return kv_cache_bytes - self._reserved(stage)

    def _reserved(self, stage: int) -> int:
        return self.stage_bytes[stage] if self.settings.version >= (0, 29, 0) else 0

    def _needed(self, stage: int, num_tokens: int) -> int:
        """Return the bytes that one request needs on one stage, as the release counts them."""
        settings, version = self.settings, self.settings.version
        if version < (0, 14, 0):  # before anything is grouped, promoted or padded
            specs = (spec for where, spec in self.ungrouped if where == stage)
            return sum(spec.blocks(num_tokens, settings) * spec.page_bytes for spec in specs)
        if version < (0, 19, 0):  # the first group stands for all; up to 0.16 as if one GPU held all stages
            where = None if version < (0, 17, 0) else stage
            page = max(group.bytes_per_block(where) for group in self.plan)
            return page * self.plan[0].blocks(num_tokens, settings)
        block = compressed_check_bytes(self.plan, stage, settings) if self.is_packed else self.stage_bytes[stage]
        return block * self.blocks_per_request(num_tokens)

    def _v0_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size) * self._v0_shares

    @property
    def _v0_shares(self) -> int:
        """Stages among which V0 divides the blocks before it compares (0.8 and later)."""
        return self.settings.pipeline_parallel_size if self.settings.version >= (0, 8, 0) else 1

    def _v0_tokens(self, kv_cache_bytes: float) -> int:
        return self.block_size * (self.num_blocks(kv_cache_bytes) // self._v0_shares)

    def _v0_error(self, kv_cache_bytes: float) -> KvShortage | None:
        length, tokens = self.settings.max_model_len, self._v0_tokens(kv_cache_bytes)
        if self.num_blocks(kv_cache_bytes) > 0 and length <= tokens:
            return None
        return KvShortage(
            kind="too_long" if self.num_blocks(kv_cache_bytes) > 0 else "no_memory",
            needed_bytes=self._v0_blocks(length) * self.bytes_per_block,
            available_bytes=int(kv_cache_bytes),
            largest_max_model_len=tokens,
        )


def kv_layout(
    layers: tuple[DecoderLayer, ...], settings: KvSettings, *, draft_layers: tuple[DecoderLayer, ...] = ()
) -> KvLayout:
    """Return how vLLM lays out the KV cache of a model.

    Args:
        layers: What each decoder layer keeps.
        settings: The flags, and the release.
        draft_layers: What the layers of a speculative draft keep; they stand on the last pipeline stage.

    Raises:
        ValueError: vLLM of this release refuses these flags for this model; the message names the flag.
        DeclinedError: vLLM runs it, but in a way these rules do not describe.
    """
    settings = _with_engine(layers, settings)
    _check(layers, settings)
    sizes = block_sizes(layers, settings)
    specs = layer_specs(layers, sizes, settings) + layer_specs(draft_layers, sizes, settings)
    counts = stage_layer_counts(
        len(layers), settings.pipeline_parallel_size, settings.version, settings.pipeline_partition
    )
    stages = [stage for stage, count in enumerate(counts) for _ in range(count)]
    stages += [len(counts) - 1] * len(draft_layers)
    staged = [(stage, spec) for stage, each in zip(stages, specs, strict=True) for spec in each]
    if settings.version < (0, 12, 0):  # the runner lists attention first
        staged.sort(key=lambda each: (each[0], each[1].kind == "MambaSpec"))
    if not settings.is_v1:
        staged = _v0_layers(staged)
    if not staged:
        raise DeclinedError("no layer of this model keeps a KV cache")
    is_packed = has_compressed(layers)
    plan = group_compressed(staged, settings) if is_packed else _plan(staged, settings, len(counts))
    stage_bytes = tuple(
        compressed_pool_bytes(plan, stage, settings)
        if is_packed
        else max(_bytes_on(group, stage, settings) for group in plan)
        for stage in range(len(counts))
    )
    if min(stage_bytes) == 0:
        raise ValueError(
            f"--pipeline-parallel-size {settings.pipeline_parallel_size}: a stage has no layer with a KV cache"
        )
    return KvLayout(
        settings=settings,
        block_size=sizes.block_size,
        stages=tuple(tuple(_shown(group, stage, settings) for group in plan) for stage in range(len(counts))),
        stage_bytes=stage_bytes,
        plan=plan,
        ungrouped=tuple(staged),
        is_packed=is_packed,
    )


def _plan(staged: Sequence[StagedSpec], settings: KvSettings, num_stages: int) -> tuple[Group, ...]:
    if settings.version >= (0, 11, 0) or num_stages == 1:
        return group_layers(staged, settings)
    # Up to 0.10 every stage grouped its own layers; vLLM compares as many groups as the shorter list has.
    by_stage = [group_layers([each for each in staged if each[0] == stage], settings) for stage in range(num_stages)]
    for groups in by_stage[1:]:
        if any(one.spec != other.spec for one, other in zip(by_stage[0], groups, strict=False)):
            raise ValueError(
                f"--pipeline-parallel-size {num_stages}: the stages' layers do not form the same groups, "
                "which vLLM refuses up to 0.10"
            )
        if len(groups) != len(by_stage[0]):
            raise DeclinedError(
                f"--pipeline-parallel-size {num_stages}: the stages have different numbers of cache groups, "
                "which is not described for vLLM up to 0.10"
            )
    return tuple(Group(members=sum((each.members for each in same), ())) for same in zip(*by_stage, strict=True))


def _bytes_on(group: Group, stage: int, settings: KvSettings) -> int:
    """Return the bytes by which a stage's memory is divided; up to 0.16 a mixed group's of all stages (a defect)."""
    counts_all = group.is_mixed and settings.version < (0, 17, 0)
    return group.bytes_per_block(None if counts_all else stage)


def _shown(group: Group, stage: int, settings: KvSettings) -> KvGroup:
    here = group.on_stage(stage)
    return KvGroup(
        kind="UniformTypeKVCacheSpecs" if group.is_mixed else group.spec.kind,
        layers=len(here),
        block_size=group.spec.block_size,
        page_bytes=tuple(sorted({spec.page_bytes for spec in here or (group.spec,)})),
        bytes_per_block=group.bytes_per_block(stage),
        blocks_per_request=group.blocks(settings.max_model_len, settings),
    )


def _grows(spec: LayerSpec, max_model_len: int) -> bool:
    if spec.kind == "MambaSpec":
        return spec.state_blocks is None and spec.block_size < max_model_len
    return spec.kind in FULL_KINDS


def longest_that_fits(limit: int, available: float, needed: Callable[[int], float]) -> int:
    """Return the largest length up to ``limit`` that needs no more than is available; 0 where not even 1 fits."""
    if limit < 1 or needed(1) > available:
        return 0
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        if needed(middle) <= available:
            low = middle
        else:
            high = middle - 1
    return low


def _with_engine(layers: tuple[DecoderLayer, ...], settings: KvSettings) -> KvSettings:
    """Settle which engine runs: V1 took up states and cross-attention later than the rest."""
    is_later = any(isinstance(cache, State | CrossAttention) for layer in layers for cache in layer)
    if is_later and settings.use_v1 is None and settings.version < (0, 10, 2):
        return replace(settings, use_v1=False)
    return settings


def _v0_layers(staged: list[StagedSpec]) -> list[StagedSpec]:
    """V0 caches every attention layer in full, keeps states elsewhere, and cross-attention in the layer's own cache."""
    kept = [
        (stage, replace(spec, kind="FullAttentionSpec", window=0))
        for stage, spec in staged
        if spec.kind not in ("MambaSpec", "CrossAttentionSpec")
    ]
    if len({spec.page_bytes for _, spec in kept}) > 1:
        raise DeclinedError("the V0 engine takes all attention layers for alike; these differ in size")
    return kept


def _check(layers: tuple[DecoderLayer, ...], settings: KvSettings) -> None:
    if settings.max_model_len < 1:
        raise ValueError(f"--max-model-len {settings.max_model_len}: it is 1 or more")
    if settings.max_num_batched_tokens < 1:
        raise ValueError(f"--max-num-batched-tokens {settings.max_num_batched_tokens}: it is 1 or more")
    ranks = settings.tensor_parallel_size
    if ranks < 1:
        raise ValueError(f"--tensor-parallel-size {ranks}: it is 1 or more")
    check_kv_cache_dtype(settings)
    if has_compressed(layers):
        check_compressed(settings)
    caches = {cache for layer in layers for cache in layer}
    if any(isinstance(cache, Latent) for cache in caches) and settings.version < (0, 7, 1):
        raise DeclinedError("latent (MLA) models before vLLM 0.7.1 cache expanded heads, which is not described here")
    if any(isinstance(cache, Latent) and cache.sparse for cache in caches) and settings.version < (0, 11, 0):
        raise ValueError("sparse latent attention came with vLLM 0.11")
    kinds = set(map(type, caches))
    has_state = any(isinstance(cache, State) for cache in caches)
    if {Latent, SlidingWindow} <= kinds and (0, 11, 0) <= settings.version < (0, 26, 0):
        raise ValueError("latent (MLA) layers beside sliding windows run from vLLM 0.26 on")
    if is_turboquant(settings.kv_cache_dtype) and settings.version < (0, 21, 0) and has_state:
        raise ValueError(f"--kv-cache-dtype {settings.kv_cache_dtype}: vLLM 0.20 has it for attention alone")
    _check_context_parallel(caches, settings)


def _check_context_parallel(caches: set[Cache], settings: KvSettings) -> None:
    """``ModelConfig.verify_with_parallel_config``, and the assertion of ``SlidingWindowSpec``."""
    shards, ranks = settings.decode_context_parallel_size, settings.tensor_parallel_size
    if shards == 1:
        return
    flag = f"--decode-context-parallel-size {shards}"
    if shards < 1 or ranks % shards:
        raise ValueError(f"{flag}: it must divide --tensor-parallel-size {ranks}")
    if settings.version < (0, 10, 2):
        raise ValueError(f"{flag}: it came with vLLM 0.10.2")
    if SlidingWindow in map(type, caches):
        raise ValueError(f"{flag}: vLLM does not shard sliding-window layers")
    for cache in caches:
        if isinstance(cache, FullAttention | ChunkedLocal) and ranks < shards * cache.num_kv_heads:
            raise ValueError(
                f"{flag}: with {cache.num_kv_heads} KV heads it is at most --tensor-parallel-size {ranks} "
                "divided by them"
            )

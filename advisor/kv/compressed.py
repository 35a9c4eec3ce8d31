"""How vLLM packs DeepSeek V4's caches: pages of several sizes share one pool of blocks.

Source: vLLM ``v1/core/kv_cache_utils.py`` (0.33: ``kv_cache_planning.py``), 0.20 to 0.33.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from advisor.kv.blocks import COMPRESSED_BLOCK_SIZE
from advisor.kv.groups import Group, StagedSpec
from advisor.kv.settings import KvSettings
from advisor.kv.specs import LayerSpec
from advisor.layers import Compressed, DecoderLayer
from advisor.spec import DeclinedError


def has_compressed(layers: Iterable[DecoderLayer]) -> bool:
    """Tell whether a model keeps compressed latents."""
    return any(isinstance(cache, Compressed) for layer in layers for cache in layer)


def check_compressed(settings: KvSettings) -> None:
    """Refuse what vLLM or these rules do not have for compressed latents.

    Raises:
        ValueError: The release does not run such models.
        DeclinedError: vLLM may run it, but in a way these rules do not describe.
    """
    if settings.version < (0, 20, 0):
        raise ValueError("compressed latent attention (DeepSeek V4) came with vLLM 0.20")
    if settings.is_cpu:
        raise DeclinedError("compressed latent attention (DeepSeek V4) on CPUs is not described by these rules")
    undescribed = {
        f"--kv-cache-dtype {settings.kv_cache_dtype}": settings.kv_cache_dtype
        not in ("auto", "fp8", "fp8_e4m3", "fp8_ds_mla"),
        f"--block-size {settings.block_size}": settings.block_size not in (None, COMPRESSED_BLOCK_SIZE),
        f"--attention-backend {settings.attention_backend}": settings.attention_backend
        not in (None, "FLASHMLA_SPARSE", "FLASHMLA_SPARSE_DSV4"),
        "--disable-hybrid-kv-cache-manager": settings.disable_hybrid_kv_cache_manager,
        "context parallelism": settings.context_shards > 1,
    }
    for what, is_asked in undescribed.items():
        if is_asked:
            raise DeclinedError(f"{what} with compressed latents (DeepSeek V4) is not described by these rules")


def group_compressed(specs: Sequence[StagedSpec], settings: KvSettings) -> tuple[Group, ...]:
    """Return the groups of a model with compressed latents.

    Layers whose pages repeat in the same pattern are dealt out so that every group packs into the same block:
    ``_get_kv_cache_groups_uniform_groups`` to 0.28, ``_get_packed_kv_cache_groups`` from 0.29. 0.28 was not read.
    """
    buckets: dict[tuple[str, int, int], list[StagedSpec]] = {}
    for staged in specs:
        spec = staged[1]
        buckets.setdefault((spec.kind, spec.block_size, spec.window), []).append(staged)
    if settings.version >= (0, 29, 0):
        return _pack(list(buckets.values()))
    full = next(each for (kind, _, _), each in buckets.items() if kind == "MLAAttentionSpec")
    windows = [each for (kind, _, _), each in buckets.items() if kind != "MLAAttentionSpec"]
    sizes = sorted(_by_page(full))
    repeats = _chunk([_repeats(full), *map(_repeats, windows)], _repeats(full))
    groups = [Group(members=tuple(full), is_mixed=True)]
    if settings.version < (0, 27, 0):  # padded to the next size that the full layers have
        windows = [[(stage, _padded_to(spec, sizes)) for stage, spec in bucket] for bucket in windows]
    for bucket in windows:
        groups += _dealt(bucket, -(-_repeats(bucket) // repeats))
    return tuple(groups)


def compressed_pool_bytes(plan: Sequence[Group], stage: int, settings: KvSettings) -> int:
    """Return the bytes of one block of the pool on a stage (``_pool_bytes_per_block``)."""
    if settings.version >= (0, 27, 0):
        return max(group.bytes_per_block(stage) for group in plan)
    if settings.version < (0, 23, 0):
        return _tuple_bytes(plan, stage)
    slots: dict[int, int] = {}
    for group in plan:
        for page, members in _by_page([(stage, spec) for spec in group.on_stage(stage)]).items():
            slots[page] = max(slots.get(page, 0), len(members))
    return sum(page * count for page, count in slots.items())


def compressed_check_bytes(plan: Sequence[Group], stage: int, settings: KvSettings) -> int:
    """Return the bytes that the start-up check takes a block for, which to 0.28 is more than the pool's.

    ``_max_memory_usage_bytes_from_groups``.
    """
    return _tuple_bytes(plan, stage) if settings.version < (0, 29, 0) else compressed_pool_bytes(plan, stage, settings)


def compressed_concurrency_blocks(plan: Sequence[Group], num_tokens: int, settings: KvSettings) -> int:
    """Return the blocks of one request by which "Maximum concurrency" divides.

    Up to 0.26 every group's blocks count as many of the first group's as their bytes come to
    (``get_max_concurrency_for_kv_cache_config``).
    """
    if settings.version >= (0, 27, 0):
        return sum(group.blocks(num_tokens, settings) for group in plan)
    total = sum(group.blocks(num_tokens, settings) * group.bytes_per_block(0) for group in plan)
    return -(-total // plan[0].bytes_per_block(0))


def _by_page(bucket: Iterable[StagedSpec]) -> dict[int, list[StagedSpec]]:
    found: dict[int, list[StagedSpec]] = {}
    for staged in bucket:
        found.setdefault(staged[1].page_bytes, []).append(staged)
    return found


def _repeats(bucket: Sequence[StagedSpec]) -> int:
    """Return how often the bucket's pattern of one page of each size repeats (``get_max_layers_per_page_size``)."""
    return max(map(len, _by_page(bucket).values()))


def _chunk(values: Sequence[int], at_least: int) -> int:
    """Return the size of chunks that pads the values least, the larger of equals (``_approximate_gcd``)."""
    sizes = range(at_least, max(values) + 1)
    return min(sizes, key=lambda size: (sum(-value % size for value in values), -size), default=at_least)


def _padded_to(spec: LayerSpec, sizes: Sequence[int]) -> LayerSpec:
    larger = next((size for size in sizes if size >= spec.page_bytes), None)
    if larger is None:
        raise DeclinedError("a compressor's state that is larger than a block of latents is not described")
    return replace(spec, padded_page_bytes=larger)


def _dealt(bucket: Sequence[StagedSpec], count: int) -> list[Group]:
    patterns = list(zip(*_by_page(bucket).values(), strict=False))
    return [
        Group(members=tuple(staged for pattern in patterns[first::count] for staged in pattern), is_mixed=True)
        for first in range(count)
    ]


def _pack(buckets: Sequence[Sequence[StagedSpec]]) -> tuple[Group, ...]:
    balanced = [len(set(map(len, _by_page(each).values()))) == 1 for each in buckets]
    whole = [_repeats(each) for each, even in zip(buckets, balanced, strict=True) if even and len(_by_page(each)) > 1]
    if not whole:
        raise DeclinedError("compressed latents without those of four tokens are not described by these rules")
    repeats = _chunk([_repeats(each) for each, even in zip(buckets, balanced, strict=True) if even], max(whole))
    groups: list[Group] = []
    for bucket, even in zip(buckets, balanced, strict=True):
        count = -(-_repeats(bucket) // repeats) if even else 1
        groups += [Group(members=tuple(bucket), is_mixed=True)] if count == 1 else _dealt(bucket, count)
    return tuple(groups)


def _tuple_bytes(plan: Sequence[Group], stage: int) -> int:
    """Return the bytes of as many whole patterns of the full layers' pages as the fullest group has repeats."""
    on_stage = [[(stage, spec) for spec in group.on_stage(stage)] for group in plan]
    return sum(_by_page(on_stage[0])) * max((_repeats(each) for each in on_stage if each), default=0)

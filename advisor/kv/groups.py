"""How vLLM groups layers so that all share one pool of blocks of one size.

Sources: vLLM ``v1/core/kv_cache_utils.py`` (0.33: ``kv_cache_planning.py``), ``get_kv_cache_groups`` and what it calls,
0.8 to 0.33. What differs by release stands where it is decided.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from advisor.kv.settings import KvSettings
from advisor.kv.specs import FULL_KINDS, LayerSpec
from advisor.versions import Version

StagedSpec = tuple[int, LayerSpec]
"""A layer's pipeline stage and its spec."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers that share a block table: a block of the group holds a page of each."""

    members: tuple[StagedSpec, ...]
    is_mixed: bool = False
    """Whether the layers are alike in the tokens they keep but not in size (``UniformTypeKVCacheSpecs``)."""

    @property
    def spec(self) -> LayerSpec:
        """The first layer's spec, which stands for the others in all but its page."""
        return self.members[0][1]

    def on_stage(self, stage: int) -> tuple[LayerSpec, ...]:
        """Return the specs of the layers on one pipeline stage."""
        return tuple(spec for where, spec in self.members if where == stage)

    def bytes_per_block(self, stage: int | None = None) -> int:
        """Return the bytes of one block on one stage, or were all layers on one."""
        return sum(spec.page_bytes for where, spec in self.members if stage is None or where == stage)

    def blocks(self, num_tokens: int, settings: KvSettings) -> int:
        """Return the blocks that vLLM reserves for one request of this length."""
        return max(spec.blocks(num_tokens, settings) for spec in self._specs)

    @cached_property
    def _specs(self) -> frozenset[LayerSpec]:
        return frozenset(spec for _, spec in self.members)


def group_layers(specs: Sequence[StagedSpec], settings: KvSettings) -> tuple[Group, ...]:
    """Return the groups of a model in vLLM's order.

    Raises:
        ValueError: vLLM of this release refuses this mixture of layers, or to run it without its hybrid manager.
    """
    version = settings.version
    if settings.disable_hybrid_kv_cache_manager or version < (0, 9, 1) or _chunks_are_promoted(specs, version):
        specs = _promote(specs, version)
    if (0, 14, 0) <= version < (0, 29, 0):
        specs = _with_one_value_size(specs)
    if _are_equal(specs):
        return (Group(members=tuple(specs)),)
    if version >= (0, 11, 0) and _are_one_type(specs, version):
        return (Group(members=tuple(specs), is_mixed=True),)
    if version < (0, 9, 1):
        raise ValueError(f"vLLM {_text(version)} runs no model whose layers keep different tokens")
    try:
        unified = _unify_pages(specs, version)
    except _CannotUnifyError as error:
        promoted = _full_fallback(specs, version)
        if promoted is None:
            raise ValueError(str(error)) from None
        return (Group(members=tuple(promoted), is_mixed=True),)
    return _split_evenly(unified, version)


class _CannotUnifyError(Exception):
    """Pages of different sizes that vLLM does not pad."""


def _chunks_are_promoted(specs: Sequence[StagedSpec], version: Version) -> bool:
    """Tell whether chunked attention switches the hybrid manager off by itself (0.10, by an environment variable)."""
    return version < (0, 11, 0) and any(spec.kind == "ChunkedLocalAttentionSpec" for _, spec in specs)


def _are_equal(specs: Sequence[StagedSpec]) -> bool:
    return len({spec for _, spec in specs}) == 1


def _with_one_value_size(specs: Sequence[StagedSpec]) -> Sequence[StagedSpec]:
    """Give layers that differ in their values' size alone the first's, as ``FullAttentionSpec.merge`` does to 0.28."""
    first = specs[0][1]
    alike = {replace(spec, token_bytes=0, identity=(*spec.identity[:2], *spec.identity[3:])) for _, spec in specs}
    if first.kind != "FullAttentionSpec" or len(alike) > 1:
        return specs
    return [(stage, first) for stage, _ in specs]


def _are_one_type(specs: Sequence[StagedSpec], version: Version) -> bool:
    """``UniformTypeKVCacheSpecs.is_uniform_type``: all need the same tokens, whatever their bytes."""
    first = specs[0][1]
    rest = [spec for _, spec in specs]
    if any(spec.block_size != first.block_size for spec in rest):
        return False
    if first.kind in FULL_KINDS:
        return all(spec.kind in FULL_KINDS for spec in rest)
    if any(spec.kind != first.kind or spec.window != first.window for spec in rest):
        return False
    if first.kind != "MambaSpec":
        return True
    if any(spec.state_blocks != first.state_blocks for spec in rest):
        return False
    return version < (0, 29, 0) or all(spec.page_bytes == first.page_bytes for spec in rest)


def _promote(specs: Sequence[StagedSpec], version: Version) -> Sequence[StagedSpec]:
    """Let windows and chunks keep every token, as without the hybrid manager (``unify_hybrid_kv_cache_specs``)."""
    if _are_equal(specs) or (version >= (0, 11, 0) and _are_one_type(specs, version)):
        return specs
    if any(spec.kind in FULL_KINDS for _, spec in specs):
        specs = _with_local_layers_full(specs, version)
    if not (_are_equal(specs) or (version >= (0, 11, 0) and _are_one_type(specs, version))):
        raise ValueError(
            f"vLLM {_text(version)} cannot run these layers without the hybrid KV cache manager: "
            "they do not become one kind when every layer keeps every token"
        )
    return specs


def _with_local_layers_full(specs: Sequence[StagedSpec], version: Version) -> list[StagedSpec]:
    local = ("SlidingWindowSpec", "ChunkedLocalAttentionSpec")
    for kind in local:
        if version >= (0, 9, 1) and len({spec.window for _, spec in specs if spec.kind == kind}) > 1:
            raise ValueError("vLLM cannot promote layers with windows of different lengths to full attention")
    sizes = {spec.block_size for _, spec in specs if spec.kind in FULL_KINDS}
    full_block = sizes.pop() if len(sizes) == 1 and version >= (0, 27, 0) else None
    promoted = []
    for stage, spec in specs:
        if spec.kind not in local:
            promoted.append((stage, spec))
            continue
        block_size = full_block or spec.block_size
        padded = spec.padded_page_bytes
        if padded is not None:
            padded = max(padded, spec.token_bytes * block_size)
        changed = replace(
            spec,
            kind="FullAttentionSpec",
            window=0,
            block_size=block_size,
            padded_page_bytes=padded,
            # Up to 0.28 the promoted spec forgets it, and so is not equal to the others.
            is_paddable=spec.is_paddable and version >= (0, 29, 0),
        )
        promoted.append((stage, changed))
    return promoted


def _full_fallback(specs: Sequence[StagedSpec], version: Version) -> list[StagedSpec] | None:
    """Latents beside a window whose page fits no latent page: the window keeps everything (0.27 and later)."""
    kinds = {spec.kind for _, spec in specs}
    if version < (0, 27, 0) or not {"MLAAttentionSpec", "SlidingWindowSpec"} <= kinds:
        return None
    if "ChunkedLocalAttentionSpec" in kinds:
        return None
    promoted = _with_local_layers_full(specs, version)
    return promoted if _are_one_type(promoted, version) else None


def _unify_pages(specs: Sequence[StagedSpec], version: Version) -> Sequence[StagedSpec]:
    """Give all layers one page size: larger blocks where that divides (0.12 and later), padding where it may be."""
    largest = max(spec.page_bytes for _, spec in specs)
    if all(spec.page_bytes == largest for _, spec in specs):
        return specs
    return [(stage, _with_page(spec, largest, version)) for stage, spec in specs]


def _with_page(spec: LayerSpec, page: int, version: Version) -> LayerSpec:
    if spec.page_bytes == page:
        return spec
    is_state = spec.kind == "MambaSpec"
    if not is_state and version >= (0, 12, 0) and page % spec.page_bytes == 0 and spec.padded_page_bytes is None:
        return replace(spec, block_size=spec.block_size * (page // spec.page_bytes))
    if spec.is_paddable and (is_state or page % spec.page_bytes):
        return replace(spec, padded_page_bytes=page)
    raise _CannotUnifyError(
        f"vLLM {_text(version)} cannot give all layers blocks of one size: {spec.kind} has pages of "
        f"{spec.page_bytes:,} bytes beside {page:,}"
    )


def _split_evenly(specs: Sequence[StagedSpec], version: Version) -> tuple[Group, ...]:
    """Split each kind into groups of equally many layers; what is short of that is wasted.

    ``_get_kv_cache_groups_uniform_page_size``: as many as the rarest kind has, or as the commonest where that is not
    much more (1.25 times from 0.12, 1.5 times from 0.18).
    """
    kinds: dict[LayerSpec, list[StagedSpec]] = {}
    for staged in specs:
        kinds.setdefault(staged[1], []).append(staged)
    fewest = min(len(each) for each in kinds.values())
    most = max(len(each) for each in kinds.values())
    slack = 1.5 if version >= (0, 18, 0) else 1.25 if version >= (0, 12, 0) else 0
    size = most if most < fewest * slack else fewest
    groups: list[Group] = []
    in_order = list(kinds.values())
    if version < (0, 11, 0):  # unify_kv_cache_configs sorts them
        in_order = [kinds[spec] for spec in sorted(kinds, key=lambda each: (each.kind, each.block_size, each.identity))]
    for layers in in_order:
        groups += (Group(members=tuple(each)) for each in _parts(layers, size, version))
    return tuple(groups)


def _parts(layers: list[StagedSpec], size: int, version: Version) -> Iterable[list[StagedSpec]]:
    count = -(-len(layers) // size)
    if version < (0, 11, 0):
        return [layers[first : first + size] for first in range(0, len(layers), size)]
    # Dealt out one by one, so that every pipeline stage has its share of every group.
    return [layers[first::count] for first in range(count)]


def _text(version: Version) -> str:
    return ".".join(map(str, version))

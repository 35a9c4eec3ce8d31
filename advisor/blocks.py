"""vLLM's pool of KV blocks: what is free, in which order it is reused, and which content can be found again.

Reference: vLLM 0.32 ``v1/core/block_pool.py``, ``v1/core/kv_cache_manager.py`` and the full-attention part of
``v1/core/single_type_kv_cache_manager.py``. One group of full-attention layers; all quantities are blocks or tokens.

Contents are named, not hashed: a full block whose tokens all lie in a group's shared prefix has the same name for
every request of that group, any other belongs to one request. Two requests then share a block here exactly where
vLLM's chained hashes would be equal.
"""

import sys
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from itertools import count

_NEVER = sys.maxsize
_NAMES_PER_OWNER = 1 << 32
"""More blocks than one sequence can have, so that names of different owners never meet."""


def cdiv(tokens: int, block_size: int) -> int:
    """Return how many blocks so many tokens fill, the last one perhaps in part."""
    return -(-tokens // block_size)


class Holder:
    """What a request holds of the pool; the pool alone changes it."""

    __slots__ = ("blocks", "next_full", "num_cached", "num_shared", "own_name", "shared_name", "slots")

    def __init__(self) -> None:
        self.slots = 0
        """Tokens that the blocks held have room for."""
        self.next_full = _NEVER
        """Known computed tokens at which one more block becomes findable."""
        self.blocks: list[int] = []
        """Block ids in token order; empty in a pool that only counts."""
        self.num_cached = 0
        """Leading blocks that have a name already."""
        self.num_shared = 0
        """Leading blocks whose whole content is the group's prefix."""
        self.shared_name = 0
        self.own_name = 0


class BlockPool:
    """A pool without prefix caching: no block can be told from another, so counting them is exact."""

    def __init__(self, *, num_gpu_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.num_blocks = num_gpu_blocks - 1
        """Blocks that requests can hold: block 0 is the null block."""
        self.num_free = self.num_blocks

    @property
    def usage(self) -> float:
        """Share of the blocks that requests hold, 0 to 1, as ``vllm:kv_cache_usage_perc`` reports it."""
        return 1.0 - self.num_free / self.num_blocks

    def introduce(self, holder: Holder, *, group: Hashable, shared_tokens: int) -> None:
        """Prepare a new request that shares its first tokens with its group."""

    def lookup(self, holder: Holder, num_tokens: int) -> Sequence[int]:
        """Return the cached blocks that a request of so many tokens would start from."""
        return ()

    def num_idle(self, hits: Sequence[int]) -> int:
        """Return how many of these blocks nobody holds: taking them up lowers the free count."""
        return 0

    def adopt(self, holder: Holder, hits: Sequence[int]) -> None:
        """Take up the blocks that `lookup` found; the holder has none yet."""

    def grow(self, holder: Holder, num_blocks: int) -> None:
        """Give the holder so many fresh blocks; the caller has checked that they are free."""
        self.num_free -= num_blocks
        holder.slots += num_blocks * self.block_size

    def cache(self, holder: Holder, num_tokens: int) -> None:
        """Make every full block of the first ``num_tokens`` tokens findable."""

    def release(self, holder: Holder) -> None:
        """Take back all of a holder's blocks."""
        self.num_free += holder.slots // self.block_size
        holder.slots = 0


class CachingBlockPool(BlockPool):
    """A pool with prefix caching: freed blocks keep their content until they are reused."""

    def __init__(self, *, num_gpu_blocks: int, block_size: int, uncached_blocks_first: bool) -> None:
        super().__init__(num_gpu_blocks=num_gpu_blocks, block_size=block_size)
        self._uncached_blocks_first = uncached_blocks_first
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_gpu_blocks))
        """Free blocks, the next one to be reused first."""
        self._references = [0] * num_gpu_blocks
        self._names: list[int | None] = [None] * num_gpu_blocks
        self._found: dict[int, int] = {}
        """Name to the oldest block of that content."""
        self._duplicates: dict[int, list[int]] = {}
        """Name to further blocks of the same content, oldest first: requests that computed it side by side."""
        self._owners = count(1)
        self._groups: dict[Hashable, int] = {}

    def introduce(self, holder: Holder, *, group: Hashable, shared_tokens: int) -> None:
        """Prepare a new request that shares its first tokens with its group."""
        holder.own_name = next(self._owners) * _NAMES_PER_OWNER
        holder.num_shared = shared_tokens // self.block_size
        if holder.num_shared:
            if group not in self._groups:
                self._groups[group] = next(self._owners) * _NAMES_PER_OWNER
            holder.shared_name = self._groups[group]
        holder.next_full = self.block_size

    def lookup(self, holder: Holder, num_tokens: int) -> Sequence[int]:
        """Return the cached blocks that a request of so many tokens would start from.

        At least one token is left to compute, because the next one is sampled from it
        (``KVCacheManager.get_computed_blocks``, 0.32).
        """
        found = self._found
        hits: list[int] = []
        for place in range((num_tokens - 1) // self.block_size):
            block = found.get((holder.shared_name if place < holder.num_shared else holder.own_name) + place)
            if block is None:
                break
            hits.append(block)
        return hits

    def num_idle(self, hits: Sequence[int]) -> int:
        """Return how many of these blocks nobody holds: taking them up lowers the free count."""
        references = self._references
        return sum(not references[block] for block in hits)

    def adopt(self, holder: Holder, hits: Sequence[int]) -> None:
        """Take up the blocks that `lookup` found; the holder has none yet."""
        for block in hits:
            if not self._references[block]:
                del self._free[block]
                self.num_free -= 1
            self._references[block] += 1
        holder.blocks.extend(hits)
        holder.slots = len(hits) * self.block_size
        holder.num_cached = len(hits)
        holder.next_full = holder.slots + self.block_size

    def grow(self, holder: Holder, num_blocks: int) -> None:
        """Give the holder so many fresh blocks; the caller has checked that they are free."""
        super().grow(holder, num_blocks)
        names, references = self._names, self._references
        for _ in range(num_blocks):
            block, _nothing = self._free.popitem(last=False)
            references[block] = 1
            if names[block] is not None:
                self._forget(block)
            holder.blocks.append(block)

    def cache(self, holder: Holder, num_tokens: int) -> None:
        """Make every full block of the first ``num_tokens`` tokens findable."""
        num_full = num_tokens // self.block_size
        num_cached = holder.num_cached
        if num_full <= num_cached:
            return
        names, found = self._names, self._found
        for place in range(num_cached, num_full):
            block = holder.blocks[place]
            names[block] = name = (holder.shared_name if place < holder.num_shared else holder.own_name) + place
            if name in found:
                self._duplicates.setdefault(name, []).append(block)
            else:
                found[name] = block
        holder.num_cached = num_full
        holder.next_full = (num_full + 1) * self.block_size

    def release(self, holder: Holder) -> None:
        """Take back all of a holder's blocks.

        The last tokens' blocks go first, so that a sequence's start is found longest. A block that has no name can
        never be found again and is reused first from 0.24 on; before, it queued like the others
        (``BlockPool.free_blocks``).
        """
        free = self._free
        nameless: list[int] = []
        for block in reversed(holder.blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            self.num_free += 1
            if self._names[block] is None and self._uncached_blocks_first:
                nameless.append(block)
            else:
                free[block] = None
        for block in reversed(nameless):
            free[block] = None
            free.move_to_end(block, last=False)
        holder.blocks.clear()
        holder.slots = 0
        holder.num_cached = 0
        holder.next_full = self.block_size

    def _forget(self, block: int) -> None:
        """Drop the name of a block that is about to be overwritten."""
        name = self._names[block]
        assert name is not None
        self._names[block] = None
        duplicates = self._duplicates.get(name)
        if duplicates is None:
            del self._found[name]
            return
        if self._found[name] == block:
            self._found[name] = duplicates.pop(0)
        else:
            duplicates.remove(block)
        if not duplicates:
            del self._duplicates[name]

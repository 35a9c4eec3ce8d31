"""KV cache arithmetic as vLLM does it: pages, blocks, tokens, concurrency.

Reference: vLLM 0.32 ``v1/kv_cache_interface.py`` (page sizes) and ``v1/core/kv_cache_utils.py`` (blocks, concurrency).
All sizes are bytes on one GPU.
"""

from dataclasses import dataclass

from advisor.model import Layer

_ELEMENT_BYTES = {
    "float32": 4,
    "float": 4,
    "float16": 2,
    "half": 2,
    "bfloat16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
}


def kv_element_bytes(kv_cache_dtype: str, model_dtype: str) -> int:
    """Return the bytes of one cached element; ``auto`` takes the model's dtype.

    Raises:
        ValueError: The dtype is not one these rules describe.
    """
    name = model_dtype if kv_cache_dtype == "auto" else kv_cache_dtype
    try:
        return _ELEMENT_BYTES[name]
    except KeyError:
        raise ValueError(f"kv-cache-dtype {name} is not described by these rules") from None


def kv_heads_per_rank(num_kv_heads: int, tensor_parallel_size: int) -> int:
    """Return the heads that one rank caches: fewer heads than ranks are replicated, one to each.

    Raises:
        ValueError: Neither divides the other, which vLLM refuses.
    """
    if num_kv_heads % tensor_parallel_size and tensor_parallel_size % num_kv_heads:
        raise ValueError(
            f"tensor-parallel-size {tensor_parallel_size} and {num_kv_heads} KV heads: one must divide the other"
        )
    return max(1, num_kv_heads // tensor_parallel_size)


def page_bytes(layer: Layer, *, block_size: int, tensor_parallel_size: int, element_bytes: int) -> int:
    """Return the bytes of one block of one layer (``AttentionSpec.page_size_bytes``)."""
    heads = kv_heads_per_rank(layer.num_kv_heads, tensor_parallel_size)
    return heads * block_size * (layer.head_size + layer.head_size_v) * element_bytes


def stage_layer_counts(num_layers: int, pipeline_parallel_size: int) -> tuple[int, ...]:
    """Return how many layers each pipeline stage holds (``distributed/utils.py:get_pp_indices``, 0.32).

    What does not divide evenly goes to the stages before the last, from the back.
    """
    base, rest = divmod(num_layers, pipeline_parallel_size)
    counts = [base] * pipeline_parallel_size
    for position in range(2, rest + 2):
        counts[-position] += 1
    return tuple(counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class KvLayout:
    """How one GPU's KV memory is cut into blocks."""

    block_size: int
    """Tokens in a block."""
    bytes_per_block: int
    """Bytes of one block over all layers of the largest pipeline stage: it has the fewest blocks."""

    @property
    def bytes_per_token(self) -> float:
        """Bytes that one more token costs on this GPU."""
        return self.bytes_per_block / self.block_size

    def num_blocks(self, kv_cache_bytes: float) -> int:
        """Return ``num_gpu_blocks`` for so many bytes, null block included."""
        return max(0, int(kv_cache_bytes // self.bytes_per_block))

    def blocks_per_request(self, num_tokens: int) -> int:
        """Return the blocks that a request of this many tokens holds."""
        return -(-num_tokens // self.block_size)

    def max_concurrency(self, num_blocks: int, max_model_len: int) -> float:
        """Return "Maximum concurrency for N tokens per request", as vLLM prints it."""
        return num_blocks / self.blocks_per_request(max_model_len)

    def size_tokens(self, num_blocks: int, max_model_len: int) -> int:
        """Return "KV cache size: N tokens" as vLLM 0.21 and later print it."""
        return int(self.max_concurrency(num_blocks, max_model_len) * max_model_len)


def kv_layout(
    layers: tuple[Layer, ...],
    *,
    block_size: int,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    element_bytes: int,
) -> KvLayout:
    """Return the layout of a model whose layers all cache alike.

    Raises:
        ValueError: Tensor parallelism does not divide the heads, or there are more stages than layers.
    """
    if pipeline_parallel_size > len(layers):
        raise ValueError(f"pipeline-parallel-size {pipeline_parallel_size} exceeds the {len(layers)} layers")
    most_layers = max(stage_layer_counts(len(layers), pipeline_parallel_size))
    page = page_bytes(
        layers[0],
        block_size=block_size,
        tensor_parallel_size=tensor_parallel_size,
        element_bytes=element_bytes,
    )
    return KvLayout(block_size=block_size, bytes_per_block=page * most_layers)

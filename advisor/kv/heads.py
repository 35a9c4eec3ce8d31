"""How tensor-parallel ranks share KV heads."""


def kv_heads_per_rank(num_kv_heads: int, tensor_parallel_size: int) -> int:
    """Return the heads that one rank caches: fewer heads than ranks are replicated, one to each.

    Raises:
        ValueError: Neither divides the other, which vLLM refuses.
    """
    if num_kv_heads < 1 or tensor_parallel_size < 1:
        raise ValueError(f"--tensor-parallel-size {tensor_parallel_size}, {num_kv_heads} KV heads: both are 1 or more")
    if num_kv_heads % tensor_parallel_size and tensor_parallel_size % num_kv_heads:
        raise ValueError(
            f"--tensor-parallel-size {tensor_parallel_size} and {num_kv_heads} KV heads: one must divide the other"
        )
    return max(1, num_kv_heads // tensor_parallel_size)

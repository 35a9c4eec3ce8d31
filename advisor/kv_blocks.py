"""Which block size vLLM settles on: the attention backend's, then large enough that a state fits one block.

Sources, by release: ``platforms/cuda.py:check_and_update_config`` (0.8 to 0.17), ``platforms/interface.py:
update_block_size_for_backend`` (0.18 to 0.33), ``platforms/cpu.py``; for states ``models/config.py:
HybridAttentionMambaModelConfig`` (0.10.2 to 0.19), ``platforms/interface.py:_align_hybrid_block_size`` (0.20 to 0.33).
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockSizes:
    """What is decided before any layer is asked for its spec."""

    block_size: int
    """Tokens in a block of attention: ``cache_config.block_size``."""

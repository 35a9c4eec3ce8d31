"""Bytes of the states that do not grow with the tokens, on one tensor-parallel rank.

Source: vLLM ``model_executor/layers/mamba/mamba_utils.py`` (0.10.2 to 0.33; MambaStateShapeCalculator and
MambaStateDtypeCalculator).
"""

from advisor.kv.dtypes import element_bytes
from advisor.kv.settings import KvSettings
from advisor.layers import GatedDeltaNet, KimiDelta, LinearAttention, Mamba1, Mamba2, ShortConv, State


def state_bytes(state: State, settings: KvSettings) -> int:
    """Return the bytes of one layer's states (convolution and recurrence) for one request on one rank.

    Raises:
        ValueError: Tensor parallelism does not divide the state.
    """
    ranks = settings.tensor_parallel_size
    conv_bytes, ssm_bytes = _dtype_bytes(state, settings)
    match state:
        case Mamba1():
            channels = _share(state.intermediate_size, ranks, "channels of the Mamba state")
            return channels * ((state.conv_kernel - 1) * conv_bytes + state.state_size * ssm_bytes)
        case Mamba2():
            groups = state.n_groups if state.n_groups % ranks == 0 else ranks
            channels = state.intermediate_size + 2 * groups * state.state_size
            kept = state.conv_kernel - 1 + _drafts(settings, since=(0, 17, 0))
            heads = _share(state.num_heads, ranks, "heads of the Mamba state")
            conv = _share(channels, ranks, "channels of the Mamba convolution") * kept
            return conv * conv_bytes + heads * state.head_dim * state.state_size * ssm_bytes
        case GatedDeltaNet():
            channels = 2 * state.head_k_dim * state.num_k_heads + state.head_v_dim * state.num_v_heads
            kept = state.conv_kernel - 1 + settings.num_speculative_tokens
            heads = _share(state.num_v_heads, ranks, "value heads of the linear attention")
            conv = _share(channels, ranks, "channels of the linear attention") * kept
            return conv * conv_bytes + heads * state.head_v_dim * state.head_k_dim * ssm_bytes
        case KimiDelta():
            kept = state.conv_kernel - 1 + _drafts(settings, since=(0, 27, 0))
            heads = _share(state.num_heads, ranks, "heads of the linear attention")
            conv = 3 * heads * state.head_dim * kept
            return conv * conv_bytes + heads * state.head_dim * state.head_dim * ssm_bytes
        case ShortConv():
            kept = state.conv_kernel - 1 + _drafts(settings, since=(0, 29, 0))
            return _share(state.intermediate_size, ranks, "channels of the convolution") * kept * conv_bytes
        case LinearAttention():
            return (state.num_heads // ranks) * state.head_dim * state.head_dim * conv_bytes


def _dtype_bytes(state: State, settings: KvSettings) -> tuple[int, int]:
    """Return the bytes of an element of the convolution's and of the recurrence's state."""
    conv = element_bytes(settings.mamba_cache_dtype, settings.model_dtype)
    ssm = settings.mamba_ssm_cache_dtype
    if isinstance(state, KimiDelta):
        return conv, element_bytes(ssm if ssm != "auto" and settings.version >= (0, 30, 0) else "float32", "float32")
    if isinstance(state, GatedDeltaNet) and settings.version < (0, 17, 0):
        ssm = "auto"
    return conv, conv if ssm == "auto" else element_bytes(ssm, settings.model_dtype)


def _drafts(settings: KvSettings, *, since: tuple[int, int, int]) -> int:
    return settings.num_speculative_tokens if settings.version >= since else 0


def _share(total: int, ranks: int, what: str) -> int:
    if total % ranks:
        raise ValueError(f"--tensor-parallel-size {ranks} does not divide the {total} {what}; it must")
    return total // ranks

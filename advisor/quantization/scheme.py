"""`Scheme`: how vLLM holds one quantised matrix once it is loaded."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertPadding:
    """Sizes that a fused-experts kernel rounds up."""

    intermediate: int = 1
    """Multiple that a rank's share of the experts' intermediate size is rounded up to."""
    hidden: int = 1
    """Multiple that the hidden size is rounded up to."""
    value_columns: int = 1
    """Multiple that the columns of the packed values alone, not of their scales, are rounded up to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """Packed values, and scales that groups of them share."""

    bits: float
    """Of one value."""
    scale_bytes: float
    """Of one scale, whatever else is kept with each scale included."""
    group_columns: int | None
    """Input features that share a scale; None where all of a row's do."""
    group_rows: int | None = 1
    """Output features that share a scale; None where all of a matrix's do."""
    zero_point_bits: int = 0
    """Of the zero point beside each scale."""
    column_bytes: int = 0
    """Kept for each input feature: the order in which they were quantised (GPTQ ``desc_act``)."""
    whole_groups: bool = False
    """Whether a rank keeps the scales of all input features, though it holds a share of them."""
    expert_padding: ExpertPadding | None = None
    spread_ratio: float = 0.0
    """How far the size may be off, where it depends on a kernel that these rules do not choose."""

    def value_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a matrix's packed values, (output features, input features)."""
        return round(rows * columns * self.bits / 8)

    def scales_bytes(self, rows: int, columns: int, whole_columns: int) -> int:
        """Return the bytes of what is kept beside them; ``whole_columns`` are the input features of all ranks."""
        grouped = whole_columns if self.whole_groups else columns
        groups = 1 if self.group_columns is None else -(-grouped // self.group_columns)
        groups *= 1 if self.group_rows is None else -(-rows // self.group_rows)
        return round(groups * (self.scale_bytes + self.zero_point_bits / 8)) + columns * self.column_bytes


FP8_TENSOR = Scheme(bits=8, scale_bytes=8, group_columns=None, group_rows=None)
"""One scale of the weights and one of the inputs, in float32."""
FP8_CHANNEL = Scheme(bits=8, scale_bytes=4, group_columns=None)
INT8_CHANNEL = FP8_CHANNEL
MXFP4 = Scheme(bits=4, scale_bytes=1, group_columns=32)
MXFP8 = Scheme(bits=8, scale_bytes=1, group_columns=32)
NVFP4 = Scheme(bits=4, scale_bytes=1, group_columns=16)
"""One fp8 scale for 16 values; the float32 scale of the whole matrix is too small to count."""


def fp8_blocks(rows: int, columns: int) -> Scheme:
    """Return fp8 with one float32 scale a block (``weight_block_size``)."""
    return Scheme(bits=8, scale_bytes=4, group_columns=columns, group_rows=rows)


Choice = Callable[[str, int | None, bool], Scheme | None]
"""(module's name, layer, whether it is a routed expert's) -> how it is held; None: as the model's dtype says."""

"""By how much theory missed on this host before: it errs alike next time, so later estimates are shifted by it.

Kept over restarts of the daemon, bounded in size. State in, state out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from advisor.estimate import Estimate
from advisor.flags import EngineFlags
from advisor.gpus import UnknownGpuError, find_gpu
from advisor.spec import ModelSpec
from advisor.units import GIB, MIB
from advisor.versions import Version

MOST_PLACES = 256
MOST_FLAGS = 16
"""Sets of flags remembered for one place; the oldest goes first."""
_SAME_FLAGS_BYTES = 48 * MIB
"""How far two starts with the same flags differ, by what the driver and the allocator round."""


@dataclass(frozen=True, slots=True)
class Residuals:
    """``{place: {flags: bytes}}``: reported minus expected KV bytes of one GPU."""

    by_place: Mapping[str, Mapping[str, float]]

    def estimate(self, place: str, flags: str) -> Estimate | None:
        """Return the shift for a plan, None where this model never ran on this GPU with this release.

        With the same flags it is what was seen; with others the median of all, as uncertain as they differ.
        """
        known = self.by_place.get(place)
        if not known:
            return None
        if flags in known:
            seen = known[flags]
            return Estimate(lower=seen - _SAME_FLAGS_BYTES, expected=seen, upper=seen + _SAME_FLAGS_BYTES)
        middle = median(known.values())
        return Estimate(
            lower=min(*known.values(), middle) - 2 * _SAME_FLAGS_BYTES,
            expected=middle,
            upper=max(*known.values(), middle) + 2 * _SAME_FLAGS_BYTES,
        )

    def learned(self, place: str, flags: str, residual_bytes: float) -> "Residuals":
        """Return the memory with one more start in it, the newest last."""
        by_place = dict(self.by_place)
        known = {key: value for key, value in by_place.pop(place, {}).items() if key != flags}
        by_place[place] = dict([*known.items(), (flags, residual_bytes)][-MOST_FLAGS:])
        return Residuals(dict(list(by_place.items())[-MOST_PLACES:]))


NO_RESIDUALS = Residuals({})


def place_key(spec: ModelSpec, *, version: Version | None, gpu: str, flags: EngineFlags) -> str:
    """Return what must be equal for errors to be alike: the model, the release, the GPU, the parallel sizes."""
    ranks = f"tp{flags.tensor_parallel_size or 1} pp{flags.pipeline_parallel_size or 1}"
    weights = flags.quantization or (spec.quantization.method if spec.quantization else "plain")
    model = f"{spec.architecture} {len(spec.layers)}x{spec.hidden_size} {spec.num_parameters} {weights}"
    release = ".".join(map(str, version)) if version else "unknown"
    return f"{model} | {release} | {_board(gpu)} | {ranks}"


@cache
def _board(name: str) -> str:
    """Return what a GPU is, however its name is spelled; its name where the catalogue does not know it."""
    try:
        gpu = find_gpu(name)
    except UnknownGpuError:
        return name
    size = gpu.nvml_total_bytes or gpu.cuda_total.expected
    return f"sm_{gpu.compute_capability[0]}{gpu.compute_capability[1]} x {gpu.num_sms}, {size / GIB:.0f} GiB"


_NOT_ABOUT_SIZES = frozenset({"host", "port", "uds", "root_path", "ssl_certfile", "served_model_name", "model"})


def flags_key(flags: EngineFlags) -> str:
    """Return a short name for what was given on a command line, as far as it may bear on memory."""
    return flags.digest(without=_NOT_ABOUT_SIZES)


def to_json(residuals: Residuals) -> dict[str, Any]:
    """Return what `from_json` reads back."""
    return {place: dict(known) for place, known in residuals.by_place.items()}


def from_json(content: Any) -> Residuals:
    """Read what `to_json` wrote.

    Raises:
        ValueError: It is something else.
    """
    try:
        found = {
            str(place): {str(flags): float(size) for flags, size in known.items()} for place, known in content.items()
        }
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"not the residuals of capacity estimates: {error}") from error
    if not all(math.isfinite(size) for known in found.values() for size in known.values()):
        raise ValueError("not the residuals of capacity estimates: one is no number")
    return Residuals(found)

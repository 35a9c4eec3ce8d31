"""A distribution in a few figures."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """Mean, largest and percentiles of what was observed, all in its own unit.

    A percentile is the smallest value that at least this share of the observations does not exceed: always one that
    occurred.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


def percentiles(values: Iterable[float]) -> Percentiles | None:
    """Return the percentiles of these values, None where there is none."""
    return weighted_percentiles((value, 1) for value in values)


def weighted_percentiles(pairs: Iterable[tuple[float, int]]) -> Percentiles | None:
    """Return the percentiles of values that each occurred so many times, None where there is none."""
    ordered = sorted(pairs)
    count = sum(times for _, times in ordered)
    if count == 0:
        return None
    wanted = [math.ceil(count * share / 100) for share in (50, 90, 95, 99)]
    found: list[float] = []
    seen = 0
    for value, times in ordered:
        seen += times
        while len(found) < len(wanted) and seen >= wanted[len(found)]:
            found.append(value)
    return Percentiles(
        count=count,
        mean=math.fsum(value * times for value, times in ordered) / count,
        p50=found[0],
        p90=found[1],
        p95=found[2],
        p99=found[3],
        max=ordered[-1][0],
    )

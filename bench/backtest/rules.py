"""The rules that people alert by today, evaluated as Prometheus would."""

from collections import deque
from collections.abc import Callable

from advisor.units import GIB

Rule = Callable[[float, float, float], bool]
"""(now in seconds, free bytes, total bytes) -> whether the expression is true; asked in order of time."""


def used_95_percent() -> Rule:
    """``used / total > 0.95``."""
    return lambda _, free, total: free < 0.05 * total


def free_1_gib() -> Rule:
    """``free < 1 GiB``."""
    return lambda _, free, __: free < GIB


def predict_linear(range_seconds: float, ahead_seconds: float, *, free_ratio_below: float = 1.0) -> Rule:
    """``predict_linear(free[range], ahead) < 0``, and less free than a share of the total where one is given.

    Least squares over the samples in range, extrapolated from the evaluation's time, as Prometheus does
    (promql/functions.go).
    """
    samples: deque[tuple[float, float]] = deque()
    sum_t = sum_v = sum_tv = sum_tt = 0.0

    def rule(now: float, free: float, total: float) -> bool:
        nonlocal sum_t, sum_v, sum_tv, sum_tt
        samples.append((now, free))
        sum_t, sum_v, sum_tv, sum_tt = sum_t + now, sum_v + free, sum_tv + now * free, sum_tt + now * now
        while now - samples[0][0] > range_seconds:
            t, v = samples.popleft()
            sum_t, sum_v, sum_tv, sum_tt = sum_t - t, sum_v - v, sum_tv - t * v, sum_tt - t * t
        number = len(samples)
        variance = sum_tt - sum_t * sum_t / number
        if number < 2 or variance <= 0 or free > free_ratio_below * total:
            return False
        slope = (sum_tv - sum_t * sum_v / number) / variance
        return sum_v / number + slope * (now - sum_t / number + ahead_seconds) < 0

    return rule


RULES: dict[str, tuple[Callable[[], Rule], float]] = {
    "used > 95%": (used_95_percent, 30.0),
    "free < 1 GiB": (free_1_gib, 30.0),
    "predict_linear 1 h": (lambda: predict_linear(3600, 900), 30.0),
    "predict_linear 6 h": (lambda: predict_linear(6 * 3600, 900), 30.0),
    "node-mixin warning": (lambda: predict_linear(6 * 3600, 24 * 3600, free_ratio_below=0.4), 3600.0),
    "node-mixin critical": (lambda: predict_linear(6 * 3600, 4 * 3600, free_ratio_below=0.2), 3600.0),
}
"""Each with its ``for``: node-mixin's own hour for its two (alerts/alerts.libsonnet, NodeFilesystemSpaceFillingUp with
its 24 h and 4 h ahead and its 40% and 20%), ours for the others. predict_linear 1 h and 6 h look 900 s ahead, our
horizon."""

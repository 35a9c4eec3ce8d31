"""The alerts that are evaluated: those we ship and those people use, their durations shortened as the clock runs."""

import re
from typing import Any

from advisor.policy import Policy
from dashboards.rules.catalogue import all_alerts

OURS = "HeadroomGpuOomRisk"
RESTART = "HeadroomEngineWouldNotRestart"
BASELINES = ("used > 95%", "free < 1 GiB", "predict_linear 1 h")
SHIPPED = (OURS, "HeadroomGpuMemoryEnds", "HeadroomGpuOvercommitted", RESTART)
_BASELINE_HOLD_SECONDS = 30.0
_BASELINE_KEEP_SECONDS = 600.0
"""As ours: no rule is to look worse for a reading that was missed."""
_RANGE = re.compile(r"\[(\d+(?:ms|s|m|h|d))\]")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def rule_groups(policy: Policy, *, speed: float) -> dict[str, Any]:
    """Return a rule file for a Prometheus whose clock is real while the daemon's runs ``speed`` times as fast.

    What the expressions compare is in the daemon's seconds already; how long something must last, and over how long
    they look back, is not.
    """
    shipped = [
        {
            "alert": alert.name,
            "expr": _RANGE.sub(lambda found: f"[{spelled(seconds(found[1]) / speed)}]", alert.expr),
            "for": spelled(seconds(alert.hold) / speed),
            "keep_firing_for": spelled(seconds(alert.keep or "0s") / speed),
            "labels": {"severity": str(alert.severity)},
        }
        for alert in all_alerts(policy)
        if alert.name in SHIPPED
    ]
    hour, ahead = spelled(3600 / speed), policy.oom_horizon_seconds / speed
    expressions = (
        "headroom_gpu_memory_free_bytes < 0.05 * headroom_gpu_memory_total_bytes",
        "headroom_gpu_memory_free_bytes < 2^30",
        f"predict_linear(headroom_gpu_memory_free_bytes[{hour}], {ahead:g}) < 0",
    )
    baselines = [
        {
            "alert": name,
            "expr": expr,
            "for": spelled(_BASELINE_HOLD_SECONDS / speed),
            "keep_firing_for": spelled(_BASELINE_KEEP_SECONDS / speed),
            "labels": {"severity": "warning"},
        }
        for name, expr in zip(BASELINES, expressions, strict=True)
    ]
    return {"groups": [{"name": "live", "rules": [*shipped, *baselines]}]}


def seconds(duration: str) -> float:
    """Return how long one of Prometheus' durations is, as ``15m``."""
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", duration)
    if found is None:
        raise ValueError(f"{duration!r} is not a duration such as 15m")
    return int(found[1]) * _UNITS[found[2]]


def spelled(duration_seconds: float) -> str:
    """Return a duration as Prometheus reads it: whole milliseconds."""
    return f"{max(0, round(duration_seconds * 1000))}ms"

"""Every threshold that judges, in one place: findings, alerts and dashboards read the same numbers."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What counts as risky, slow or worth saying. The config file's ``policy`` section sets these."""

    oom_horizon_seconds: float = 900.0
    """``headroom_gpu_oom_risk_ratio`` is the probability of running out within this time."""
    oom_risk_warning_ratio: float = 0.2
    """From this risk on there is a warning."""
    oom_risk_critical_ratio: float = 0.7
    """From this risk on it is critical."""
    stalled_after_seconds: float = 60.0
    """Requests wait or run and no token has come for this long: the engine is stuck."""
    kv_full_ratio: float = 0.95
    """From this usage on, requests that wait do so for KV blocks unless max_num_seqs is reached."""
    preemption_memory_seconds: float = 60.0
    """A preemption this recent still names KV as the limiter."""
    seqs_memory_seconds: float = 15.0
    """A queue with room in KV waits for max_num_seqs if that many ran this recently."""
    capacity_gap_warning_ratio: float = -0.05
    """Reported capacity this far below theory is worth a finding."""
    capacity_drop_warning_ratio: float = -0.02
    """Capacity this far below that of the last start with the same flags is worth a finding."""
    time_to_oom_warning_seconds: float = 4 * 3600.0
    """Growth that ends free memory within this time is worth a look; within the horizon it is critical."""
    kv_exhaustion_warning_seconds: float = 120.0
    """A KV cache that is full this soon is worth a warning: its horizon is minutes, a leak's is hours."""
    preemptions_warning_per_second: float = 0.05
    """More preemptions than this (three a minute) for minutes on end waste work that users wait for."""
    advice_confidence_ratio: float = 0.8
    """Advice with less support in the observed load is shown and alerts nobody."""
    host_memory_warning_ratio: float = 0.9
    """An engine's cgroup that uses this share of the host memory it may use is worth a finding."""
    temperature_warning_celsius: float = 85.0
    """From here on boards without their own limit nearby start to slow down."""
    kv_horizon_seconds: float = 300.0
    """``headroom_engine_preemption_risk_ratio`` is the probability of a preemption within this time."""
    preemption_risk_warning_ratio: float = 0.7
    """From this probability on a full KV cache is taken to end in preemption rather than in a passing peak."""
    queue_warning_seconds: float = 300.0
    """A growing queue that takes this long to drain is worth a finding."""
    far_off_ratio: float = 1.5
    """max_num_seqs this many times too large or too small is worth a finding."""
    preempted_target_ratio: float = 0.01
    """Preemptions over finished requests that advice on max_num_seqs accepts."""
    overflow_target_ratio: float = 0.05
    """The same where admission does not look at whole prompts, or lengths are not told: share of the time in which
    running requests may need more KV than there is."""
    token_target_seconds: float | None = None
    """Time per output token that advice must keep; None: no such wish."""
    advice_least_requests: float = 100.0
    """Finished requests that must have been seen before anything is advised."""
    advice_least_busy_seconds: float = 600.0
    """Time under load that must have been seen before anything is advised."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"policy.{each.name} must be finite")
        for name in (
            "oom_risk_warning_ratio",
            "oom_risk_critical_ratio",
            "kv_full_ratio",
            "preemption_risk_warning_ratio",
            "advice_confidence_ratio",
            "host_memory_warning_ratio",
            "preempted_target_ratio",
        ):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"policy.{name} must lie in (0, 1]")
        for name in (
            "oom_horizon_seconds",
            "stalled_after_seconds",
            "preemption_memory_seconds",
            "seqs_memory_seconds",
            "time_to_oom_warning_seconds",
            "kv_exhaustion_warning_seconds",
            "preemptions_warning_per_second",
            "temperature_warning_celsius",
            "kv_horizon_seconds",
            "queue_warning_seconds",
            "advice_least_requests",
            "advice_least_busy_seconds",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"policy.{name} must be above zero")
        for name in ("capacity_gap_warning_ratio", "capacity_drop_warning_ratio"):
            if not -1 < getattr(self, name) < 0:
                raise ValueError(f"policy.{name} must lie in (-1, 0)")
        if not 0 < self.overflow_target_ratio < 0.5:
            raise ValueError("policy.overflow_target_ratio must lie in (0, 0.5)")
        if not self.far_off_ratio > 1:
            raise ValueError("policy.far_off_ratio must be above one")
        if self.token_target_seconds is not None and not self.token_target_seconds > 0:
            raise ValueError("policy.token_target_seconds must be above zero")

"""Every threshold that judges, in one place: findings, alerts and dashboards read the same numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What counts as risky, slow or worth saying. The config file's ``policy`` section sets these."""

    oom_horizon_seconds: float = 900.0
    """``headroom_gpu_oom_risk_ratio`` is the probability of running out within this time."""
    oom_risk_warning_ratio: float = 0.3
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

    def __post_init__(self) -> None:
        for name in ("oom_risk_warning_ratio", "oom_risk_critical_ratio", "kv_full_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"policy.{name} must lie in (0, 1]")
        for name in (
            "oom_horizon_seconds",
            "stalled_after_seconds",
            "preemption_memory_seconds",
            "seqs_memory_seconds",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"policy.{name} must be above zero")

"""An engine whose KV cache will be full soon, before anybody has been preempted."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot
from advisor.units import spelled_ratio, spelled_seconds


def find(_snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine whose KV fills up within the horizon and that will then preempt."""
    for engine in report.engines:
        ahead, risk = engine.time_to_kv_exhaustion_seconds, engine.preemption_risk_ratio
        if ahead is None or risk is None or ahead > policy.kv_exhaustion_warning_seconds:
            continue
        if risk < policy.preemption_risk_warning_ratio:
            continue
        when = "is full" if ahead < 1 else f"will be full in {spelled_seconds(ahead)}"
        yield Finding(
            rule="kv_exhaustion_ahead",
            severity=Severity.WARNING,
            subject=engine.engine,
            summary=f"the KV cache {when}; a request is preempted within "
            f"{spelled_seconds(policy.kv_horizon_seconds)} with a probability of {spelled_ratio(risk)}",
            advice="send new requests elsewhere; for good, see vllm-headroom advise",
        )

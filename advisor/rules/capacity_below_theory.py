"""An engine that holds clearly less than its model, GPU and flags allow."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot


def find(_snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine whose reported capacity lies below the theory's lower bound and the policy's gap."""
    for engine in report.engines:
        gap, lowest = engine.kv_capacity_gap_ratio, engine.kv_theory_lower_tokens
        if gap is None or lowest is None or engine.kv_capacity_tokens is None or engine.kv_theory_tokens is None:
            continue
        if gap > policy.capacity_gap_warning_ratio or engine.kv_capacity_tokens >= lowest:
            continue
        yield Finding(
            rule="capacity_below_theory",
            severity=Severity.INFO,
            subject=engine.engine,
            summary=f"the KV cache holds {engine.kv_capacity_tokens:,.0f} tokens, {-gap:.0%} less than the "
            f"{engine.kv_theory_tokens:,.0f} expected (at least {lowest:,.0f})",
            advice="read the start-up log for memory that was taken before or beside the engine, and for a flag that "
            "is not on the command line",
        )

"""An engine that has requests and yields no token."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot
from advisor.units import spelled_seconds


def find(_snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine that is stuck."""
    for engine in report.engines:
        if not (engine.limiter or {}).get("stalled"):
            continue
        yield Finding(
            rule="stalled_engine",
            severity=Severity.CRITICAL,
            subject=engine.engine,
            summary=f"{engine.requests_running or 0:.0f} requests run, {engine.requests_waiting or 0:.0f} wait, and no "
            f"token has come for {spelled_seconds(policy.stalled_after_seconds)} or more"
            + (": it is asleep" if engine.asleep else ""),
            advice="wake it up (POST /wake_up), or send its requests elsewhere"
            if engine.asleep
            else "look for a request longer than the KV cache at the head of the queue, then at the engine's log; "
            "a restart ends it",
        )

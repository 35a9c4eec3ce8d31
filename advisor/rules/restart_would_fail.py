"""A server that runs and would not start again: something took memory that its start-up check asks for."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot
from advisor.units import gib


def find(_snapshot: Snapshot, report: Report, _policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine whose restart would fail now."""
    for engine in report.engines:
        missing = engine.restart_shortfall_bytes
        if engine.restart_fits != 0 or missing is None:
            continue
        yield Finding(
            rule="restart_would_fail",
            severity=Severity.WARNING,
            subject=engine.engine,
            summary=f"restarted now with the same flags it would not start: {gib(missing)} are missing on a GPU",
            advice="free that much before any restart, or lower --gpu-memory-utilization by its share of the GPU",
        )

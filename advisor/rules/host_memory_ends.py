"""An engine whose cgroup has little host memory left: at the limit the kernel kills one of its processes."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot
from advisor.units import gib


def find(_snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding a server above the policy's share of the host memory that it may use."""
    told: set[str] = set()
    for engine in report.engines:
        limit, used = engine.host_memory_limit_bytes, engine.host_memory_used_bytes
        if limit is None or used is None or used < policy.host_memory_warning_ratio * limit or engine.engine in told:
            continue
        told.add(engine.engine)
        kills = engine.host_oom_kills_total or 0
        yield Finding(
            rule="host_memory_ends",
            severity=Severity.WARNING,
            subject=engine.engine,
            summary=f"its cgroup uses {gib(used)} of the {gib(limit)} of host memory that it may use, cached files "
            "apart; at the limit the kernel kills a worker" + (f", as it did {kills} times there" if kills else ""),
            advice="raise the memory limit of its container or service, or give it less to keep in host memory "
            "(offloaded weights or KV blocks, caches of multi-modal inputs)",
        )

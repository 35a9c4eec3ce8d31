"""A queue that grows faster than it is served, and that nothing bounds."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot
from advisor.units import spelled_seconds


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine whose queue grows and takes longer to drain than the policy wants."""
    urls = {(reading.engine, reading.dp_rank): reading.url for reading in snapshot.engines}
    for engine in report.engines:
        drain, growth = engine.queue_drain_seconds, engine.demand_growth_per_second
        if drain is None or growth is None or drain < policy.queue_warning_seconds or growth <= 0:
            continue
        server = snapshot.server_at(urls.get((engine.engine, engine.dp_rank), ""))
        if server is not None and (server.flags.max_num_queued_reqs or server.flags.max_num_queued_tokens):
            continue
        yield Finding(
            rule="queue_without_bound",
            severity=Severity.WARNING,
            subject=engine.engine,
            summary=f"{engine.requests_waiting or 0:.0f} requests wait, {spelled_seconds(drain)} of work, and "
            f"{60 * growth:,.1f} more come each minute than are finished",
            advice="send requests elsewhere or refuse them: --max-num-queued-reqs bounds the queue from vLLM 0.29 on",
        )

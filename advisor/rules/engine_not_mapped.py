"""An engine that answers on this host and whose process is not in sight: its flags and GPUs are not known.

Said only where GPU memory has owners out of sight: a server behind a proxy or a tunnel has no process here either, and
``theory`` of its info series says so already.
"""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding a server at a loopback address that no process in the table is found to serve."""
    if not any(snapshot.hidden_on(gpu) or snapshot.unowned_on(gpu) for gpu in snapshot.gpus):
        return
    for target in snapshot.targets:
        answers = bool(snapshot.readings_of(target.engine))
        if answers and snapshot.is_here(target.url) and snapshot.server_at(target.url) is None:
            yield Finding(
                rule="engine_not_mapped",
                severity=Severity.INFO,
                subject=target.engine,
                summary="it answers, but no process in sight serves its port: its flags, its GPUs and so what it "
                "should hold are not known",
                advice="run vllm-headroom on the host, or let it see the host's processes (docs/installation.md, "
                "In a container)",
            )

"""An engine that answers on this host and whose process is not in sight: its flags and GPUs are not known."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding a server at a loopback address that no process in the table is found to serve."""
    for target in snapshot.targets:
        answers = bool(snapshot.readings_of(target.engine))
        if not answers or snapshot.visible_pids is None or not snapshot.is_here(target.url):
            continue
        if snapshot.server_at(target.url) is None:
            yield Finding(
                rule="engine_not_mapped",
                severity=Severity.INFO,
                subject=target.engine,
                summary="it answers, but no process in sight serves its port: its flags, its GPUs and so what it "
                "should hold are not known",
                advice="run vllm-headroom in the host's PID namespace (docker run --pid=host, Kubernetes hostPID: "
                "true); behind a proxy or a published port, name the server's own address in the config",
            )

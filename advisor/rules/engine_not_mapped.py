"""An engine that answers on this host and whose process is not in sight: its flags and GPUs are not known.

Said only where GPU memory has owners out of sight: a server behind a proxy or a tunnel has no process here either, and
``theory`` of its info series says so already. Or one whose workers Ray started: they are no descendants of it.
"""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.readings import EngineProcess
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding a server of this host that answers and whose GPU memory cannot be told to be its own."""
    has_hidden = any(snapshot.hidden_on(gpu) or snapshot.unowned_on(gpu) for gpu in snapshot.gpus)
    for target in snapshot.targets:
        if not snapshot.readings_of(target.engine):
            continue
        server = snapshot.server_at(target.url)
        if server is None and has_hidden and snapshot.is_here(target.url):
            yield Finding(
                rule="engine_not_mapped",
                severity=Severity.INFO,
                subject=target.engine,
                summary="it answers, but no process in sight serves its port: its flags, its GPUs and so what it "
                "should hold are not known",
                advice="run vllm-headroom on the host, or let it see the host's processes (docs/installation.md, "
                "In a container)",
            )
        elif server is not None and _is_rays(server) and snapshot.gpus and not snapshot.gpus_of(server):
            yield Finding(
                rule="engine_not_mapped",
                severity=Severity.INFO,
                subject=target.engine,
                summary="its workers are Ray's, not its own: which GPUs it runs on cannot be told, and what it holds "
                "there counts as foreign",
                advice="name its GPUs in the configuration (engines: gpus:), if it has them for itself; or, where all "
                "are in this host, --distributed-executor-backend mp does the same with workers of its own",
            )


def _is_rays(server: EngineProcess) -> bool:
    return server.flags.distributed_executor_backend == "ray"

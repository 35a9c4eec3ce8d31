"""A server on a Unix socket, which is never asked: its load is not known, only the GPU memory of its processes."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding a server whose flags give it a Unix socket in place of a port."""
    for server in snapshot.servers:
        if server.flags.uds is not None:
            yield Finding(
                rule="engine_not_asked",
                severity=Severity.INFO,
                subject=server.name,
                summary="it serves on a Unix socket (--uds), where it is not asked: its load and its KV cache are not "
                "known, only what its processes hold of the GPUs",
                advice="let it listen on a port of 127.0.0.1 (--host, --port in place of --uds), behind which a proxy "
                "finds it as well",
            )

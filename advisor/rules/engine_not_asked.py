"""A server on a Unix socket, or in a network that no address leads into: only its GPU memory is known, not its load."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding a server that is never asked, because there is no address to ask at."""
    unmapped = [
        target.engine
        for target in snapshot.targets
        if snapshot.is_here(target.url)
        and snapshot.server_at(target.url) is None
        and snapshot.readings_of(target.engine)
    ]
    for server in snapshot.servers:
        if server.flags.uds is not None:
            where = "on a Unix socket (--uds)"
            advice = (
                "let it listen on a port of 127.0.0.1 (--host, --port in place of --uds), behind which a proxy finds "
                "it as well"
            )
        elif not server.host and not server.flags.headless:
            where = "in another network (a container's), at no address that leads there from here"
            advice = (
                "give the container an address, or the host's network, and let the server listen on all addresses "
                "(--host 0.0.0.0); its load alone is known where engines: names a port that the container publishes"
            )
        else:
            continue
        what = (
            "where it is not asked: its load and its KV cache are not known, only what its processes hold of the GPUs"
        )
        if unmapped:  # say at a port that its container publishes, or behind a proxy
            what = f"and may be what answers at {', '.join(unmapped)}: that cannot be told, so its load there and what "
            what += "its processes hold of the GPUs are not put together"
        yield Finding(
            rule="engine_not_asked",
            severity=Severity.INFO,
            subject=server.name,
            summary=f"it serves {where}, {what}",
            advice=advice,
        )

"""GPU memory that no process in sight holds: it cannot be told whether it is an engine's."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot, process_bytes
from advisor.units import gib


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding a GPU, by how its memory escapes: processes out of sight, or none at all."""
    for gpu in snapshot.gpus:
        listed, hidden = snapshot.processes_on(gpu), snapshot.hidden_on(gpu)
        unowned = snapshot.unowned_on(gpu)
        if hidden:
            size = process_bytes(hidden)
            yield Finding(
                rule="memory_without_owner",
                severity=Severity.WARNING,
                subject=f"GPU {gpu.gpu}",
                summary=f"{len(hidden)} of the {len(listed)} processes on it are in no process table that can be read "
                f"here{f', with {gib(size)}' if size is not None else ''}: whether they are vLLM's cannot be told, so "
                "they count as foreign",
                advice=_ADVICE,
            )
        elif unowned:
            yield Finding(
                rule="memory_without_owner",
                severity=Severity.WARNING,
                subject=f"GPU {gpu.gpu}",
                summary=f"{gib(unowned)} of it are in use by no process that the driver names here: whose they are "
                "cannot be told, so they count as foreign",
                advice=_ADVICE,
            )


_ADVICE = (
    "run vllm-headroom on the host, or let it see the host's processes (docs/installation.md, In a container); on the "
    "host itself, a process that died may have left its memory behind (nvidia-smi, fuser /dev/nvidia*)"
)

"""What a process holds, by the kernel's own account."""

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Held:
    """Resident memory in bytes, and how many descriptors and threads."""

    resident_bytes: int
    descriptors: int
    threads: int


def held(pid):
    """Return what a process holds at this moment."""
    proc = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
    return Held(
        resident_bytes=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=len(list((proc / "fd").iterdir())),
        threads=int(status["Threads"]),
    )


def held_at_rest(pid, looks=50, apart_seconds=0.03):
    """Return the least of several moments: what is held between two readings, each of which has its own thread."""
    moments = []
    for _ in range(looks):
        moments.append(held(pid))
        time.sleep(apart_seconds)
    return Held(
        resident_bytes=min(each.resident_bytes for each in moments),
        descriptors=min(each.descriptors for each in moments),
        threads=min(each.threads for each in moments),
    )


def peak_resident_bytes(pid):
    """Return the most that a process has ever held."""
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of {pid}")


def cpu_seconds(pid):
    """Return the processor time that a process has used."""
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100

"""Our readings held against themselves and against what others say of the same GPUs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from advisor.capacity import cuda_total_bytes
from advisor.readings import Gpu, GpuProcess
from advisor.units import MIB, gib
from bench.gpu_check.others import NvidiaSmi
from exporter.sources.nvml import GpuReadings

_ROUNDED_BYTES = MIB
"""nvidia-smi tells whole MiB."""
_SAME_DEGREES = 3.0
_CUDA_RATIO = 0.001
"""Budgets are a share of what CUDA sees: a thousandth of 80 GiB is less than what two starts differ by."""

Verdict = Literal["agrees", "differs", "left out"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison and how it went."""

    subject: str
    verdict: Verdict
    words: str


def adds_up(readings: GpuReadings) -> Iterator[Check]:
    """Check that each GPU's used, free and reserved memory is its total, and that processes hold no more than is used.

    Before Memory v2 (driver 510) used holds what is reserved, and reserved is not told.
    """
    for gpu in readings.gpus:
        if gpu.memory_total_bytes is None or gpu.memory_used_bytes is None or gpu.memory_free_bytes is None:
            yield Check(
                subject=_name(gpu), verdict="left out", words="memory: not told (a GPU split by MIG tells none)"
            )
            continue
        parts = gpu.memory_used_bytes + gpu.memory_free_bytes + (gpu.memory_reserved_bytes or 0)
        yield Check(
            subject=_name(gpu),
            verdict="agrees" if abs(parts - gpu.memory_total_bytes) <= _ROUNDED_BYTES else "differs",
            words=f"used, free and reserved are {gib(parts)} of {gib(gpu.memory_total_bytes)}",
        )
        told = [each.used_bytes for each in readings.processes if each.uuid == gpu.uuid]
        known = sum(size for size in told if size is not None)
        yield Check(
            subject=_name(gpu),
            verdict="agrees" if known <= gpu.memory_used_bytes + _ROUNDED_BYTES else "differs",
            words=f"{len(told)} processes hold {gib(known)} of {gib(gpu.memory_used_bytes)} used"
            + (f"; of {told.count(None)} it is not told" if None in told else "")
            + f"; {gib(max(0, gpu.memory_used_bytes - known))} belong to no process in sight",
        )


def against_nvidia_smi(before: GpuReadings, said: NvidiaSmi, after: GpuReadings) -> Iterator[Check]:
    """Check that what nvidia-smi said lies between our reading before it and the one after."""
    later = {gpu.uuid: gpu for gpu in after.gpus}
    for gpu in before.gpus:
        if gpu.mig is not None:
            yield Check(subject=_name(gpu), verdict="left out", words="nvidia-smi: its query tells nothing of MIG")
            continue
        row, then = said.gpus.get(gpu.uuid), later.get(gpu.uuid)
        if row is None or then is None:
            yield Check(subject=_name(gpu), verdict="differs", words="nvidia-smi: not listed by both")
            continue
        compared, wrong = _compared(gpu, row, then)
        yield Check(
            subject=_name(gpu),
            verdict="differs" if wrong else "agrees",
            words=f"nvidia-smi: {'; '.join(wrong) if wrong else ', '.join(compared)}",
        )
        yield _processes_of(gpu, before.processes, said.process_bytes, after.processes)


def against_cuda(readings: GpuReadings, totals: Mapping[str, int]) -> Iterator[Check]:
    """Check that a GPU's total without what is reserved is what CUDA sees of it."""
    for gpu in readings.gpus:
        seen, ours = totals.get(gpu.uuid.partition("-")[2]), cuda_total_bytes(gpu)
        if seen is None or ours is None:
            yield Check(subject=_name(gpu), verdict="left out", words="CUDA: does not list it")
            continue
        off = ours / seen - 1
        yield Check(
            subject=_name(gpu),
            verdict="agrees" if abs(off) <= _CUDA_RATIO else "differs",
            words=f"CUDA sees {gib(seen)} ({seen} bytes); we say {gib(ours)} ({off:+.3%})",
        )


def _compared(gpu: Gpu, row: Mapping[str, str], later: Gpu) -> tuple[list[str], list[str]]:
    """Return what was compared, and in words what differs; what either does not tell is left out."""
    compared: list[str] = []
    wrong: list[str] = []
    texts: tuple[tuple[str, str | None], ...] = (
        ("name", gpu.name),
        ("driver_version", gpu.driver_version),
        ("compute_cap", gpu.compute_capability),
    )
    for field, here in texts:
        if field in row and here is not None:
            compared.append(field)
            if row[field] != here:
                wrong.append(f"{field} is {row[field]!r} there and {here!r} here")
    figures: tuple[tuple[str, Callable[[Gpu], float | None], float, float], ...] = (
        ("memory.total", lambda each: each.memory_total_bytes, MIB, _ROUNDED_BYTES),
        ("memory.reserved", lambda each: each.memory_reserved_bytes, MIB, _ROUNDED_BYTES),
        ("memory.used", lambda each: each.memory_used_bytes, MIB, _ROUNDED_BYTES),
        ("memory.free", lambda each: each.memory_free_bytes, MIB, _ROUNDED_BYTES),
        ("temperature.gpu", lambda each: each.temperature_celsius, 1, _SAME_DEGREES),
        ("ecc.errors.uncorrected.aggregate.total", lambda each: each.ecc_uncorrected_errors_total, 1, 0),
    )
    for field, figure, unit, tolerance in figures:
        first, last, there = figure(gpu), figure(later), _number(row.get(field))
        if first is None or last is None or there is None:
            continue
        compared.append(field)
        if not min(first, last) - tolerance <= there * unit <= max(first, last) + tolerance:
            wrong.append(f"{field} is {there:g} there and {first / unit:g} to {last / unit:g} here")
    return compared, wrong


def _processes_of(
    gpu: Gpu,
    before: tuple[GpuProcess, ...],
    there: Mapping[tuple[str, int], int | None],
    after: tuple[GpuProcess, ...],
) -> Check:
    """Compare the compute processes that were there all the time; nvidia-smi's query lists no others."""
    first = {each.pid: each.used_bytes for each in before if each.uuid == gpu.uuid}
    last = {each.pid: each.used_bytes for each in after if each.uuid == gpu.uuid}
    theirs = {pid: size for (uuid, pid), size in there.items() if uuid == gpu.uuid}
    stayed = theirs.keys() & first.keys() & last.keys()
    # Who is neither in the reading before nor in the one after came and went meanwhile, or is missing from ours.
    wrong = [
        f"process {number} of {len(theirs)} is listed there alone"
        for number, pid in enumerate(sorted(theirs), start=1)
        if pid not in first and pid not in last
    ]
    for pid in sorted(stayed):
        size, early, late = theirs[pid], first[pid], last[pid]
        if (size is None) != (early is None):
            wrong.append("the memory of a process is told by one of us alone")
        if size is None or early is None or late is None:
            continue
        if not min(early, late) - _ROUNDED_BYTES <= size <= max(early, late) + _ROUNDED_BYTES:
            wrong.append(f"a process holds {gib(size)} there and {gib(early)} to {gib(late)} here")
    return Check(
        subject=_name(gpu),
        verdict="differs" if wrong else "agrees",
        words=f"nvidia-smi: {'; '.join(wrong) if wrong else f'the memory of {len(stayed)} compute processes'}",
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _name(gpu: Gpu) -> str:
    return f"GPU {gpu.gpu} ({gpu.name or 'no name'})"

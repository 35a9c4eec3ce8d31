"""``python -m bench.gpu_check``: check our NVML readings of this machine's GPUs, and write them down to test with.

It reads and starts nothing on a GPU. Exit status 0: everything agrees, or there is no NVIDIA GPU here; 1: something
differs.
"""

import argparse
import ctypes
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml

from bench.gpu_check.checks import Check, adds_up, against_cuda, against_nvidia_smi
from bench.gpu_check.others import ask_nvidia_smi, cuda_totals
from bench.gpu_check.record import Call, MadeUp, Recorded, Replayed
from exporter.errors import SourceError
from exporter.sources.nvml import GpuReadings, NvmlSource

FORMAT = 1
_NO_GPU = ("no_driver_library", "driver_not_loaded")
_TIMED_READS = 5


def main() -> int:
    """Check, print a line for each comparison, and write the capture."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("--write", type=Path, default=Path("build/gpu-check.json"), help="the capture")
    parser.add_argument("--nvidia-smi", default="nvidia-smi", help="the program to compare with")
    parser.add_argument("--cuda", default="libcuda.so.1", help="the library to compare with")
    options = parser.parse_args()
    recorded = Recorded(pynvml, MadeUp())
    source = NvmlSource(recorded)
    try:
        before = source.read()
    except SourceError as error:
        print(error)
        if error.reason in _NO_GPU:
            print("There is no NVIDIA GPU to check here; nothing was checked.")
        return int(error.reason not in _NO_GPU)
    finally:
        source.close()
    if not before.gpus:
        print("The driver lists no GPU; nothing was checked.")
        return 0
    checks = list(_checks(before, recorded.calls, nvidia_smi=options.nvidia_smi, cuda=options.cuda))
    for check in checks:
        print(f"{check.verdict:9} {check.subject}: {check.words}")
    options.write.parent.mkdir(parents=True, exist_ok=True)
    options.write.write_text(json.dumps(capture(recorded.calls, checks), indent=1) + "\n", encoding="utf-8")
    print(f"Written to {options.write}; it names no board and no process of this machine.")
    return int(any(check.verdict == "differs" for check in checks))


def capture(calls: list[Call], checks: list[Check]) -> dict[str, Any]:
    """Return the file's content: what NVML answered, what we read from that, and how the checks went."""
    return {
        "format": FORMAT,
        "written_by": "make gpu-check",
        "checks": [dataclasses.asdict(each) for each in checks],
        "readings": plain(replayed(calls)),
        "calls": calls,
    }


def replayed(calls: list[Call]) -> GpuReadings:
    """Make the same reading again from what was written down."""
    return NvmlSource(Replayed(pynvml, calls)).read()


def plain(readings: GpuReadings) -> dict[str, Any]:
    """Return a reading as JSON spells it."""
    content = {
        "gpus": [dataclasses.asdict(each) for each in readings.gpus],
        "processes": [dataclasses.asdict(each) for each in readings.processes],
        "failure": readings.failure.reason if readings.failure else None,
    }
    told: dict[str, Any] = json.loads(json.dumps(content))
    return told


def _checks(before: GpuReadings, calls: list[Call], *, nvidia_smi: str, cuda: str) -> Iterator[Check]:
    failure = before.failure
    yield Check(
        subject="all GPUs",
        verdict="differs" if failure else "agrees",
        words=str(failure) if failure else f"{len(before.gpus)} answer",
    )
    yield _says_the_same_again(before, calls)
    yield from adds_up(before)
    plainly = NvmlSource(pynvml)
    try:
        plainly.read()
        try:
            said = ask_nvidia_smi(nvidia_smi)
        except (OSError, RuntimeError) as error:
            yield Check(subject="nvidia-smi", verdict="left out", words=str(error))
        else:
            yield from against_nvidia_smi(before, said, plainly.read())
        try:
            totals = cuda_totals(ctypes.CDLL(cuda))
        except (OSError, RuntimeError, AttributeError) as error:
            yield Check(subject="CUDA", verdict="left out", words=str(error))
        else:
            yield from against_cuda(before, totals)
        seconds = statistics.median(_timed(plainly) for _ in range(_TIMED_READS))
        yield Check(subject="all GPUs", verdict="agrees", words=f"one reading takes {1000 * seconds:.1f} ms (median)")
    finally:
        plainly.close()


def _says_the_same_again(before: GpuReadings, calls: list[Call]) -> Check:
    """Check that the capture reads as the GPUs did, but for the made-up names."""
    again = replayed(calls)
    ours = [dataclasses.replace(each, uuid="") for each in before.gpus]
    theirs = [dataclasses.replace(each, uuid="") for each in again.gpus]
    sizes = [each.used_bytes for each in before.processes]
    same = ours == theirs and sizes == [each.used_bytes for each in again.processes]
    return Check(
        subject="the capture", verdict="agrees" if same else "differs", words=f"{len(calls)} calls, read again"
    )


def _timed(source: NvmlSource) -> float:
    began = time.perf_counter()
    source.read()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

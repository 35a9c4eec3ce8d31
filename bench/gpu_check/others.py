"""What nvidia-smi and CUDA say of the same GPUs."""

import csv
import ctypes
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor.units import MIB

GPU_FIELDS = (
    "uuid",
    "name",
    "driver_version",
    "compute_cap",
    "memory.total",
    "memory.reserved",
    "memory.used",
    "memory.free",
    "temperature.gpu",
    "ecc.errors.uncorrected.aggregate.total",
)
_PROCESS_FIELDS = ("gpu_uuid", "pid", "used_memory")
_PATIENCE_SECONDS = 60.0
"""The first call after a boot, without persistence mode, wakes every board."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NvidiaSmi:
    """One look through nvidia-smi; what it does not tell of a GPU is absent."""

    gpus: Mapping[str, Mapping[str, str]]
    """Fields by UUID."""
    process_bytes: Mapping[tuple[str, int], int | None]
    """By UUID and process id; None where it does not say."""


def ask_nvidia_smi(program: str) -> NvidiaSmi:
    """Look once.

    Raises:
        OSError: There is no such program.
        RuntimeError: It fails; the message is its own.
    """
    gpus = _asked(program, f"--query-gpu={','.join(GPU_FIELDS)}")
    return NvidiaSmi(
        gpus=parse_gpus(gpus), process_bytes=parse_processes(_asked(program, _compute_apps(_PROCESS_FIELDS)))
    )


def parse_gpus(text: str) -> dict[str, dict[str, str]]:
    """Read the answer about GPUs, one line each."""
    found = (dict(zip(GPU_FIELDS, row, strict=True)) for row in _rows(text))
    return {each["uuid"]: {name: value for name, value in each.items() if not value.startswith("[")} for each in found}


def parse_processes(text: str) -> dict[tuple[str, int], int | None]:
    """Read the answer about processes, one line each: memory comes in MiB."""
    return {(board, int(pid)): int(used) * MIB if used.isdecimal() else None for board, pid, used in _rows(text) if pid}


def cuda_totals(cuda: Any) -> dict[str, int]:
    """Return the bytes that CUDA sees of each device, by the UUID without its prefix. No context is made.

    Args:
        cuda: The driver's library, libcuda.so.1.

    Raises:
        RuntimeError: A call fails; the message has CUDA's number for why.
    """

    def ask(name: str, *arguments: Any) -> None:
        status = getattr(cuda, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} fails with {status}")

    ask("cuInit", 0)
    count = ctypes.c_int()
    ask("cuDeviceGetCount", ctypes.byref(count))
    totals = {}
    for ordinal in range(count.value):
        device, size, name = ctypes.c_int(), ctypes.c_size_t(), (ctypes.c_ubyte * 16)()
        ask("cuDeviceGet", ctypes.byref(device), ordinal)
        ask("cuDeviceTotalMem_v2", ctypes.byref(size), device)
        ask("cuDeviceGetUuid_v2", ctypes.byref(name), device)
        totals[str(uuid.UUID(bytes=bytes(name)))] = size.value
    return totals


def _compute_apps(fields: tuple[str, ...]) -> str:
    return f"--query-compute-apps={','.join(fields)}"


def _asked(program: str, query: str) -> str:
    try:
        answer = subprocess.run(  # noqa: S603 - the operator's own nvidia-smi
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer within {_PATIENCE_SECONDS:g} s") from error
    if answer.returncode:
        raise RuntimeError((answer.stdout + answer.stderr).strip() or f"exit status {answer.returncode}")
    return answer.stdout


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), skipinitialspace=True) if row]

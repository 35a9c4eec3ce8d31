"""What running programs use: CPU time, memory, how long their pages take."""

import ctypes
import http.client
import math
import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

_STARTS_WITHIN_SECONDS = 60.0
_AS_PROMETHEUS = {
    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A program to measure."""

    name: str
    command: tuple[str, ...]
    port: int | None = None
    """Of loopback, where it serves /metrics; None for one that serves nothing."""
    sample: bytes = b""
    """What stands on its page once a GPU was read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A program that has shown its first sample."""

    program: Program
    pid: int
    first_sample_seconds: float
    """From its start until a page held a sample of a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Resident memory; ``proportional_bytes`` counts what is shared with other processes by its share."""

    resident_bytes: int
    proportional_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scrape:
    """One GET of /metrics."""

    seconds: float
    sent_bytes: int
    body: bytes


@contextmanager
def running(program: Program, environment: Mapping[str, str], log: Path) -> Iterator[Running]:
    """Run a program while the context lasts.

    Raises:
        RuntimeError: It ended, or showed no GPU in time.
    """
    began = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(program.command, env=environment, stdout=output, stderr=output)  # noqa: S603
    try:
        while not _shows_its_sample(program):
            if process.poll() is not None or time.monotonic() - began > _STARTS_WITHIN_SECONDS:
                raise RuntimeError(f"{program.name} shows no GPU: {log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.005)
        yield Running(program=program, pid=process.pid, first_sample_seconds=time.monotonic() - began)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _shows_its_sample(program: Program) -> bool:
    try:
        return program.port is None or program.sample in scrape(program.port, headers={}).body
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of all threads that it ever had, to the nanosecond.

    Raises:
        OSError: There is no such process.
    """
    clock = ctypes.c_int()
    error = _libc.clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def cpu_seconds_a_minute(pids: Sequence[int], seconds: float) -> list[float]:
    """Let some processes run on, all in the same time, and return the CPU seconds a minute of each.

    Raises:
        OSError: One of them has ended.
    """
    began = time.monotonic()
    before = [cpu_seconds(pid) for pid in pids]
    time.sleep(seconds)
    after = [cpu_seconds(pid) for pid in pids]
    minutes = (time.monotonic() - began) / 60
    return [(late - early) / minutes for early, late in zip(before, after, strict=True)]


def memory(pid: int) -> Memory:
    """Return what is resident now."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return Memory(resident_bytes=found["Rss"], proportional_bytes=found["Pss"])


def scrape(port: int, headers: Mapping[str, str] = _AS_PROMETHEUS) -> Scrape:
    """Get /metrics once, as Prometheus asks for it unless told otherwise.

    Raises:
        OSError: Nobody answers, or not with 200.
    """
    with _connection(port) as connection:
        return _scrape(connection, headers)


def _connection(port: int) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30))


def _scrape(connection: http.client.HTTPConnection, headers: Mapping[str, str]) -> Scrape:
    """Get /metrics; a connection that was closed after the answer before is opened again, which counts."""
    began = time.perf_counter()
    try:
        connection.request("GET", "/metrics", headers=dict(headers))
        answer = connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - began
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    if answer.status != http.client.OK:
        raise ConnectionError(f"/metrics answered {answer.status}")
    return Scrape(seconds=seconds, sent_bytes=len(body), body=body)


def scrapes(ports: Sequence[int], *, count: int, per_second: float) -> list[list[float]]:
    """Scrape each port so many times, in turn and never two at once; return the seconds of each.

    Each turn has its part of a second and begins anywhere in it, the same in every run: at an even pace a scrape would
    keep its place among the reads of every second, and meet them always or never. Like Prometheus, it goes on with the
    connection it has as long as the server keeps it.
    """
    moments = random.Random(1)  # noqa: S311
    took: list[list[float]] = [[] for _ in ports]
    with ExitStack() as opened:
        connections = [opened.enter_context(_connection(port)) for port in ports]
        began = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, began + (number + moments.random()) / per_second - time.monotonic()))
            for each, connection in zip(took, connections, strict=True):
                each.append(_scrape(connection, _AS_PROMETHEUS).seconds)
    return took


def quantile(values: Sequence[float], ratio: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(ratio * len(values)) - 1)]

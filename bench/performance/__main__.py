"""Measures what the daemon costs, beside nvitop-exporter, and writes docs/performance.md.

``python -m bench.performance --peer .../bin/nvitop-exporter`` in a PID namespace of its own, so that the machine's
other processes and servers are not taken for the host's (`make bench` sees to that). Takes some fifteen minutes.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.performance import pages
from bench.performance.measure import (
    Program,
    Running,
    cpu_seconds,
    cpu_seconds_a_minute,
    memory,
    running,
    scrape,
    scrapes,
)
from bench.performance.report import (
    FLOOR,
    OURS,
    PEER,
    Answers,
    Cost,
    Growth,
    Measured,
    PageSize,
    Scene,
    Start,
    text,
)
from bench.performance.world import PAGE, World, world
from bench.ports import free_port

_ROOT = Path(__file__).parents[2]
_INTERVALS_SECONDS = (1.0, 5.0)
_SETTLE_SECONDS = 8.0
"""Models are read, APScheduler's threads and caches are there."""
_SHOWN_WITHIN_SECONDS = 60.0
_STARTS = 5
_GPUS = 8
_ENGINES = 8
_GPU_STEPS = (1, 2, 4, 8, 16)
_ENGINE_STEPS = (1, 4, 16, 64)
_MANY_PROCESSES = 1_000
_PACES = ((4.0, 400), (10.0, 1_000))
"""Scrapes a second, and how many: of fewer than some hundreds the 99th percentile is one or two unlucky ones."""
_RANKS = (1, 8, 64, 150)


def main() -> int:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.performance", description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", type=Path, required=True, help="nvitop-exporter's executable")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each comparison")
    parser.add_argument("--output", type=Path, default=_ROOT / "docs" / "performance.md")
    asked = parser.parse_args()
    if asked.seconds < 2 * max(_INTERVALS_SECONDS):
        parser.error("a comparison takes two of the longest intervals at the least")
    with tempfile.TemporaryDirectory() as directory:
        run = _Run(peer=asked.peer.absolute(), folder=Path(directory), seconds=asked.seconds)
        load_before = os.getloadavg()[0]
        gpus_only = run.scene("8 GPUs", engines=0)
        with_engines = run.scene("8 GPUs and 8 vLLM servers", engines=_ENGINES)
        measured = Measured(
            command=f"python -m bench.performance --peer .../bin/nvitop-exporter --seconds {asked.seconds:g}",
            machine=_machine(),
            window_seconds=asked.seconds,
            load_before=load_before,
            gpus_only=gpus_only,
            with_engines=with_engines,
            starts=run.starts(),
            growths=(run.growth_with_gpus(), run.growth_with_engines()),
            many_processes=_MANY_PROCESSES,
            crowded=run.crowded(),
            pages=tuple(pages.cost(PAGE.read_text(encoding="utf-8"), ranks) for ranks in _RANKS),
            load_after=os.getloadavg()[0],
        )
    asked.output.write_text(text(measured), encoding="utf-8")
    print(f"written: {asked.output}")
    return 0


def _machine() -> str:
    cpus = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} CPUs at niceness {os.nice(0)}"
    return f"Linux {platform.machine()}, {cpus}, Python {platform.python_version()}"


class _Run:
    """What every measurement shares."""

    def __init__(self, *, peer: Path, folder: Path, seconds: float) -> None:
        self._peer = peer
        self._folder = folder
        self._seconds = seconds
        self._count = 0

    def scene(self, title: str, *, engines: int) -> Scene:
        """Run both programs at both intervals, and the floor, at the same time; then scrape the fast ones."""
        with self._world(gpus=_GPUS, engines=engines) as host:
            programs = [
                program(interval)
                for interval in _INTERVALS_SECONDS
                for program in (self._ours, self._theirs, lambda seconds: self._floor(seconds, host))
            ]
            with self._all_running(programs, host) as found:
                _check(found, host)
                costs = self._costs(found)
                asked = [each for each in found[:3] if each.program.port]
                sizes = tuple(_size(each) for each in asked)
                answers = tuple(answer for pace, count in _PACES for answer in _answers(asked, pace, count))
        return Scene(
            title=title,
            costs=tuple(
                Cost(
                    program=each.program.name,
                    interval_seconds=_INTERVALS_SECONDS[number // 3],
                    cpu_seconds_a_minute=cost.cpu_seconds_a_minute,
                    memory=cost.memory if each.program.port else None,
                )
                for number, (each, cost) in enumerate(zip(found, costs, strict=True))
            ),
            answers=answers,
            pages=sizes,
        )

    def starts(self) -> tuple[Start, ...]:
        """Start each program some times, in turn."""
        with self._world(gpus=_GPUS) as host:
            took: dict[str, list[float]] = {OURS: [], PEER: []}
            for _ in range(_STARTS):
                for program in (self._ours(1.0), self._theirs(1.0)):
                    with running(program, host.environment, self._folder / "log") as found:
                        took[program.name].append(found.first_sample_seconds)
        return tuple(Start(program=name, seconds=tuple(seconds)) for name, seconds in took.items())

    def growth_with_gpus(self) -> Growth:
        """Run hosts of all sizes at the same time."""
        with ExitStack() as hosts:
            found: list[Running] = []
            for gpus in _GPU_STEPS:
                host = hosts.enter_context(self._world(gpus=gpus))
                programs = (self._ours(1.0), self._theirs(1.0), self._floor(1.0, host))
                found += hosts.enter_context(self._all_running(programs, host))
            costs = [cost.cpu_seconds_a_minute for cost in self._costs(found)]
        rows = zip(_GPU_STEPS, zip(costs[::3], costs[1::3], costs[2::3], strict=True), strict=True)
        return Growth(of="GPUs", programs=(OURS, PEER, FLOOR), rows=tuple(rows))

    def growth_with_engines(self) -> Growth:
        """Run one host after the other, because a daemon finds every server of its machine."""
        rows = []
        for engines in _ENGINE_STEPS:
            with (
                self._world(gpus=_GPUS, engines=engines) as host,
                self._all_running((self._ours(1.0), self._floor(1.0, host)), host) as found,
            ):
                _check(found, host)
                rows.append((engines, tuple(cost.cpu_seconds_a_minute for cost in self._costs(found))))
        return Growth(of="vLLM servers", programs=(OURS, FLOOR), rows=tuple(rows))

    def crowded(self) -> tuple[Cost, ...]:
        """Run both programs among many processes."""
        with (
            self._world(gpus=_GPUS, others=_MANY_PROCESSES) as host,
            self._all_running((self._ours(1.0), self._theirs(1.0)), host) as found,
        ):
            return tuple(self._costs(found))

    def _costs(self, found: Sequence[Running]) -> list[Cost]:
        time.sleep(_SETTLE_SECONDS)
        spent = cpu_seconds_a_minute([each.pid for each in found], self._seconds)
        print(*(f"{each.program.name} {a_minute:.3f}" for each, a_minute in zip(found, spent, strict=True)), flush=True)
        return [
            Cost(
                program=each.program.name,
                interval_seconds=1.0,
                cpu_seconds_a_minute=seconds,
                memory=memory(each.pid),
            )
            for each, seconds in zip(found, spent, strict=True)
        ]

    @contextmanager
    def _world(self, *, gpus: int, engines: int = 0, others: int = 0) -> Iterator[World]:
        self._count += 1
        folder = self._folder / f"host{self._count}"
        print(f"{gpus} GPUs, {engines} servers, {others} other processes", flush=True)
        with world(folder, gpus=gpus, engines=engines, others=others) as host:
            yield host

    @contextmanager
    def _all_running(self, programs: Sequence[Program], host: World) -> Iterator[list[Running]]:
        with ExitStack() as stack:
            log = self._folder / "log"
            yield [stack.enter_context(running(program, host.environment, log)) for program in programs]

    def _ours(self, interval: float) -> Program:
        self._count += 1
        port = free_port()
        command = (
            *(sys.executable, "-m", "exporter", "serve", "--web.listen-address", f"127.0.0.1:{port}"),
            *("--poll-interval", str(interval), "--state-dir", str(self._folder / f"state{self._count}")),
        )
        return Program(name=OURS, command=command, port=port, sample=b"headroom_gpu_memory_total_bytes{")

    def _theirs(self, interval: float) -> Program:
        port = free_port()
        command = (str(self._peer), "--bind-address", "127.0.0.1", "--port", str(port), "--interval", str(interval))
        return Program(name=PEER, command=command, port=port, sample=b"gpu_memory_total_MiB{")

    def _floor(self, interval: float, host: World) -> Program:
        command = (sys.executable, "-m", "bench.performance.floor", str(interval), *host.engine_urls)
        return Program(name=FLOOR, command=command)


def _check(found: Sequence[Running], host: World) -> None:
    """Wait until every daemon of ours shows every server; one that reads less would look cheap.

    Raises:
        RuntimeError: It does not.
    """
    for port in (each.program.port for each in found if each.program.name == OURS):
        end = time.monotonic() + _SHOWN_WITHIN_SECONDS
        while (up := _engines_up(scrape(port or 0, {}).body)) != len(host.engine_urls):
            if time.monotonic() > end:
                raise RuntimeError(f"{up} servers are shown instead of {len(host.engine_urls)}")
            time.sleep(0.2)


def _engines_up(page: bytes) -> int:
    return sum(line.startswith(b"headroom_engine_up{") and line.endswith(b" 1.0") for line in page.splitlines())


def _size(each: Running) -> PageSize:
    port = each.program.port or 0
    plain = scrape(port, {}).body
    return PageSize(
        program=each.program.name,
        series=sum(not line.startswith(b"#") for line in plain.splitlines()),
        plain_bytes=len(plain),
        sent_bytes=scrape(port).sent_bytes,
    )


def _answers(found: Sequence[Running], per_second: float, count: int) -> Iterator[Answers]:
    began = time.monotonic()
    before = [cpu_seconds(each.pid) for each in found]
    took = scrapes([each.program.port or 0 for each in found], count=count, per_second=per_second)
    minutes = (time.monotonic() - began) / 60
    for each, early, seconds in zip(found, before, took, strict=True):
        yield Answers(
            program=each.program.name,
            per_second=per_second,
            took_seconds=tuple(seconds),
            cpu_seconds_a_minute=(cpu_seconds(each.pid) - early) / minutes,
        )


if __name__ == "__main__":
    sys.exit(main())

"""Measurements -> docs/performance.md."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from advisor.units import MIB
from bench.performance.measure import Memory, quantile
from bench.performance.pages import PageCost


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a program used while nobody asked it."""

    program: str
    interval_seconds: float
    cpu_seconds_a_minute: float
    memory: Memory | None = None
    """None for the floor, which is no program to compare memory with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """How a program answered at one pace."""

    program: str
    per_second: float
    took_seconds: tuple[float, ...]
    cpu_seconds_a_minute: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PageSize:
    """What one answer weighs."""

    program: str
    series: int
    plain_bytes: int
    sent_bytes: int
    """As Prometheus asks for it: compressed where the program does that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Programs side by side on one host."""

    title: str
    costs: tuple[Cost, ...]
    answers: tuple[Answers, ...]
    pages: tuple[PageSize, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Seconds from starting a program until its page showed a GPU, of several starts."""

    program: str
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """What a poll costs as something grows: (how many, CPU seconds a minute at a 1 s interval) by program."""

    of: str
    programs: tuple[str, ...]
    rows: tuple[tuple[int, tuple[float, ...]], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One run of the benchmark."""

    command: str
    machine: str
    window_seconds: float
    load_before: float
    load_after: float
    gpus_only: Scene
    with_engines: Scene
    starts: tuple[Start, ...]
    growths: tuple[Growth, ...]
    many_processes: int
    crowded: tuple[Cost, ...]
    """The GPUs-only scene at 1 s among this many processes."""
    pages: tuple[PageCost, ...]


OURS, PEER, FLOOR = "vllm-headroom", "nvitop-exporter", "floor"
AIM_CPU_GPUS_ONLY, AIM_CPU_WITH_ENGINES = 0.5, 1.0
AIM_RESIDENT_MIB = 60
AIM_P99_SECONDS = 0.005

_FOUND = """
## What profiling found

- **A look at a server.** The request costs most. Each server has one connection that is kept, and Python's own
  http.client speaks on it: requests took as long again, for pools, cookies and redirects of which a page that is read
  every second has no use. What stands before a value repeats from look to look: a page of the same lines as the one
  before is held against it, and only the wanted values are read. What the lines mean is sorted out when they change.
- **Our own page.** How a sample's line begins and how a number is spelled is kept, and the text of facts that are still
  the same objects; the text is held equal to prometheus_client's. Interpreter time is handed over every 0.2 ms rather
  than 5, or a scrape that meets a judgement would wait at each of its system calls. It is packed at gzip's level 1:
  level 4 took a quarter of a scrape's time to save 7 % of the bytes.
- **The process table.** Between two looks at every process only new ones are looked at, and a server's process is
  told again by what /proc says of it alone: its start in Unix time needs /proc/stat, which grows with the processors.
- **Cgroups.** Servers share those above theirs: each is looked at once a read, and one without a limit not further.
- **The judgement.** A model's parameters are counted, an engine's plan is made and its command line is gone through
  once; who holds memory on which GPU is sorted once a moment. What is left grows with the engines: their loads and
  risks are gone through at every interval.
- **The schedule.** Reads that are due together share one job of APScheduler's, whose upkeep cost as much as a short
  read. One thread makes them one after the other, and is woken once for all of them; where one hangs, it keeps its
  thread after a head start, and another makes the rest.
- **Memory.** Importing is nearly all of it, so what no configuration asks for is not loaded; all threads share one
  heap, and lines that several servers write are kept once.
"""


def text(run: Measured) -> str:
    """Return the page."""
    return "\n".join(_lines(run)) + "\n"


def _lines(run: Measured) -> Iterator[str]:
    yield from f"""\
# What it costs

Written by `make bench`, which is

```sh
{run.command}
```

vllm-headroom and nvitop-exporter 1.7.2 run at the same time on the same made-up host: GPUs behind a stand-in for the
NVML library, two processes on each, vLLM servers that answer with a recorded page of 614 lines whose counters move on.
A driver's own time is not in it: the stand-in answers in microseconds, a real driver takes longer, and for both. The
floor is a Python program that makes ten NVML calls a GPU, gets the pages over open sockets, finds the wanted lines with
one regular expression and does nothing with them.

{run.machine};
load average {run.load_before:.1f} before and {run.load_after:.1f} after. What other work on a machine does to caches,
clocks and queues shows in every figure here, so **compare ratios, not seconds**: both sides of a ratio are taken in the
same {run.window_seconds:g} seconds.

## Ratios

""".splitlines()
    yield from _aims(run)
    for scene in (run.gpus_only, run.with_engines):
        yield from ("", f"## {scene.title}", "")
        yield from _scene(scene)
    yield from ("", "## Start", "", "Seconds until a page shows a GPU, each of several starts.", "")
    yield from ("| | least | median | most |", "|---|---:|---:|---:|")
    for start in run.starts:
        seconds = start.seconds
        yield f"| {start.program} | {min(seconds):.2f} | {quantile(seconds, 0.5):.2f} | {max(seconds):.2f} |"
    for growth in run.growths:
        yield from ("", f"## Growth with {growth.of}", "", "CPU seconds a minute, read every second.", "")
        yield f"| {growth.of} | {' | '.join(growth.programs)} | {growth.programs[0]}, each more |"
        yield "|---:|" + "---:|" * (len(growth.programs) + 1)
        for before, (count, costs) in zip((None, *growth.rows), growth.rows, strict=False):
            more = "" if before is None else f"{(costs[0] - before[1][0]) / (count - before[0]):.3f}"
            yield f"| {count} | {' | '.join(f'{cost:.2f}' for cost in costs)} | {more} |"
    yield from ("", f"## A host with {run.many_processes:,} more processes", "")
    yield f"As in the first scene, among {run.many_processes:,} processes that have nothing to do with GPUs."
    yield from ("", "| | CPU s/min at 1 s |", "|---|---:|")
    for each in run.crowded:
        yield f"| {each.program} | {each.cpu_seconds_a_minute:.2f} |"
    yield from ("", "## Reading a page", "")
    yield "Milliseconds of CPU time for one page, without the network. The library is prometheus_client's text parser."
    yield "The reader is held equal to it on every recorded page and on made-up ones (`tests/exporter/sources`)."
    yield from ("", "| engines on the page | lines | KiB | library | ours, first page | ours, later | pattern alone |")
    yield from ("|---:|---:|---:|---:|---:|---:|---:|",)
    for page in run.pages:
        times = (page.library_seconds, page.first_seconds, page.later_seconds, page.least_seconds)
        shown = " | ".join(f"{1000 * seconds:.2f}" for seconds in times)
        yield f"| {page.ranks} | {page.lines:,} | {page.size_bytes / 1024:,.0f} | {shown} |"
    largest = run.pages[-1]
    yield ""
    yield "While the largest of these pages is read (8 MiB is the bound), it takes"
    yield f"{largest.peak_bytes / MIB:.0f} MiB at most, with what is remembered of the one before."
    yield from _FOUND.splitlines()


def _aims(run: Measured) -> Iterator[str]:
    yield "| | measured | aim | |"
    yield "|---|---:|---:|---|"
    for scene, aim in ((run.gpus_only, AIM_CPU_GPUS_ONLY), (run.with_engines, AIM_CPU_WITH_ENGINES)):
        for interval in (1.0, 5.0):
            ours, peer, floor = (
                _cost(scene, program, interval).cpu_seconds_a_minute for program in (OURS, PEER, FLOOR)
            )
            what = f"{scene.title}: CPU at {interval:g} s"
            yield _row(f"{what}, ours / nvitop-exporter", ours / peer, f"{aim:g}" if interval == 1.0 else None, aim)
            yield _row(f"{what}, ours / floor", ours / floor, None, math.inf)
        (ours_size, peer_size) = (_page(scene, program) for program in (OURS, PEER))
        yield _row(
            f"{scene.title}: bytes sent a scrape, ours / nvitop-exporter",
            ours_size.sent_bytes / peer_size.sent_bytes,
            None,
            math.inf,
        )
        for ours_took, peer_took in zip(scene.answers[::2], scene.answers[1::2], strict=True):
            for ratio in (0.5, 0.99):
                yield _row(
                    f"{scene.title}: /metrics p{100 * ratio:.0f} at {ours_took.per_second:g}/s, ours / nvitop-exporter",
                    quantile(ours_took.took_seconds, ratio) / quantile(peer_took.took_seconds, ratio),
                    None,
                    math.inf,
                )
    one = run.pages[0]
    yield _row("reading a page, ours / the library", one.later_seconds / one.library_seconds, None, math.inf)
    resident = max(
        cost.memory.resident_bytes for cost in run.with_engines.costs if cost.program == OURS and cost.memory
    )
    yield _row(
        "resident memory with 8 engines and state kept, MiB", resident / MIB, f"{AIM_RESIDENT_MIB}", AIM_RESIDENT_MIB
    )
    for scene in (run.gpus_only, run.with_engines):
        for answers in scene.answers:
            if answers.program == OURS:
                slowest = quantile(answers.took_seconds, 0.99)
                yield _row(
                    f"{scene.title}: /metrics p99 at {answers.per_second:g}/s, ms",
                    1000 * slowest,
                    f"{1000 * AIM_P99_SECONDS:g}",
                    1000 * AIM_P99_SECONDS,
                )


def _row(what: str, value: float, aim: str | None, most: float) -> str:
    verdict = "" if aim is None else "met" if value <= most else "**missed**"
    return f"| {what} | {value:.2f} | {aim or ''} | {verdict} |"


def _cost(scene: Scene, program: str, interval: float) -> Cost:
    return next(cost for cost in scene.costs if (cost.program, cost.interval_seconds) == (program, interval))


def _page(scene: Scene, program: str) -> PageSize:
    return next(page for page in scene.pages if page.program == program)


def _scene(scene: Scene) -> Iterator[str]:
    yield "| | every | CPU s/min | resident MiB | proportional MiB |"
    yield "|---|---:|---:|---:|---:|"
    for cost in scene.costs:
        memory = cost.memory
        sizes = (memory.resident_bytes, memory.proportional_bytes) if memory else ()
        shown = " | ".join(f"{size / MIB:.1f}" for size in sizes) or " | "
        yield f"| {cost.program} | {cost.interval_seconds:g} s | {cost.cpu_seconds_a_minute:.2f} | {shown} |"
    yield from (
        "",
        "/metrics, read every second, as Prometheus does, on a connection that is kept; moments drawn by lot:",
        "",
    )
    yield "| | scrapes a second | p50 ms | p99 ms | CPU s/min with them |"
    yield "|---|---:|---:|---:|---:|"
    for answers in scene.answers:
        middle, slow = (1000 * quantile(answers.took_seconds, ratio) for ratio in (0.5, 0.99))
        yield (
            f"| {answers.program} | {answers.per_second:g} | {middle:.1f} | {slow:.1f} |"
            f" {answers.cpu_seconds_a_minute:.2f} |"
        )
    yield from ("", "| | series | page, KiB | sent, KiB |", "|---|---:|---:|---:|")
    for page in scene.pages:
        yield f"| {page.program} | {page.series} | {page.plain_bytes / 1024:.1f} | {page.sent_bytes / 1024:.1f} |"

"""One run: a workload sent to a server, counted from the server's own metrics, its log and its clients."""

import random
import re
import statistics
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import psutil

from advisor.advise import advise
from advisor.history import History, remember
from advisor.load import to_json
from advisor.loadtest import End, Look, Sample, seen_in
from advisor.percentiles import percentiles
from advisor.readings import EngineProcess, EngineReading
from advisor.snapshot import EngineTarget, Snapshot
from bench.fidelity.server import QUICK_FLAGS
from bench.tuning.judge import POLICY
from bench.tuning.runs import Run
from bench.tuning.workloads import BLOCK_TOKENS, BLOCKS, MAX_MODEL_LEN, Workload
from exporter.bench.client import Client, Planned, Target
from exporter.bench.drive import Drive
from exporter.bench.watch import Watch
from exporter.connection import Connection
from exporter.sources.model import read_model_files
from exporter.sources.process import ProcessSource
from exporter.sources.vllm import VllmSource
from exporter.traffic import prompts

FLAGS = (
    *("--num-gpu-blocks-override", str(BLOCKS), "--block-size", str(BLOCK_TOKENS)),
    *("--max-model-len", str(MAX_MODEL_LEN), "--enable-logging-iteration-details"),
    *QUICK_FLAGS,
)
_LOOK_EVERY_SECONDS = 0.1
_LONGEST_RUN_SECONDS = 600.0
_IDLE_WITHIN_SECONDS = 5.0
_ITERATION = re.compile(
    r"Iteration\(\d+\): \d+ context requests, (\d+) context tokens, \d+ generation requests, (\d+) generation tokens"
)


_Page = tuple[float, tuple[EngineReading, ...]]
"""What a server's engines said, and when by the steady clock."""


class _Remembering(VllmSource):
    """Keeps every page that it reads."""

    def __init__(self, url: str) -> None:
        super().__init__(engine=url.partition("//")[2], url=url, connection=Connection(url, headers={}))
        self.pages: list[_Page] = []

    def read(self) -> tuple[EngineReading, ...]:
        readings = super().read()
        self.pages.append((time.monotonic(), readings))
        return readings


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that is up and has served its first requests."""

    url: str
    model: Path
    log: Path
    max_num_seqs: int

    @property
    def process(self) -> EngineProcess:
        """Its process, found as the daemon finds it.

        Raises:
            LookupError: It is not there.
        """
        found = Snapshot(now_seconds=0.0, servers=ProcessSource(psutil).read()).server_at(self.url)
        if found is None:
            raise LookupError(f"{self.url}: no such server in the process table")
        return found

    def warm_up(self) -> None:
        """Send a few requests: the first steps of a fresh server take seconds each and are no part of any load."""
        few = [Planned(prompt=tuple(range(100, 100 + 40 * count)), output_tokens=12) for count in range(1, 9)]
        _drive(self.url).closed(few, users=4, until_seconds=time.monotonic() + _LONGEST_RUN_SECONDS)


def serve(server: Server, workload: Workload, *, repetition: int) -> Run:
    """Serve a workload once and count.

    Raises:
        LookupError: The server has gone.
    """
    source, process = _Remembering(server.url), server.process
    log_from = server.log.stat().st_size
    cpu_before, began = _engine_cpu_seconds(process), datetime.now(UTC)
    begin = time.monotonic()
    with Watch(source, time.monotonic, interval_seconds=_LOOK_EVERY_SECONDS) as watch:
        samples = _send(server.url, workload, seed=f"{workload.name} {repetition} {began}")
        wall = time.monotonic() - begin
        _wait_until_idle(watch)
    first, last = watch.looks[0], watch.looks[-1]
    scheduled = _scheduled_tokens(server.log, log_from)
    done = sum(sample.end is End.OK for sample in samples)
    # The first token of an answer comes with its prompt's last step; every other one is scheduled by itself.
    needed = _iteration_tokens(source.pages[-1]) - _iteration_tokens(source.pages[0]) - done
    seen = seen_in(watch.looks)
    gaps = [gap for sample in samples for gap in sample.gaps_seconds]
    answered = [sample for sample in samples if sample.end is End.OK]
    whole = percentiles(sample.end_to_end_seconds for sample in answered)
    whole_steps = percentiles(latency_steps(answered, watch.looks))
    first_token = percentiles(each for sample in answered if (each := sample.time_to_first_token_seconds) is not None)
    gap = percentiles(gaps)
    flags = process.flags
    return Run(
        workload=workload.name,
        max_num_seqs=server.max_num_seqs,
        repetition=repetition,
        requests=len(workload.requests),
        completed=done,
        prompt_tokens=_grown(first, last, "prompt_tokens"),
        output_tokens=_grown(first, last, "generation_tokens"),
        steps=_grown(first, last, "steps"),
        preemptions=_grown(first, last, "preemptions"),
        recomputed_tokens=None if scheduled is None else round(scheduled - needed),
        mean_running=seen.running.mean_per_step if seen.running else None,
        longest_stall_steps=longest_stall_steps(samples, watch.looks),
        longest_stall_seconds=max(gaps, default=0.0),
        median_gap_seconds=statistics.median(gaps) if gaps else None,
        gap_p99_seconds=gap.p99 if gap else None,
        first_token_p95_seconds=first_token.p95 if first_token else None,
        latency_p50_seconds=whole.p50 if whole else None,
        latency_p95_seconds=whole.p95 if whole else None,
        latency_p95_steps=whole_steps.p95 if whole_steps else None,
        engine_cpu_seconds=_engine_cpu_seconds(process) - cpu_before,
        wall_seconds=wall,
        began=f"{began:%Y-%m-%dT%H:%M:%SZ}",
        vllm_version=source.pages[-1][1][0].vllm_version,
        max_num_batched_tokens=flags.max_num_batched_tokens,
        load=_observed(server, process, source.pages) if repetition == 0 else None,
    )


def _drive(url: str) -> Drive:
    target = Target(url=url, model="tiny", timeout_seconds=_LONGEST_RUN_SECONDS)
    return Drive(new_client=lambda: Client(target, clock=time.monotonic), clock=time.monotonic)


def _send(url: str, workload: Workload, *, seed: str) -> list[Sample]:
    """Send all requests and return what their clients saw."""
    chance = random.Random(seed)  # noqa: S311 - token ids
    ids = prompts(workload.requests, shared_prefix_tokens=workload.shared_prefix_tokens, chance=chance)
    samples: list[Sample] = []
    for group in workload.groups:
        due = [(each.seconds, Planned(prompt=next(ids), output_tokens=each.output_tokens)) for each in group]
        drive = _drive(url)
        if workload.users is None:
            drive.open(due, until_seconds=_LONGEST_RUN_SECONDS)
        else:
            drive.closed(
                (planned for _, planned in due),
                users=workload.users,
                until_seconds=time.monotonic() + _LONGEST_RUN_SECONDS,
            )
        samples += drive.samples
    return samples


def _wait_until_idle(watch: Watch) -> None:
    """The last answer reaches its client before the server has counted it."""
    end = time.monotonic() + _IDLE_WITHIN_SECONDS
    while time.monotonic() < end:
        looks = watch.looks[-2:]
        if len(looks) == 2 and looks[0].steps == looks[1].steps and looks[1].running == looks[1].waiting == 0:
            return
        time.sleep(_LOOK_EVERY_SECONDS)


def _grown(first: Look, last: Look, name: str) -> float:
    before, after = getattr(first, name), getattr(last, name)
    return float(after) - float(before)


def _iteration_tokens(page: _Page) -> float:
    """Return the tokens that the server has counted in its steps: prompts less what was cached, and outputs."""
    return sum(reading.histograms["iteration_tokens"].sum for reading in page[1])


def _scheduled_tokens(log: Path, begin: int) -> int | None:
    """Return the tokens of all steps that the log tells of from this byte on, None where it tells of none."""
    with log.open("rb") as file:
        file.seek(begin)
        found = _ITERATION.findall(file.read().decode("utf-8", errors="replace"))
    return sum(int(context) + int(generation) for context, generation in found) if found else None


def _steps_until(looks: Sequence[Look]) -> Callable[[float], float]:
    """Return how many steps the engine had done at a moment, even between two looks."""
    known = [(look.seconds, look.steps) for look in looks if look.steps is not None]

    def steps_until(moment: float) -> float:
        place = bisect(known, (moment, float("inf")))
        if place in (0, len(known)):
            return known[0 if place == 0 else -1][1]
        (before, low), (after, high) = known[place - 1], known[place]
        return low + (high - low) * (moment - before) / (after - before)

    return steps_until


def latency_steps(samples: Sequence[Sample], looks: Sequence[Look]) -> list[float]:
    """Return the engine steps from the sending of each request to its end: its latency on a machine of even steps."""
    steps_until = _steps_until(looks)
    return [steps_until(sample.ended_seconds) - steps_until(sample.sent_seconds) for sample in samples]


def longest_stall_steps(samples: Sequence[Sample], looks: Sequence[Look]) -> float:
    """Return the most engine steps in which an answer that had begun got no token; 0 without a stall.

    Steps are taken as even between two looks. An answer falls behind the engine by a step for each one it is left out
    of, and never catches up; what it does catch up with was a client that was slow to read. So the least that it is
    behind from some moment on is how far it was behind then. Its last piece, after which nothing can be caught up,
    is left out.
    """
    steps_until = _steps_until(looks)
    longest = 0.0
    for sample in samples:
        tokens = accumulate(count for _, count in sample.arrivals)
        behind = [steps_until(moment) - count for (moment, _), count in zip(sample.arrivals, tokens, strict=True)]
        settled = list(accumulate(reversed(behind), min))[::-1]
        longest = max([longest, *(after - before for before, after in pairwise(settled[:-1]))])
    return longest


def _engine_cpu_seconds(server: EngineProcess) -> float:
    """Return the processor time of the server's descendants: the engine and its workers."""
    found = 0.0
    for pid in server.pids:
        process = psutil.Process(pid)
        if process.ppid() in server.pids:
            times = process.cpu_times()
            found += times.user + times.system
    return found


def _observed(server: Server, process: EngineProcess, pages: Sequence[_Page]) -> dict[str, Any]:
    """Return what the daemon would know of the engine's load had it seen these pages: its own judgement of each."""
    model = read_model_files(Path(process.model_path or server.model))
    history = History()
    for moment, readings in pages:
        snapshot = Snapshot(
            now_seconds=moment,
            servers=(process,),
            engines=readings,
            targets=(EngineTarget(engine=readings[0].engine, url=server.url, failing=None),),
            models=(model,),
        )
        history = remember(history, snapshot, advise(snapshot, history, POLICY))
    (load,) = to_json(history.load)
    return {**load, "engine": "server"}

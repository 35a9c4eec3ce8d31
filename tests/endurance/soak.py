"""A year in an hour: the real daemon at its shortest interval while servers, processes and driver come and go.

``python -m tests.endurance.soak`` writes the "Soak" section of docs/endurance.md; ``make soak`` is the same.
"""

import argparse
import json
import math
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from tests.endurance.machine import Machine
from tests.endurance.process import cpu_seconds, held_at_rest
from tests.endurance.report import write_section
from tests.exporter.daemon import daemon

INTERVAL_SECONDS = 0.2
ENGINES = 8
_MEASURE_EVERY_SECONDS = 30.0
_CHURN_EVERY_SECONDS = 4.0
_PATIENCE_SECONDS = 20.0
_WARM_UP = 0.1
"""Of all polls: label sets seen once, histories filled, the allocator's pools grown."""
MOST_GROWTH_BYTES = 2 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What the daemon held at a moment."""

    seconds: float
    polls: int
    restarts: int
    resident_bytes: int
    descriptors: int
    threads: int
    series: int
    """0 where not everything was up: on a machine so loaded that reads of every 0.2 s are late."""
    cpu_seconds: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run showed after its warm-up."""

    polls: int
    restarts: int
    seconds: float
    cpu_share: float
    resident_bytes: tuple[int, int]
    """Least and most."""
    growth_bytes: float
    """Median of the last fifth of the measurements less that of the first."""
    looks: int
    whole_looks: int
    """Of these, those with everything up: the three that follow are of them alone."""
    descriptors: tuple[int, int]
    threads: tuple[int, int]
    series: tuple[int, int]

    @property
    def is_steady(self):
        memory = self.resident_bytes[1] - self.resident_bytes[0] <= MOST_GROWTH_BYTES
        return memory and all(least == most for least, most in (self.descriptors, self.threads, self.series))


def judge(measurements):
    """Return the verdict on a run."""
    last = measurements[-1]
    warm = [each for each in measurements if each.polls >= _WARM_UP * last.polls]
    fifth = max(1, len(warm) // 5)
    whole = [each for each in warm if each.series]
    resident = [each.resident_bytes for each in warm]

    def span(name, of=whole):
        values = [getattr(each, name) for each in of]
        return min(values), max(values)

    return Verdict(
        polls=last.polls,
        restarts=last.restarts,
        seconds=last.seconds,
        cpu_share=last.cpu_seconds / last.seconds,
        resident_bytes=span("resident_bytes", of=warm),
        growth_bytes=median(resident[-fifth:]) - median(resident[:fifth]),
        looks=len(warm),
        whole_looks=len(whole),
        descriptors=span("descriptors"),
        threads=span("threads"),
        series=span("series"),
    )


class Soak:
    """One run: what happens to the machine, and what the daemon holds meanwhile."""

    def __init__(self, machine, running):
        self.machine = machine
        self.running = running
        self.began = time.monotonic()
        self.retired_polls = 0
        self.restarts = 0
        self.measurements = []

    @property
    def polls(self):
        return self.retired_polls + sum(engine.polls() for engine in self.machine.engines)

    def restart_one(self):
        """Kill a server without warning and start its model again elsewhere, as a supervisor would."""
        engine = self.machine.engines[self.restarts % len(self.machine.engines)]
        self.retired_polls += engine.polls()
        engine.stop()
        time.sleep(2 * INTERVAL_SECONDS)
        engine.start()
        self.machine.settle()
        self.restarts += 1

    def trouble(self):
        """Let the driver fail in one way after the other, for a second each, and the configuration be read again."""
        state, gpu = self.machine.state, self.machine.gpus[self.restarts % len(self.machine.gpus)]
        turn = self.restarts // 4 % 4
        if turn == 0:
            state.unload_driver()
            time.sleep(1)
            state.load_driver()
        elif turn == 1:
            gpu.fail("*", "GPU_IS_LOST")
            time.sleep(1)
            gpu.heal()
        elif turn == 2:
            state.delay("nvmlDeviceGetTemperature*", None)
            time.sleep(1)
            state.heal()
        else:
            self.running.process.send_signal(signal.SIGHUP)

    def series_when_whole(self):
        """Return how many series there are if every GPU and every server shows with all that is known of it, else 0."""
        metrics = self.running.metrics()
        ups = {dict(labels)["engine"] for (name, labels), value in metrics.items() if (name, value) == _UP}
        shown = Counter(name for name, _ in metrics if name.startswith("headroom_"))
        engines = len(self.machine.engines)
        is_whole = ups == {engine.engine for engine in self.machine.engines} and all(
            shown[name] == engines for name in _OF_EACH
        )
        lasting = shown.total() - sum(shown[name] for name in _COME_AND_GO)
        return lasting if is_whole else 0

    def wait_until_whole(self):
        """Return `series_when_whole` as soon as it is not 0, or 0 where that takes too long."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while not (series := self.series_when_whole()) and time.monotonic() < end:
            time.sleep(INTERVAL_SECONDS)
        return series

    def measure(self):
        self.wait_until_whole()
        for path in ("/", "/api/v1/status", "/api/v1/advice"):
            self.running.get(path)
        time.sleep(5 * INTERVAL_SECONDS)
        pid = self.running.process.pid
        series = self.wait_until_whole()
        held = held_at_rest(pid)
        self.measurements.append(
            Measurement(
                seconds=time.monotonic() - self.began,
                polls=self.polls,
                restarts=self.restarts,
                resident_bytes=held.resident_bytes,
                descriptors=held.descriptors,
                threads=held.threads,
                series=series,
                cpu_seconds=cpu_seconds(pid),
            )
        )

    def run(self, polls, seconds):
        """Go on until the servers' pages have been read so often, or for so long."""
        next_measure = 0.0
        while not self.measurements or self.measurements[-1].polls < polls:
            now = time.monotonic() - self.began
            if now > seconds:
                return
            if now >= next_measure:
                self.measure()
                print(json.dumps(asdict(self.measurements[-1])), flush=True)
                next_measure = now + _MEASURE_EVERY_SECONDS
            self.restart_one()
            if self.restarts % 4 == 0:
                self.trouble()
            time.sleep(_CHURN_EVERY_SECONDS)
            with urlopen(f"http://127.0.0.1:{self.running.port}/metrics", timeout=10) as answer:
                answer.read()


_UP = ("headroom_engine_up", 1.0)
_COME_AND_GO = ("headroom_engine_failing", "headroom_collector_failing")
"""They stand for what is wrong just now, and go with it."""
_OF_EACH = ("headroom_gpu_memory_slack_bytes", "headroom_engine_kv_theory_tokens", "headroom_engine_max_num_seqs")


def text(verdict):
    """Return the section of the report."""
    mib = 1024**2

    def span(pair):
        return f"{pair[0]}" if pair[0] == pair[1] else f"{pair[0]} to {pair[1]}"

    least, most = (size / mib for size in verdict.resident_bytes)
    churn = f"{_CHURN_EVERY_SECONDS:g}"
    return f"""{ENGINES} GPUs with a server each, read every {INTERVAL_SECONDS} s. Every {churn} s or so a server was
killed and started again on the other one of its two ports; after every fourth the driver was unloaded, a GPU lost, a
driver call left hanging for a second or the configuration read again.

| after a warm-up of a tenth | measured | wanted |
|---|---|---|
| polls of a server's page | {verdict.polls:,} in {verdict.seconds / 60:.0f} minutes | 100,000 |
| restarts of a server | {verdict.restarts:,} | |
| resident memory | {least:.1f} to {most:.1f} MiB | within {MOST_GROWTH_BYTES / mib:g} MiB |
| its growth, median of the last fifth less the first | {verdict.growth_bytes / mib:+.2f} MiB | |
| looks, and those with everything up | {verdict.looks}, {verdict.whole_looks} | |
| file descriptors at rest | {span(verdict.descriptors)} | constant |
| threads at rest | {span(verdict.threads)} | constant |
| `headroom_` series with everything up, failures just over aside | {span(verdict.series)} | constant |
| processor time | {verdict.cpu_share:.0%} of one CPU | |

Verdict: {"steady" if verdict.is_steady else "not steady"}."""


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--polls", type=int, default=100_000)
    arguments.add_argument("--minutes", type=float, default=math.inf, help="give up after so long")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by way of what ends the servers
    with tempfile.TemporaryDirectory() as directory:
        machine = Machine(Path(directory), gpus=ENGINES)
        try:
            machine.start()
            state = Path(directory, "kept")
            # As the service's unit has it.
            variables = {**machine.environment, "MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072"}
            flags = ("--poll-interval", str(INTERVAL_SECONDS), "--state-dir", str(state))
            with daemon(*flags, environment=variables, program="tests.endurance.only") as running:
                soak = Soak(machine, running)
                soak.run(given.polls, 60 * given.minutes)
        finally:
            machine.close()
    verdict = judge(soak.measurements)
    write_section("soak", text(verdict))
    sys.exit(0 if verdict.is_steady else 1)


if __name__ == "__main__":
    main()

"""All stories at once, told to the daemon and judged by what Prometheus' alerts said."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from advisor.policy import Policy
from bench.live_risk.prometheus import Prometheus, Series, prometheus
from bench.live_risk.rules import BASELINES, OURS, RESTART, rule_groups
from bench.live_risk.stage import Played, Stage
from bench.live_risk.story import Story, Teller
from bench.ports import free_port
from tests.nvml_standin.standin import environment

_STARTS_WITHIN_SECONDS = 60.0
_TICK_SECONDS = 5.0
"""Of the story: an allocation is seen at the daemon's next look."""
_LEAST_TICK_SECONDS = 0.02
_MISSED = 3.5
"""Evaluations without a sample after which an alert is taken to have ended."""

Firing = tuple[tuple[float, float], ...]
"""From when to when an alert fired, in seconds of the story."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one story went."""

    name: str
    story: Story
    ended_at_seconds: float | None
    """When memory ended or the restart failed; None where it did not."""
    fired: Mapping[str, Firing]
    """By rule."""
    factor: str | None
    """The largest factor of the risk when its alert began to fire."""
    highest_risk_ratio: float

    def lead_seconds(self, rule: str) -> float | None:
        """Return for how long a rule had fired when the story ended; None where it was silent then."""
        if self.ended_at_seconds is None:
            return None
        return next(
            (self.ended_at_seconds - since for since, until in self.fired[rule] if until >= self.ended_at_seconds), None
        )


def run(
    tellers: Mapping[str, Teller], directory: Path, library: Path, *, speed: float, poll_seconds: float, seed: int
) -> list[Outcome]:
    """Play the stories and return how each went.

    Args:
        tellers: The stories, by name.
        directory: An empty one for everything that is written.
        library: The stand-in libnvidia-ml.so.1.
        speed: Seconds of the stories within one real second.
        poll_seconds: Between two looks of the daemon, two scrapes and two evaluations; of the story.
        seed: Which histories.
    """
    stage = Stage(directory, tellers, seed=seed, speed=speed)
    try:
        with _daemon(stage, library, speed=speed, poll_seconds=poll_seconds) as target:
            rules, interval = rule_groups(Policy(), speed=speed), poll_seconds / speed
            with prometheus(directory, target, rules, interval_seconds=interval, speed=speed) as server:
                began = time.time()
                longest = max(each.story.seconds for each in stage.played)
                while (now := (time.time() - began) * speed) < longest:
                    stage.play(now)
                    time.sleep(max(_LEAST_TICK_SECONDS, _TICK_SECONDS / speed))
                return _outcomes(stage, server, began, speed=speed, interval_seconds=interval)
    finally:
        stage.close()


@contextlib.contextmanager
def _daemon(stage: Stage, library: Path, *, speed: float, poll_seconds: float) -> Iterator[str]:
    """Serve, and yield where once every GPU and engine was judged."""
    port = free_port()
    urls = [url for each in stage.played for url in each.urls.values()]
    with (stage.directory / "daemon.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [
                *(sys.executable, "-m", "bench.live_risk.daemon", "--speed", str(speed), "--port", str(port)),
                *("--poll-interval", str(poll_seconds), *(word for url in urls for word in ("--engine", url))),
            ],
            env={**environment(library, stage.state), "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=log,
        )
    try:
        _wait_until_all_is_seen(f"http://127.0.0.1:{port}/metrics", len(stage.played), len(urls), process)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _wait_until_all_is_seen(url: str, gpus: int, engines: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _STARTS_WITHIN_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError("the daemon ended at its start")
        with contextlib.suppress(OSError), urlopen(url, timeout=5) as answer:  # noqa: S310 - loopback
            page = answer.read().decode()
            seen = sum(line.startswith("headroom_gpu_oom_risk_ratio{") for line in page.splitlines())
            planned = sum(line.startswith("headroom_engine_restart_fits{") for line in page.splitlines())
            if (seen, planned) == (gpus, engines):
                return
        time.sleep(0.2)
    raise RuntimeError(f"not all of {gpus} GPUs and {engines} engines were judged in time")


def _outcomes(
    stage: Stage, server: Prometheus, began: float, *, speed: float, interval_seconds: float
) -> list[Outcome]:
    over = time.time() - began
    alerts = server.samples('ALERTS{alertstate="firing"}', over)
    risks = server.samples("headroom_gpu_oom_risk_ratio", over)
    factors = server.samples("headroom_gpu_oom_risk_factor_ratio", over)

    def story_time(at: float) -> float:
        return (at - began) * speed

    outcomes = []
    for each in stage.played:
        until = each.ended_at_seconds if each.ended_at_seconds is not None else each.story.seconds
        fired = {
            rule: _episodes(
                [
                    story_time(at)
                    for labels, samples in alerts
                    if labels["alertname"] == rule and _is_of(labels, each)
                    for at, _ in samples
                    if 0 <= story_time(at) <= until
                ],
                _MISSED * interval_seconds * speed,
            )
            for rule in (OURS, RESTART, *BASELINES)
        }
        outcome = Outcome(
            name=each.name,
            story=each.story,
            ended_at_seconds=each.ended_at_seconds,
            fired=fired,
            factor=_largest(factors, each, began + fired[OURS][-1][0] / speed) if fired[OURS] else None,
            highest_risk_ratio=max(
                value
                for labels, samples in risks
                if _is_of(labels, each)
                for at, value in samples
                if 0 <= story_time(at) <= until
            ),
        )
        outcomes.append(outcome)
    return outcomes


def _is_of(labels: Mapping[str, str], played: Played) -> bool:
    engines = {url.removeprefix("http://") for url in played.urls.values()}
    return labels.get("uuid") == played.gpu.uuid or labels.get("engine") in engines


def _episodes(times: list[float], gap_seconds: float) -> Firing:
    """Join samples that follow one another; the last one is taken to hold until the next would have come."""
    found: list[tuple[float, float]] = []
    for at in sorted(times):
        if found and at - found[-1][1] <= gap_seconds:
            found[-1] = (found[-1][0], at)
        else:
            found.append((at, at))
    return tuple((since, until + gap_seconds) for since, until in found)


def _largest(factors: list[Series], played: Played, at: float) -> str:
    """Return the factor that was the largest at this Unix time."""
    values = {
        labels["factor"]: next((value for when, value in reversed(samples) if when <= at), 0.0)
        for labels, samples in factors
        if _is_of(labels, played)
    }
    return max(values, key=lambda name: values[name])

"""The server's own metrics while a load test runs."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from advisor.capacity import reported_capacity
from advisor.loadtest import Look
from advisor.readings import EngineReading, Histogram
from exporter.errors import SourceError
from exporter.sources.vllm import VllmSource

INTERVAL_SECONDS = 0.25


class Watch:
    """Looks at the server's metrics at even intervals until it is stopped."""

    def __init__(
        self, source: VllmSource, clock: Callable[[], float], *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        """Take what reads the server, the test's clock and how often to look."""
        self._interval_seconds = interval_seconds
        self._source = source
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks: list[Look] = []
        self.problem: str | None = None
        """Why the last look failed, None if it did not."""

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()
        self._source.close()

    def between(self, begin_seconds: float, end_seconds: float) -> Sequence[Look]:
        """Return the looks of this stretch of time."""
        return [look for look in tuple(self.looks) if begin_seconds <= look.seconds <= end_seconds]

    def look(self) -> None:
        """Look once more, now."""
        try:
            readings = self._source.read()
        except SourceError as error:
            self.problem = error.reason
            return
        self.problem = None
        self.looks.append(look_of(readings, self._clock()))

    def _run(self) -> None:
        while not self._stop.wait(self._interval_seconds):
            self.look()


def look_of(readings: Iterable[EngineReading], seconds: float) -> Look:
    """Return what a server's data-parallel engines say together."""
    readings = tuple(readings)

    def together(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    def total(key: str) -> float | None:
        return together(each.totals.get(key) for each in readings)

    def histogram(key: str) -> Histogram | None:
        return _merged([found for each in readings if (found := each.histograms.get(key)) is not None])

    usages = [each.kv_usage_ratio for each in readings if each.kv_usage_ratio is not None]
    iterations, gaps = histogram("iteration_tokens"), histogram("inter_token_seconds")
    return Look(
        seconds=seconds,
        running=together(each.requests_running for each in readings),
        waiting=together(each.requests_waiting for each in readings),
        kv_usage_ratio=sum(usages) / len(usages) if usages else None,
        kv_capacity_tokens=together(
            reported[0] if (reported := reported_capacity(each.cache)) else None for each in readings
        ),
        preemptions=total("preemptions_total"),
        steps=iterations.count if iterations else None,
        prompt_tokens=total("prompt_tokens_total"),
        generation_tokens=total("generation_tokens_total"),
        decode_gaps=gaps.count if gaps else None,
        prefix_cache_queries=total("prefix_cache_queries_total"),
        prefix_cache_hits=total("prefix_cache_hits_total"),
        queue_seconds=histogram("queue_seconds"),
    )


def _merged(histograms: Sequence[Histogram]) -> Histogram | None:
    """Add histograms of the same buckets; None where there is none or they differ."""
    if not histograms or any(each.bounds != histograms[0].bounds for each in histograms):
        return None
    return Histogram(
        bounds=histograms[0].bounds,
        cumulative=tuple(sum(counts) for counts in zip(*(each.cumulative for each in histograms), strict=True)),
        sum=sum(each.sum for each in histograms),
        count=sum(each.count for each in histograms),
    )

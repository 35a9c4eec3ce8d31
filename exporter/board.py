"""The latest reading of every source, and what of it is fresh."""

import threading
from collections.abc import Iterator

from exporter.health import Collector
from exporter.observe import Reading


class Board:
    """Holds one reading a key; safe to use from every thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._readings: dict[str, Reading] = {}
        self._last_success: dict[str, float] = {}

    def put(self, reading: Reading) -> None:
        """Replace what was known under this key."""
        with self._lock:
            self._readings[reading.key] = reading
            if reading.failure is None:
                self._last_success[reading.key] = reading.finished_wall_seconds

    def drop(self, key: str) -> None:
        """Forget a source that is no longer read."""
        with self._lock:
            self._readings.pop(key, None)
            self._last_success.pop(key, None)

    def fresh(self, collector: str, now_seconds: float, max_age_seconds: float) -> dict[str, Reading]:
        """Return the readings of one collector that hold facts no older than ``max_age_seconds``."""
        with self._lock:
            return {
                key: reading
                for key, reading in self._readings.items()
                if reading.collector == collector
                and reading.facts is not None
                and now_seconds - reading.taken_at_seconds <= max_age_seconds
            }

    def latest(self, key: str) -> Reading | None:
        """Return the latest reading under a key, fresh or not."""
        with self._lock:
            return self._readings.get(key)

    def health(self) -> tuple[Collector, ...]:
        """Return one fact a collector: of several readings (engines), the worst and the longest decide."""
        with self._lock:
            readings = list(self._readings.values())
            last_success = dict(self._last_success)
        return tuple(_health(name, group, last_success) for name, group in _grouped(readings))


def _grouped(readings: list[Reading]) -> Iterator[tuple[str, list[Reading]]]:
    for name in sorted({reading.collector for reading in readings}):
        yield name, [reading for reading in readings if reading.collector == name]


def _health(name: str, readings: list[Reading], last_success: dict[str, float]) -> Collector:
    reasons = {reading.failure.reason for reading in readings if reading.failure}
    successes = [last_success.get(reading.key) for reading in readings]
    known = [success for success in successes if success is not None]
    return Collector(
        collector=name,
        success=int(not reasons),
        duration_seconds=max(reading.duration_seconds for reading in readings),
        last_success_timestamp_seconds=min(known) if known and len(known) == len(successes) else None,
        failing=dict.fromkeys(sorted(reasons), 1) or None,
    )

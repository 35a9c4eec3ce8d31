"""The last hour for the status page's small charts, in memory of a fixed size. History proper is Prometheus'."""

import math
import threading
from array import array
from collections.abc import Mapping

SPACING_SECONDS = 10.0
SLOTS = 361
"""One hour, both ends included."""
MOST_SUBJECTS = 128
"""GPUs and engines together. With 4 series each, of 361 4-byte values, that is at most 740 KB."""

Subject = tuple[str, ...]
"""What a series is of: ``("gpu", uuid)`` or ``("engine", engine, rank)``."""


class _Ring:
    __slots__ = ("_newest", "_values")

    def __init__(self) -> None:
        self._newest = -SLOTS
        self._values = array("f", [math.nan]) * SLOTS

    def put(self, slot: int, value: float, *, most_missed: int) -> None:
        last = self._values[self._newest % SLOTS] if slot - self._newest - 1 <= most_missed else math.nan
        for missed in range(max(self._newest + 1, slot - SLOTS + 1), slot):
            self._values[missed % SLOTS] = last
        self._values[slot % SLOTS] = value
        self._newest = slot

    def until(self, slot: int) -> tuple[float, ...]:
        return tuple(
            self._values[each % SLOTS] if self._newest - SLOTS < each <= self._newest else math.nan
            for each in range(slot - SLOTS + 1, slot + 1)
        )


class Recent:
    """Figures of the last hour, one each ten seconds. Safe to use from every thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._rings: dict[Subject, dict[str, _Ring]] = {}

    def note(
        self, now_seconds: float, figures: Mapping[Subject, Mapping[str, float | None]], *, holds_seconds: float = 0.0
    ) -> None:
        """Keep the figures of a moment; within one spacing the last one counts. None leaves a gap.

        Args:
            now_seconds: Steady clock.
            holds_seconds: How long a figure is good for: a longer silence shows as a gap.
            figures: By subject and then by name. Where there are too many subjects, those seen least recently go.
        """
        slot = int(now_seconds // SPACING_SECONDS)
        most_missed = int(holds_seconds // SPACING_SECONDS)
        with self._lock:
            for subject, values in figures.items():
                rings = self._rings.pop(subject, {})
                for name, value in values.items():
                    if value is not None:
                        rings.setdefault(name, _Ring()).put(slot, value, most_missed=most_missed)
                self._rings[subject] = rings
            while len(self._rings) > MOST_SUBJECTS:
                self._rings.pop(next(iter(self._rings)))

    def of(self, subject: Subject, now_seconds: float) -> dict[str, tuple[float, ...]]:
        """Return each series of a subject, oldest first, `SLOTS` values long, NaN where nothing is known."""
        slot = int(now_seconds // SPACING_SECONDS)
        with self._lock:
            return {name: ring.until(slot) for name, ring in self._rings.get(subject, {}).items()}

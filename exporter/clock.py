"""Time as an argument, so that a day can be told in minutes."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of a run."""

    wall: Callable[[], float] = time.time
    """Unix time, for what is shown and stored."""
    steady: Callable[[], float] = time.monotonic
    """Never jumps: for ages, intervals and deadlines."""
    speed: float = 1.0
    """Seconds that pass on both within one real second."""


def sped_up(factor: float, clock: Clock | None = None) -> Clock:
    """Return a clock that runs ``factor`` times as fast from now on."""
    base = clock or Clock()
    wall_start, steady_start = base.wall(), base.steady()
    return Clock(
        wall=lambda: wall_start + (base.steady() - steady_start) * factor,
        steady=lambda: steady_start + (base.steady() - steady_start) * factor,
        speed=base.speed * factor,
    )

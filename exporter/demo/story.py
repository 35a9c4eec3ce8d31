"""What happens in the demo: a busy day told in eight minutes, over and over. Pure functions of the time told so far."""

from dataclasses import dataclass

from advisor.units import GIB, MIB

DAY_SECONDS = 480.0
_RUSH = (120.0, 300.0)
_LEAK_FROM_SECONDS = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """What outside acts on the demo at one moment."""

    arrivals_per_second: float
    neighbour_bytes: int
    """Memory of the process on the second GPU that leaks until it dies of it."""
    neighbour_deaths: int
    """How often it has died: each time it comes back as another process."""


def moment(elapsed_seconds: float, *, neighbour_limit_bytes: int) -> Moment:
    """Return the story at a time: a calm morning, a rush that overfills the KV cache, a calm evening.

    Meanwhile a process on the second GPU leaks; when the GPU is full it dies and starts again small.
    """
    hour = elapsed_seconds % DAY_SECONDS
    ramp = min(1.0, max(0.0, (hour - _RUSH[0]) / 30.0)) if hour < _RUSH[1] else 0.0
    start_bytes = 3 * GIB
    leaking_seconds = max(0.0, hour - _LEAK_FROM_SECONDS)
    leak_rate = (neighbour_limit_bytes - start_bytes) / 330.0
    leaked = start_bytes + leaking_seconds * leak_rate
    died = leaked > neighbour_limit_bytes
    days = int(elapsed_seconds // DAY_SECONDS)
    return Moment(
        arrivals_per_second=0.35 + 2.6 * ramp,
        neighbour_bytes=start_bytes if died else int(leaked // (2 * MIB)) * 2 * MIB,
        neighbour_deaths=days + died,
    )

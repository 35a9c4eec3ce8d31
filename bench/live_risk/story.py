"""What happens on one GPU, minute by minute, and how it ends. Each story is a function of a random generator."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from advisor.units import GIB, MIB
from bench.backtest.scene import HOUR, Level, constant, noisy, ramp, stairs, stepped

MINUTE = 60.0

Ending = Literal["out of memory", "restart fails", "nothing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One process on the GPU while it lives."""

    key: str
    level: Level
    """Bytes that it wants to hold; of an engine: beyond what its plan expects it to come to hold."""
    utilization: float | None = None
    """``--gpu-memory-utilization`` of a vLLM server; None for any other process."""
    from_seconds: float = float("-inf")
    to_seconds: float = float("inf")
    loads_seconds: float = 0.0
    """How long a server that starts within the story takes to load, before it answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """One GPU's story."""

    title: str
    ends: Ending
    seconds: float
    members: tuple[Member, ...]
    restart_at_seconds: float | None = None
    """When somebody restarts the engine, with the same flags."""


Teller = Callable[[random.Random], Story]


def neighbour_leaks_fast(rng: random.Random) -> Story:
    """A notebook beside the engine leaks 5 GiB an hour."""
    leak = _leaking(rng, constant(2 * GIB), from_minute=10, gib_an_hour=5, stair_bytes=8 * MIB)
    return Story(
        title="a neighbour leaks 5 GiB an hour",
        ends="out of memory",
        seconds=65 * MINUTE,
        members=(_engine(rng, 0.93), Member(key="notebook", level=leak)),
    )


def neighbour_leaks_slowly(rng: random.Random) -> Story:
    """A process beside the engine leaks 1.2 GiB an hour."""
    leak = _leaking(rng, constant(2 * GIB), from_minute=15, gib_an_hour=1.2, stair_bytes=2 * MIB)
    return Story(
        title="a neighbour leaks 1.2 GiB an hour",
        ends="out of memory",
        seconds=190 * MINUTE,
        members=(_engine(rng, 0.93), Member(key="service", level=leak)),
    )


def engine_leaks(rng: random.Random) -> Story:
    """The engine's own process leaks 3 GiB an hour, in the allocator's large segments."""
    leak = _leaking(rng, noisy(rng, 0.0, 4 * MIB), from_minute=20, gib_an_hour=3, stair_bytes=20 * MIB)
    return Story(
        title="the engine leaks 3 GiB an hour",
        ends="out of memory",
        seconds=120 * MINUTE,
        members=(_engine(rng, 0.95, leak),),
    )


def late_peak(rng: random.Random) -> Story:
    """The engine's largest step comes late, and a neighbour holds the memory that it was promised."""
    return Story(
        title="the activation peak comes late; a neighbour sits on its memory",
        ends="out of memory",
        seconds=65 * MINUTE,
        members=(
            _engine(rng, 0.95, stepped(noisy(rng, -3 * GIB, 4 * MIB), [(50 * MINUTE, 3 * GIB)])),
            Member(key="notebook", level=constant(5 * GIB)),
        ),
    )


def foreign_arrival(rng: random.Random) -> Story:
    """Somebody starts a job beside the engine that loads 20 GiB within 40 minutes."""
    return Story(
        title="a foreign job arrives and loads 20 GiB",
        ends="out of memory",
        seconds=65 * MINUTE,
        members=(
            _engine(rng, 0.9),
            Member(
                key="job",
                level=ramp(25 * MINUTE, 40 * MINUTE, 20 * GIB, start_bytes=0.5 * GIB),
                from_seconds=25 * MINUTE,
            ),
        ),
    )


def over_committed(rng: random.Random) -> Story:
    """Two engines of 0.52 each feel their way up to budgets that do not fit together."""

    def growing(first: float) -> Level:
        steps = [(first * MINUTE, 1.5 * GIB), ((first + 20) * MINUTE, 1.5 * GIB)]
        return stepped(noisy(rng, -4.5 * GIB, 4 * MIB), steps)

    return Story(
        title="two engines are over-committed and grow into their budgets",
        ends="out of memory",
        seconds=65 * MINUTE,
        members=(
            _engine(rng, 0.52, growing(20), key="first"),
            _engine(rng, 0.52, growing(30), key="second"),
        ),
    )


def restart_fails(rng: random.Random) -> Story:
    """A neighbour takes what the running engine does not use, and the engine is restarted."""
    return Story(
        title="a neighbour takes what a restart needs; the engine is restarted",
        ends="restart fails",
        seconds=65 * MINUTE,
        members=(
            _engine(rng, 0.9, noisy(rng, -2.5 * GIB, 4 * MIB)),
            Member(
                key="service",
                level=ramp(20 * MINUTE, 5 * MINUTE, 8.2 * GIB, start_bytes=0.5 * GIB),
                from_seconds=20 * MINUTE,
            ),
        ),
        restart_at_seconds=60 * MINUTE,
    )


def spike_without_signs(rng: random.Random) -> Story:
    """One request makes the engine take far more than ever before, all at once."""
    return Story(
        title="the engine takes 5 GiB at once, with no sign before",
        ends="out of memory",
        seconds=65 * MINUTE,
        members=(_engine(rng, 0.95, stepped(noisy(rng, 0.0, 4 * MIB), [(60 * MINUTE, 5 * GIB)])),),
    )


def sawtooth(rng: random.Random) -> Story:
    """A neighbour's allocator takes 1 GiB in eight minutes and gives it back, over and over."""
    return Story(
        title="calm: a neighbour's allocator fills and empties",
        ends="nothing",
        seconds=65 * MINUTE,
        members=(
            _engine(rng, 0.93),
            Member(key="trainer", level=lambda now: GIB + GIB * (now / (8 * MINUTE) % 1.0)),
        ),
    )


def full_and_steady(rng: random.Random) -> Story:
    """A healthy host that is 98% full, as vLLM's hosts are."""
    return Story(
        title="calm: 98% full and steady",
        ends="nothing",
        seconds=65 * MINUTE,
        members=(_engine(rng, 0.975),),
    )


def engine_restart(rng: random.Random) -> Story:
    """The engine is restarted and loads for three minutes."""
    return Story(
        title="calm: the engine is restarted",
        ends="nothing",
        seconds=65 * MINUTE,
        members=(
            _engine(rng, 0.95, to_seconds=30 * MINUTE),
            _engine(rng, 0.95, from_seconds=31 * MINUTE, loads_seconds=3 * MINUTE),
        ),
    )


def _leaking(rng: random.Random, base: Level, *, from_minute: float, gib_an_hour: float, stair_bytes: float) -> Level:
    return stairs(
        rng,
        base,
        from_seconds=from_minute * MINUTE,
        bytes_per_second=gib_an_hour * GIB / HOUR,
        stair_bytes=stair_bytes,
    )


def _engine(rng: random.Random, utilization: float, level: Level | None = None, **more: object) -> Member:
    """Return a vLLM server that holds what its plan expects, give or take a little, unless a level says otherwise."""
    return Member(
        **{"key": "engine", "level": level or noisy(rng, 0.0, 4 * MIB), "utilization": utilization, **more}  # type: ignore[arg-type]
    )


SHORT: dict[str, Teller] = {
    each.__name__: each
    for each in (
        neighbour_leaks_fast,
        late_peak,
        foreign_arrival,
        over_committed,
        restart_fails,
        sawtooth,
        full_and_steady,
    )
}
"""Those that are over within an hour and say most."""

ALL: dict[str, Teller] = SHORT | {
    each.__name__: each for each in (neighbour_leaks_slowly, engine_leaks, spike_without_signs, engine_restart)
}

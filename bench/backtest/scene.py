"""A GPU's memory over time, made up: who holds how much at every moment, and how it ends."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from advisor.estimate import Estimate
from advisor.risk_state import Holder, HolderKind, Observation
from advisor.units import GIB, MIB

SAMPLE_SECONDS = 15.0
HOUR = 3600.0
_GRAIN = 2 * MIB

Level = Callable[[float], float]
"""Bytes wanted at a time; asked in order of time."""


@dataclass(kw_only=True, slots=True)
class Part:
    """One process or engine while it lives."""

    key: str
    kind: HolderKind
    level: Level
    entitled: Estimate | None = None
    from_seconds: float = 0.0
    to_seconds: float = float("inf")
    busy: bool | None = None


@dataclass(kw_only=True, slots=True)
class Scene:
    """One history and the truth about it."""

    capacity_bytes: float
    seconds: float
    parts: list[Part] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """When nothing was read."""
    cause_at_seconds: float | None = None
    """From when on an observer could have known what will end the memory, if it ends."""

    def moments(self) -> Iterator[tuple[Observation, bool]]:
        """Yield each moment, and whether an allocation could not be served then; that one is the last.

        In a gap nothing is yielded, but memory may end there as well.
        """
        now = 0.0
        while now < self.seconds:
            held = [
                (part, round(part.level(now) / _GRAIN) * _GRAIN)
                for part in self.parts
                if part.from_seconds <= now < part.to_seconds
            ]
            free = self.capacity_bytes - sum(size for _, size in held)
            hidden = any(since <= now < until for since, until in self.gaps)
            if free < 0 or not hidden:
                yield (
                    Observation(
                        now_seconds=now,
                        free_bytes=max(0.0, free),
                        holders=tuple(
                            Holder(
                                key=part.key,
                                kind=part.kind,
                                name=part.key,
                                held_bytes=size,
                                entitled=part.entitled,
                                busy=part.busy,
                            )
                            for part, size in held
                        ),
                    ),
                    free < 0,
                )
            if free < 0:
                return
            now += SAMPLE_SECONDS


def log_uniform(rng: random.Random, low: float, high: float) -> float:
    """Return a number of any order of magnitude in between with equal chance."""
    return float(low * (high / low) ** rng.random())


def constant(size_bytes: float) -> Level:
    """Hold so much."""
    return lambda _: size_bytes


def noisy(rng: random.Random, size_bytes: float, amplitude_bytes: float) -> Level:
    """Hold about so much: a bounded walk, as small buffers come and go."""
    offset = 0.0

    def level(_: float) -> float:
        nonlocal offset
        if rng.random() < 0.2:
            offset = max(-amplitude_bytes, min(amplitude_bytes, offset + rng.gauss(0, amplitude_bytes / 3)))
        return size_bytes + offset

    return level


def stairs(
    rng: random.Random, base: Level, *, from_seconds: float, bytes_per_second: float, stair_bytes: float
) -> Level:
    """Leak in stairs of an allocator's segment size, at random moments with this mean rate."""
    leaked, mean = 0.0, stair_bytes / bytes_per_second
    next_at = from_seconds + rng.expovariate(1 / mean)

    def level(now: float) -> float:
        nonlocal leaked, next_at
        while next_at <= now:
            leaked += stair_bytes
            next_at += rng.expovariate(1 / mean)
        return base(now) + leaked

    return level


def stepped(base: Level, steps: list[tuple[float, float]]) -> Level:
    """Add so many bytes for good at each of these times."""
    return lambda now: base(now) + sum(size for at, size in steps if at <= now)


def ramp(at_seconds: float, over_seconds: float, size_bytes: float, *, start_bytes: float = 0.0) -> Level:
    """Grow from one size to another, then stay."""
    return lambda now: start_bytes + (size_bytes - start_bytes) * min(1.0, max(0.0, (now - at_seconds) / over_seconds))


def entitled(budget_bytes: float) -> Estimate:
    """Return what an engine is entitled to, as the advisor knows it.

    Its budget and a context between 250 and 800 MiB, graphs up to 0.4 GiB beyond their estimate.
    """
    return Estimate(
        lower=budget_bytes + 250 * MIB,
        expected=budget_bytes + 480 * MIB,
        upper=budget_bytes + 800 * MIB + 0.4 * GIB,
    )


def engine_part(
    rng: random.Random,
    key: str,
    budget_bytes: float,
    *,
    unreached_ratio: float = 0.0,
    from_seconds: float = 0.0,
    to_seconds: float = float("inf"),
    extra: Callable[[Level], Level] = lambda level: level,
) -> Part:
    """Return a vLLM engine that holds its budget and a CUDA context, less what its largest step has not taken yet."""
    context = rng.uniform(300, 700) * MIB
    return Part(
        key=key,
        kind="engine",
        level=extra(noisy(rng, budget_bytes * (1 - unreached_ratio) + context, rng.uniform(0, 6) * MIB)),
        entitled=entitled(budget_bytes),
        from_seconds=from_seconds,
        to_seconds=to_seconds,
        busy=True,
    )


def host(rng: random.Random, *, room_bytes: float, seconds: float) -> tuple[Scene, float]:
    """Return a GPU with a driver's share and what one engine's budget may be so that this room is left beside it."""
    capacity = rng.choice((22.0, 39.5, 44.5, 79.0, 140.0)) * GIB
    driver = rng.uniform(0.0, 0.3) * GIB
    scene = Scene(
        capacity_bytes=capacity,
        seconds=seconds,
        parts=[Part(key="driver", kind="driver", level=constant(driver))],
    )
    return scene, capacity - driver - 700 * MIB - room_bytes

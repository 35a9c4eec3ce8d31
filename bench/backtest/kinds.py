"""The kinds of history by which the model was shaped. Each is a function of a random generator."""

import math
import random
from collections.abc import Callable

from advisor.units import GIB, MIB
from bench.backtest.scene import (
    HOUR,
    Level,
    Part,
    Scene,
    constant,
    engine_part,
    entitled,
    host,
    log_uniform,
    noisy,
    ramp,
    stairs,
    stepped,
)

Kind = Callable[[random.Random], Scene]


def flat(rng: random.Random) -> Scene:
    """An engine that holds what it holds, on a GPU between 80 and 99% full."""
    scene, budget = host(rng, room_bytes=log_uniform(rng, 0.6, 8) * GIB, seconds=12 * HOUR)
    scene.parts.append(engine_part(rng, "engine", budget))
    if rng.random() < 0.5:
        scene.capacity_bytes += 2 * GIB
        scene.parts.append(Part(key="other", kind="foreign", level=noisy(rng, 2 * GIB, rng.uniform(2, 40) * MIB)))
    return scene


def step(rng: random.Random) -> Scene:
    """Once, the engine or a neighbour takes a piece more; where it is too large, that is the end."""
    room = log_uniform(rng, 0.6, 8) * GIB
    scene, budget = host(rng, room_bytes=room, seconds=6 * HOUR)
    size, at = log_uniform(rng, 0.2, 12) * GIB, rng.uniform(0.2, 5) * HOUR
    if rng.random() < 0.5:
        scene.parts.append(engine_part(rng, "engine", budget, extra=lambda level: stepped(level, [(at, size)])))
    else:
        scene.capacity_bytes += GIB
        scene.parts.append(engine_part(rng, "engine", budget))
        scene.parts.append(Part(key="other", kind="foreign", level=stepped(constant(GIB), [(at, size)])))
    return scene


def slow_leak(rng: random.Random) -> Scene:
    """The engine's process leaks 0.1 to 1 GiB an hour until it ends."""
    rate = log_uniform(rng, 0.1, 1.0) * GIB / HOUR
    room, start = log_uniform(rng, 0.5, 3) * GIB, rng.uniform(0, 3) * HOUR
    scene, budget = host(rng, room_bytes=room, seconds=60 * HOUR)
    stair = rng.choice((2, 2, 20)) * MIB
    scene.parts.append(
        engine_part(
            rng,
            "engine",
            budget,
            extra=lambda level: stairs(rng, level, from_seconds=start, bytes_per_second=rate, stair_bytes=stair),
        )
    )
    scene.cause_at_seconds = start
    return scene


def sawtooth(rng: random.Random) -> Scene:
    """An allocator that fills up and is emptied, over and over, short of the end."""
    amplitude = log_uniform(rng, 0.2, 4) * GIB
    room = amplitude + log_uniform(rng, 0.15, 3) * GIB
    scene, budget = host(rng, room_bytes=room, seconds=12 * HOUR)
    period, phase = log_uniform(rng, 300, 3 * HOUR), rng.random()
    wobble = rng.uniform(0, 0.05)

    def teeth(base: Level) -> Level:
        top, cycle = 1.0, -1

        def level(now: float) -> float:
            nonlocal top, cycle
            position = now / period + phase
            if int(position) != cycle:
                cycle, top = int(position), 1.0 - wobble * rng.random()
            return base(now) + amplitude * top * (position % 1.0)

        return level

    if rng.random() < 0.5:
        scene.parts.append(engine_part(rng, "engine", budget, extra=teeth))
    else:
        scene.capacity_bytes += GIB
        scene.parts.append(engine_part(rng, "engine", budget))
        scene.parts.append(Part(key="other", kind="foreign", level=teeth(constant(GIB))))
    return scene


def daily_wave(rng: random.Random) -> Scene:
    """A neighbour's use goes with the day; one in five rises beyond what is there."""
    amplitude = log_uniform(rng, 0.5, 6) * GIB
    ends = rng.random() < 0.2
    room = amplitude * rng.uniform(0.6, 0.95) if ends else amplitude + log_uniform(rng, 0.2, 3) * GIB
    scene, budget = host(rng, room_bytes=room + GIB, seconds=48 * HOUR)
    scene.parts.append(engine_part(rng, "engine", budget))
    phase, tremble = rng.random(), noisy(rng, 0.0, rng.uniform(2, 40) * MIB)

    def wave(now: float) -> float:
        return GIB + amplitude * 0.5 * (1 - math.cos(math.tau * (now / (24 * HOUR) + phase))) + tremble(now)

    scene.parts.append(Part(key="other", kind="foreign", level=wave))
    scene.cause_at_seconds = 0.0
    return scene


def bursts(rng: random.Random) -> Scene:
    """Requests come in bursts whose largest steps take memory that is given back afterwards."""
    room = log_uniform(rng, 0.8, 6) * GIB
    scene, budget = host(rng, room_bytes=room, seconds=12 * HOUR)
    typical = room * rng.uniform(0.2, 0.7)
    every = log_uniform(rng, 600, 2 * HOUR)
    spread = rng.uniform(0.1, 0.5)
    until, height, next_at = 0.0, 0.0, rng.expovariate(1 / every)

    def bursting(base: Level) -> Level:
        def level(now: float) -> float:
            nonlocal until, height, next_at
            if now >= next_at:
                height = typical * math.exp(rng.gauss(0, spread))
                until, next_at = next_at + rng.uniform(30, 300), next_at + rng.expovariate(1 / every)
                if height > 0.9 * room and scene.cause_at_seconds is None:
                    # A burst that almost took all is a warning of the next; before the first nobody can know.
                    scene.cause_at_seconds = now
            return base(now) + (height if now < until else 0.0)

        return level

    scene.parts.append(engine_part(rng, "engine", budget, extra=bursting))
    return scene


def foreign_arrival(rng: random.Random) -> Scene:
    """Somebody starts a process beside the engine: it loads fast or slowly, and fits or not."""
    room = log_uniform(rng, 0.8, 10) * GIB
    scene, budget = host(rng, room_bytes=room, seconds=8 * HOUR)
    scene.parts.append(engine_part(rng, "engine", budget))
    at, over = rng.uniform(0.2, 6) * HOUR, log_uniform(rng, 15, 3600)
    size = log_uniform(rng, 0.4, 20) * GIB
    start = min(size, rng.uniform(0.2, 0.5) * GIB)
    scene.parts.append(
        Part(key="guest", kind="foreign", level=ramp(at, over, size, start_bytes=start), from_seconds=at)
    )
    scene.cause_at_seconds = at
    return scene


def late_peak(rng: random.Random) -> Scene:
    """The engine's largest step comes late, and the room for it is there or was taken by a neighbour."""
    scene, budget = host(rng, room_bytes=log_uniform(rng, 0.2, 2) * GIB, seconds=12 * HOUR)
    unreached = rng.uniform(0.01, 0.06)
    at = log_uniform(rng, 120, 24 * HOUR)
    size = budget * unreached * rng.uniform(0.5, 1.0)
    scene.parts.append(
        engine_part(rng, "engine", budget, unreached_ratio=unreached, extra=lambda level: stepped(level, [(at, size)]))
    )
    if rng.random() < 0.5:
        # A neighbour that came first took what the engine was promised.
        taken = budget * unreached * rng.uniform(0.3, 1.2) + rng.uniform(0, 1) * GIB
        scene.parts.append(Part(key="other", kind="foreign", level=constant(taken)))
    scene.cause_at_seconds = 0.0
    return scene


def over_committed(rng: random.Random) -> Scene:
    """Two engines whose budgets together exceed the GPU in three of five; both feel their way up to their budgets."""
    capacity = rng.choice((39.5, 79.0, 140.0)) * GIB
    over = rng.random() < 0.6
    scene = Scene(capacity_bytes=capacity, seconds=12 * HOUR)
    scale = rng.uniform(1.005, 1.06) if over else rng.uniform(0.9, 0.97)
    share = rng.uniform(0.3, 0.7)
    for key, part_of in (("first", share), ("second", 1 - share)):
        budget = (capacity * scale - 2 * 480 * MIB) * part_of
        missing = budget * rng.uniform(0.02, 0.08)
        pieces = rng.randint(1, 4)
        steps = [(log_uniform(rng, 60, 24 * HOUR), missing / pieces) for _ in range(pieces)]
        start = budget - missing + rng.uniform(300, 650) * MIB
        level = stepped(noisy(rng, start, 4 * MIB), steps)
        scene.parts.append(Part(key=key, kind="engine", level=level, entitled=entitled(budget), busy=True))
    scene.cause_at_seconds = 0.0
    return scene


def leaking_sawtooth(rng: random.Random) -> Scene:
    """An allocator that fills up and is emptied while its floor rises by 0.15 to 5 GiB an hour."""
    room = log_uniform(rng, 1, 6) * GIB
    amplitude, period = room * rng.uniform(0.05, 0.6), log_uniform(rng, 90, 2 * HOUR)
    rate, start = log_uniform(rng, 0.15, 5) * GIB / HOUR, rng.uniform(0, 3) * HOUR
    scene, budget = host(rng, room_bytes=room, seconds=40 * HOUR)

    def teeth(base: Level) -> Level:
        floor = stairs(rng, base, from_seconds=start, bytes_per_second=rate, stair_bytes=4 * MIB)
        return lambda now: floor(now) + amplitude * (now / period % 1.0)

    scene.parts.append(engine_part(rng, "engine", budget, extra=teeth))
    scene.cause_at_seconds = start
    return scene


SHAPING: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        flat,
        step,
        slow_leak,
        sawtooth,
        leaking_sawtooth,
        daily_wave,
        bursts,
        foreign_arrival,
        late_peak,
        over_committed,
    )
}

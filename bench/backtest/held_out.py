"""The kinds of history that did not shape the model: their parameters were chosen after it was frozen.

Their forms, and three earlier draws of parameters, were known before: after the first a test of the model on its own,
after the second the leaking sawtooth, which has been a shaping kind since, and after the third the false alarms of
shaping kinds led to a change. Each time the model was frozen again and every parameter here was chosen anew.
"""

import math
import random

from advisor.units import GIB, MIB
from bench.backtest.kinds import Kind
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


def fast_leak(rng: random.Random) -> Scene:
    """After a calm time the engine's process leaks all that is left within 7.5 minutes to 2.5 hours."""
    room = log_uniform(rng, 0.5, 12) * GIB
    start, over = rng.uniform(0.1, 6) * HOUR, log_uniform(rng, 450, 9000)
    scene, budget = host(rng, room_bytes=room, seconds=12 * HOUR)
    stair = rng.choice((2, 8, 40)) * MIB
    scene.parts.append(
        engine_part(
            rng,
            "engine",
            budget,
            extra=lambda level: stairs(
                rng, level, from_seconds=start, bytes_per_second=(room + 200 * MIB) / over, stair_bytes=stair
            ),
        )
    )
    scene.cause_at_seconds = start
    return scene


def leak_that_stops(rng: random.Random) -> Scene:
    """A cache fills up in 7 minutes to 6 hours, takes 30 to 97% of what was left, and is full."""
    room = log_uniform(rng, 0.6, 9) * GIB
    start, over = rng.uniform(0, 5) * HOUR, log_uniform(rng, 420, 6 * HOUR)
    size = room * rng.uniform(0.3, 0.97)
    scene, budget = host(rng, room_bytes=room, seconds=12 * HOUR)

    def filling(base: Level) -> Level:
        leak = stairs(rng, constant(0.0), from_seconds=start, bytes_per_second=size / over, stair_bytes=8 * MIB)
        return lambda now: base(now) + min(size, leak(now))

    scene.parts.append(engine_part(rng, "engine", budget, extra=filling))
    return scene


def foreign_leak(rng: random.Random) -> Scene:
    """Somebody's process beside the engine leaks 0.2 to 30 GiB an hour from when it came; some are stopped in time."""
    room = log_uniform(rng, 0.8, 12) * GIB
    rate = log_uniform(rng, 0.2, 30) * GIB / HOUR
    scene, budget = host(rng, room_bytes=room + GIB, seconds=40 * HOUR)
    scene.parts.append(engine_part(rng, "engine", budget))
    came = rng.uniform(0.1, 5) * HOUR
    leak = stairs(rng, constant(GIB), from_seconds=came, bytes_per_second=rate, stair_bytes=rng.choice((2, 32)) * MIB)
    stopped = rng.random() < 0.4
    life = room / rate * rng.uniform(0.15, 0.85) if stopped else float("inf")
    scene.parts.append(Part(key="guest", kind="foreign", level=leak, from_seconds=came, to_seconds=came + life))
    if stopped:
        scene.seconds = came + life + 4 * HOUR
    scene.cause_at_seconds = came
    return scene


def _restarting(rng: random.Random, scene: Scene, key: str, budget: float, held: float, at: list[float]) -> None:
    """Add an engine that is stopped at each of these times, is away for a while, loads, and comes back."""
    begin = 0.0
    for number, stop in enumerate([*at, float("inf")]):
        loading = rng.uniform(10, 600)
        wobble = noisy(rng, 0.0, 5 * MIB)
        size = held * rng.uniform(0.985, 1.0)
        grow = ramp(begin, loading, size, start_bytes=350 * MIB) if number else constant(size)

        def level(now: float, grow: Level = grow, wobble: Level = wobble) -> float:
            return grow(now) + wobble(now)

        scene.parts.append(
            Part(
                key=f"{key} {number}",
                kind="engine",
                level=level,
                entitled=entitled(budget),
                from_seconds=begin,
                to_seconds=stop,
                busy=True,
            )
        )
        begin = stop + rng.uniform(3, 400)


def engine_restart(rng: random.Random) -> Scene:
    """The only engine is restarted one to seven times and takes the same again."""
    scene, budget = host(rng, room_bytes=log_uniform(rng, 0.6, 8) * GIB, seconds=10 * HOUR)
    at = sorted(rng.uniform(0.2, 9.3) * HOUR for _ in range(rng.randint(1, 7)))
    at = [time for number, time in enumerate(at) if not number or time - at[number - 1] > 900]
    _restarting(rng, scene, "engine", budget, budget + 450 * MIB, at)
    return scene


def neighbour_restart(rng: random.Random) -> Scene:
    """Two engines share the GPU; one is restarted, in one case of three with a budget that no longer fits."""
    room = log_uniform(rng, 0.6, 6) * GIB
    scene, both = host(rng, room_bytes=room + 800 * MIB, seconds=10 * HOUR)
    share = rng.uniform(0.25, 0.75)
    scene.parts.append(engine_part(rng, "engine", both * share))
    at = rng.uniform(0.4, 8.5) * HOUR
    if rng.random() < 0.33:
        larger = both * (1 - share) + room + rng.uniform(0.3, 8) * GIB
        first = Scene(capacity_bytes=0, seconds=0)
        _restarting(rng, first, "neighbour", both * (1 - share), both * (1 - share) + 450 * MIB, [at])
        second = Scene(capacity_bytes=0, seconds=0)
        _restarting(rng, second, "neighbour", larger, larger + 450 * MIB, [at])
        scene.parts += [first.parts[0], second.parts[1]]
        scene.cause_at_seconds = second.parts[1].from_seconds
    else:
        _restarting(rng, scene, "neighbour", both * (1 - share), both * (1 - share) + 450 * MIB, [at])
    return scene


def lora_loads(rng: random.Random) -> Scene:
    """Adapters are loaded one after the other, each takes its piece for good; some hosts load too many."""
    room = log_uniform(rng, 0.5, 6) * GIB
    scene, budget = host(rng, room_bytes=room, seconds=12 * HOUR)
    piece = log_uniform(rng, 16, 600) * MIB
    number = rng.randint(3, 42)
    at = sorted(rng.uniform(0.05, 11.6) * HOUR for _ in range(number))
    loads = [(time, piece * rng.uniform(0.6, 1.4)) for time in at]
    scene.parts.append(engine_part(rng, "engine", budget, extra=lambda level: stepped(level, loads)))
    scene.cause_at_seconds = at[1]  # with the second load it is a habit
    return scene


def fragmentation_creep(rng: random.Random) -> Scene:
    """The allocator's holes grow ever more slowly, as the square root of time, in pieces of 6 to 200 MiB."""
    room = log_uniform(rng, 0.5, 5) * GIB
    scene, budget = host(rng, room_bytes=room, seconds=24 * HOUR)
    in_a_day = room * rng.uniform(0.3, 2.2)
    piece = log_uniform(rng, 6, 200) * MIB
    crept, next_check = 0.0, 0.0

    def creeping(base: Level) -> Level:
        def level(now: float) -> float:
            nonlocal crept, next_check
            while next_check <= now:
                behind = in_a_day * math.sqrt(next_check / (24 * HOUR)) - crept
                if behind > piece * rng.uniform(0.4, 1.6):
                    crept += piece
                next_check += 60.0
            return base(now) + crept

        return level

    scene.parts.append(engine_part(rng, "engine", budget, extra=creeping))
    scene.cause_at_seconds = 0.0
    return scene


def gaps_and_reboots(rng: random.Random) -> Scene:
    """The sensor is blind now and then, and once the machine restarts; otherwise calm, or, one in three, a leak."""
    room = log_uniform(rng, 0.7, 6) * GIB
    scene, budget = host(rng, room_bytes=room, seconds=14 * HOUR)
    reboot = rng.uniform(0.8, 9) * HOUR
    away = rng.uniform(45, 1200)
    scene.gaps.append((reboot - 15, reboot + away))
    for _ in range(rng.randint(1, 8)):
        since = rng.uniform(0.1, 12.5) * HOUR
        scene.gaps.append((since, since + log_uniform(rng, 20, 3600)))
    scene.parts.append(engine_part(rng, "engine", budget, to_seconds=reboot))
    leaks = rng.random() < 1 / 3
    start, rate = reboot + away + rng.uniform(0.1, 1.2) * HOUR, log_uniform(rng, 0.3, 8) * GIB / HOUR

    def after(level: Level) -> Level:
        return stairs(rng, level, from_seconds=start, bytes_per_second=rate, stair_bytes=4 * MIB) if leaks else level

    scene.parts.append(engine_part(rng, "engine again", budget, from_seconds=reboot + away, extra=after))
    scene.cause_at_seconds = start
    return scene


def two_leaks(rng: random.Random) -> Scene:
    """The engine and a neighbour both leak, each at its own rate and from its own time."""
    room = log_uniform(rng, 0.6, 7) * GIB
    scene, budget = host(rng, room_bytes=room + GIB, seconds=40 * HOUR)
    starts = [rng.uniform(0, 5) * HOUR for _ in range(2)]
    rates = [log_uniform(rng, 0.12, 5) * GIB / HOUR for _ in range(2)]

    def leaking(base: Level, number: int) -> Level:
        return stairs(
            rng,
            base,
            from_seconds=starts[number],
            bytes_per_second=rates[number],
            stair_bytes=rng.choice((4, 32)) * MIB,
        )

    scene.parts.append(engine_part(rng, "engine", budget, extra=lambda level: leaking(level, 0)))
    scene.parts.append(Part(key="other", kind="foreign", level=leaking(noisy(rng, GIB, 8 * MIB), 1)))
    scene.cause_at_seconds = min(starts)
    return scene


HELD_OUT: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        fast_leak,
        leak_that_stops,
        foreign_leak,
        engine_restart,
        neighbour_restart,
        lora_loads,
        fragmentation_creep,
        gaps_and_reboots,
        two_leaks,
    )
}

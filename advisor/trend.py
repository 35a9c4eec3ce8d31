"""How the memory of one process grows, told apart from steps, sawtooth and waves, in constant size.

What is followed is not the level but its record, the highest level of the last one to two days: an allocator that gives
back and takes again, or a day's wave seen once, sets no new record and so does not grow; and a rise after which the
level is as low as before was none. The record is sampled at four spacings at once, because a fast leak shows in three
minutes and a slow one only in hours.
"""

import itertools
import math
from dataclasses import dataclass, replace

from advisor.units import MIB

SPACINGS_SECONDS = (15.0, 60.0, 300.0, 1800.0)
"""Of the points kept: twelve steps of each make windows of 3 minutes, 12 minutes, 1 hour and 6 hours."""
POINTS = 13
_LEAST_STEPS = (4, 4, 3, 3)
"""So many points must show growth in a window before it is one: a lone step is an event, not a trend."""
_GRAIN_BYTES = MIB
"""A record is broken by at least this: drivers round."""
_DAY_SECONDS = 86_400.0
LEAST_SPREAD = 0.15
"""Of a rate: it is never taken to be known better, however even its steps."""
_MOST_INTERPOLATED = 4
"""A gap of more points than this is not filled in: what came meanwhile counts as one step until it goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """The present run of growth in one window."""

    bytes_per_second: float
    lasted_seconds: float
    spread: float
    """Standard error of the rate over the rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The record at even spacing, newest last."""

    at_seconds: float
    points: tuple[float, ...]
    lows: tuple[float, ...]
    """Lowest level between the points."""
    low: float
    """Lowest level since the newest point."""
    growth: Growth | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One process over time: 133 numbers."""

    at_seconds: float
    seen_at_seconds: float
    level_bytes: float
    record_bytes: float
    recorded_at_seconds: float
    step_bytes: float
    """Typical size of what a record is broken by; 0 before the second record."""
    mark_bytes: float
    """Highest level since ``marked_at_seconds``."""
    older_mark_bytes: float
    """Highest level of the day before that."""
    marked_at_seconds: float
    windows: tuple[Window, ...]

    def growth_bytes_per_second(self, window: int) -> float:
        """Return the growth in one window, less the longer no record has come than records used to take."""
        growth = self.windows[window].growth
        if growth is None:
            return 0.0
        rate = growth.bytes_per_second
        waited = (self.at_seconds - self.recorded_at_seconds) * rate / max(self.step_bytes, _GRAIN_BYTES)
        return rate * math.exp(-max(0.0, waited - 1.5))

    def rises_since_first_look(self, bytes_per_second: float) -> bool:
        """Return whether it was found rising and, as far as the windows reach back, has not paused or fallen since.

        A pause is longer than the longest of so many waits between steps at this rate, were they independent (mean w,
        n of them: w ln n, with one in twenty longer than w (3 + ln n)). A fall is by a quarter of the rise, as it is
        for a tooth.
        """
        wait = max(self.step_bytes, _GRAIN_BYTES) / bytes_per_second
        pause = wait * (3.0 + math.log(max(1.0, (self.at_seconds - self.seen_at_seconds) / wait)))
        rise = self.record_bytes - min(window.points[0] for window in self.windows)
        return not any(
            _longest_pause_seconds(window.points, spacing) > pause or _deepest_fall(window) > rise / 4
            for window, spacing in zip(self.windows, SPACINGS_SECONDS, strict=True)
        )


def begun(now_seconds: float, level_bytes: float) -> Trace:
    """Return the trace of a process that is seen for the first time."""
    return Trace(
        at_seconds=now_seconds,
        seen_at_seconds=now_seconds,
        level_bytes=level_bytes,
        record_bytes=level_bytes,
        recorded_at_seconds=now_seconds,
        step_bytes=0.0,
        mark_bytes=level_bytes,
        older_mark_bytes=level_bytes,
        marked_at_seconds=now_seconds,
        windows=tuple(_fresh(now_seconds, level_bytes, level_bytes) for _ in SPACINGS_SECONDS),
    )


def followed(trace: Trace, now_seconds: float, level_bytes: float) -> Trace:
    """Return the trace with one more level."""
    mark, older_mark, marked_at = max(trace.mark_bytes, level_bytes), trace.older_mark_bytes, trace.marked_at_seconds
    record, step, recorded_at = trace.record_bytes, trace.step_bytes, trace.recorded_at_seconds
    if now_seconds - marked_at >= _DAY_SECONDS:
        older_mark, mark, marked_at = mark, level_bytes, now_seconds
        record = max(older_mark, mark)
    rise = level_bytes - record
    if rise >= _GRAIN_BYTES:
        # One huge step must not pass for the usual one, or a leak that ended would be waited for too long.
        step = rise if step <= 0 else 0.8 * step + 0.2 * min(rise, 4 * step)
        record, recorded_at = level_bytes, now_seconds
    windows = trace.windows
    if now_seconds - windows[0].at_seconds >= SPACINGS_SECONDS[0]:
        windows = tuple(
            window
            if now_seconds - window.at_seconds < SPACINGS_SECONDS[position]
            else _sampled(window, position, now_seconds, record)
            for position, window in enumerate(windows)
        )
    if level_bytes < record - _GRAIN_BYTES:
        windows = tuple(_fallen(window, level_bytes, record) for window in windows)
    return Trace(
        at_seconds=now_seconds,
        seen_at_seconds=trace.seen_at_seconds,
        level_bytes=level_bytes,
        record_bytes=record,
        recorded_at_seconds=recorded_at,
        step_bytes=step,
        mark_bytes=mark,
        older_mark_bytes=older_mark,
        marked_at_seconds=marked_at,
        windows=windows,
    )


def lifted(trace: Trace, by_bytes: float) -> Trace:
    """Return the trace as if every level had been higher by so much: for a change that is no growth."""
    return replace(
        trace,
        level_bytes=trace.level_bytes + by_bytes,
        record_bytes=trace.record_bytes + by_bytes,
        mark_bytes=trace.mark_bytes + by_bytes,
        older_mark_bytes=trace.older_mark_bytes + by_bytes,
        windows=tuple(
            replace(
                window,
                points=tuple(point + by_bytes for point in window.points),
                lows=tuple(low + by_bytes for low in window.lows),
                low=window.low + by_bytes,
            )
            for window in trace.windows
        ),
    )


def delayed(trace: Trace, by_seconds: float) -> Trace:
    """Return the trace with every time shifted: for a clock that began anew."""
    return replace(
        trace,
        at_seconds=trace.at_seconds + by_seconds,
        seen_at_seconds=trace.seen_at_seconds + by_seconds,
        recorded_at_seconds=trace.recorded_at_seconds + by_seconds,
        marked_at_seconds=trace.marked_at_seconds + by_seconds,
        windows=tuple(replace(window, at_seconds=window.at_seconds + by_seconds) for window in trace.windows),
    )


def _sampled(window: Window, position: int, now_seconds: float, record_bytes: float) -> Window:
    spacing = SPACINGS_SECONDS[position]
    due = int((now_seconds - window.at_seconds) / spacing)
    last = window.points[-1]
    if due <= _MOST_INTERPOLATED:
        new = tuple(last + (record_bytes - last) * (number + 1) / due for number in range(due))
    else:
        new = (*(last,) * min(due - 1, POINTS), record_bytes)
    points = (*window.points, *new)[-POINTS:]
    return Window(
        at_seconds=window.at_seconds + due * spacing,
        points=points,
        lows=(*window.lows, window.low)[1 - POINTS :],
        low=record_bytes,
        growth=growth_of(points, spacing, _LEAST_STEPS[position]),
    )


def _fresh(now_seconds: float, level_bytes: float, record_bytes: float) -> Window:
    return Window(at_seconds=now_seconds, points=(record_bytes,), lows=(), low=level_bytes, growth=None)


def _fallen(window: Window, level_bytes: float, record_bytes: float) -> Window:
    """Return the window after a fall: without its rise if the level is about as low again as it was in it.

    That was a tooth or a wave. Where the floor has risen along with the peaks, the rest is a leak beneath them.
    """
    rise = record_bytes - window.points[0]
    if rise > 0 and window.lows and level_bytes <= min(window.lows) + rise / 4:
        return _fresh(window.at_seconds, level_bytes, record_bytes)
    if level_bytes >= window.low:
        return window
    return replace(window, low=level_bytes)


def _longest_pause_seconds(points: tuple[float, ...], spacing_seconds: float) -> float:
    """Return how long the record stood still at most before its latest step."""
    longest = run = 0
    for earlier, later in itertools.pairwise(points):
        if later > earlier:
            longest, run = max(longest, run), 0
        else:
            run += 1
    return longest * spacing_seconds


def _deepest_fall(window: Window) -> float:
    """Return by how much the level has fallen at most, by its lows: after slow looks these reach back further.

    A window that is not full yet began with a look or with the fall that emptied it.
    """
    began = window.points[:1] if len(window.points) < POINTS else ()
    levels = (*began, *window.lows, window.low)
    return max(highest - level for highest, level in zip(itertools.accumulate(levels, max), levels, strict=True))


def growth_of(points: tuple[float, ...], spacing_seconds: float, least_steps: int) -> Growth | None:
    """Return the growth that goes on at the end of these points, None where there is none.

    It reaches back until two steps in a row show nothing. Its rate is the mean of all steps but the largest, so that
    one event beside a leak is not taken for the leak.
    """
    if len(points) <= least_steps or (points[-1] <= points[-2] <= points[-3]):
        return None
    steps: list[float] = []
    still = 0
    for later, earlier in zip(reversed(points), reversed(points[:-1]), strict=False):
        rise = later - earlier
        still = 0 if rise > 0 else still + 1
        if still > 1:
            break
        steps.append(max(0.0, rise))
    while steps and not steps[-1]:
        steps.pop()
    if sum(1 for step in steps if step > 0) < least_steps:
        return None
    rest = sorted(steps)[:-1]
    mean = sum(rest) / len(rest)
    deviation = math.sqrt(sum((step - mean) ** 2 for step in rest) / len(rest))
    return Growth(
        bytes_per_second=mean / spacing_seconds,
        lasted_seconds=len(steps) * spacing_seconds,
        spread=min(1.0, max(LEAST_SPREAD, deviation / mean / math.sqrt(len(rest)))) if mean > 0 else 1.0,
    )

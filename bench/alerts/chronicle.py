"""When each alert was pending, fired, was told and ended; pure functions of what was recorded."""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

Labels = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """The first time that one alert came, in seconds since the demo began; None: not within the run."""

    name: str
    severity: str
    subject: str
    """``GPU 1``, ``engine``, or empty."""
    pending_seconds: float | None = None
    firing_seconds: float | None = None
    ended_seconds: float | None = None
    told_seconds: float | None = None
    """When the webhook got it."""
    held_back_by: str = ""
    """The alert that Alertmanager kept this one quiet for while it fired."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened in the demo."""

    at_seconds: float
    what: str


def key_of(labels: Labels) -> tuple[str, str, str]:
    """Return what tells alerts of the demo apart: name, severity, subject."""
    subject = f"GPU {labels['gpu']}" if labels.get("gpu") else "engine" if labels.get("engine") else ""
    return labels["alertname"], labels.get("severity", ""), subject


def courses(
    samples: Iterable[tuple[Labels, Sequence[float]]],
    *,
    told: Sequence[tuple[float, Labels]],
    held_back: Sequence[tuple[float, Labels, str]],
    end_seconds: float,
) -> tuple[Course, ...]:
    """Return the course of every alert that was at least pending for its first time, by the time it fired.

    Args:
        samples: Labels of each series of ``ALERTS`` (with ``alertstate``) and the seconds at which it was there.
        told: (Seconds, labels) of every alert that the webhook got as firing.
        held_back: (Seconds, labels, name of the alert that inhibited it) each time it was seen in Alertmanager.
        end_seconds: How long the run took.
    """
    runs: dict[tuple[tuple[str, str, str], str], list[tuple[float, float | None]]] = {}
    for labels, seconds in samples:
        runs.setdefault((key_of(labels), labels["alertstate"]), []).extend(_runs(seconds, end_seconds))
    found = {key: _course(key, runs.get((key, "pending"), []), runs.get((key, "firing"), [])) for key, _ in runs}
    for at, labels in sorted(told, key=lambda each: each[0]):
        key = key_of(labels)
        if key in found and found[key].told_seconds is None:
            found[key] = replace(found[key], told_seconds=at)
    for at, labels, by in sorted(held_back, key=lambda each: each[0]):
        key = key_of(labels)
        if key in found and not found[key].held_back_by and _fires_at(found[key], at):
            found[key] = replace(found[key], held_back_by=by)
    return tuple(sorted(found.values(), key=_order))


def _fires_at(course: Course, at_seconds: float) -> bool:
    begins, ends = course.firing_seconds, course.ended_seconds
    return begins is not None and begins <= at_seconds and (ends is None or at_seconds <= ends)


def _order(course: Course) -> tuple[float, float]:
    never = float("inf")
    return (
        never if course.firing_seconds is None else course.firing_seconds,
        never if course.pending_seconds is None else course.pending_seconds,
    )


def _course(
    key: tuple[str, str, str], pending: list[tuple[float, float | None]], firing: list[tuple[float, float | None]]
) -> Course:
    begins, ends = min(firing, default=(None, None))
    waits = [since for since, _ in pending if begins is None or since <= begins]
    # Of several waits it is the last one that led to it.
    since = max(waits, default=None) if begins is not None else min(waits, default=None)
    return Course(
        name=key[0],
        severity=key[1],
        subject=key[2],
        pending_seconds=since,
        firing_seconds=begins,
        ended_seconds=ends,
    )


def _runs(seconds: Sequence[float], end_seconds: float) -> list[tuple[float, float | None]]:
    """Return (first, last) of each unbroken stretch of a series seen every second; None: it lasts to the end."""
    breaks = [(before, after) for before, after in itertools.pairwise(seconds) if after - before > 1.5]
    begins = [seconds[0], *(after for _, after in breaks)]
    last = None if end_seconds - seconds[-1] < 2 else seconds[-1]
    return list(zip(begins, [*(before for before, _ in breaks), last], strict=True))


def report(found: Sequence[Course], events: Sequence[Event], *, minutes: float, programs: str) -> str:
    """Return the section as Markdown."""
    fired = [course for course in found if course.firing_seconds is not None]
    waited = [course for course in found if course.firing_seconds is None]
    rows = [(event.at_seconds, f"*{event.what}*", "", "", "") for event in events]
    for course in fired:
        assert course.firing_seconds is not None
        told = "" if course.told_seconds is None else clock(course.told_seconds)
        if course.held_back_by:
            told = f"{f'{told}, ' if told else ''}held back by {course.held_back_by}"
        shown = f"**{course.name}** ({course.severity}), {course.subject}"
        since = "" if course.pending_seconds is None else clock(course.pending_seconds)
        ended = "" if course.ended_seconds is None else clock(course.ended_seconds)
        rows.append((course.firing_seconds, shown, since, told, ended))
    lines = [
        *textwrap.wrap(
            f"The demo for {minutes:g} minutes under {programs}, rules and snippet as exported, everything judged "
            "every second. Times are minutes and seconds since the demo began; of each alert its first time.",
            width=120,
        ),
        "",
        "| at | what happens, **what fires** | its condition holds since | told | ends |",
        "|---:|---|---:|---|---:|",
        *(
            f"| {clock(at)} | {what} | {since} | {told} | {ended} |"
            for at, what, since, told, ended in sorted(rows, key=lambda row: row[0])
        ),
    ]
    if waited:
        names = ", ".join(f"{course.name} ({course.severity})" for course in waited)
        lines += ["", *textwrap.wrap(f"Pending and never long enough to fire: {names}.", width=120)]
    return "\n".join(lines) + "\n"


def clock(seconds: float) -> str:
    """Return seconds as minutes and seconds: ``7:10``."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"

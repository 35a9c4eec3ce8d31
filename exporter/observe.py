"""The one place where a source's failure is caught, translated, logged and counted."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from exporter.clock import Clock
from exporter.errors import SourceError

log = logging.getLogger(__name__)

INTERNAL_ERROR = "internal_error"
"""A fault of this program: logged with its traceback."""


_TOO_LONG = {"hung", "timeout"}
"""A read that takes long is the one while it is under way, the other when it is given up: in turn at short ones."""


class Source(Protocol):
    """What the collection loop needs of a source."""

    @property
    def name(self) -> str:
        """The collector's name, a metric label."""

    def read(self) -> Any:
        """Return facts or raise `SourceError`."""

    def close(self) -> None:
        """Let go of what is held open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One look at one source: what it said, or why it said nothing."""

    key: str
    """Names what was read: the source, and for an engine also which."""
    collector: str
    facts: Any
    """None after a failure: the last good value is never repeated."""
    failure: SourceError | None
    taken_at_seconds: float
    """Steady clock, at the start of the read: what it says may be as old as that."""
    finished_wall_seconds: float
    duration_seconds: float


def observe(key: str, source: Source, clock: Clock) -> Reading:
    """Read a source once. Every exception becomes a failed reading: an unforeseen one must not stop the loop."""
    started = clock.steady()
    facts, failure = None, None
    try:
        facts = source.read()
        failure = getattr(facts, "failure", None)
    except SourceError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - whatever it is, FailureLog tells it with its traceback, once
        failure = SourceError(INTERNAL_ERROR, f"{type(error).__name__}: {error}")
        failure.__cause__ = error
    return Reading(
        key=key,
        collector=source.name,
        facts=facts,
        failure=failure,
        taken_at_seconds=started,
        finished_wall_seconds=clock.wall(),
        duration_seconds=clock.steady() - started,
    )


def never_returned(key: str, collector: str, since_seconds: float, clock: Clock) -> Reading:
    """Return the failed reading that stands for a read which is still under way when the next is due."""
    return Reading(
        key=key,
        collector=collector,
        facts=None,
        failure=SourceError("hung", f"a read started {clock.steady() - since_seconds:.0f} s ago has not returned"),
        taken_at_seconds=since_seconds,
        finished_wall_seconds=clock.wall(),
        duration_seconds=clock.steady() - since_seconds,
    )


class FailureLog:
    """Logs a failure when it begins, when its reason changes and when it ends; not at every interval."""

    def __init__(self, write: Callable[..., None] = log.warning) -> None:
        """Take where to write."""
        self._write = write
        self._reasons: dict[str, str] = {}

    def note(self, reading: Reading) -> None:
        """Log this reading if it changes what was known."""
        before = self._reasons.get(reading.key)
        reason = reading.failure.reason if reading.failure else None
        if reason == before:
            return
        if {reason, before} == _TOO_LONG:
            self._reasons[reading.key] = str(reason)
            return
        if reason is None:
            del self._reasons[reading.key]
            self._write("%s: recovered from %s", reading.key, before)
        else:
            self._reasons[reading.key] = reason
            unforeseen = reading.failure.__cause__ if reading.failure and reason == INTERNAL_ERROR else None
            where = {"exc_info": unforeseen} if unforeseen else {}
            self._write("%s: %s", reading.key, reading.failure, **where)

    def forget(self, key: str) -> None:
        """Drop a source that is no longer read."""
        self._reasons.pop(key, None)

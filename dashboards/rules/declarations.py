"""What an alert and a recording rule are."""

from collections.abc import Iterable
from dataclasses import dataclass

from advisor.report import Severity
from dashboards.links import Board


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One alert at one severity; two severities of one alert share its name, its runbook and its subject."""

    name: str
    """CamelCase, beginning with ``Headroom``."""
    severity: Severity
    expr: str
    """PromQL that returns one sample for each thing that is wrong."""
    hold: str
    """How long that must last, as Prometheus spells durations."""
    keep: str = ""
    """For how long it fires on after that: a risk that wavers, or a reading that is missed, is one alert, not many."""
    summary: str
    """One line without a value: what is wrong."""
    description: str
    """With the value and the labels: what that means and what to do first."""
    board: Board
    panel: str
    """Title of the panel of that dashboard that shows it."""
    lacks: tuple[str, ...] = ()
    """Labels that others of this dashboard's alerts have and this one has not: a link cannot choose by them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """One recording rule: ``level:metric:operations``."""

    record: str
    expr: str


def by_group(alerts: Iterable[Alert]) -> dict[str, list[Alert]]:
    """Return alerts by the name of their rule group: they stand with those that look at the same dashboard."""
    groups: dict[str, list[Alert]] = {}
    for alert in alerts:
        groups.setdefault(alert.board.value, []).append(alert)
    return groups


def spoken(seconds: float) -> str:
    """Return a number of seconds in words: ``15 minutes``."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length and seconds % length == 0:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"

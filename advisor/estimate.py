"""A figure with its origin and, where it is an estimate, its bounds."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Origin(StrEnum):
    """Where a figure comes from."""

    REPORTED = "reported"
    """The engine or the driver said so."""
    DERIVED = "derived"
    """Follows exactly from reported figures."""
    ESTIMATED = "estimated"
    """A model's answer; it has bounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A quantity between bounds: ``lower <= expected <= upper``."""

    lower: float
    expected: float
    upper: float
    origin: Origin = Origin.ESTIMATED

    def __post_init__(self) -> None:
        if not self.lower <= self.expected <= self.upper:
            raise ValueError(f"bounds out of order: {self.lower} <= {self.expected} <= {self.upper}")

    def minus(self, other: "Estimate", *, floor: float = 0.0) -> "Estimate":
        """Subtract, worst against best, never below ``floor``."""
        return Estimate(
            lower=max(floor, self.lower - other.upper),
            expected=max(floor, self.expected - other.expected),
            upper=max(floor, self.upper - other.lower),
            origin=_weaker(self.origin, other.origin),
        )


def exactly(value: float, origin: Origin = Origin.DERIVED) -> Estimate:
    """Return a figure without spread."""
    return Estimate(lower=value, expected=value, upper=value, origin=origin)


def added(parts: Iterable[Estimate]) -> Estimate:
    """Sum parts that err together: bounds add up, which is wide but never wrong for it."""
    parts = tuple(parts)
    origin = Origin.REPORTED
    for part in parts:
        origin = _weaker(origin, part.origin)
    return Estimate(
        lower=sum(part.lower for part in parts),
        expected=sum(part.expected for part in parts),
        upper=sum(part.upper for part in parts),
        origin=origin,
    )


_STRENGTH = (Origin.REPORTED, Origin.DERIVED, Origin.ESTIMATED)


def _weaker(one: Origin, other: Origin) -> Origin:
    return max(one, other, key=_STRENGTH.index)

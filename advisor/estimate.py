"""A figure with its origin and, where it is an estimate, its bounds."""

import math
from collections.abc import Callable, Iterable
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
        """Subtract what errs independently, never below ``floor``: spreads add as the sides of a right angle."""
        return Estimate(
            lower=self.expected - other.expected - math.hypot(self.expected - self.lower, other.upper - other.expected),
            expected=self.expected - other.expected,
            upper=self.expected - other.expected + math.hypot(self.upper - self.expected, other.expected - other.lower),
            origin=_weakest((self.origin, other.origin)),
        ).at_least(floor)

    def mapped(self, function: Callable[[float], float]) -> "Estimate":
        """Put the value and both bounds through a function that never falls."""
        return Estimate(
            lower=function(self.lower),
            expected=function(self.expected),
            upper=function(self.upper),
            origin=self.origin,
        )

    def at_least(self, floor: float) -> "Estimate":
        """Cut what lies below ``floor``."""
        return Estimate(
            lower=max(floor, self.lower),
            expected=max(floor, self.expected),
            upper=max(floor, self.upper),
            origin=self.origin,
        )


def exactly(value: float, origin: Origin = Origin.DERIVED) -> Estimate:
    """Return a figure without spread."""
    return Estimate(lower=value, expected=value, upper=value, origin=origin)


def added(parts: Iterable[Estimate]) -> Estimate:
    """Sum parts that err independently: their spreads add as the sides of a right angle."""
    parts = tuple(parts)
    expected = sum(part.expected for part in parts)
    return Estimate(
        lower=expected - math.hypot(*(part.expected - part.lower for part in parts)),
        expected=expected,
        upper=expected + math.hypot(*(part.upper - part.expected for part in parts)),
        origin=_weakest(part.origin for part in parts),
    )


_STRENGTH = (Origin.REPORTED, Origin.DERIVED, Origin.ESTIMATED)


def _weakest(origins: Iterable[Origin]) -> Origin:
    return max(origins, key=_STRENGTH.index, default=Origin.REPORTED)

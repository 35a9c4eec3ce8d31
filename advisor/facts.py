"""How a number is declared: once, with its kind, its unit (in its name) and its help.

A fact is a frozen, keyword-only dataclass whose fields are made by the four functions below. Everything that
shows a number (the Prometheus page, METRICS.md, the JSON API, dashboards, alert rules) derives its name from the
declaration: ``headroom_<subject>_<field>``. A value of ``None`` means "not reported" and yields no sample.

The facts themselves stand beside the code that fills them: readings in ``advisor.readings``, judgements in
``advisor.report``, the daemon's own health in ``exporter.health``.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, cast

from advisor.estimate import Origin

PREFIX = "headroom"


class Kind(StrEnum):
    """What a field is to Prometheus."""

    IDENTITY = "identity"
    """Label on every series of its subject."""
    DESCRIBED = "described"
    """Label on the subject's one ``_info`` series: text that describes and rarely changes."""
    LEVEL = "gauge"
    TOTAL = "counter"


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One declared metric: a row of METRICS.md and a family on /metrics."""

    name: str
    """Full Prometheus name; a counter's ends in ``_total``."""
    kind: Kind
    help: str
    labels: tuple[str, ...]
    """Label names in order: the subject's identity, then the field's own."""
    subject: str
    field: str
    origins: tuple[Origin, ...] = ()
    """Where its values come from; of several, the engine's ``_info`` series or the help says which."""
    former: "Former | None" = None
    """Set where this is the old name of a metric that was renamed: the series is shown under both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Former:
    """A name that a metric had before, which it keeps for one minor release beside its new one."""

    field: str
    gone_in: str
    """The first release without it, as in ``0.3``: two minor releases after the last that had it alone."""


class Fact:
    """Base of every declared fact; subclasses are frozen keyword-only dataclasses."""

    __slots__ = ()
    subject: ClassVar[str]


def _declare(kind: Kind, help_text: str, **more: Any) -> Any:
    return dataclasses.field(metadata={"kind": kind, "help": help_text, **more}, default=None)


def identity(help_text: str) -> Any:
    """Declare a label that every series of the subject carries. Required: an unnamed thing has no series."""
    return dataclasses.field(metadata={"kind": Kind.IDENTITY, "help": help_text})


def described(help_text: str) -> Any:
    """Declare a text label of the subject's ``_info`` series."""
    return _declare(Kind.DESCRIBED, help_text)


def level(help_text: str, origin: Origin, *more: Origin, by: str | None = None, formerly: Former | None = None) -> Any:
    """Declare a gauge, and where it comes from.

    With ``by`` its value maps that label's values to numbers; ``formerly`` is the name that a rename leaves behind.
    """
    return _declare(Kind.LEVEL, help_text, origins=(origin, *more), by=by, formerly=formerly)


def total(help_text: str, origin: Origin, *more: Origin, by: str | None = None, formerly: Former | None = None) -> Any:
    """Declare a running total (its field name ends in ``_total``); the rest as in `level`."""
    return _declare(Kind.TOTAL, help_text, origins=(origin, *more), by=by, formerly=formerly)


def one_hot(value: str, values: tuple[str, ...]) -> Mapping[str, int]:
    """Spell a state as one 0/1 series per possible value, the form that survives aggregation."""
    if value not in values:
        raise ValueError(f"{value!r} is not one of {', '.join(values)}")
    return {each: int(each == value) for each in values}


def fields_of(fact_type: type[Fact], kind: Kind) -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields of one kind, in order of declaration."""
    fields = dataclasses.fields(cast("Any", fact_type))
    return tuple(field for field in fields if field.metadata.get("kind") is kind)


def identity_names(fact_type: type[Fact]) -> tuple[str, ...]:
    """Return the names of the labels on every series of this fact."""
    return tuple(field.name for field in fields_of(fact_type, Kind.IDENTITY))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Declared:
    """What a fact type declares, looked up once: pages ask for it at every scrape."""

    identity: tuple[str, ...]
    described: tuple[str, ...]
    info: Metric | None
    numbers: tuple[tuple[Metric, bool], ...]
    """Each with whether its value is a mapping by a label of its own."""


@cache
def _declared(fact_type: Any) -> _Declared:
    labels = identity_names(fact_type)
    texts = fields_of(fact_type, Kind.DESCRIBED)
    subject = fact_type.subject
    info = Metric(
        name=f"{PREFIX}_{subject}_info",
        kind=Kind.LEVEL,
        help="Always 1; its labels describe. " + "; ".join(f"{each.name}: {each.metadata['help']}" for each in texts),
        labels=(*labels, *(each.name for each in texts)),
        subject=subject,
        field="info",
    )
    numbers = []
    for field in dataclasses.fields(fact_type):
        kind = field.metadata.get("kind")
        if kind in (Kind.LEVEL, Kind.TOTAL):
            by = field.metadata["by"]
            metric = Metric(
                name=f"{PREFIX}_{subject}_{field.name}",
                kind=kind,
                help=field.metadata["help"],
                labels=(*labels, by) if by else labels,
                subject=subject,
                field=field.name,
                origins=field.metadata["origins"],
            )
            numbers.append((metric, by is not None))
            if former := field.metadata["formerly"]:
                numbers.append((_under_its_old_name(metric, former), by is not None))
    return _Declared(
        identity=labels,
        described=tuple(each.name for each in texts),
        info=info if texts else None,
        numbers=tuple(numbers),
    )


def _under_its_old_name(metric: Metric, former: Former) -> Metric:
    return dataclasses.replace(
        metric,
        name=f"{PREFIX}_{metric.subject}_{former.field}",
        help=f"The old name of {metric.name}, gone in {former.gone_in}. {metric.help}",
        former=former,
    )


def metrics_of(fact_type: type[Fact]) -> Iterator[Metric]:
    """Yield every metric that a fact type declares, its ``_info`` first."""
    declared = _declared(cast("Any", fact_type))
    if declared.info:
        yield declared.info
    for metric, _ in declared.numbers:
        yield metric


def samples_of(fact: Fact) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Yield ``(metric name, label values, value)`` for every number that the fact holds."""
    declared = _declared(cast("Any", type(fact)))
    labels = tuple(str(getattr(fact, name)) for name in declared.identity)
    if declared.info:
        texts = tuple(getattr(fact, name) for name in declared.described)
        if any(text is not None for text in texts):
            yield declared.info.name, (*labels, *("" if text is None else str(text) for text in texts)), 1.0
    for metric, is_mapping in declared.numbers:
        value = getattr(fact, metric.field)
        if value is None:
            continue
        if is_mapping:
            for key, each in value.items():
                yield metric.name, (*labels, str(key)), float(each)
        else:
            yield metric.name, labels, float(value)

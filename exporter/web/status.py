"""The moment as JSON-ready data, generated from the same facts as /metrics."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

from advisor.facts import Fact, Kind
from exporter.recent import Subject
from exporter.service import Service


def status(service: Service) -> dict[str, Any]:
    """Return what ``/api/v1/status`` shows. Infinite times are the text ``+Inf``, as JSON has no word for them."""
    published = service.published()
    gpus: dict[str, dict[str, Any]] = {}
    engines: list[dict[str, Any]] = []
    recommendations: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    collectors: list[dict[str, Any]] = []
    build: dict[str, Any] = {}
    for fact in service.facts_beside(published):
        if fact.subject == "gpu":
            gpus.setdefault(cast("Any", fact).uuid, {}).update(plain(fact))
        elif fact.subject == "engine":
            engines.append(plain(fact))
        elif fact.subject == "engine_recommendation":
            recommendations.append(plain(fact))
        elif fact.subject == "collector":
            collectors.append(plain(fact))
        elif fact.subject == "config":
            config = plain(fact)
        elif fact.subject == "build":
            build = plain(fact)
    sentences = published.report.factor_sentences if published else {}
    for (uuid, factor), sentence in sentences.items():
        gpus.setdefault(uuid, {}).setdefault("oom_risk_reasons", {})[factor] = sentence
    reasons = {
        (each.engine, each.dp_rank, flag): why
        for each in (published.report.advice if published else ())
        for flag, why in each.reasons().items()
    }
    return {
        "build": build,
        "ready": service.ready,
        "time_seconds": published.wall_seconds if published else None,
        "poll_interval_seconds": service.poll_interval_seconds,
        "policy": dataclasses.asdict(service.policy),
        "config": config,
        "collectors": collectors,
        "gpus": list(gpus.values()),
        "engines": engines,
        "recommendations": [
            each | {"why": reasons[each["engine"], each["dp_rank"], each["flag"]]} for each in recommendations
        ],
        "findings": [dataclasses.asdict(finding) for finding in published.report.findings] if published else [],
    }


def recents(service: Service) -> dict[Subject, dict[str, tuple[float, ...]]]:
    """Return the last hour of every GPU and engine that is known now."""
    published = service.published()
    if published is None:
        return {}
    subjects: list[Subject] = [("gpu", gpu.uuid) for gpu in published.report.gpus]
    subjects += [("engine", engine.engine, engine.dp_rank) for engine in published.report.engines]
    return {subject: service.recent(subject) for subject in subjects}


def plain(fact: Fact) -> dict[str, Any]:
    """Return a fact's reported fields as plain data."""
    declared = (
        field for field in dataclasses.fields(cast("Any", fact)) if isinstance(field.metadata.get("kind"), Kind)
    )
    values = ((field.name, getattr(fact, field.name)) for field in declared)
    return {name: plain_value(value) for name, value in values if value is not None}


def plain_value(value: Any) -> Any:
    """Return a value as JSON has it, which has no word for what is infinite or unknown."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "+Inf" if value > 0 else None
    return value

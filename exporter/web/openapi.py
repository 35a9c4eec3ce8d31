"""The API's description, from the declarations that its answers are made from."""

import dataclasses
from typing import Any, cast

from advisor.facts import Fact, Kind
from advisor.policy import Policy
from advisor.readings import Gpu
from advisor.report import LIMITERS, Engine, Finding, GpuJudgement, Recommendation, Severity
from exporter.health import Build, Collector, ConfigReload
from exporter.web.what_if import PARAMETERS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_MAYBE_NUMBER: Schema = {"type": ["number", "null"]}
_MAYBE_TIME: Schema = {"anyOf": [_MAYBE_NUMBER, {"const": "+Inf"}]}


def openapi(version: str) -> Schema:
    """Return the OpenAPI 3.1 document of ``/api/v1``.

    Args:
        version: This program's.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vllm-headroom",
            "version": version,
            "description": (
                "What a vLLM server's GPU memory holds, what still fits and how likely it is to run out. A field that "
                "cannot be told is absent. Within /api/v1 fields are added, never renamed or removed."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/api/v1/status": {
                "get": {
                    "operationId": "status",
                    "summary": "Everything that /metrics shows now, with findings in words.",
                    "responses": {"200": _answer("The present moment.", "Status")},
                }
            },
            "/api/v1/plan": {
                "get": {
                    "operationId": "plan",
                    "summary": "What each engine of this host should hold, with its own flags or with some changed.",
                    "parameters": [
                        {
                            "name": each.name,
                            "in": "query",
                            "required": False,
                            "description": each.help,
                            "schema": each.schema(),
                        }
                        for each in PARAMETERS
                    ],
                    "responses": {
                        "200": _answer("One entry an engine that answers.", "Plans"),
                        "400": _answer("A parameter is unknown, repeated or out of range.", "Error"),
                        "503": _answer("There is no fresh reading to plan from.", "Error"),
                    },
                }
            },
            "/api/v1/advice": {
                "get": {
                    "operationId": "advice",
                    "summary": "What threatens each GPU and engine, what to do, and what the memory flags should be.",
                    "responses": {"200": _answer("One entry a GPU, one an engine that answers.", "Advice")},
                }
            },
            "/api/v1/openapi.json": {
                "get": {
                    "operationId": "openapi",
                    "summary": "This document.",
                    "responses": {
                        "200": {
                            "description": "An OpenAPI 3.1 document.",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        }
                    },
                }
            },
        },
        "components": {"schemas": _schemas()},
    }


def _answer(description: str, name: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": _named(name)}}}


def _named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Schema], *, optional: tuple[str, ...] = (), description: str | None = None) -> Schema:
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }
    return {"description": description, **schema} if description else schema


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _schemas() -> dict[str, Schema]:
    gpu = _fact(Gpu, GpuJudgement)
    gpu["properties"]["oom_risk_reasons"] = {
        "type": "object",
        "additionalProperties": _TEXT,
        "description": "Why each factor of the risk is what it is, in words.",
    }
    recommendation = _fact(Recommendation)
    recommendation["properties"]["why"] = {**_TEXT, "description": "Why it should be so, in words."}
    engine = _fact(Engine)
    engine["properties"]["limiter"]["propertyNames"] = {"enum": list(LIMITERS)}
    return {
        "Status": _object(
            {
                "build": _named("Build"),
                "ready": {"type": "boolean", "description": "Whether the first reading is done."},
                "time_seconds": {
                    **_MAYBE_NUMBER,
                    "description": "Unix time of what follows; null while there is no fresh reading.",
                },
                "poll_interval_seconds": {**_NUMBER, "description": "Time between two readings."},
                "policy": _named("Policy"),
                "config": _named("ConfigReload"),
                "collectors": _list(_named("Collector")),
                "gpus": _list(_named("Gpu")),
                "engines": _list(_named("Engine")),
                "recommendations": _list(_named("Recommendation")),
                "findings": _list(_named("Finding")),
            }
        ),
        "Build": _fact(Build),
        "ConfigReload": _fact(ConfigReload),
        "Recommendation": recommendation,
        "Collector": _fact(Collector),
        "Gpu": gpu,
        "Engine": engine,
        "Policy": _object(
            {
                field.name: _NUMBER if field.default is not None else _MAYBE_NUMBER
                for field in dataclasses.fields(Policy)
            },
            description="The thresholds by which is judged.",
        ),
        "Finding": _object(
            {
                field.name: {"type": "string", "enum": list(Severity)} if field.name == "severity" else _TEXT
                for field in dataclasses.fields(Finding)
            },
            description="Something worth telling a person; the most severe comes first.",
        ),
        "Bounds": _object(
            {
                "lower": _NUMBER,
                "expected": _NUMBER,
                "upper": _NUMBER,
                "origin": {"type": "string", "enum": ["reported", "derived", "estimated"]},
            },
            description="A figure with its bounds and where it comes from.",
        ),
        "Plans": _object({"changed": {"type": "object"}, "engines": _list(_named("EnginePlan"))}),
        "EnginePlan": _object(
            {
                "engine": _TEXT,
                "model_name": _TEXT,
                "dp_rank": _TEXT,
                "plan": {"anyOf": [_named("Plan"), {"type": "null"}]},
                "declined": {**_MAYBE_TEXT, "description": "Why there is no plan."},
            }
        ),
        "Plan": _plan(),
        "Advice": _object(
            {
                "time_seconds": _MAYBE_NUMBER,
                "gpus": _list(_named("GpuRisk")),
                "findings": _list(_named("Finding")),
                "engines": _list(
                    _object(
                        {
                            "engine": _TEXT,
                            "model_name": _TEXT,
                            "dp_rank": _TEXT,
                            "not_yet": {**_MAYBE_TEXT, "description": "Why nothing is advised yet."},
                            "observed": {"type": ["object", "null"], "description": "What the advice rests on."},
                            "max_num_seqs": {"type": ["object", "null"]},
                            "flags": _list({"type": "object"}),
                            "outlook": {"type": "object"},
                        }
                    )
                ),
            }
        ),
        "GpuRisk": _object(
            {
                "gpu": _TEXT,
                "uuid": _TEXT,
                "horizon_seconds": _NUMBER,
                "oom_risk_ratio": {**_MAYBE_NUMBER, "description": "Probability of running out within the horizon."},
                "time_to_oom_seconds": _MAYBE_TIME,
                "time_to_oom_lower_seconds": _MAYBE_TIME,
                "time_to_oom_upper_seconds": _MAYBE_TIME,
                "memory_growth_bytes_per_second": _MAYBE_NUMBER,
                "memory_growth_lasted_seconds": _MAYBE_NUMBER,
                "memory_slack_bytes": _MAYBE_NUMBER,
                "memory_slack_low_bytes": _MAYBE_NUMBER,
                "engines": _list(
                    _object(
                        {
                            "engine": _TEXT,
                            "budget_bytes": {**_MAYBE_NUMBER, "description": "What its start-up check asks for."},
                            "held_bytes": _NUMBER,
                            "claim_bytes": {**_MAYBE_NUMBER, "description": "What it may still take."},
                        }
                    )
                ),
                "foreign_bytes": _MAYBE_NUMBER,
                "culprit": {**_MAYBE_TEXT, "description": "Who ends the memory, if it ends; null: nobody stands out."},
                "factors": _list(
                    _object({"factor": _TEXT, "ratio": _NUMBER, "because": _TEXT, "what_to_do": _TEXT}),
                ),
            },
            description="One GPU's risk, its factors from the largest to the smallest.",
        ),
        "Error": _object({"error": _object({"parameter": _MAYBE_TEXT, "message": _TEXT})}),
    }


def _fact(*types: type[Fact]) -> Schema:
    """Return the schema of one fact, or of several that make one object."""
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for fact_type in types:
        for field in dataclasses.fields(cast("Any", fact_type)):
            kind = field.metadata.get("kind")
            if not isinstance(kind, Kind):
                continue
            properties.setdefault(
                field.name, {**_value(kind, by=field.metadata.get("by")), "description": field.metadata["help"]}
            )
            # A GPU's two halves come from two moments: either may be there alone, and both name it.
            if kind is Kind.IDENTITY and field.name not in required:
                required.append(field.name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _value(kind: Kind, *, by: str | None) -> Schema:
    if kind in (Kind.IDENTITY, Kind.DESCRIBED):
        return dict(_TEXT)
    number: Schema = {"anyOf": [_NUMBER, {"const": "+Inf"}]}
    return {"type": "object", "additionalProperties": number} if by else number


def _plan() -> Schema:
    bounds = _named("Bounds")
    parts = ("weights_bytes", "activation_peak_bytes", "non_torch_bytes", "cuda_graph_bytes", "startup_peak_bytes")
    whole = ("total_bytes", "budget_bytes", *parts)
    return _object(
        {
            "verdict": {"type": "string", "enum": ["fits", "does_not_fit", "too_close_to_call"]},
            "vllm_error": {**_MAYBE_TEXT, "description": "What vLLM would say, where it would not start."},
            "margin_bytes": {"anyOf": [bounds, {"type": "null"}]},
            "binding": {**_TEXT, "description": "Which of vLLM's checks decides the verdict."},
            "model": _object({"architecture": _TEXT, "parameters": _NUMBER}),
            "vllm_version": _TEXT,
            "gpu": _object({"name": _TEXT, "count": _NUMBER}),
            "per_gpu": _object(
                {
                    **dict.fromkeys(whole, _NUMBER),
                    "kv_cache_bytes": bounds,
                    "bounds": _object(dict.fromkeys(whole, bounds)),
                    "cuda_graphs_in_budget": {"type": "boolean"},
                },
                optional=(*whole, "bounds", "cuda_graphs_in_budget"),
                description="Sizes on one GPU; on the CPU only the KV cache is known.",
            ),
            "kv": _object(
                {
                    "bytes_per_token_per_gpu": _NUMBER,
                    "block_size": _NUMBER,
                    "num_gpu_blocks": _NUMBER,
                    "capacity_tokens": bounds,
                    "full_context_concurrency": _NUMBER,
                    "groups": _list(
                        _object(
                            {
                                "kind": _TEXT,
                                "layers": _NUMBER,
                                "block_size": _NUMBER,
                                "page_bytes": _list(_NUMBER),
                                "blocks_per_request": _NUMBER,
                            }
                        )
                    ),
                }
            ),
            "flags": {
                "type": "object",
                "description": "Flags in effect; those whose values are texts of the user's own are left out.",
                "additionalProperties": _object(
                    {"value": {}, "origin": {"type": "string", "enum": ["given", "default", "derived"]}}
                ),
            },
            "notes": _list(_TEXT),
        }
    )

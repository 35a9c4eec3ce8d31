"""What is advised, as JSON-ready data: the same Report that the gauges and the ``advise`` command show."""

import dataclasses
from typing import Any

from advisor.policy import Policy
from advisor.pressure import REMEDY
from advisor.report import GpuJudgement, Report
from exporter.service import Published
from exporter.web.status import plain_value


def advice(published: Published | None, policy: Policy) -> dict[str, Any]:
    """Return what ``/api/v1/advice`` shows: flags and values only, a command line is nobody else's business."""
    if published is None:
        return {"time_seconds": None, "gpus": [], "engines": [], "findings": []}
    report = published.report
    judged = {(engine.engine, engine.dp_rank): engine for engine in report.engines}
    engines = []
    for each in report.advice:
        engine = judged[each.engine, each.dp_rank]
        engines.append(
            {
                "engine": each.engine,
                "model_name": each.model_name,
                "dp_rank": each.dp_rank,
                "not_yet": each.not_yet,
                "observed": None if each.observed is None else dataclasses.asdict(each.observed),
                "max_num_seqs": None
                if each.seqs is None
                else dataclasses.asdict(each.seqs) | {"kv_gain_tokens": each.seqs_gain_tokens},
                "flags": [dataclasses.asdict(flag) for flag in each.flags],
                "outlook": {
                    "preemption_risk_ratio": engine.preemption_risk_ratio,
                    "preemption_because": each.preemption_because,
                    "preemption_what_to_do": None if each.preemption_because is None else REMEDY,
                    "time_to_kv_exhaustion_seconds": plain_value(engine.time_to_kv_exhaustion_seconds),
                    "demand_growth_per_second": engine.demand_growth_per_second,
                    "queue_drain_seconds": plain_value(engine.queue_drain_seconds),
                    "restart_fits": engine.restart_fits,
                    "restart_shortfall_bytes": engine.restart_shortfall_bytes,
                    "host_memory_used_bytes": engine.host_memory_used_bytes,
                    "host_memory_limit_bytes": engine.host_memory_limit_bytes,
                },
            }
        )
    return {
        "time_seconds": published.wall_seconds,
        "gpus": [_gpu(gpu, report, policy) for gpu in report.gpus],
        "engines": engines,
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
    }


def _gpu(gpu: GpuJudgement, report: Report, policy: Policy) -> dict[str, Any]:
    culprit = report.culprits.get(gpu.uuid)
    factors = sorted((gpu.oom_risk_factor_ratio or {}).items(), key=lambda pair: -pair[1])
    return {
        "gpu": gpu.gpu,
        "uuid": gpu.uuid,
        "horizon_seconds": policy.oom_horizon_seconds,
        "oom_risk_ratio": gpu.oom_risk_ratio,
        "time_to_oom_seconds": plain_value(gpu.time_to_oom_seconds),
        "time_to_oom_lower_seconds": plain_value(gpu.time_to_oom_lower_seconds),
        "time_to_oom_upper_seconds": plain_value(gpu.time_to_oom_upper_seconds),
        "memory_growth_bytes_per_second": gpu.memory_growth_bytes_per_second,
        "memory_growth_lasted_seconds": gpu.memory_growth_lasted_seconds,
        "memory_slack_bytes": gpu.memory_slack_bytes,
        "memory_slack_low_bytes": gpu.memory_slack_low_bytes,
        "engines": [
            {
                "engine": engine,
                "budget_bytes": (gpu.engine_budget_bytes or {}).get(engine),
                "held_bytes": held,
                "claim_bytes": (gpu.engine_claim_bytes or {}).get(engine),
            }
            for engine, held in (gpu.engine_held_bytes or {}).items()
        ],
        "foreign_bytes": (gpu.memory_component_bytes or {}).get("foreign"),
        "culprit": culprit.spelled if culprit else None,
        "factors": [
            {
                "factor": factor,
                "ratio": ratio,
                "because": report.factor_sentences[gpu.uuid, factor],
                "what_to_do": report.factor_remedies[gpu.uuid, factor],
            }
            for factor, ratio in factors
        ],
    }

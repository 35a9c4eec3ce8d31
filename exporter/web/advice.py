"""What is advised, as JSON-ready data: the same Report that the gauges and the ``advise`` command show."""

import dataclasses
import math
from typing import Any

from exporter.service import Published


def advice(published: Published | None) -> dict[str, Any]:
    """Return what ``/api/v1/advice`` shows: flags and values only, a command line is nobody else's business."""
    if published is None:
        return {"time_seconds": None, "engines": []}
    judged = {(engine.engine, engine.dp_rank): engine for engine in published.report.engines}
    engines = []
    for each in published.report.advice:
        engine = judged[each.engine, each.dp_rank]
        ahead = engine.time_to_kv_exhaustion_seconds
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
                    "time_to_kv_exhaustion_seconds": "+Inf" if ahead is not None and math.isinf(ahead) else ahead,
                    "restart_fits": engine.restart_fits,
                    "restart_shortfall_bytes": engine.restart_shortfall_bytes,
                },
            }
        )
    return {"time_seconds": published.wall_seconds, "engines": engines}

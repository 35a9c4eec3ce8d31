"""Statuses to draw: one recorded from the demo at its worst moment, and what follows from it."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

from advisor.policy import Policy

_BAD = json.loads((Path(__file__).parent / "bad_moment.json").read_text(encoding="utf-8"))


def bad():
    """A neighbour leaks on GPU 1 and the engine on GPU 0 has filled its KV cache; thresholds are those of now."""
    config = {"last_reload_successful": 1, "last_reload_success_timestamp_seconds": _BAD["time_seconds"]}
    return copy.deepcopy(_BAD) | {"policy": asdict(Policy()), "config": config, "recommendations": []}


def good():
    """The same host with nothing wrong."""
    status = bad()
    status["findings"] = []
    for gpu in status["gpus"]:
        gpu |= {"oom_risk_ratio": 0.0, "oom_risk_factor_ratio": dict.fromkeys(gpu["oom_risk_factor_ratio"], 0.0)}
        gpu |= {"time_to_oom_seconds": "+Inf"}
    engine = status["engines"][0]
    engine["limiter"] = {name: int(name == "none") for name in engine["limiter"]}
    engine |= {"requests_waiting": 0.0, "requests_running": 2.0, "request_headroom": 27.0}
    return status


def many():
    """Eight GPUs and eight engines with long names, one engine down, and every field that an advisor may add."""
    status = bad()
    busy, leaking = status["gpus"]
    engine = status["engines"][0]
    status["gpus"] = [
        copy.deepcopy(leaking if index == 5 else busy)
        | {"gpu": str(index), "uuid": f"GPU-{index}", "name": "NVIDIA H100 80GB HBM3"}
        for index in range(8)
    ]
    status["engines"] = [
        copy.deepcopy(engine)
        | {
            "engine": f"inference-{index}.example.internal:8000",
            "model_name": "organisation/A-Model-With-A-Very-Long-Name-128x17B-Instruct-FP8-dynamic",
        }
        for index in range(8)
    ]
    down = status["engines"][3]
    down |= {"up": 0, "failing": {"connection_refused": 1}}
    for name in ("requests_running", "requests_waiting", "kv_usage_ratio", "request_headroom", "limiter"):
        del down[name]
    status["engines"][2] |= advised()
    status["gpus"][5] |= {
        "memory_slack_low_bytes": 2**30,
        "memory_growth_lasted_seconds": 120.0,
        "time_to_oom_lower_seconds": 100.0,
        "time_to_oom_upper_seconds": "+Inf",
        "row_remap_pending": 1,
        "xid_errors_total": {"79": 1},
    }
    return status


def advised():
    """What an engine's advice adds to it."""
    return {
        "restart_fits": 0,
        "restart_shortfall_bytes": 2 * 2**30,
        "recommended_max_num_seqs": 24.0,
        "recommended_max_num_seqs_lower": 20.0,
        "recommended_max_num_seqs_upper": 28.0,
        "advice_confidence_ratio": 0.8,
        "preemption_risk_ratio": 0.4,
        "time_to_kv_exhaustion_seconds": 300.0,
    }

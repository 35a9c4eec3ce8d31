"""For each alert what makes it fire, what it must stay quiet at, and the sentence that it then says."""

from dataclasses import dataclass, field

GPU = {"job": "headroom", "instance": "h:9738", "gpu": "0", "uuid": "GPU-0"}
ENGINE = {"job": "headroom", "instance": "h:9738", "engine": "e:8000", "model_name": "m", "dp_rank": "0"}
TARGET = {"job": "headroom", "instance": "h:9738"}
COLLECTOR = {**TARGET, "collector": "nvml"}

OTHER_GPU = {"gpu": "1", "uuid": "GPU-1"}
OTHER_ENGINE = {"engine": "e:8001"}
"""A second subject, which is well for another reason than the first."""

ON_GPU = "GPU 0 of h:9738"
ON_ENGINE = "e:8000 (m) watched by h:9738"


def constant(value, minutes=120):
    return f"{value}+0x{minutes}"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One alert at one severity; series are promtool's notation, one sample a minute."""

    alert: str
    severity: str
    bad: dict[str, str]
    good: dict[str, str]
    says: str
    """How its description begins when ``bad`` has gone on until ``at``."""
    subject: dict[str, str] = field(default_factory=lambda: dict(GPU))
    """Labels of the alert."""
    also: tuple[str, ...] = ()
    """Other severities of the same alert that fire too."""
    still: tuple[str, ...] = ()
    """Severities of the same alert that fire at what is good enough for this one."""
    at: str = "30m"
    not_before: str = "0m"
    """Still quiet then, for what must last."""
    extra: dict[str, str] = field(default_factory=dict)
    """Labels of the bad series beside the subject's."""


def gpu(name, **labels):
    return series(f"headroom_gpu_{name}", GPU | labels)


def engine(name, **labels):
    return series(f"headroom_engine_{name}", ENGINE | labels)


def sized(max_num_seqs, lower, upper, **labels):
    """Return a day and more of an engine's setting and the bounds of its advice."""
    return {
        engine("max_num_seqs", **labels): constant(max_num_seqs, 1600),
        engine("recommended_max_num_seqs_lower", **labels): constant(lower, 1600),
        engine("recommended_max_num_seqs_upper", **labels): constant(upper, 1600),
    }


def series(name, labels):
    pairs = ", ".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{pairs}}}"


RISK = gpu("oom_risk_ratio")
ENDS = gpu("time_to_oom_seconds")
GROWTH = gpu("memory_growth_bytes_per_second")
WAITING, RUNNING = engine("requests_waiting"), engine("requests_running")
PREEMPTED = engine("preemptions_total")
CAPACITY = engine("kv_capacity_tokens")
BUILD = series("headroom_build_info", TARGET | {"version": "1", "python_version": "3.11.7", "mode": "serve"})

# What trouble and no trouble have in common, where one more figure tells them apart.
FILLS_UP = {engine("time_to_kv_exhaustion_seconds"): constant(119)}
SHORT_OF_TOKENS = {engine("kv_capacity_gap_ratio"): constant(-0.06), CAPACITY: constant(94)}

EXAMPLES = (
    Example(
        alert="HeadroomGpuOomRisk",
        severity="critical",
        also=("warning",),
        bad={RISK: constant(0.7)},
        good={RISK: constant(0.69)},
        still=("warning",),
        says=f"{ON_GPU} runs out of memory within 15 minutes with a probability of 70%.",
    ),
    Example(
        alert="HeadroomGpuOomRisk",
        severity="warning",
        bad={RISK: constant(0.2)},
        good={RISK: constant(0.19)},
        says=f"{ON_GPU} runs out of memory within 15 minutes with a probability of 20%.",
    ),
    Example(
        alert="HeadroomGpuMemoryEnds",
        severity="critical",
        also=("warning",),
        bad={ENDS: constant(840), GROWTH: constant(1e6)},
        # The other is full and nothing grows: that is said by its risk.
        good={
            ENDS: constant(901),
            GROWTH: constant(1e6),
            gpu("time_to_oom_seconds", **OTHER_GPU): constant(0),
            gpu("memory_growth_bytes_per_second", **OTHER_GPU): constant(0),
        },
        still=("warning",),
        not_before="1m",
        says=f"Something on {ON_GPU} grows: if it goes on, memory ends in 14m 0s.",
    ),
    Example(
        alert="HeadroomGpuMemoryEnds",
        severity="warning",
        bad={ENDS: constant(14_000), GROWTH: constant(1e6)},
        good={ENDS: constant(14_500), GROWTH: constant(1e6)},
        not_before="14m",
        says=f"Something on {ON_GPU} grows steadily: if it goes on, memory ends in 3h 53m 20s.",
    ),
    Example(
        alert="HeadroomGpuOvercommitted",
        severity="warning",
        bad={gpu("memory_slack_bytes"): constant(-(2**30))},
        good={gpu("memory_slack_bytes"): constant(0)},
        not_before="9m",
        says=f"The engines on {ON_GPU} may still claim more than is free: slack is -1GiB.",
    ),
    Example(
        alert="HeadroomGpuXid",
        severity="critical",
        # The series of a code appears with its first error.
        bad={gpu("xid_errors_total", xid="79"): "_x20 1+0x120"},
        good={gpu("xid_errors_total", xid="31"): "_x20 1+0x120", gpu("xid_errors_total", xid="74"): constant(2)},
        extra={"xid": "79"},
        says=f"{ON_GPU} reported Xid 79.",
    ),
    Example(
        alert="HeadroomGpuXid",
        severity="warning",
        bad={gpu("xid_errors_total", xid="94"): "1+0x20 2+0x100"},
        good={gpu("xid_errors_total", xid="31"): "1+0x20 2+0x100"},
        not_before="18m",
        extra={"xid": "94"},
        says=f"{ON_GPU} reported Xid 94.",
    ),
    Example(
        alert="HeadroomGpuMemoryErrors",
        severity="critical",
        bad={gpu("ecc_uncorrected_errors_total"): "3+0x20 5+0x100"},
        good={gpu("ecc_uncorrected_errors_total"): constant(3)},
        says=f"{ON_GPU} had ",
    ),
    Example(
        alert="HeadroomGpuRowRemap",
        severity="critical",
        bad={gpu("row_remap_failed"): constant(1)},
        good={gpu("row_remap_failed"): constant(0)},
        not_before="4m",
        says=f"{ON_GPU} has no spare row left for a bad one",
    ),
    Example(
        alert="HeadroomGpuRowRemap",
        severity="warning",
        bad={gpu("row_remap_pending"): constant(1)},
        good={gpu("row_remap_pending"): constant(0)},
        not_before="4m",
        says=f"{ON_GPU} goes on using a bad row until it is reset.",
    ),
    Example(
        alert="HeadroomGpuThrottled",
        severity="warning",
        bad={
            gpu("throttled", reason="hw_thermal_slowdown"): constant(1),
            gpu("throttled", reason="sw_thermal_slowdown"): constant(1),
        },
        good={
            gpu("throttled", reason="sw_power_cap"): constant(1),
            gpu("throttled", reason="hw_slowdown"): constant(0),
        },
        not_before="9m",
        says=f"{ON_GPU} has held its clocks down for ten minutes",
    ),
    Example(
        alert="HeadroomEngineDown",
        severity="critical",
        subject=ENGINE,
        bad={engine("up"): constant(0)},
        good={engine("up"): "1+0x30 0 1+0x90"},
        not_before="1m",
        says=f"{ON_ENGINE} has not answered for two minutes",
    ),
    Example(
        alert="HeadroomEngineStalled",
        severity="critical",
        subject=ENGINE,
        bad={engine("limiter", limiter="stalled"): constant(1)},
        good={engine("limiter", limiter="stalled"): constant(0), engine("limiter", limiter="kv"): constant(1)},
        extra={"limiter": "stalled"},
        not_before="1m",
        says=f"{ON_ENGINE} has requests and has produced no token for more than 1 minute.",
    ),
    Example(
        alert="HeadroomEngineQueueGrows",
        severity="warning",
        subject=ENGINE,
        bad={WAITING: "1+4x120", RUNNING: constant(16)},
        # A peak that drains, however long; and rushes of 24 minutes, each served before the next.
        good={
            WAITING: "480-4x120",
            RUNNING: constant(16),
            engine("requests_waiting", **OTHER_ENGINE): " ".join(["0+4x23"] * 5),
            engine("requests_running", **OTHER_ENGINE): constant(16),
        },
        at="40m",
        not_before="13m",
        says=f"161 requests wait at {ON_ENGINE}, more than run",
    ),
    Example(
        alert="HeadroomEnginePreempting",
        severity="warning",
        subject=ENGINE,
        bad={PREEMPTED: "0+4x120"},
        good={PREEMPTED: "0+2.9x120"},
        not_before="17m",
        says=f"{ON_ENGINE} preempts 4 requests a minute",
    ),
    Example(
        alert="HeadroomEngineRequestNeverFits",
        severity="warning",
        subject=ENGINE,
        bad={engine("full_context_concurrency"): constant(0.99)},
        good={engine("full_context_concurrency"): constant(1)},
        not_before="4m",
        says=f"The KV cache of {ON_ENGINE} holds 99% of one request of max-model-len.",
    ),
    Example(
        alert="HeadroomEngineKvFillsUp",
        severity="warning",
        subject=ENGINE,
        bad=FILLS_UP | {engine("preemption_risk_ratio"): constant(0.7)},
        # A full cache that preempts nobody; and a preemption that is far off.
        good=FILLS_UP
        | {
            engine("preemption_risk_ratio"): constant(0.69),
            engine("time_to_kv_exhaustion_seconds", **OTHER_ENGINE): constant(120),
            engine("preemption_risk_ratio", **OTHER_ENGINE): constant(0.9),
        },
        says=f"The KV cache of {ON_ENGINE} is full in 1m 59s",
    ),
    Example(
        alert="HeadroomEngineWouldNotRestart",
        severity="warning",
        subject=ENGINE,
        bad={engine("restart_fits"): constant(0)},
        good={engine("restart_fits"): constant(1)},
        not_before="9m",
        says=f"If {ON_ENGINE} stopped now, it would not start again",
    ),
    Example(
        alert="HeadroomEngineCapacityBelowTheory",
        severity="warning",
        subject=ENGINE,
        bad=SHORT_OF_TOKENS | {engine("kv_theory_lower_tokens"): constant(95)},
        # Inside the bounds of the theory a gap is the theory's own error; a small one is none's.
        good=SHORT_OF_TOKENS
        | {
            engine("kv_theory_lower_tokens"): constant(94),
            engine("kv_capacity_gap_ratio", **OTHER_ENGINE): constant(-0.05),
            engine("kv_capacity_tokens", **OTHER_ENGINE): constant(95),
            engine("kv_theory_lower_tokens", **OTHER_ENGINE): constant(96),
        },
        at="40m",
        not_before="29m",
        says=f"The KV cache of {ON_ENGINE} is -6% off what model, GPU and flags give",
    ),
    Example(
        alert="HeadroomEngineCapacityDropped",
        severity="warning",
        subject=ENGINE,
        bad={CAPACITY: "1000+0x20 _x3 975+0x100"},
        # The same after a restart, and a larger one after the next.
        good={CAPACITY: "1000+0x20 _x3 985+0x60 _x3 1200+0x60"},
        at="60m",
        not_before="30m",
        says=f"{ON_ENGINE} has 97.5% of the KV cache that it had within the last day",
    ),
    Example(
        alert="HeadroomEngineMissized",
        severity="info",
        subject=ENGINE,
        bad=sized(64, 20, 30) | {engine("advice_confidence_ratio"): constant(0.9, 1600)},
        good=sized(64, 20, 30) | {engine("advice_confidence_ratio"): constant(0.79, 1600)},
        at="1500m",
        not_before="1430m",
        says=f"{ON_ENGINE} runs with max-num-seqs 64;",
    ),
    Example(
        alert="HeadroomEngineMissized",
        severity="info",
        subject=ENGINE,
        bad=sized(19, 20, 30) | {engine("advice_confidence_ratio"): constant(0.8, 1600)},
        # At its lower bound, at its upper one.
        good=sized(20, 20, 30)
        | {engine("advice_confidence_ratio"): constant(1, 1600)}
        | sized(30, 20, 30, **OTHER_ENGINE)
        | {engine("advice_confidence_ratio", **OTHER_ENGINE): constant(1, 1600)},
        at="1500m",
        not_before="1430m",
        says=f"{ON_ENGINE} runs with max-num-seqs 19;",
    ),
    Example(
        alert="HeadroomExporterDown",
        severity="critical",
        subject=TARGET,
        bad={series("up", TARGET): "1+0x10 0+0x110", BUILD: "1+0x10 stale"},
        # Another program's target that is down is another program's alert.
        good={series("up", {"job": "node", "instance": "h:9100"}): constant(0), BUILD: constant(1)},
        not_before="15m",
        says="h:9738 has not answered for five minutes and did within the last day",
    ),
    Example(
        alert="HeadroomExporterAbsent",
        severity="warning",
        subject={},
        bad={},
        good={BUILD: constant(1)},
        not_before="14m",
        says="These rules are loaded and nothing feeds them",
    ),
    Example(
        alert="HeadroomCollectorFailing",
        severity="warning",
        subject=COLLECTOR,
        bad={series("headroom_collector_success", COLLECTOR): constant(0)},
        good={series("headroom_collector_success", COLLECTOR): "1+0x30 0+0x5 1+0x85"},
        not_before="9m",
        says="The nvml source of h:9738 has failed for ten minutes",
    ),
    Example(
        alert="HeadroomConfigNotReloaded",
        severity="warning",
        subject=TARGET,
        bad={series("headroom_config_last_reload_successful", TARGET): constant(0)},
        good={series("headroom_config_last_reload_successful", TARGET): "1+0x30 0+0x5 1+0x85"},
        not_before="9m",
        says="What is on the disk of h:9738 has been refused for ten minutes",
    ),
    Example(
        alert="HeadroomMetricMissing",
        severity="info",
        subject=ENGINE,
        bad={engine("metric_missing", metric="kv_usage_ratio"): constant(1)},
        good={engine("metric_missing", metric="kv_usage_ratio"): "1+0x5 stale"},
        extra={"metric": "kv_usage_ratio"},
        at="40m",
        not_before="29m",
        says="e:8000 shows no kv_usage_ratio",
    ),
)

IDLE = {
    RISK: constant(0.001),
    ENDS: constant("Inf"),
    GROWTH: constant(0),
    gpu("memory_slack_bytes"): constant(2**30),
    gpu("throttled", reason="sw_power_cap"): constant(0),
    gpu("throttled", reason="hw_slowdown"): constant(0),
    gpu("ecc_uncorrected_errors_total"): constant(7),
    gpu("row_remap_pending"): constant(0),
    gpu("row_remap_failed"): constant(0),
    engine("up"): constant(1),
    engine("limiter", limiter="stalled"): constant(0),
    engine("limiter", limiter="none"): constant(1),
    RUNNING: constant(0),
    WAITING: constant(0),
    PREEMPTED: constant(11),
    CAPACITY: constant(1000),
    engine("kv_theory_lower_tokens"): constant(900),
    engine("kv_capacity_gap_ratio"): constant(0.01),
    engine("full_context_concurrency"): constant(4),
    engine("time_to_kv_exhaustion_seconds"): constant("Inf"),
    engine("preemption_risk_ratio"): constant(0),
    engine("restart_fits"): constant(1),
    engine("max_num_seqs"): constant(64),
    engine("recommended_max_num_seqs_lower"): constant(10),
    engine("recommended_max_num_seqs_upper"): constant(90),
    engine("advice_confidence_ratio"): constant(0.1),
    series("up", TARGET): constant(1),
    BUILD: constant(1),
    series("headroom_collector_success", COLLECTOR): constant(1),
}
"""A server that nobody asks anything: two hours of it."""

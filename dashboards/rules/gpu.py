"""Alerts about one GPU: its memory first, its hardware second."""

from advisor.policy import Policy
from advisor.report import Severity
from dashboards.links import Board
from dashboards.rules.declarations import Alert, spoken

_HERE = "GPU {{ $labels.gpu }} of {{ $labels.instance }}"

FATAL_XIDS = (48, 62, 64, 74, 79, 95, 119, 120)
"""The board or what runs on it is lost: double-bit errors, failed remaps, NVLink, fallen off the bus, GSP errors."""
CONTAINED_XIDS = (94,)
"""A contained memory error: the process that hit it is gone, the board goes on.

Both tiers as in https://docs.nvidia.com/deploy/xid-errors/ and in the alerts of nvidia_gpu_exporter's chart.
"""

_KEPT = "10m"
"""As in the back-test of docs/risk.md."""


def alerts(policy: Policy) -> tuple[Alert, ...]:
    """Return the alerts about GPUs."""
    return (*_memory(policy), *_hardware())


def _memory(policy: Policy) -> tuple[Alert, ...]:
    risk = (
        f"{_HERE} runs out of memory within {spoken(policy.oom_horizon_seconds)} with a probability of "
        "{{ $value | humanizePercentage }}. "
    )
    growing = " and headroom_gpu_memory_growth_bytes_per_second > 0"
    return (
        Alert(
            name="HeadroomGpuOomRisk",
            severity=Severity.CRITICAL,
            expr=f"headroom_gpu_oom_risk_ratio >= {policy.oom_risk_critical_ratio:g}",
            hold="1m",
            keep=_KEPT,
            summary="A GPU is about to run out of memory.",
            description=risk + "The next allocation that fails ends an engine: act now, see what the risk is made of.",
            board=Board.SERVER,
            panel="OOM risk",
        ),
        Alert(
            name="HeadroomGpuOomRisk",
            severity=Severity.WARNING,
            expr=f"headroom_gpu_oom_risk_ratio >= {policy.oom_risk_warning_ratio:g}",
            hold="1m",
            keep=_KEPT,
            summary="A GPU may run out of memory.",
            description=risk + "See what the risk is made of before it grows.",
            board=Board.SERVER,
            panel="OOM risk",
        ),
        Alert(
            name="HeadroomGpuMemoryEnds",
            severity=Severity.CRITICAL,
            expr=f"headroom_gpu_time_to_oom_seconds < {policy.oom_horizon_seconds:g}{growing}",
            hold="2m",
            # It holds back the warning of the risk, which would else be told when all is over.
            keep=_KEPT,
            summary="A GPU's memory ends within minutes at the present growth.",
            description=f"Something on {_HERE} grows: if it goes on, memory ends in "
            "{{ $value | humanizeDuration }}. "
            "Find the process that grows (nvidia-smi) and end it before an engine's allocation fails.",
            board=Board.SERVER,
            panel="Time until memory ends",
        ),
        Alert(
            name="HeadroomGpuMemoryEnds",
            severity=Severity.WARNING,
            expr=f"headroom_gpu_time_to_oom_seconds < {policy.time_to_oom_warning_seconds:g}{growing}",
            hold="15m",
            summary="A GPU's memory ends within hours at the present growth.",
            description=f"Something on {_HERE} grows steadily: if it goes on, memory ends in "
            "{{ $value | humanizeDuration }}. "
            "Plan a restart of what grows.",
            board=Board.SERVER,
            panel="Time until memory ends",
        ),
        Alert(
            name="HeadroomGpuOvercommitted",
            severity=Severity.WARNING,
            # Over five minutes, so that one look that was missed does not make the wait begin anew.
            expr="max_over_time(headroom_gpu_memory_slack_bytes[5m]) < 0",
            hold="10m",
            summary="Engines may rightly claim more memory than their GPU has left.",
            description=f"The engines on {_HERE} may still claim more than is free: slack is "
            "{{ $value | humanize1024 }}B. It works until one of them takes its largest step.",
            board=Board.SERVER,
            panel="Slack and its low-water mark",
        ),
    )


def _hardware() -> tuple[Alert, ...]:
    return (
        _xid(
            FATAL_XIDS,
            Severity.CRITICAL,
            "A GPU reported an Xid error that takes a reset or a new board.",
            "What ran on it is lost or wrong; drain the server and reset the GPU.",
        ),
        _xid(
            CONTAINED_XIDS,
            Severity.WARNING,
            "A GPU contained a memory error.",
            "The process that hit it was ended; see that the engine came back, and reset the GPU at the next occasion.",
        ),
        Alert(
            name="HeadroomGpuMemoryErrors",
            severity=Severity.CRITICAL,
            expr="increase(headroom_gpu_ecc_uncorrected_errors_total[1h]) > 0",
            hold="0m",
            summary="A GPU's memory had an error that could not be corrected.",
            description=f"{_HERE} had {{{{ $value | humanize }}}} uncorrected memory errors within an hour. "
            "Results computed meanwhile cannot be trusted.",
            board=Board.SERVER,
            panel="Errors in the last hour",
        ),
        Alert(
            name="HeadroomGpuRowRemap",
            severity=Severity.CRITICAL,
            expr="headroom_gpu_row_remap_failed == 1",
            hold="5m",
            summary="A GPU could not remap a bad row of its memory.",
            description=f"{_HERE} has no spare row left for a bad one: the board is due for replacement.",
            board=Board.SERVER,
            panel="Health",
        ),
        Alert(
            name="HeadroomGpuRowRemap",
            severity=Severity.WARNING,
            expr="headroom_gpu_row_remap_pending == 1",
            hold="5m",
            summary="A GPU needs a reset to remap a bad row of its memory.",
            description=f"{_HERE} goes on using a bad row until it is reset. Drain it and reset it.",
            board=Board.SERVER,
            panel="Health",
        ),
        Alert(
            name="HeadroomGpuThrottled",
            severity=Severity.WARNING,
            expr='max without (reason) (headroom_gpu_throttled{reason=~"hw_slowdown|hw_power_brake|.*thermal.*"}) == 1',
            hold="10m",
            summary="A GPU slows down because of heat or its power supply.",
            description=f"{_HERE} has held its clocks down for ten minutes, and not because of its power limit, "
            "which is normal under load: requests take longer.",
            board=Board.SERVER,
            panel="Clocks held down",
        ),
    )


def _xid(codes: tuple[int, ...], severity: Severity, summary: str, then: str) -> Alert:
    """A code's series appears with its first error, and a counter that appears has no increase yet."""
    series = f'headroom_gpu_xid_errors_total{{xid=~"{"|".join(map(str, codes))}"}}'
    return Alert(
        name="HeadroomGpuXid",
        severity=severity,
        expr=f"increase({series}[15m]) > 0 or {series} unless {series} offset 15m",
        hold="0m",
        summary=summary,
        description=f"{_HERE} reported Xid {{{{ $labels.xid }}}}. {then}",
        board=Board.SERVER,
        panel="Errors in the last hour",
    )

"""A GPU that is likely to run out of memory within the horizon."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot
from advisor.units import spelled_seconds


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding a GPU above the warning risk, with its largest factor in words."""
    for gpu in report.gpus:
        risk, factors = gpu.oom_risk_ratio, gpu.oom_risk_factor_ratio
        if risk is None or not factors or risk < policy.oom_risk_warning_ratio:
            continue
        factor = max(factors, key=lambda name: factors[name])
        culprit = report.culprits.get(gpu.uuid)
        sentence = report.factor_sentences[gpu.uuid, factor]
        blamed = f" ({culprit.spelled})" if culprit and culprit.spelled not in sentence else ""
        yield Finding(
            rule="gpu_oom_risk",
            severity=Severity.CRITICAL if risk >= policy.oom_risk_critical_ratio else Severity.WARNING,
            subject=f"GPU {gpu.gpu}",
            summary=f"out of memory within {spelled_seconds(policy.oom_horizon_seconds)} with a probability of "
            f"{risk:.0%}: {sentence}{blamed}",
            advice=_ADVICE[factor],
        )


_ADVICE = {
    "exhausted": "stop a process that is no engine, or restart the engine with a lower --gpu-memory-utilization",
    "claims": "lower --gpu-memory-utilization of an engine on this GPU, or move a process elsewhere",
    "trend": "find the process that grows (nvidia-smi) and restart it before free memory ends",
    "volatility": "leave more room: lower --gpu-memory-utilization or move a process elsewhere",
    "foreign": "keep other processes off this GPU, or give the engine a lower --gpu-memory-utilization",
    "events": "look at dmesg and nvidia-smi -q; drain the engine and reset the GPU, or raise its memory limit",
}

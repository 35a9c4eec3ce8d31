"""A GPU that is likely to run out of memory within the horizon."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot
from advisor.units import spelled_ratio, spelled_seconds


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding a GPU above the warning risk, with its largest factor in words."""
    for gpu in report.gpus:
        risk, factors = gpu.oom_risk_ratio, gpu.oom_risk_factor_ratio
        if risk is None or not factors or risk < policy.oom_risk_warning_ratio:
            continue
        factor = max(factors, key=lambda name: factors[name])
        culprit = report.culprits.get(gpu.uuid)
        sentence = report.factor_sentences[gpu.uuid, factor]
        # Errors of the hardware are nobody's memory; the sentence says all there is to say.
        names = culprit.spelled if culprit and factor != "events" else ""
        blamed = f" ({names})" if names and names not in sentence else ""
        yield Finding(
            rule="gpu_oom_risk",
            severity=Severity.CRITICAL if risk >= policy.oom_risk_critical_ratio else Severity.WARNING,
            subject=f"GPU {gpu.gpu}",
            summary=f"out of memory within {spelled_seconds(policy.oom_horizon_seconds)} with a probability of "
            f"{spelled_ratio(risk)}: {sentence}{blamed}",
            advice=report.factor_remedies[gpu.uuid, factor],
        )

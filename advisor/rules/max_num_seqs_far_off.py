"""A max_num_seqs far from what the load seen asks for."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot

_SURE_RATIO = 0.8


def find(_snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine whose max_num_seqs is off by more than the policy's factor, where that is sure."""
    for each in report.advice:
        seqs = each.seqs
        if seqs is None or seqs.recommended == seqs.current or seqs.confidence_ratio < _SURE_RATIO:
            continue
        if policy.far_off_ratio > seqs.current / seqs.recommended > 1 / policy.far_off_ratio:
            continue
        yield Finding(
            rule="max_num_seqs_far_off",
            severity=Severity.INFO,
            subject=each.engine,
            summary=f"max-num-seqs is {seqs.current} and should be {seqs.recommended} (between {seqs.lower} and "
            f"{seqs.upper}): {seqs.because}",
            advice=f"--max-num-seqs {seqs.recommended} at the next restart; it buys {seqs.buys[0]}",
        )

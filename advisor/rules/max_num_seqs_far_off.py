"""A max_num_seqs far from what the load seen asks for."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot


def find(_snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine whose max_num_seqs is off by the policy's factor, whichever bound is true."""
    for each in report.advice:
        seqs = each.seqs
        if seqs is None or seqs.recommended == seqs.current:
            continue
        if seqs.current < policy.far_off_ratio * seqs.upper and seqs.lower < policy.far_off_ratio * seqs.current:
            continue
        yield Finding(
            rule="max_num_seqs_far_off",
            severity=Severity.INFO,
            subject=each.engine,
            summary=f"max-num-seqs is {seqs.current} and should be {seqs.recommended} (between {seqs.lower} and "
            f"{seqs.upper}): {seqs.because}",
            advice=f"--max-num-seqs {seqs.recommended} at the next restart; it buys {seqs.buys[0]}",
        )

"""An engine whose page does not tell what its headroom is worked out from.

``headroom_engine_metric_missing`` names every figure that is not told; these are the ones without which the judgement
of an engine that answers would be silent, and look as if nothing were wrong.
"""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot

_NEEDED = {
    "requests_running": "how many requests run",
    "requests_waiting": "how many wait",
    "kv_usage_ratio": "how full its KV cache is",
}


def find(_snapshot: Snapshot, report: Report, _policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine that does not tell how busy it is, or how full its KV cache is."""
    for engine in report.engines:
        untold = [words for key, words in _NEEDED.items() if (engine.metric_missing or {}).get(key)]
        if untold:
            yield Finding(
                rule="figures_not_told",
                severity=Severity.WARNING,
                subject=engine.engine,
                summary=f"its page does not tell {' nor '.join(untold)}, or by no number that can be: how much more "
                "fits and how near a preemption is cannot be said",
                advice="look at its /metrics: a proxy before it may spoil figures, a newer release have renamed them",
            )

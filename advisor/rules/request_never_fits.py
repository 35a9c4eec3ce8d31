"""A request that max_model_len allows and the KV cache cannot hold waits for ever (from 0.19 on, in silence)."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine whose longest request exceeds its capacity."""
    lengths = {(reading.engine, reading.dp_rank): reading.max_model_len for reading in snapshot.engines}
    for engine in report.engines:
        longest = lengths.get((engine.engine, engine.dp_rank))
        if longest is None or engine.kv_capacity_tokens is None or longest <= engine.kv_capacity_tokens:
            continue
        yield Finding(
            rule="request_never_fits",
            severity=Severity.WARNING,
            subject=engine.engine,
            summary=f"max-model-len is {longest:,} tokens, the KV cache holds {engine.kv_capacity_tokens:,.0f}: "
            "a longer request is accepted, then waits for ever and holds up those behind it",
            advice=f"--max-model-len {int(engine.kv_capacity_tokens)}, or more KV memory",
        )

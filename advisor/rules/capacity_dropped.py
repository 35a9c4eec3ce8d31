"""An engine that holds less than after its last start with the same flags: an upgrade or a neighbour took it."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot


def find(snapshot: Snapshot, report: Report, policy: Policy) -> Iterator[Finding]:
    """Yield one finding an engine whose capacity fell between two starts with the same flags."""
    versions = {(reading.engine, reading.dp_rank): reading.vllm_version for reading in snapshot.engines}
    for engine in report.engines:
        key = (engine.engine, engine.dp_rank)
        before = report.previous_starts.get(key)
        if before is None or engine.kv_capacity_tokens is None or before.capacity_tokens <= 0:
            continue
        change = engine.kv_capacity_tokens / before.capacity_tokens - 1
        if change > policy.capacity_drop_warning_ratio:
            continue
        version = versions.get(key)
        upgraded = version is not None and before.vllm_version is not None and version != before.vllm_version
        yield Finding(
            rule="capacity_dropped",
            severity=Severity.WARNING,
            subject=engine.engine,
            summary=f"the KV cache holds {engine.kv_capacity_tokens:,.0f} tokens, {-change:.0%} less than the "
            f"{before.capacity_tokens:,.0f} after the start before with the same flags"
            + (f" (vLLM {before.vllm_version} then, {version} now)" if upgraded else ""),
            advice="compare the two releases' start-up logs"
            if upgraded
            else "look for another process on the GPU that was not there at the start before, then restart the engine",
        )

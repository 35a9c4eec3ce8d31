"""A request that vLLM accepts and whose memory nobody set aside: with ``prompt_logprobs`` it can end the engine."""

from collections.abc import Iterator

from advisor.policy import Policy
from advisor.report import Finding, Report, Severity
from advisor.snapshot import Snapshot
from advisor.units import gib


def find(snapshot: Snapshot, report: Report, _policy: Policy) -> Iterator[Finding]:
    """Yield one finding a server on whose GPUs such a request finds less than it may take.

    Nothing tells whether requests ask for it, so this is no part of the risk, and no more than worth knowing.
    """
    slack = {gpu.uuid: gpu.memory_slack_bytes for gpu in report.gpus}
    engines = {(engine.engine, engine.dp_rank): engine for engine in report.engines}
    told: set[str] = set()
    for reading in snapshot.engines:
        engine = engines.get((reading.engine, reading.dp_rank))
        server = snapshot.server_at(reading.url)
        if engine is None or server is None or not engine.prompt_logprobs_bytes or engine.engine in told:
            continue
        left = [size for gpu in snapshot.gpus_of(server) if (size := slack.get(gpu.uuid)) is not None]
        if not left or min(left) >= engine.prompt_logprobs_bytes:
            continue
        told.add(engine.engine)
        yield Finding(
            rule="prompt_logprobs_would_not_fit",
            severity=Severity.INFO,
            subject=engine.engine,
            summary="a long prompt with prompt_logprobs would take about "
            f"{gib(engine.prompt_logprobs_bytes)} that its start did not rehearse, and {gib(max(0.0, min(left)))} are "
            "free that nobody may claim: the engine would end",
            advice="if clients may ask for prompt_logprobs, lower --max-num-batched-tokens or "
            "--gpu-memory-utilization, or refuse them in front of the server",
        )

"""Judgement of one GPU: where its memory is, what may still be claimed, how likely it is to run out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advisor.estimate import Estimate, exactly
from advisor.history import GpuHistory
from advisor.policy import Policy
from advisor.readings import Gpu
from advisor.report import COMPONENTS, GpuJudgement
from advisor.units import GIB, MIB, gib, spelled_seconds

_NO_MORE_THAN = 16 * MIB
"""With less free than this no allocation of a running engine succeeds: PyTorch takes its segments in 2 to 20 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineShare:
    """What one engine has to do with one GPU, in bytes."""

    engine: str
    held_bytes: float
    """Memory of its processes now."""
    entitled: Estimate
    """What it may come to hold: its plan, CUDA context included; as much as it holds where there is no plan."""
    parts: Mapping[str, float]
    """Weights, kv_used, kv_idle, cuda_graphs, engine_other (CUDA context and the like) and activation_reserve as
    planned; empty without a plan."""

    @property
    def claim(self) -> Estimate:
        """What it may still take."""
        return self.entitled.minus(exactly(self.held_bytes))


def share_parts(share: EngineShare) -> dict[str, float]:
    """Split what one engine holds on one GPU by its plan; the parts add up to what it holds."""
    parts = {}
    left = share.held_bytes
    for name in ("weights", "kv_used", "kv_idle", "cuda_graphs", "engine_other", "activation_reserve"):
        parts[name] = min(left, share.parts.get(name, 0.0))
        left -= parts[name]
    parts["engine_other"] += left
    return parts


def components(gpu: Gpu, shares: Sequence[EngineShare], foreign_bytes: float) -> dict[str, float] | None:
    """Split a GPU's memory into `COMPONENTS`; they add up to its total exactly.

    Planned parts that exceed what an engine's processes hold are cut, the most uncertain first: the activation
    reserve may not have been reached yet, graphs may be smaller. What is held beyond the plan is engine_other.
    """
    if gpu.memory_total_bytes is None or gpu.memory_free_bytes is None or gpu.memory_used_bytes is None:
        return None
    parts = dict.fromkeys(COMPONENTS, 0.0)
    for share in shares:
        for name, size in share_parts(share).items():
            parts[name] += size
    parts["foreign"] = foreign_bytes
    parts["free"] = float(gpu.memory_free_bytes)
    # Drivers round, and before 510 count their own reservation as used: what is in no process is the driver's.
    parts["driver_reserved"] = gpu.memory_total_bytes - sum(parts.values())
    if parts["driver_reserved"] < 0:
        _take_back(parts, -parts["driver_reserved"])
        parts["driver_reserved"] = 0.0
    return parts


def _take_back(parts: dict[str, float], excess: float) -> None:
    """Cut what processes claim beyond the total: shared mappings are counted once for each process by NVML."""
    for name in (
        "foreign",
        "engine_other",
        "activation_reserve",
        "cuda_graphs",
        "kv_idle",
        "kv_used",
        "weights",
    ):
        cut = min(parts[name], excess)
        parts[name] -= cut
        excess -= cut


def judge_gpu(
    gpu: Gpu,
    *,
    shares: Sequence[EngineShare],
    foreign_bytes: float,
    history: GpuHistory,
    policy: Policy,
) -> tuple[GpuJudgement, dict[str, str]]:
    """Return what is said of one GPU, and for each risk factor the sentence that explains it."""
    free = gpu.memory_free_bytes
    if free is None:
        return GpuJudgement(gpu=gpu.gpu, uuid=gpu.uuid), {}
    claims = [share.claim for share in shares]
    claimed = Estimate(
        lower=sum(claim.lower for claim in claims),
        expected=sum(claim.expected for claim in claims),
        upper=sum(claim.upper for claim in claims),
    )
    slack = free - claimed.expected
    growth = history.growth_bytes_per_second
    remaining = time_to_oom(float(free), slack, growth)
    factors, sentences = risk_factors(
        free_bytes=float(free),
        claimed=claimed,
        growth_bytes_per_second=growth,
        remaining_seconds=remaining,
        policy=policy,
    )
    risk = 1.0 - math.prod(1.0 - each for each in factors.values())
    return (
        GpuJudgement(
            gpu=gpu.gpu,
            uuid=gpu.uuid,
            memory_component_bytes=components(gpu, shares, foreign_bytes),
            memory_slack_bytes=slack,
            memory_growth_bytes_per_second=growth,
            oom_risk_ratio=risk,
            oom_risk_factor_ratio=factors,
            time_to_oom_seconds=remaining,
        ),
        sentences,
    )


def time_to_oom(free_bytes: float, slack_bytes: float, growth_bytes_per_second: float | None) -> float | None:
    """Return the seconds until growth has eaten the memory that nobody may claim; infinite without growth.

    Where claims exceed what is free already, the free memory itself is what lasts.
    """
    if free_bytes <= _NO_MORE_THAN:
        return 0.0
    if growth_bytes_per_second is None:
        return None
    if growth_bytes_per_second <= 0:
        return math.inf
    return (slack_bytes if slack_bytes > 0 else free_bytes) / growth_bytes_per_second


def risk_factors(
    *,
    free_bytes: float,
    claimed: Estimate,
    growth_bytes_per_second: float | None,
    remaining_seconds: float | None,
    policy: Policy,
) -> tuple[dict[str, float], dict[str, str]]:
    """Return each cause's probability of exhausting the GPU within the horizon, and why.

    - ``exhausted``: there is nothing left to allocate.
    - ``claims``: engines may rightly take more than is free.
    - ``trend``: use grows, and at this rate memory ends within the horizon. The rate's own error is taken as a factor
      of two either way, log-normally.
    """
    exhausted = 1.0 if free_bytes <= _NO_MORE_THAN else 0.0
    claims = _chance_above(claimed, free_bytes)
    trend = 0.0
    if remaining_seconds is not None and 0 < remaining_seconds < math.inf:
        trend = _normal_cdf(math.log(policy.oom_horizon_seconds / remaining_seconds) / math.log(2))
    rate = growth_bytes_per_second or 0.0
    return (
        {"exhausted": exhausted, "claims": claims, "trend": trend},
        {
            "exhausted": f"{gib(free_bytes)} are free",
            "claims": f"engines may still claim {gib(claimed.expected)} (at most {gib(claimed.upper)}) "
            f"of the {gib(free_bytes)} that are free",
            "trend": "memory use does not grow"
            if rate <= 0 or remaining_seconds is None
            else f"memory use grows by {rate * 3600 / GIB:.2f} GiB an hour: what nobody may claim lasts "
            f"{spelled_seconds(remaining_seconds)}",
        },
    )


def _chance_above(quantity: Estimate, limit: float) -> float:
    """Return the chance that an estimated quantity exceeds a limit: bounds are its 5th and 95th percentiles."""
    if quantity.upper <= 0:
        return 0.0
    spread = (
        max(
            quantity.upper - quantity.expected if limit >= quantity.expected else quantity.expected - quantity.lower,
            8 * MIB,
        )
        / 1.645
    )
    return 1.0 - _normal_cdf((limit - quantity.expected) / spread)


def _normal_cdf(deviations: float) -> float:
    return 0.5 * (1.0 + math.erf(deviations / math.sqrt(2.0)))

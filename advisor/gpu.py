"""Judgement of one GPU: where its memory is, what may still be claimed, how likely it is to run out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advisor.estimate import Estimate, exactly
from advisor.policy import Policy
from advisor.readings import Gpu
from advisor.report import COMPONENTS, GpuJudgement
from advisor.risk import Assessment, assess
from advisor.risk_state import GpuState, Holder, Observation, observe


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineShare:
    """What one engine has to do with one GPU, in bytes."""

    engine: str
    held_bytes: float | None
    """Memory of its processes now; None where the driver does not tell, so that what it may still take is not known."""
    entitled: Estimate
    """What it may come to hold: its plan, CUDA context included; as much as it holds where there is no plan."""
    parts: Mapping[str, float]
    """Weights, kv_used, kv_idle, cuda_graphs, engine_other (CUDA context and the like) and activation_reserve as
    planned; empty without a plan and asleep."""
    budget_bytes: float | None = None
    """What its start-up check asks for; None where its flags and release are not known."""
    key: str = ""
    """Tells a restarted engine from the one before it; empty where its name does."""
    busy: bool | None = None
    """Whether it has requests running; None where that is not known."""
    host_memory_ratio: float | None = None
    """Share of its cgroup's host memory in use; None where it has no limit."""


def share_parts(share: EngineShare) -> dict[str, float]:
    """Split what one engine holds on one GPU by its plan; the parts add up to what it holds."""
    parts = {}
    left = share.held_bytes or 0.0
    for name in ("weights", "kv_used", "kv_idle", "cuda_graphs", "engine_other", "activation_reserve"):
        parts[name] = min(left, share.parts.get(name, 0.0))
        left -= parts[name]
    parts["engine_other"] += left
    return parts


def components(gpu: Gpu, shares: Sequence[EngineShare], foreign_bytes: float | None) -> dict[str, float] | None:
    """Split a GPU's memory into `COMPONENTS`; they add up to its total exactly. None where nobody tells who holds what.

    Planned parts that exceed what an engine's processes hold are cut, the most uncertain first: the activation
    reserve may not have been reached yet, graphs may be smaller. What is held beyond the plan is engine_other.
    """
    if gpu.memory_total_bytes is None or gpu.memory_free_bytes is None or gpu.memory_used_bytes is None:
        return None
    if foreign_bytes is None or any(share.held_bytes is None for share in shares):
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


def observation(
    gpu: Gpu, *, shares: Sequence[EngineShare], strangers: Mapping[str, float], now_seconds: float
) -> Observation | None:
    """Return what the risk model is shown of one GPU; None where it does not say what is free.

    Args:
        gpu: The GPU.
        shares: What engines hold and may hold.
        strangers: Bytes of each process that is no engine, by a key that tells it from its successor.
        now_seconds: Steady clock.
    """
    if gpu.memory_free_bytes is None:
        return None
    holders = [
        Holder(
            key=share.key or share.engine,
            kind="engine",
            name=share.engine,
            held_bytes=share.held_bytes,
            # Without a plan it is entitled to what it holds, which promises nothing and moves with it.
            entitled=None if share.entitled == exactly(share.held_bytes) else share.entitled,
            busy=share.busy,
        )
        for share in shares
        if share.held_bytes is not None
    ]
    holders += [Holder(key=key, kind="foreign", name="", held_bytes=held) for key, held in strangers.items()]
    if gpu.memory_used_bytes is not None:
        attributed = sum(holder.held_bytes for holder in holders)
        rest = max(0.0, gpu.memory_used_bytes - attributed)
        holders.append(Holder(key="driver", kind="driver", name="", held_bytes=rest))
    return Observation(
        now_seconds=now_seconds,
        free_bytes=float(gpu.memory_free_bytes),
        holders=tuple(holders),
        xid_errors=gpu.xid_errors_total or {},
        ecc_uncorrected_errors=gpu.ecc_uncorrected_errors_total,
        row_remap_pending=bool(gpu.row_remap_pending),
        row_remap_failed=bool(gpu.row_remap_failed),
        host_memory_ratio=max(
            (share.host_memory_ratio for share in shares if share.host_memory_ratio is not None), default=None
        ),
    )


def judge_gpu(
    gpu: Gpu,
    *,
    shares: Sequence[EngineShare],
    strangers: Mapping[str, float],
    foreign_bytes: float | None,
    state: GpuState,
    now_seconds: float,
    policy: Policy,
) -> tuple[GpuJudgement, Assessment | None, GpuState]:
    """Return what is said of one GPU, why, and the state with this moment folded in.

    Where the driver does not tell what an engine holds, nothing is said of claims, nor of the slack that they leave.
    ``foreign_bytes`` is what ``strangers`` and those of whom the driver says nothing hold together, None if not known.
    """
    seen = observation(gpu, shares=shares, strangers=strangers, now_seconds=now_seconds)
    if seen is None:
        return GpuJudgement(gpu=gpu.gpu, uuid=gpu.uuid), None, state
    state = observe(state, seen, horizon_seconds=policy.oom_horizon_seconds)
    said = assess(state, seen, horizon_seconds=policy.oom_horizon_seconds)
    is_split = all(share.held_bytes is not None for share in shares)
    factors = {name: chance for name, chance in said.factors.items() if is_split or name != "claims"}
    return (
        GpuJudgement(
            gpu=gpu.gpu,
            uuid=gpu.uuid,
            memory_component_bytes=components(gpu, shares, foreign_bytes),
            engine_budget_bytes={
                share.engine: share.budget_bytes for share in shares if share.budget_bytes is not None
            },
            engine_held_bytes={share.engine: share.held_bytes for share in shares if share.held_bytes is not None},
            engine_claim_bytes={
                each.name: each.claim.expected if each.claim is not None else 0.0
                for each in seen.holders
                if each.kind == "engine"
            },
            memory_slack_bytes=seen.slack_bytes if is_split else None,
            memory_slack_low_bytes=state.lowest_slack_bytes if is_split else None,
            memory_growth_bytes_per_second=said.growth_bytes_per_second,
            memory_growth_lasted_seconds=said.growth_lasted_seconds,
            oom_risk_ratio=said.risk_ratio,
            oom_risk_factor_ratio=factors,
            time_to_oom_seconds=said.time_to_oom_seconds,
            time_to_oom_lower_seconds=said.time_to_oom_lower_seconds,
            time_to_oom_upper_seconds=said.time_to_oom_upper_seconds,
        ),
        said,
        state,
    )

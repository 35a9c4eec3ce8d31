"""One engine's outlook and advice, from its readings, its theory, its GPUs and its load."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from advisor.capacity import cuda_total_bytes
from advisor.defaults import Device, default_gpu_memory_utilization
from advisor.flag_advice import FlagAdvice, Room, advise_flags
from advisor.flags import EngineFlags
from advisor.load import EngineLoad
from advisor.plan import EnginePlan, is_pooling, plan_again
from advisor.policy import Policy
from advisor.pressure import because, preemption_risk_ratio, pressure, time_to_kv_exhaustion_seconds
from advisor.prompt_logprobs import beyond_start_bytes
from advisor.readings import EngineProcess, EngineReading, Gpu
from advisor.report import Engine, EngineAdvice, GpuJudgement
from advisor.restart import GpuAtRestart, restart_shortfall_bytes
from advisor.snapshot import Snapshot
from advisor.spec import ModelSpec
from advisor.tuning import (
    NO_CAPACITY,
    NO_USAGE,
    Holding,
    Surroundings,
    holding,
    not_yet,
    observed,
    preempts_ratio,
    recommend_seqs,
)
from advisor.versions import NEWEST_STUDIED, Version, parse_version
from advisor.weights import TensorIndex

_FULL_ISL_SINCE = (0, 19, 0)
_NO_SERVER = "the server runs on another host or cannot be found in the process table, so its flags are not known"


@dataclass(frozen=True, kw_only=True, slots=True)
class Replanner:
    """Plans a running server's command line, as it is or with some flags changed (`advisor.suggest.Planner`)."""

    spec: ModelSpec
    tensors: TensorIndex | None
    flags: EngineFlags
    version: Version | None
    device: Device
    kv_cache_bytes: int | None
    """KV bytes of one rank where the engine says them."""

    def plan(self, **changes: Any) -> EnginePlan:
        """Return the changed plan.

        Raises:
            ValueError: As `advisor.plan.plan_engine`.
        """
        return plan_again(
            self.spec,
            replace(self.flags, **changes) if changes else self.flags,
            version=self.version,
            device=self.device,
            tensors=self.tensors,
            kv_cache_bytes=self.kv_cache_bytes,
        )

    def __call__(self, **changes: Any) -> EnginePlan | None:
        """Return the changed plan, None where vLLM would refuse it."""
        try:
            return self.plan(**changes)
        except ValueError:
            return None


def counsel(
    snapshot: Snapshot,
    engine: Engine,
    reading: EngineReading,
    *,
    server: EngineProcess | None,
    gpus: Sequence[Gpu],
    judgements: Sequence[GpuJudgement],
    theory: EnginePlan | None,
    planned: Replanner | None,
    load: EngineLoad | None,
    policy: Policy,
) -> tuple[Engine, EngineAdvice]:
    """Return the engine with its outlook and what is recommended, and the advice in full.

    Args:
        snapshot: The moment.
        engine: What was said of it so far.
        reading: What it reported.
        server: Its process, None where it runs elsewhere.
        gpus: Those that it runs on.
        judgements: Of all GPUs.
        theory: What it should hold, None where that cannot be said.
        planned: The same with some flags changed.
        load: What it was seen to do.
        policy: Thresholds.
    """
    longest = reading.max_model_len or (theory.flags.max_model_len if theory else None) or 0
    held = None
    if load is not None and longest:
        held = holding(load, max_model_len=longest, block_size=_block_size(theory, reading))
    now = None
    if load is not None:
        now = pressure(
            load,
            held,
            running=engine.requests_running,
            waiting=engine.requests_waiting,
            used_tokens=engine.kv_used_tokens,
            capacity_tokens=engine.kv_capacity_tokens,
            max_num_seqs=engine.max_num_seqs,
            preempts_ratio=preempts_ratio(
                load, max_model_len=longest, admits_whole_prompts=_admits_whole_prompts(reading, server)
            ),
        )
    shortfall = _restart(snapshot, reading, server, gpus, theory)
    advice = _advice(engine, reading, server, snapshot, gpus, judgements, theory, planned, load, held, policy, longest)
    seqs = advice.seqs
    host = snapshot.host_memory_of(server)
    return replace(
        engine,
        host_memory_limit_bytes=host.limit_bytes if host else None,
        host_memory_used_bytes=host.used_bytes if host else None,
        host_oom_kills_total=host.oom_kills if host else None,
        preemption_risk_ratio=None if now is None else preemption_risk_ratio(now, policy.kv_horizon_seconds),
        time_to_kv_exhaustion_seconds=None if now is None else time_to_kv_exhaustion_seconds(now),
        demand_growth_per_second=now.arrivals_over_completions if now else None,
        queue_drain_seconds=now.queue_drain_seconds if now else None,
        restart_fits=None if shortfall is None else int(shortfall == 0),
        restart_shortfall_bytes=shortfall,
        prompt_logprobs_bytes=_prompt_logprobs(theory, planned),
        recommended_max_num_seqs=seqs.recommended if seqs else None,
        recommended_max_num_seqs_lower=seqs.lower if seqs else None,
        recommended_max_num_seqs_upper=seqs.upper if seqs else None,
        advice_confidence_ratio=seqs.confidence_ratio if seqs else None,
    ), replace(advice, preemption_because=None if now is None else because(now))


def _advice(
    engine: Engine,
    reading: EngineReading,
    server: EngineProcess | None,
    snapshot: Snapshot,
    gpus: Sequence[Gpu],
    judgements: Sequence[GpuJudgement],
    theory: EnginePlan | None,
    planned: Replanner | None,
    load: EngineLoad | None,
    held: Holding | None,
    policy: Policy,
    longest: int,
) -> EngineAdvice:
    silent = EngineAdvice(
        engine=engine.engine,
        model_name=engine.model_name,
        dp_rank=engine.dp_rank,
        not_yet=not_yet(load, policy),
        observed=None if load is None else observed(load, held),
    )
    if silent.not_yet is not None or load is None:
        return silent
    tokens = engine.kv_capacity_tokens
    if engine.max_num_seqs is None:
        return replace(silent, not_yet=_NO_SERVER if server is None else "max_num_seqs is not known")
    if not tokens or not longest:
        return replace(silent, not_yet=NO_CAPACITY)

    @cache
    def capacity(number: int) -> float:
        changed = planned(max_num_seqs=number) if planned is not None and theory is not None else None
        if changed is None or theory is None or theory.kv_tokens.expected <= 0:
            return tokens
        return tokens * changed.kv_tokens.expected / theory.kv_tokens.expected

    def starts(number: int) -> bool:
        changed = planned(max_num_seqs=number) if planned is not None and theory is not None else None
        return changed is None or theory is None or changed.verdict in ("fits", theory.verdict)

    seqs = recommend_seqs(
        load,
        Surroundings(
            current=int(engine.max_num_seqs),
            capacity_tokens=capacity,
            block_size=_block_size(theory, reading),
            max_model_len=longest,
            max_num_batched_tokens=theory.flags.max_num_batched_tokens if theory else None,
            admits_whole_prompts=_admits_whole_prompts(reading, server),
            state_blocks=_state_blocks(theory, reading),
            starts=starts,
        ),
        policy,
    )
    if seqs is None:
        return replace(silent, not_yet=NO_USAGE)
    flags: tuple[FlagAdvice, ...] = ()
    if theory is not None and planned is not None:
        flags = advise_flags(
            theory,
            planned,
            given=planned.flags,
            version=_version(reading),
            load=load,
            seqs=seqs,
            room=_room(snapshot, gpus, judgements),
            capacity_tokens=tokens,
        )
    gain = round(capacity(seqs.recommended) - capacity(seqs.current)) if theory is not None else None
    return replace(silent, seqs=seqs, flags=flags, seqs_gain_tokens=gain)


def _version(reading: EngineReading) -> Version:
    return parse_version(reading.vllm_version) or NEWEST_STUDIED


def _admits_whole_prompts(reading: EngineReading, server: EngineProcess | None) -> bool:
    return _version(reading) >= _FULL_ISL_SINCE and (
        server is None or server.flags.scheduler_reserve_full_isl is not False
    )


def _block_size(theory: EnginePlan | None, reading: EngineReading) -> int:
    return int(theory.layout.block_size if theory else reading.cache.block_size or 16)


def _state_blocks(theory: EnginePlan | None, reading: EngineReading) -> int | None:
    """Return for how many requests a model with recurrent states has blocks; None where it keeps none."""
    if theory is None or not any(group.kind == "MambaSpec" for group in theory.layout.groups):
        return None
    blocks = reading.cache.num_gpu_blocks or int(theory.num_gpu_blocks.expected)
    return blocks // max(1, theory.layout.blocks_per_request(1))


def _room(snapshot: Snapshot, gpus: Sequence[Gpu], judgements: Sequence[GpuJudgement]) -> Room | None:
    mine = {gpu.uuid for gpu in gpus}
    known = [
        (judgement.memory_slack_bytes, total, judgement.oom_risk_ratio or 0.0)
        for judgement in judgements
        for gpu in gpus
        if gpu.uuid == judgement.uuid and judgement.memory_slack_bytes is not None
        for total in [cuda_total_bytes(gpu)]
        if total
    ]
    if not known:
        return None
    slack, total, risk = min(known)
    idle = sum(not snapshot.processes_on(gpu) for gpu in snapshot.gpus if gpu.uuid not in mine)
    return Room(total_bytes=total, slack_bytes=slack, oom_risk_ratio=risk, idle_gpus=idle)


def _prompt_logprobs(theory: EnginePlan | None, planned: Replanner | None) -> float | None:
    if theory is None or planned is None or is_pooling(planned.spec, planned.flags):
        return None
    return beyond_start_bytes(theory, planned.spec.vocab_size)


def _restart(
    snapshot: Snapshot,
    reading: EngineReading,
    server: EngineProcess | None,
    gpus: Sequence[Gpu],
    theory: EnginePlan | None,
) -> float | None:
    version = parse_version(reading.vllm_version)
    if server is None or version is None or not gpus:
        return None
    found = []
    for gpu in gpus:
        total = cuda_total_bytes(gpu)
        held = snapshot.held_on(gpu, server.pids)
        if total is None or gpu.memory_free_bytes is None or held is None:
            return None
        found.append(GpuAtRestart(total_bytes=total, free_bytes=gpu.memory_free_bytes, held_bytes=held))
    utilization = utilization_in_effect(server.flags, version, theory)
    if utilization is None:
        return None
    blocks = reading.cache.num_gpu_blocks
    pool = blocks * theory.layout.bytes_per_block if theory is not None and blocks is not None else None
    return restart_shortfall_bytes(
        found,
        version=version,
        gpu_memory_utilization=utilization,
        theory=theory,
        pool_bytes=pool,
    )


def utilization_in_effect(flags: EngineFlags, version: Version | None, theory: EnginePlan | None) -> float | None:
    """Return the share of each GPU that a server of this release asks for.

    None where only its release could tell the default, and for a share with which no vLLM starts.
    """
    if theory is not None:
        share: float | None = theory.flags.gpu_memory_utilization
    else:
        share = flags.gpu_memory_utilization
    if share is None:
        return None if version is None else default_gpu_memory_utilization(version)
    return share if 0 < share <= 1 else None

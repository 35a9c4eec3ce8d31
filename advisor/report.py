"""What the advisor says: facts about GPUs and engines that no source reports by itself, and findings in words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from advisor.estimate import Origin
from advisor.facts import Fact, described, identity, level, total
from advisor.flag_advice import FlagAdvice
from advisor.residuals import NO_RESIDUALS, Residuals
from advisor.risk import Culprit
from advisor.risk_state import GpuState
from advisor.tuning import Observed, SeqsAdvice

COMPONENTS = (
    "weights",
    "kv_used",
    "kv_idle",
    "cuda_graphs",
    "activation_reserve",
    "engine_other",
    "foreign",
    "driver_reserved",
    "free",
)
"""Where a GPU's memory is; the parts add up to its total."""

LIMITERS = ("kv", "max_num_seqs", "compute", "queue_cap", "stalled", "none")
"""What keeps the engine from running more requests now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuJudgement(Fact):
    """What follows from all readings for one GPU."""

    subject: ClassVar[str] = "gpu"

    gpu: str = identity("As in headroom_gpu_memory_total_bytes.")
    uuid: str = identity("As in headroom_gpu_memory_total_bytes.")
    memory_component_bytes: Mapping[str, float] | None = level(
        "Where the memory is; the components add up to headroom_gpu_memory_total_bytes. kv_used and kv_idle split the "
        "preallocated KV pool by what running requests hold; activation_reserve is what the engine's allocator keeps "
        "for its largest step; foreign belongs to processes that are no vLLM engine.",
        Origin.REPORTED,
        Origin.DERIVED,
        Origin.ESTIMATED,
        by="component",
    )
    engine_budget_bytes: Mapping[str, float] | None = level(
        "What each engine on this GPU asks for at its start: its --gpu-memory-utilization times what CUDA sees.",
        Origin.DERIVED,
        by="engine",
    )
    engine_held_bytes: Mapping[str, float] | None = level(
        "What the processes of each engine hold here.", Origin.DERIVED, by="engine"
    )
    engine_claim_bytes: Mapping[str, float] | None = level(
        "What each engine may still rightly take, by its flags, its model and its release. Free memory minus their sum "
        "is headroom_gpu_memory_slack_bytes.",
        Origin.ESTIMATED,
        by="engine",
    )
    memory_slack_bytes: float | None = level(
        "Free memory minus what the engines on this GPU may still rightly claim; negative means over-committed.",
        Origin.ESTIMATED,
    )
    memory_slack_low_bytes: float | None = level("Lowest slack of the last one to two days.", Origin.ESTIMATED)
    memory_growth_bytes_per_second: float | None = level(
        "Growth that goes on, of everything but the preallocated pool; restarts, steps, and what an allocator or a day "
        "takes and gives back do not count.",
        Origin.ESTIMATED,
    )
    oom_risk_ratio: float | None = level(
        "Probability that this GPU runs out of memory within the horizon (15 minutes unless configured).",
        Origin.ESTIMATED,
    )
    oom_risk_factor_ratio: Mapping[str, float] | None = level(
        "Probability that this cause alone exhausts the GPU within the horizon.", Origin.ESTIMATED, by="factor"
    )
    time_to_oom_seconds: float | None = level(
        "Time until present growth has eaten the slack (free memory, where slack is gone); +Inf when none is in sight.",
        Origin.ESTIMATED,
    )
    time_to_oom_lower_seconds: float | None = level(
        "Lower bound: engines call in all they may claim, and growth is at the upper end of its error.",
        Origin.ESTIMATED,
    )
    time_to_oom_upper_seconds: float | None = level(
        "Upper bound: no engine takes more, and growth is at the lower end of its error.", Origin.ESTIMATED
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine(Fact):
    """One vLLM engine (one data-parallel rank): what it reports, what it should hold, what more fits."""

    subject: ClassVar[str] = "engine"

    engine: str = identity("host:port of the server, or its name in the config.")
    model_name: str = identity("Served model name; empty until the server has answered once.")
    dp_rank: str = identity("Data-parallel rank as vLLM's own engine label; 0 without data parallelism.")
    vllm_version: str | None = described("version that the server reports")
    kv_capacity_origin: str | None = described("where kv_capacity_tokens comes from: reported, derived or estimated")
    max_num_seqs_origin: str | None = described("given on the command line, default of this version, or derived")
    theory: str | None = described("'ok', or why there is no theory for this engine")

    up: int | None = level("1 when the last read of this server's /metrics succeeded.", Origin.DERIVED)
    failing: Mapping[str, int] | None = level(
        "1 for the reason why the last read of this server failed; no series while it succeeds.",
        Origin.DERIVED,
        by="reason",
    )
    asleep: int | None = level("1 while the engine sleeps (weights offloaded or discarded).", Origin.REPORTED)
    metric_missing: Mapping[str, int] | None = level(
        "1 for a figure that this vLLM version should show on its page and does not, or only as what it cannot be.",
        Origin.DERIVED,
        by="metric",
    )

    kv_capacity_tokens: float | None = level(
        "Tokens that the engine's KV cache holds, as vLLM counts them.", Origin.REPORTED, Origin.DERIVED
    )
    kv_theory_tokens: float | None = level(
        "Tokens that it should hold, from the model, the GPU and the flags.", Origin.ESTIMATED
    )
    kv_theory_lower_tokens: float | None = level("Lower bound of the theory.", Origin.ESTIMATED)
    kv_theory_upper_tokens: float | None = level("Upper bound of the theory.", Origin.ESTIMATED)
    kv_capacity_gap_ratio: float | None = level(
        "Capacity over theory, minus 1: negative means less than expected.", Origin.ESTIMATED
    )
    kv_used_tokens: float | None = level(
        "Tokens' worth of blocks that running requests hold; evictable prefix-cache blocks are free.", Origin.DERIVED
    )
    kv_headroom_tokens: float | None = level(
        "Tokens' worth of blocks that are free: capacity minus used.", Origin.DERIVED
    )
    kv_usage_ratio: float | None = level(
        "Share of KV blocks that running requests hold, as vLLM reports it.", Origin.REPORTED
    )
    kv_bytes_per_token: float | None = level("Bytes that one token's keys and values take on one GPU.", Origin.DERIVED)

    requests_running: float | None = level(
        "Requests admitted by the scheduler, prefilling ones included.", Origin.REPORTED
    )
    requests_waiting: float | None = level("Requests in the queue, preempted ones included.", Origin.REPORTED)
    max_num_seqs: float | None = level(
        "Most requests that the scheduler runs at once.", Origin.REPORTED, Origin.DERIVED
    )
    request_headroom: float | None = level(
        "How many more typical requests fit now: the smaller of kv_request_headroom and seqs_request_headroom.",
        Origin.DERIVED,
    )
    kv_request_headroom: float | None = level(
        "How many more requests of typical full length the free KV blocks take.", Origin.DERIVED
    )
    seqs_request_headroom: float | None = level("How many more requests max_num_seqs lets in.", Origin.DERIVED)
    typical_request_tokens: float | None = level(
        "Prompt and output of a typical request: the mean of those finished, max_model_len before the first.",
        Origin.DERIVED,
    )
    full_context_concurrency: float | None = level(
        "Requests of max_model_len tokens that fit at once.", Origin.REPORTED, Origin.ESTIMATED
    )
    limiter: Mapping[str, int] | None = level(
        "1 for what keeps more requests from running now: kv, max_num_seqs, compute (the token budget of a step), "
        "queue_cap (new requests are refused), stalled, none.",
        Origin.DERIVED,
        by="limiter",
    )
    preemptions_total: float | None = total(
        "Preemptions since the server started; vLLM counts one when its victim next emits a token.", Origin.REPORTED
    )
    requests_finished_total: float | None = total("Requests finished since the server started.", Origin.REPORTED)
    preemption_risk_ratio: float | None = level(
        "Probability that a request is preempted within the horizon (5 minutes unless configured).", Origin.ESTIMATED
    )
    time_to_kv_exhaustion_seconds: float | None = level(
        "Time until the KV cache is full on average, at the growth of what runs and of demand; +Inf: not in an hour.",
        Origin.ESTIMATED,
    )
    demand_growth_per_second: float | None = level(
        "Requests a second by which arrivals exceed completions, over the last minutes; negative: demand falls.",
        Origin.DERIVED,
    )
    queue_drain_seconds: float | None = level(
        "Time in which those who wait now will have been served, at the rate of the last minutes' completions.",
        Origin.ESTIMATED,
    )
    restart_fits: int | None = level(
        "1 if vLLM's start-up checks would pass were this server restarted now with the same flags, else 0.",
        Origin.ESTIMATED,
    )
    restart_shortfall_bytes: float | None = level(
        "Bytes on the GPU with the least by which they would fail; 0 where they would pass.", Origin.ESTIMATED
    )
    prompt_logprobs_bytes: float | None = level(
        "What a long prompt with prompt_logprobs would take, by estimate, beyond what vLLM rehearsed at its start. No "
        "part of the risk: nothing tells whether requests ask for it.",
        Origin.ESTIMATED,
    )
    host_memory_limit_bytes: int | None = level(
        "Host memory that the cgroup of this engine's processes may use, the tightest of those above them; no series "
        "where there is no limit.",
        Origin.REPORTED,
    )
    host_memory_used_bytes: int | None = level(
        "Host memory that it uses and the kernel cannot take back: without cached files. At the limit a process is "
        "killed.",
        Origin.DERIVED,
    )
    host_oom_kills_total: int | None = total(
        "Processes of that cgroup that the kernel has killed for want of host memory, over the cgroup's life.",
        Origin.REPORTED,
    )
    recommended_max_num_seqs: float | None = level(
        "What max_num_seqs should be, from the load seen; the present value where another would gain nothing. No "
        "series until enough was seen.",
        Origin.ESTIMATED,
    )
    recommended_max_num_seqs_lower: float | None = level("Lower bound of the recommendation.", Origin.ESTIMATED)
    recommended_max_num_seqs_upper: float | None = level("Upper bound of the recommendation.", Origin.ESTIMATED)
    advice_confidence_ratio: float | None = level(
        "Probability that the number sought lies within a tenth (or within one) of what was worked out.",
        Origin.ESTIMATED,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation(Fact):
    """One flag of one engine: what it is and what it should be."""

    subject: ClassVar[str] = "engine_recommendation"

    engine: str = identity("As in headroom_engine_up.")
    model_name: str = identity("As in headroom_engine_up.")
    dp_rank: str = identity("As in headroom_engine_up.")
    flag: str = identity("vLLM's flag, without dashes in front.")
    current: str | None = described("value in effect")
    recommended: str | None = described("value that it should have; equal to current where it should stay")
    binding: str | None = described("what decides")
    kv_gain_tokens: float | None = level(
        "KV tokens that the recommended value brings; negative: costs.", Origin.ESTIMATED
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineAdvice:
    """Everything advised of one engine."""

    engine: str
    model_name: str
    dp_rank: str
    not_yet: str | None
    """Why nothing is advised; None once something is."""
    observed: Observed | None = None
    seqs: SeqsAdvice | None = None
    flags: tuple[FlagAdvice, ...] = ()
    seqs_gain_tokens: float | None = None
    preemption_because: str | None = None
    """What the engine's risk of preemption rests on, in words; None while none is said."""

    def recommendations(self) -> tuple[Recommendation, ...]:
        """Return the same as facts."""
        named = {"engine": self.engine, "model_name": self.model_name, "dp_rank": self.dp_rank}
        found = [
            Recommendation(
                **named,
                flag=each.flag,
                current=each.current,
                recommended=each.recommended,
                binding=each.binding,
                kv_gain_tokens=each.kv_gain_tokens,
            )
            for each in self.flags
        ]
        if self.seqs is not None:
            seqs = Recommendation(
                **named,
                flag="max-num-seqs",
                current=str(self.seqs.current),
                recommended=str(self.seqs.recommended),
                binding=self.seqs.binding,
                kv_gain_tokens=self.seqs_gain_tokens,
            )
            found.insert(0, seqs)
        return tuple(found)

    def reasons(self) -> dict[str, str]:
        """Return why each flag should be what is recommended, in words, by the flag."""
        seqs = {} if self.seqs is None else {"max-num-seqs": self.seqs.because}
        return seqs | {each.flag: each.why for each in self.flags}


class Severity(StrEnum):
    """How soon somebody should act on a finding."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something worth telling a person, from one rule."""

    rule: str
    severity: Severity
    subject: str
    """``GPU 0`` or an engine's id."""
    summary: str
    advice: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What an engine held after one of its starts."""

    vllm_version: str | None
    capacity_tokens: float
    began_wall_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything the advisor says at one moment."""

    gpus: tuple[GpuJudgement, ...] = ()
    engines: tuple[Engine, ...] = ()
    findings: tuple[Finding, ...] = ()
    factor_sentences: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """For people: why a risk factor is what it is, by (GPU uuid, factor)."""
    factor_remedies: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """For people: what to do about it, by the same."""
    previous_starts: Mapping[tuple[str, str], Start] = field(default_factory=dict)
    """The start before the present one with the same flags, by (engine, rank)."""
    residuals: Residuals = NO_RESIDUALS
    """By how much theory missed so far, this moment included; kept in the state directory."""
    culprits: Mapping[str, Culprit] = field(default_factory=dict)
    """Who ends a GPU's memory, by its uuid; absent while no cause stands out."""
    gpu_states: Mapping[str, GpuState] = field(default_factory=dict)
    """For the next moment: what the risk model remembers, by GPU uuid, this moment included."""
    advice: tuple[EngineAdvice, ...] = ()

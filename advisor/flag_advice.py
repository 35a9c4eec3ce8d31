"""What the other memory flags should be, judged like max_num_seqs: from what was seen, with what each change costs.

Every change is a whole plan with that one flag changed, so its cost in tokens includes all that follows from it. A
flag whose present value holds nothing up is named with that value: "leave it" is advice too.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from advisor.flags import EngineFlags
from advisor.load import EngineLoad
from advisor.plan import EnginePlan
from advisor.suggest import Planner
from advisor.tuning import SeqsAdvice
from advisor.units import gib, spelled_ratio
from advisor.versions import Version

_HIGHEST_UTILIZATION = 0.95
"""Above it nothing is left for graphs, fragmentation and what a kernel allocates at its first use."""
_RESERVE_RATIO = 0.02
"""Of a GPU: slack that a higher utilization leaves alone."""
_LEAST_STEP = 0.01
_MOST_RISK_RATIO = 0.1
"""Of a GPU to run out of memory: with more, its slack is left alone."""
_MIGHT_NOT_START = "vLLM would not surely start"
_OVERRIDDEN = "--num-gpu-blocks-override sets the pool, whatever this flag says"
_MOST_BATCHED_TOKENS = 16_384
_FP8_CAPABILITY = (8, 9)
_LEAST_FP8_GAIN = 1.25
"""Tokens with an fp8 cache over those without, from which on its loss of precision is worth naming."""
_WAYS_TO_MORE_KV = frozenset(
    {"gpu-memory-utilization", "num-gpu-blocks-override", "kv-cache-dtype", "tensor-parallel-size"}
)
_BUDGET_BOUND_RATIO = 0.2
"""Share of the busy time in which a step's token budget held requests up, from which more is worth its memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlagAdvice:
    """One flag."""

    flag: str
    """As on the command line, without dashes in front."""
    current: str
    recommended: str
    """Equal to ``current`` where it should stay; ``remove`` for a flag that does nothing or is no longer known."""
    binding: str
    """What decides: kv, demand, slack, over_commitment, token_budget, max_model_len, gone, none."""
    why: str
    kv_gain_tokens: float | None
    """KV tokens that the change brings, negative: costs; None where it cannot be said."""

    @property
    def is_change(self) -> bool:
        """Whether anything should be done."""
        return self.recommended != self.current

    @property
    def is_way_to_more_kv(self) -> bool:
        """Whether it is one of several ways to more KV.

        Each is worked out with all else as it is, max_num_seqs too: after taking one the others must be looked at anew.
        """
        return self.is_change and self.flag in _WAYS_TO_MORE_KV and (self.kv_gain_tokens or 0) > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What the GPUs of an engine have beside it."""

    total_bytes: float
    slack_bytes: float
    """Of the GPU with the least: free memory minus what engines may still claim."""
    oom_risk_ratio: float
    idle_gpus: int
    """GPUs of the host on which nothing runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gone:
    """A flag that does nothing any more, or that a release no longer takes (``engine/arg_utils.py``)."""

    flag: str
    """Field of `advisor.flags.EngineFlags`."""
    idle_since: Version
    """First studied release in which it is taken and changes nothing; equal to the next where there was none."""
    gone_since: Version
    """First studied release that refuses it."""
    why: str


GONE = (
    Gone(
        flag="swap_space",
        idle_since=(0, 11, 0),
        gone_since=(0, 18, 0),
        why="V1 never swaps, a preempted request is computed again",
    ),
    Gone(flag="preemption_mode", idle_since=(0, 11, 0), gone_since=(0, 11, 0), why="V1 always computes again"),
    Gone(
        flag="use_v2_block_manager",
        idle_since=(0, 6, 3),
        gone_since=(0, 10, 0),
        why="it is the only block manager there is",
    ),
    Gone(
        flag="num_lookahead_slots",
        idle_since=(0, 11, 0),
        gone_since=(0, 12, 0),
        why="the blocks of speculated tokens follow from --speculative-config",
    ),
    Gone(
        flag="num_scheduler_steps",
        idle_since=(0, 10, 0),
        gone_since=(0, 10, 0),
        why="multi-step scheduling was V0's",
    ),
    Gone(
        flag="max_seq_len_to_capture",
        idle_since=(0, 11, 0),
        gone_since=(0, 11, 0),
        why="graphs are captured by batch size: --cudagraph-capture-sizes",
    ),
    Gone(
        flag="cuda_graph_sizes",
        idle_since=(0, 13, 0),
        gone_since=(0, 13, 0),
        why="it is --cudagraph-capture-sizes now",
    ),
)


def advise_flags(
    plan: EnginePlan,
    planned: Planner,
    *,
    given: EngineFlags,
    version: Version,
    load: EngineLoad,
    seqs: SeqsAdvice,
    room: Room | None,
    capacity_tokens: float,
) -> tuple[FlagAdvice, ...]:
    """Return advice on every flag that memory depends on, but max_num_seqs.

    Args:
        plan: What the engine should hold.
        planned: The same with some flags changed.
        given: Its command line.
        version: vLLM's release.
        load: What was seen.
        seqs: What was advised of max_num_seqs.
        room: The GPUs beside the engine; None on the CPU and where they cannot be told.
        capacity_tokens: What its KV cache holds.
    """
    wants_kv = seqs.wanted > seqs.kv_wall
    return (
        *_utilization(plan, planned, room, wants_kv=wants_kv),
        *_blocks_override(plan, planned, wants_kv=wants_kv),
        _model_len(plan, planned, load, capacity_tokens),
        _batched_tokens(plan, planned, load, seqs, wants_kv=wants_kv),
        *_kv_cache_dtype(plan, planned, room, wants_kv=wants_kv),
        *_tensor_parallel(plan, planned, room, wants_kv=wants_kv),
        *_gone(given, version),
    )


def _gain(changed: EnginePlan | None, plan: EnginePlan) -> float | None:
    return None if changed is None else round(changed.kv_tokens.expected - plan.kv_tokens.expected)


def _stay(flag: str, value: object, why: str, binding: str = "none") -> FlagAdvice:
    text = str(value)
    return FlagAdvice(flag=flag, current=text, recommended=text, binding=binding, why=why, kv_gain_tokens=None)


def _utilization(plan: EnginePlan, planned: Planner, room: Room | None, *, wants_kv: bool) -> Iterator[FlagAdvice]:
    flag, current = "gpu-memory-utilization", plan.flags.gpu_memory_utilization
    if room is None or plan.memory is None:
        return
    if plan.flags.kv_cache_memory_bytes is not None:
        yield _stay(flag, current, "--kv-cache-memory-bytes sets the pool: this flag only checks free memory at start")
        return
    if plan.flags.num_gpu_blocks_override is not None and room.slack_bytes >= 0:
        yield _stay(flag, f"{current:g}", _OVERRIDDEN)
        return
    if room.slack_bytes < 0:
        lower = _floor(current + room.slack_bytes / room.total_bytes - _RESERVE_RATIO)
        changed = planned(gpu_memory_utilization=lower) if lower > 0 else None
        if changed is not None and changed.verdict == "fits":
            yield FlagAdvice(
                flag=flag,
                current=f"{current:g}",
                recommended=f"{lower:g}",
                binding="over_commitment",
                why=f"engines on this GPU may claim {gib(-room.slack_bytes)} more than is free",
                kv_gain_tokens=_gain(changed, plan),
            )
            return
    if not wants_kv:
        yield _stay(flag, f"{current:g}", "KV takes all that was ever asked for at once", "demand")
        return
    spare = room.slack_bytes / room.total_bytes - _RESERVE_RATIO
    higher = min(_HIGHEST_UTILIZATION, _floor(current + spare))
    changed = planned(gpu_memory_utilization=higher) if higher >= current + _LEAST_STEP else None
    if changed is not None and changed.verdict != "fits":
        higher = _highest_that_fits(planned, current, higher)
        changed = planned(gpu_memory_utilization=higher) if higher > current else None
        if changed is None:
            yield _stay(flag, f"{current:g}", f"{_MIGHT_NOT_START} with more", "slack")
            return
    if changed is None or room.oom_risk_ratio >= _MOST_RISK_RATIO:
        why = f"no slack on the GPU to grow into ({gib(room.slack_bytes)})"
        if spare >= _LEAST_STEP and room.oom_risk_ratio >= _MOST_RISK_RATIO:
            why = f"this GPU may run out of memory ({spelled_ratio(room.oom_risk_ratio)}): what is free stays free"
        elif spare >= _LEAST_STEP and higher == _HIGHEST_UTILIZATION:
            why = f"above {_HIGHEST_UTILIZATION:g} nothing is left for what allocates beside the budget"
        yield _stay(flag, f"{current:g}", why, "slack")
        return
    yield FlagAdvice(
        flag=flag,
        current=f"{current:g}",
        recommended=f"{higher:g}",
        binding="slack",
        why=f"{gib(room.slack_bytes)} of the GPU are free and nobody's, and requests wait for KV",
        kv_gain_tokens=_gain(changed, plan),
    )


def _highest_that_fits(planned: Planner, current: float, higher: float) -> float:
    """Return the most hundredths below a share that is too high with which vLLM surely starts; none more: current."""
    low, high = math.ceil(100 * (current + _LEAST_STEP) - 1e-9) - 1, round(100 * higher)
    least = low
    while high - low > 1:
        middle = (low + high) // 2
        changed = planned(gpu_memory_utilization=middle / 100)
        if changed is not None and changed.verdict == "fits":
            low = middle
        else:
            high = middle
    return low / 100 if low > least else current


def _blocks_override(plan: EnginePlan, planned: Planner, *, wants_kv: bool) -> Iterator[FlagAdvice]:
    flag, current = "num-gpu-blocks-override", plan.flags.num_gpu_blocks_override
    if current is None:
        return
    changed = planned(num_gpu_blocks_override=None)
    gain = _gain(changed, plan)
    if not wants_kv:
        yield _stay(flag, current, "KV takes all that was ever asked for at once", "demand")
    elif changed is not None and changed.verdict != "fits":
        yield _stay(flag, current, f"{_MIGHT_NOT_START} without it", "slack")
    elif gain is None or gain <= 0:
        yield _stay(flag, current, "memory takes no more blocks than that", "slack")
    else:
        yield FlagAdvice(
            flag=flag,
            current=str(current),
            recommended="remove",
            binding="kv",
            why="it fixes the number of blocks where memory would take more, and requests wait for KV",
            kv_gain_tokens=gain,
        )


def _floor(ratio: float) -> float:
    return math.floor(ratio * 100 + 1e-9) / 100


def _model_len(plan: EnginePlan, planned: Planner, load: EngineLoad, capacity_tokens: float) -> FlagAdvice:
    flag, current = "max-model-len", plan.flags.max_model_len
    prompt = load.prompt_tokens.quantile(0.999, longest=current)
    output = load.generation_tokens.quantile(0.999, longest=current)
    longest = None if prompt is None or output is None else min(float(current), prompt + output)
    seen = (
        "how long requests are was not seen"
        if longest is None
        else f"999 of 1,000 requests seen had at most {longest:,.0f} tokens"
    )
    if current > capacity_tokens:
        fitting = int(capacity_tokens)
        return FlagAdvice(
            flag=flag,
            current=str(current),
            recommended=str(fitting),
            binding="kv",
            why=f"a longer request is accepted and can never run; {seen}",
            kv_gain_tokens=_gain(planned(max_model_len=fitting), plan),
        )
    if longest is not None and longest < current / 2:
        seen += "; a smaller value would only refuse longer ones, KV is given out by need"
    return _stay(flag, current, seen, "demand")


def _batched_tokens(
    plan: EnginePlan, planned: Planner, load: EngineLoad, seqs: SeqsAdvice, *, wants_kv: bool
) -> FlagAdvice:
    flag, current = "max-num-batched-tokens", plan.flags.max_num_batched_tokens
    share = load.slow.budget_seconds / load.slow.busy_seconds if load.slow.busy_seconds > 0 else 0.0
    if share < _BUDGET_BOUND_RATIO or current >= _MOST_BATCHED_TOKENS:
        return _stay(
            flag, current, f"requests waited for the token budget of a step in {share:.1%} of the time", "demand"
        )
    higher = min(_MOST_BATCHED_TOKENS, 2 * current)
    changed = None if wants_kv else planned(max_num_batched_tokens=higher)
    if changed is None:
        return _stay(flag, current, "KV is what is short: prompts that get in sooner would fill it sooner", "kv")
    # They are set together, and both take memory in the profile run.
    beside = planned(max_num_batched_tokens=higher, max_num_seqs=seqs.recommended)
    if changed.verdict != "fits" or beside is None or beside.verdict != "fits":
        return _stay(flag, current, f"{_MIGHT_NOT_START} with {higher}", "slack")
    return FlagAdvice(
        flag=flag,
        current=str(current),
        recommended=str(higher),
        binding="token_budget",
        why=f"requests waited for the token budget in {share:.0%} of the time; prompts get in sooner, and those who "
        "decode beside a long prompt stall longer in that step",
        kv_gain_tokens=_gain(changed, plan),
    )


def _kv_cache_dtype(plan: EnginePlan, planned: Planner, room: Room | None, *, wants_kv: bool) -> Iterator[FlagAdvice]:
    flag, current = "kv-cache-dtype", plan.flags.kv_cache_dtype
    if room is None or current.startswith("fp8"):
        return
    if plan.flags.num_gpu_blocks_override is not None:
        yield _stay(flag, current, _OVERRIDDEN)
        return
    capability = plan.layout.settings.compute_capability
    changed = planned(kv_cache_dtype="fp8") if wants_kv and capability >= _FP8_CAPABILITY else None
    if changed is not None and changed.kv_tokens.expected < _LEAST_FP8_GAIN * plan.kv_tokens.expected:
        # A checkpoint may bring such a cache with "auto"; there are 4-bit caches and 8-bit ones that are no fp8.
        yield _stay(flag, current, "the cache is about as small as fp8 would make it, or smaller", "kv")
        return
    if changed is not None and changed.verdict not in ("fits", plan.verdict):
        yield _stay(flag, current, f"{_MIGHT_NOT_START} with fp8", "slack")
        return
    if changed is None:
        why = "this GPU or release has no fp8 cache" if wants_kv else "KV takes all that was asked for"
        yield _stay(flag, current, why, "none" if wants_kv else "demand")
        return
    yield FlagAdvice(
        flag=flag,
        current=current,
        recommended="fp8",
        binding="kv",
        why="half the bytes a token; the quality of answers must be checked first",
        kv_gain_tokens=_gain(changed, plan),
    )


def _tensor_parallel(plan: EnginePlan, planned: Planner, room: Room | None, *, wants_kv: bool) -> Iterator[FlagAdvice]:
    flag, current = "tensor-parallel-size", plan.flags.tensor_parallel_size
    if room is None:
        return
    if plan.flags.num_gpu_blocks_override is not None:
        yield _stay(flag, current, _OVERRIDDEN)
        return
    doubled = 2 * current
    enough = room.idle_gpus >= plan.gpus_needed
    changed = planned(tensor_parallel_size=doubled) if wants_kv and enough else None
    if changed is None or changed.verdict != "fits":
        why = f"{room.idle_gpus} GPUs here are idle"
        if not wants_kv:
            why = "KV takes all that was asked for"
        elif enough:
            why = f"{_MIGHT_NOT_START} on twice as many GPUs"
        yield _stay(flag, current, why, "none" if wants_kv else "demand")
        return
    yield FlagAdvice(
        flag=flag,
        current=str(current),
        recommended=str(doubled),
        binding="kv",
        why=f"{room.idle_gpus} GPUs here are idle, and requests wait for KV; a second server on them does as well",
        kv_gain_tokens=_gain(changed, plan),
    )


def _gone(given: EngineFlags, version: Version) -> Iterator[FlagAdvice]:
    for each in GONE:
        value = getattr(given, each.flag)
        if value is not None and version >= each.idle_since:
            fate = "this release has no such flag" if version >= each.gone_since else "it does nothing in this release"
            yield FlagAdvice(
                flag=each.flag.replace("_", "-"),
                current=str(value),
                recommended="remove",
                binding="gone",
                why=f"{fate}: {each.why}",
                kv_gain_tokens=0.0,
            )

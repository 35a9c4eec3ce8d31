"""For each flag that memory depends on: what would pass, and what it costs or brings in tokens.

Every line is a whole plan of its own with that one flag changed, so costs include all that follows from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from advisor.gpus import known_gpus
from advisor.plan import EnginePlan
from advisor.units import GIB


class Planner(Protocol):
    """Plans the same command line with some flags, or the GPU, changed; None where vLLM would refuse it."""

    def __call__(self, **changes: Any) -> EnginePlan | None:
        """Return the changed plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """One change."""

    flag: str
    current: Any
    suggested: Any
    capacity_tokens: float
    tokens_gained: float
    """Against the plan as it is; negative: what the change costs."""
    verdict: str
    why: str
    is_largest: bool = False
    """Whether it is the largest value of this flag that surely passes."""


_SEQS = (32, 64, 128, 256, 512, 1024)
_LONGEST = 2**24
_MOST_SEQS = 2**16
_MOST_BATCHED_TOKENS = 2**20
_BATCHED_TOKENS = (1024, 2048, 4096, 8192, 16384)
_UTILIZATIONS = (0.95, 0.92, 0.90, 0.85, 0.80, 0.70, 0.60, 0.50)
_RANKS = (1, 2, 4, 8, 16)


def suggestions_for(plan: EnginePlan, planned: Planner) -> tuple[Suggestion, ...]:
    """Return what each flag could be instead, in the order in which an operator would try."""
    return tuple(
        suggestion
        for one in (
            _max_model_len,
            _gpu_memory_utilization,
            _max_num_seqs,
            _max_num_batched_tokens,
            _kv_cache_dtype,
            _enforce_eager,
            _quantization,
            _tensor_parallel_size,
            _gpu,
        )
        for suggestion in one(plan, planned)
    )


def _suggestion(flag: str, current: Any, suggested: Any, changed: EnginePlan, plan: EnginePlan, why: str) -> Suggestion:
    return Suggestion(
        flag=flag,
        current=current,
        suggested=suggested,
        capacity_tokens=round(changed.kv_tokens.expected),
        tokens_gained=round(changed.kv_tokens.expected - plan.kv_tokens.expected),
        verdict=changed.verdict,
        why=why,
    )


def _largest_that_fits(plan: EnginePlan, planned: Planner, flag: str, most: int, why: str) -> Iterator[Suggestion]:
    """Name the largest value up to ``most`` that surely passes, where it is not the present one.

    More of each of these flags never leaves more room, so that halving finds it.
    """
    changed: EnginePlan | None = None
    passing, failing = 0, most + 1
    while failing - passing > 1:
        middle = (passing + failing) // 2
        tried = planned(**{flag: middle})
        if tried is not None and tried.verdict == "fits":
            passing, changed = middle, tried
        else:
            failing = middle
    current = getattr(plan.flags, flag)
    if changed is not None and passing != current:
        yield replace(_suggestion(flag, current, passing, changed, plan, why), is_largest=True)


def _max_model_len(plan: EnginePlan, planned: Planner) -> Iterator[Suggestion]:
    return _largest_that_fits(
        plan, planned, "max_model_len", _LONGEST, "the longest context of the model that surely fits once"
    )


def _gpu_memory_utilization(plan: EnginePlan, planned: Planner) -> Iterator[Suggestion]:
    current = plan.flags.gpu_memory_utilization
    passing = [(each, changed) for each in _UTILIZATIONS if (changed := planned(gpu_memory_utilization=each))]
    passing = [(each, changed) for each, changed in passing if changed.verdict == "fits"]
    if not passing:
        return
    largest, smallest = passing[0], passing[-1]
    if largest[0] > current:
        why = "leaves the least for what allocates beside the budget: neighbours, graphs, fragmentation"
        yield _suggestion("gpu_memory_utilization", current, largest[0], largest[1], plan, why)
    if smallest[0] < current:
        why = "the smallest that still holds one request of max-model-len: room for another process"
        yield _suggestion("gpu_memory_utilization", current, smallest[0], smallest[1], plan, why)


def _max_num_seqs(plan: EnginePlan, planned: Planner) -> Iterator[Suggestion]:
    why = "the start-up profile samples for that many requests at once, and their logits come out of the KV cache"
    return _tried(plan, planned, "max_num_seqs", _SEQS, _MOST_SEQS, why)


def _max_num_batched_tokens(plan: EnginePlan, planned: Planner) -> Iterator[Suggestion]:
    why = "the start-up profile runs a step of that many"
    return _tried(plan, planned, "max_num_batched_tokens", _BATCHED_TOKENS, _MOST_BATCHED_TOKENS, why)


def _tried(
    plan: EnginePlan, planned: Planner, flag: str, values: tuple[int, ...], most: int, why: str
) -> Iterator[Suggestion]:
    """Name usual values that make a difference, then the largest that passes."""
    current = getattr(plan.flags, flag)
    largest = {each.suggested: each for each in _largest_that_fits(plan, planned, flag, most, why)}
    for each in values:
        changed = planned(**{flag: each}) if each != current else None
        if changed is None:
            continue
        difference = changed.kv_tokens.expected - plan.kv_tokens.expected
        if abs(difference) >= 0.002 * max(plan.kv_tokens.expected, 1.0):
            yield largest.pop(each, _suggestion(flag, current, each, changed, plan, why))
    yield from largest.values()


def _kv_cache_dtype(plan: EnginePlan, planned: Planner) -> Iterator[Suggestion]:
    if not plan.flags.kv_cache_dtype.startswith("fp8"):
        changed = planned(kv_cache_dtype="fp8")
        if changed is not None:
            why = (
                "half the bytes a token; check the quality of answers, and that the GPU has an attention kernel for it"
            )
            yield _suggestion("kv_cache_dtype", plan.flags.kv_cache_dtype, "fp8", changed, plan, why)


def _enforce_eager(plan: EnginePlan, planned: Planner) -> Iterator[Suggestion]:
    if not plan.flags.enforce_eager and plan.memory is not None:
        changed = planned(enforce_eager=True)
        if changed is not None:
            held = plan.memory.cuda_graphs.expected / GIB
            why = f"no CUDA graphs: about {held:.1f} GiB less held, and slower decoding"
            yield _suggestion("enforce_eager", False, True, changed, plan, why)


def _quantization(plan: EnginePlan, planned: Planner) -> Iterator[Suggestion]:
    if plan.flags.quantization is None and plan.quantized is None and plan.memory is not None:
        changed = planned(quantization="fp8")
        if changed is not None and changed.memory is not None:
            saved = (plan.memory.weights.expected - changed.memory.weights.expected) / GIB
            why = f"16-bit weights turned into 8 bits while loading: {saved:.1f} GiB less a GPU"
            yield _suggestion("quantization", None, "fp8", changed, plan, why)


def _tensor_parallel_size(plan: EnginePlan, planned: Planner) -> Iterator[Suggestion]:
    current = plan.flags.tensor_parallel_size
    for each in _RANKS:
        changed = planned(tensor_parallel_size=each) if each != current else None
        if changed is not None and changed.verdict == "fits":
            why = "the fewest GPUs of this kind that surely hold it" if each < current or plan.verdict != "fits" else ""
            if why:
                yield _suggestion("tensor_parallel_size", current, each, changed, plan, why)
            return


def _gpu(plan: EnginePlan, planned: Planner) -> Iterator[Suggestion]:
    boards = sorted(known_gpus(), key=lambda gpu: gpu.cuda_total.expected)
    for gpu in boards:
        changed = planned(gpu=gpu)
        if changed is not None and changed.verdict == "fits":
            why = "the smallest GPU of the catalogue that surely holds it with these flags"
            yield _suggestion("gpu", plan.device_name, gpu.name, changed, plan, why)
            return

"""One scripted run of the scheduler: which request joins before which step, and what every step then did.

The script is that of a test of vLLM's own scheduler, so that a recording of the one can be laid beside the other:
flags, and requests by the step before which they are added. The model is always right on time and never ends a
sequence by itself (``advisor.simulate.Scheduler``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.simulate import Request, Scheduler, SchedulerConfig, StepResult
from advisor.versions import Version

MOST_BLOCKS = 4_000_000
"""Each takes some hundred bytes here; the largest caches have about a million."""

_SHARED = "all"
"""The one group that every request of a scenario with a ``prefix`` belongs to."""

_FLAGS: Mapping[str, tuple[str, type]] = {
    "num_blocks": ("num_gpu_blocks", int),
    "block_size": ("block_size", int),
    "max_num_seqs": ("max_num_seqs", int),
    "max_num_batched_tokens": ("max_num_batched_tokens", int),
    "max_model_len": ("max_model_len", int),
}
_OPTIONS: Mapping[str, tuple[str, type]] = {
    "async": ("async_scheduling", bool),
    "prefix_caching": ("enable_prefix_caching", bool),
    "chunked_prefill": ("enable_chunked_prefill", bool),
    "policy": ("scheduling_policy", str),
    "reserve_full_isl": ("scheduler_reserve_full_isl", bool),
    "watermark": ("watermark", float),
    "long_prefill_token_threshold": ("long_prefill_token_threshold", int),
    "max_num_active_seqs": ("max_num_active_seqs", int),
}
_REQUEST_KEYS = frozenset({"id", "step", "prompt", "max_tokens", "prefix", "priority"})
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


class ScenarioError(ValueError):
    """A scenario is not one; the message lists every problem with its place, one a line."""


class StepsExceededError(RuntimeError):
    """A scenario took more steps than allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """Flags and a script of arrivals."""

    name: str
    config: SchedulerConfig
    arrivals: tuple[tuple[int, Request], ...]
    """(step before which it is added, request) in the order in which they are added."""


def scenario_from(row: Any, *, where: str, version: Version = (0, 32, 0)) -> Scenario:
    """Read a scenario: ``num_blocks`` (block 0 is the null block), ``block_size`` and the other flags, ``requests``.

    Args:
        row: The object as JSON gave it.
        where: Place of it, for messages.
        version: Release whose scheduler is meant.

    Raises:
        ScenarioError: A key is missing, unknown or of another type, or vLLM would refuse the flags.
    """
    if not isinstance(row, Mapping):
        raise ScenarioError(f"{where}: an object is needed, this is {type(row).__name__}")
    name = row.get("name", where)
    problems = [f"{where}: unknown key {key!r}" for key in row if key not in {*_FLAGS, *_OPTIONS, "name", "requests"}]
    flags: dict[str, Any] = {}
    for key, (flag, kind) in {**_FLAGS, **_OPTIONS}.items():
        value = row.get(key)
        if value is None:
            if key in _FLAGS:
                problems.append(f"{where}: {key} is missing")
        elif _is(value, kind):
            flags[flag] = value
        else:
            problems.append(f"{where}: {key} must be {_WORDS[kind]}, not {value!r}")
    if flags.get("num_gpu_blocks", 0) > MOST_BLOCKS:
        problems.append(f"{where}: num_blocks is {flags['num_gpu_blocks']:,}, at most {MOST_BLOCKS:,} are simulated")
    arrivals = list(_arrivals(row.get("requests"), where, problems))
    if problems:
        raise ScenarioError("\n".join(problems))
    try:
        config = SchedulerConfig.for_version(version, **flags)
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from error
    arrivals.sort(key=lambda arrival: arrival[0])
    return Scenario(name=str(name), config=config, arrivals=tuple(arrivals))


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _arrivals(rows: Any, where: str, problems: list[str]) -> Iterator[tuple[int, Request]]:
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        problems.append(f"{where}: requests must be a list with at least one request")
        return
    seen = set()
    for number, row in enumerate(rows):
        place = f"{where}: requests[{number}]"
        if not isinstance(row, Mapping):
            problems.append(f"{place}: an object is needed, this is {type(row).__name__}")
            continue
        problems.extend(f"{place}: unknown key {key!r}" for key in row.keys() - _REQUEST_KEYS)
        numbers = {key: row.get(key, 0) for key in ("step", "prompt", "max_tokens", "prefix", "priority")}
        wrong = [key for key, value in numbers.items() if not _is(value, int) or (key != "priority" and value < 0)]
        if wrong:
            problems.extend(f"{place}: {key} must be a whole number, not {numbers[key]!r}" for key in wrong)
            continue
        request_id = str(row.get("id", number))
        if request_id in seen:
            problems.append(f"{place}: the id {request_id} is used twice")
        seen.add(request_id)
        # A prefix longer than a prompt is that prompt: all its tokens are the shared ones.
        shared = min(numbers["prefix"], numbers["prompt"])
        try:
            request = Request(
                request_id=request_id,
                prompt_tokens=numbers["prompt"],
                max_tokens=numbers["max_tokens"],
                prefix_group=_SHARED if shared else None,
                shared_prefix_tokens=shared,
                priority=numbers["priority"],
            )
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        yield numbers["step"], request


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What a scenario did, step by step."""

    name: str
    steps: tuple[StepResult, ...]
    """Every step in which something was scheduled or came out."""
    finished: Mapping[str, int]
    """Request to the step whose batch held its last token, in the order in which they finished."""
    num_preemptions: int
    recomputed_tokens: int


def play(scenario: Scenario, *, max_steps: int = 1_000_000) -> Trace:
    """Run a scenario until the engine has nothing left to do.

    Raises:
        ScenarioError: A request could never be served (`Scheduler.add`).
        StepsExceededError: ``max_steps`` were not enough.
    """
    scheduler = Scheduler(scenario.config, record=True)
    arrivals = scenario.arrivals
    steps: list[StepResult] = []
    finished: dict[str, int] = {}
    num_arrived = now = 0
    while num_arrived < len(arrivals) or scheduler.has_work:
        if now == max_steps:
            raise StepsExceededError(
                f"{scenario.name}: {max_steps} steps were not enough, {len(finished)} of {len(arrivals)} requests "
                "have finished"
            )
        while num_arrived < len(arrivals) and arrivals[num_arrived][0] <= now:
            try:
                scheduler.add(arrivals[num_arrived][1])
            except ValueError as error:
                raise ScenarioError(f"{scenario.name}: {error}") from error
            num_arrived += 1
        result = scheduler.step()
        now += 1
        if result.batch is not None or result.output is not None:
            steps.append(result)
        if result.output is not None:
            finished.update(dict.fromkeys(result.output.finished, result.output.step))
    return Trace(
        name=scenario.name,
        steps=tuple(steps),
        finished=finished,
        num_preemptions=scheduler.num_preemptions,
        recomputed_tokens=scheduler.recomputed_tokens,
    )


def trace_record(trace: Trace) -> dict[str, Any]:
    """Return a trace as plain values, by the names that recordings of vLLM's scheduler use."""
    return {
        "name": trace.name,
        "num_steps": len(trace.steps),
        "finished": dict(trace.finished),
        "total_preemptions": trace.num_preemptions,
        "steps": [_step_record(result) for result in trace.steps],
    }


def _step_record(result: StepResult) -> dict[str, Any]:
    record: dict[str, Any] = {"step": result.step}
    batch, output = result.batch, result.output
    if batch is not None:
        record |= {
            "scheduled": dict(batch.num_scheduled_tokens or {}),
            "preempted": list(batch.preempted),
            "running": list(batch.running or ()),
            "waiting": list(batch.waiting or ()),
            "free_after_schedule": batch.num_free_blocks,
        }
    if output is not None:
        stats = output.stats
        record |= {
            "processed_step": output.step,
            "emitted": list(output.emitted),
            "finished": list(output.finished),
            "preempt_events_delivered": list(output.preempt_events),
            "free_after_output": output.num_free_blocks,
            "stats": {
                "running": stats.num_running_reqs,
                "waiting": stats.num_waiting_reqs,
                "deferred": stats.num_skipped_waiting_reqs,
                "usage": round(stats.kv_cache_usage, 6),
                "pc_queries": stats.prefix_cache_queries,
                "pc_hits": stats.prefix_cache_hits,
            },
        }
    return record

"""The scheduler model against vLLM's own recordings, rule by rule, and over random load."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.simulate import (
    Arrival,
    Batch,
    Output,
    Request,
    Scheduler,
    SchedulerConfig,
    StepLimitError,
    StepResult,
    StepTimeModel,
    replay,
)

CAPTURES = Path(__file__).parents[1] / "captures" / "scheduler"


def config(**changes: Any) -> SchedulerConfig:
    """Ten blocks of four tokens, room for everything else, and every option off."""
    flags: dict[str, Any] = {
        "num_gpu_blocks": 11,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "max_model_len": 40,
        "enable_prefix_caching": False,
        "async_scheduling": False,
    }
    return SchedulerConfig(**(flags | changes))


def request(request_id: str, prompt_tokens: int = 4, max_tokens: int = 4, **more: Any) -> Request:
    return Request(request_id=request_id, prompt_tokens=prompt_tokens, max_tokens=max_tokens, **more)


def scheduler_with(*requests: Request, **flags: Any) -> Scheduler:
    scheduler = Scheduler(config(**flags), record=True)
    for each in requests:
        scheduler.add(each)
    return scheduler


def batch_of(result: StepResult) -> Batch:
    assert result.batch is not None
    return result.batch


def output_of(result: StepResult) -> Output:
    assert result.output is not None
    return result.output


def scheduled(scheduler: Scheduler) -> dict[str, int]:
    """Take a step and return the tokens each request got."""
    tokens = batch_of(scheduler.step()).num_scheduled_tokens
    assert tokens is not None
    return dict(tokens)


def run_out(scheduler: Scheduler, *, limit: int = 10_000) -> list[StepResult]:
    results = []
    while scheduler.has_work:
        results.append(scheduler.step())
        assert len(results) < limit
    return results


# --- vLLM's own scheduler, step by step ---


def recordings() -> list[Any]:
    return [
        pytest.param(scenario, id=f"{scenario['version']}-{scenario['name']}")
        for path in sorted(CAPTURES.glob("traces-*.jsonl.gz"))
        for scenario in map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
    ]


def as_recorded(result: StepResult) -> list[Any]:
    """Spell a step as the recorder does."""

    def numbers(request_ids: tuple[str, ...] | None) -> list[int]:
        return [int(each) for each in request_ids or ()]

    batch, output = result.batch, result.output
    batch_record = batch and [
        [[int(each), tokens] for each, tokens in (batch.num_scheduled_tokens or {}).items()],
        numbers(batch.preempted),
        numbers(batch.running),
        numbers(batch.waiting),
        batch.num_free_blocks,
    ]
    output_record = output and [
        output.step,
        numbers(output.emitted),
        numbers(output.finished),
        numbers(output.preempt_events),
        output.num_free_blocks,
        [
            output.stats.num_running_reqs,
            output.stats.num_waiting_reqs,
            output.stats.num_skipped_waiting_reqs,
            round(output.stats.kv_cache_usage, 6),
            output.stats.prefix_cache_queries,
            output.stats.prefix_cache_hits,
        ],
    ]
    return [result.step, batch_record, output_record]


def recorded_scheduler(scenario: dict[str, Any], *, record: bool = True) -> Scheduler:
    version = tuple(int(part) for part in scenario["version"].split("."))
    return Scheduler(SchedulerConfig.for_version(version, **scenario["config"]), record=record)


def recorded_request(position: int, entry: dict[str, Any]) -> Request:
    group = entry["prefix_group"]
    return Request(
        request_id=str(position),
        prefix_group=None if group is None else f"group {group}",
        **{name: value for name, value in entry.items() if name not in ("step", "prefix_group")},
    )


@pytest.mark.parametrize("scenario", recordings())
def test_every_step_is_the_one_that_vllm_took(scenario: dict[str, Any]) -> None:
    scheduler = recorded_scheduler(scenario)
    arrivals = list(enumerate(scenario["requests"]))
    aborts = list(scenario["aborts"])
    recorded = {record[0]: record for record in scenario["steps"]}
    for step in range(max(recorded) + 1):
        while arrivals and arrivals[0][1]["step"] <= step:
            scheduler.add(recorded_request(*arrivals.pop(0)))
        while aborts and aborts[0][0] <= step:
            scheduler.abort(str(aborts.pop(0)[1]))
        assert as_recorded(scheduler.step()) == recorded.get(step, [step, None, None])
    assert not scheduler.has_work


def test_the_recordings_cover_what_they_should() -> None:
    scenarios = [param.values[0] for param in recordings()]
    assert {each["version"] for each in scenarios} == {"0.23.0", "0.26.0", "0.30.0", "0.32.0", "0.33.0"}
    victims = sum(len(record[1][1]) for each in scenarios for record in each["steps"] if record[1])
    hits = sum(record[2][5][5] for each in scenarios for record in each["steps"] if record[2])
    assert victims > 500 and hits > 2000
    for flag in ("enable_prefix_caching", "async_scheduling", "enable_chunked_prefill", "scheduler_reserve_full_isl"):
        assert {each["config"][flag] for each in scenarios} == {False, True}
    for flag in ("watermark", "max_num_active_seqs", "long_prefill_token_threshold"):
        assert {bool(each["config"][flag]) for each in scenarios} == {False, True}
    assert {each["config"]["scheduling_policy"] for each in scenarios} == {"fcfs", "priority"}


def test_what_is_reported_without_recording_is_the_same() -> None:
    scenario = max((param.values[0] for param in recordings()), key=lambda each: len(each["requests"]))
    both = [recorded_scheduler(scenario, record=record) for record in (True, False)]
    for position, entry in enumerate(scenario["requests"]):
        for scheduler in both:
            scheduler.add(recorded_request(position, entry))
    while both[0].has_work:
        full, short = (scheduler.step() for scheduler in both)
        assert short.output == full.output
        assert (short.batch is None) == (full.batch is None)
        if short.batch is not None and full.batch is not None:
            assert short.batch.num_scheduled_tokens is short.batch.running is short.batch.waiting is None
            assert full.batch.num_scheduled_tokens is not None
            assert short.batch.total_num_scheduled_tokens == sum(full.batch.num_scheduled_tokens.values())
            assert short.batch.admitted == full.batch.admitted
    assert not both[1].has_work


# --- The running requests ---


def test_a_prompt_is_computed_in_chunks_of_what_the_budget_leaves() -> None:
    scheduler = scheduler_with(request("a", 20), max_num_batched_tokens=8)
    assert [scheduled(scheduler) for _ in range(4)] == [{"a": 8}, {"a": 8}, {"a": 4}, {"a": 1}]


def test_a_request_has_its_first_token_when_its_last_chunk_is_done() -> None:
    scheduler = scheduler_with(request("a", 12), max_num_batched_tokens=8)
    assert output_of(scheduler.step()).emitted == ()
    assert output_of(scheduler.step()).emitted == ("a",)


def test_an_earlier_prefill_is_served_before_a_later_decode() -> None:
    scheduler = scheduler_with(request("long", 30), max_num_batched_tokens=8)
    scheduler.step()
    scheduler.add(request("short", 1))
    assert scheduled(scheduler) == {"long": 8}
    assert scheduler.waiting_order() == ("short",)


def test_a_block_is_taken_when_the_token_that_needs_it_is_computed_and_not_before() -> None:
    scheduler = scheduler_with(request("a", 4, 6))
    free = [batch_of(scheduler.step()).num_free_blocks for _ in range(6)]
    assert free == [9, 8, 8, 8, 8, 7]


def test_a_request_ends_at_max_tokens_and_its_blocks_are_free_at_once() -> None:
    scheduler = scheduler_with(request("a", 4, 2))
    assert output_of(scheduler.step()).finished == ()
    last = output_of(scheduler.step())
    assert last.finished == ("a",)
    assert last.num_free_blocks == 10
    assert last.stats.num_running_reqs == 0 and last.stats.kv_cache_usage == 0.0


def test_a_request_ends_at_max_model_len() -> None:
    scheduler = scheduler_with(request("a", 36, 100))
    assert sum(len(output_of(result).emitted) for result in run_out(scheduler)) == 4


def test_a_request_ends_at_its_end_of_sequence() -> None:
    scheduler = scheduler_with(request("a", 4, 100, eos_after=3))
    assert sum(len(output_of(result).emitted) for result in run_out(scheduler)) == 3


def test_one_empty_step_follows_the_last_one_to_tell_the_workers() -> None:
    scheduler = scheduler_with(request("a", 4, 1))
    scheduler.step()
    assert scheduler.has_work
    assert scheduled(scheduler) == {}
    assert not scheduler.has_work


def test_a_step_without_work_only_counts() -> None:
    scheduler = scheduler_with()
    assert not scheduler.has_work
    assert scheduler.step() == StepResult(step=0, batch=None, output=None)
    scheduler.add(request("a"))
    assert scheduler.step().step == 1


# --- Admission ---


def test_a_request_that_does_not_fit_holds_up_smaller_ones_behind_it() -> None:
    scheduler = scheduler_with(request("first", 20), request("large", 24), request("small", 4))
    scheduler.step()
    assert scheduler.running_order() == ("first",)
    assert scheduler.waiting_order() == ("large", "small")


def test_a_prompt_is_admitted_only_if_all_of_it_fits() -> None:
    requests = (request("first", 20), request("large", 24))
    assert scheduled(scheduler_with(*requests, max_num_batched_tokens=30)) == {"first": 20}


def test_without_that_check_its_first_chunk_is_enough() -> None:
    requests = (request("first", 20), request("large", 24))
    scheduler = scheduler_with(*requests, max_num_batched_tokens=30, scheduler_reserve_full_isl=False)
    assert scheduled(scheduler) == {"first": 20, "large": 10}


def test_the_check_sets_nothing_aside_so_that_two_prompts_can_be_too_much() -> None:
    scheduler = scheduler_with(
        request("a", 32, 2), request("b", 24, 2), max_num_batched_tokens=12, long_prefill_token_threshold=4
    )
    # While a has only its first block, the six that b wants are free: both are in, and fourteen blocks are not there.
    assert scheduled(scheduler) == {"a": 4, "b": 4}
    assert any(batch_of(result).preempted for result in run_out(scheduler))


def test_the_watermark_stays_free_while_others_run() -> None:
    flags = {"watermark": 0.2}  # int(0.2 x 11) = 2 blocks
    scheduler = scheduler_with(request("a", 4), request("b", 28), **flags)
    assert scheduled(scheduler) == {"a": 4, "b": 28}
    scheduler = scheduler_with(request("a", 4), request("b", 32), **flags)
    assert scheduled(scheduler) == {"a": 4}
    assert scheduled(scheduler_with(request("b", 39), **flags)) == {"b": 39}


def test_the_watermark_does_not_bind_requests_that_run() -> None:
    scheduler = scheduler_with(request("a", 32, 8), watermark=0.5)
    assert all(not batch_of(result).preempted for result in run_out(scheduler))


@pytest.mark.parametrize("limit", [{"max_num_seqs": 2}, {"max_num_seqs": 8, "max_num_active_seqs": 2}])
def test_no_more_run_than_allowed(limit: dict[str, int]) -> None:
    scheduler = scheduler_with(*(request(name) for name in "abc"), **limit)
    assert scheduled(scheduler) == {"a": 4, "b": 4}


def test_a_place_is_free_again_in_the_step_after_a_request_finished() -> None:
    scheduler = scheduler_with(request("a", 4, 1), request("b"), max_num_seqs=1)
    assert scheduled(scheduler) == {"a": 4}
    assert scheduled(scheduler) == {"b": 4}


def test_the_long_prefill_limit_cuts_prompts_and_leaves_budget_to_others() -> None:
    scheduler = scheduler_with(request("a", 20), request("b", 20), long_prefill_token_threshold=6)
    assert scheduled(scheduler) == {"a": 6, "b": 6}


def test_the_long_prefill_limit_does_not_bind_a_request_that_is_alone() -> None:
    assert scheduled(scheduler_with(request("a", 20), long_prefill_token_threshold=6)) == {"a": 20}


def test_before_0_31_the_long_prefill_limit_bound_even_that() -> None:
    scheduler = scheduler_with(request("a", 20), long_prefill_token_threshold=6, long_prefill_threshold_when_alone=True)
    assert scheduled(scheduler) == {"a": 6}


def test_the_adaptive_long_prefill_limit_is_at_least_an_even_share() -> None:
    scheduler = scheduler_with(
        request("a", 20),
        request("b", 20),
        max_num_batched_tokens=24,
        long_prefill_token_threshold=6,
        long_prefill_token_threshold_adaptive=True,
    )
    assert scheduled(scheduler) == {"a": 12, "b": 12}


def test_without_chunked_prefill_a_prompt_waits_for_a_step_that_holds_all_of_it() -> None:
    scheduler = scheduler_with(
        request("a", 20),
        request("b", 21),
        request("c", 1),
        enable_chunked_prefill=False,
        num_gpu_blocks=31,
        max_num_batched_tokens=40,
    )
    assert scheduled(scheduler) == {"a": 20}
    assert scheduled(scheduler) == {"a": 1, "b": 21, "c": 1}


def test_urgent_requests_are_admitted_first_then_earlier_ones() -> None:
    scheduler = scheduler_with(
        request("late", priority=0, arrival_time=2),
        request("lazy", priority=1, arrival_time=0),
        request("early", priority=0, arrival_time=1),
        scheduling_policy="priority",
    )
    assert list(scheduled(scheduler)) == ["early", "late", "lazy"]


def test_equals_are_admitted_in_order_of_their_ids() -> None:
    names = ("9", "10", "2")
    scheduler = scheduler_with(
        *(request(name, arrival_time=0) for name in names), scheduling_policy="priority", max_num_seqs=1
    )
    assert scheduler.waiting_order() == ("10", "2", "9")


# --- Preemption ---


def crowded(**flags: Any) -> Scheduler:
    """Return three requests that fill all ten blocks, four, three and three; each wants one more in the next step.

    Without c there is enough for the other two, which get their fifth and last token in the fifth step.
    """
    scheduler = scheduler_with(request("a", 16, 5), request("b", 12, 5), request("c", 12, 5), **flags)
    scheduler.step()
    assert scheduler.num_free_blocks == 0
    return scheduler


def test_whoever_finds_no_block_preempts_the_last_admitted() -> None:
    scheduler = crowded()
    batch = batch_of(scheduler.step())
    assert batch.preempted == ("c",)
    assert batch.running == ("a", "b")
    assert batch.num_scheduled_tokens == {"a": 1, "b": 1}


def test_a_request_that_is_itself_the_last_admitted_preempts_itself() -> None:
    scheduler = scheduler_with(request("a", 15), request("b", 24))
    scheduler.step()
    batch = batch_of(scheduler.step())
    assert batch.preempted == ("b",)
    assert batch.num_scheduled_tokens == {"a": 1}


def test_a_preempted_request_is_next_in_line() -> None:
    scheduler = crowded()
    scheduler.add(request("d", 1))
    scheduler.step()
    assert scheduler.waiting_order() == ("c", "d")


def test_several_preempted_in_one_step_wait_in_the_order_they_were_admitted() -> None:
    scheduler = scheduler_with(request("a", 24), max_num_batched_tokens=12)
    scheduler.step()
    scheduler.step()
    for name in "bcd":
        scheduler.add(request(name))
    assert scheduled(scheduler) == {"a": 1, "b": 4, "c": 4, "d": 3}
    # Seven blocks and one each: b's next token takes d's, and c's finds none but its own.
    batch = batch_of(scheduler.step())
    assert batch.preempted == ("d", "c")
    assert batch.waiting == ("c", "d")


def test_nobody_is_admitted_in_a_step_that_preempted() -> None:
    scheduler = crowded(scheduling_policy="priority")
    scheduler.add(request("urgent", 1, priority=-1))
    batch = batch_of(scheduler.step())
    assert batch.preempted == ("c",)
    assert batch.num_free_blocks == 1
    assert batch.waiting == ("urgent", "c")


def test_a_preempted_request_computes_its_prompt_and_its_output_again() -> None:
    scheduler = crowded()
    resumed = [batch_of(scheduler.step()) for _ in range(5)][-1]
    assert resumed.num_scheduled_tokens == {"c": 13}
    assert resumed.recomputed_tokens == 12
    assert scheduler.recomputed_tokens == 12 and scheduler.num_preemptions == 1


def test_a_preemption_is_reported_with_the_next_token_of_its_victim() -> None:
    scheduler = crowded()
    outputs = [output_of(result) for result in run_out(scheduler)]
    (reporting,) = (output for output in outputs if output.preempt_events)
    assert reporting.preempt_events == ("c",)
    assert "c" in reporting.emitted
    assert all("c" not in output.emitted for output in outputs[: outputs.index(reporting)])


def test_the_least_urgent_is_preempted_wherever_it_runs() -> None:
    scheduler = scheduler_with(request("lazy", 12, priority=1), scheduling_policy="priority")
    scheduler.step()
    for name in "ab":
        scheduler.add(request(name, 12))
    scheduler.step()
    assert scheduler.running_order() == ("lazy", "a", "b")
    assert scheduler.num_free_blocks == 0
    batch = batch_of(scheduler.step())
    assert batch.preempted == ("lazy",)
    assert batch.num_scheduled_tokens == {"a": 1, "b": 1}


def test_a_victim_served_earlier_in_the_step_gives_its_tokens_back() -> None:
    scheduler = scheduler_with(
        request("lazy", 2, 9, priority=5), scheduling_policy="priority", max_num_batched_tokens=9
    )
    scheduler.step()
    scheduler.add(request("urgent", 36, 2, priority=0))
    tokens = [batch_of(scheduler.step()) for _ in range(5)]
    assert [batch.num_scheduled_tokens for batch in tokens[:4]] == [
        {"lazy": 1, "urgent": 8},
        {"lazy": 1, "urgent": 8},
        {"lazy": 1, "urgent": 8},
        {"lazy": 1, "urgent": 8},
    ]
    # lazy holds two blocks and urgent eight; the last chunk needs a ninth.
    assert tokens[4].preempted == ("lazy",)
    assert tokens[4].num_scheduled_tokens == {"urgent": 4}
    assert tokens[4].decode_tokens == 0 and tokens[4].prefill_tokens == 4 and tokens[4].context_tokens == 0


@pytest.mark.parametrize(("stops", "served"), [(True, {"a": 1}), (False, {"a": 1, "b": 1})])
def test_before_0_33_whoever_preempted_itself_stopped_more_urgent_ones_after_it(
    *, stops: bool, served: dict[str, int]
) -> None:
    scheduler = scheduler_with(
        request("a", 14),
        request("lazy", 11, priority=1),
        scheduling_policy="priority",
        stop_after_self_preemption=stops,
    )
    scheduler.step()
    scheduler.add(request("b", 11))
    assert scheduled(scheduler) == {"a": 1, "lazy": 1, "b": 11}
    assert scheduler.num_free_blocks == 0
    batch = batch_of(scheduler.step())
    assert batch.preempted == ("lazy",)
    assert batch.num_scheduled_tokens == served


# --- Prefix caching ---


def sharing(request_id: str, prompt_tokens: int, shared: int, max_tokens: int = 4, group: str = "g") -> Request:
    return request(request_id, prompt_tokens, max_tokens, prefix_group=group, shared_prefix_tokens=shared)


def test_a_prefix_computed_once_is_found_by_the_next_of_its_group() -> None:
    scheduler = scheduler_with(sharing("a", 20, 16), enable_prefix_caching=True)
    scheduler.step()
    scheduler.add(sharing("b", 20, 16))
    batch = batch_of(scheduler.step())
    assert batch.num_scheduled_tokens == {"a": 1, "b": 4}
    # a holds six blocks; b shares four of them and has one of its own.
    assert batch.num_free_blocks == 10 - 6 - 1


def test_only_whole_blocks_are_found() -> None:
    scheduler = scheduler_with(sharing("a", 20, 15), enable_prefix_caching=True)
    scheduler.step()
    scheduler.add(sharing("b", 20, 15))
    assert scheduled(scheduler) == {"a": 1, "b": 8}


def test_groups_share_nothing_with_each_other() -> None:
    scheduler = scheduler_with(sharing("a", 16, 16, group="g"), enable_prefix_caching=True)
    scheduler.step()
    scheduler.add(sharing("b", 16, 16, group="h"))
    assert scheduled(scheduler) == {"a": 1, "b": 16}


def test_at_least_one_token_is_computed_even_if_all_are_found() -> None:
    scheduler = scheduler_with(sharing("a", 16, 16), enable_prefix_caching=True)
    scheduler.step()
    scheduler.add(sharing("b", 16, 16))
    assert scheduled(scheduler) == {"a": 1, "b": 4}


def test_blocks_can_be_found_in_the_step_that_computes_them() -> None:
    scheduler = scheduler_with(sharing("a", 20, 16), sharing("b", 20, 16), enable_prefix_caching=True)
    assert scheduled(scheduler) == {"a": 20, "b": 4}


def test_a_full_but_idle_cache_counts_as_free_and_is_found() -> None:
    scheduler = scheduler_with(sharing("a", 20, 16, 1), enable_prefix_caching=True)
    (result, *_rest) = run_out(scheduler)
    assert output_of(result).stats.kv_cache_usage == 0.0
    scheduler.add(sharing("b", 20, 16, 1))
    assert scheduled(scheduler) == {"b": 4}


def test_idle_blocks_that_are_found_still_need_room() -> None:
    scheduler = scheduler_with(sharing("a", 20, 16, 1), enable_prefix_caching=True)
    run_out(scheduler)
    scheduler.add(request("big", 24, 9))
    scheduler.step()
    scheduler.add(sharing("b", 21, 16))
    # Four blocks are free and b wants six, of which it has found four: those are among the free ones.
    assert scheduler.num_free_blocks == 4
    assert scheduled(scheduler) == {"big": 1}


def test_of_equal_blocks_the_oldest_is_found() -> None:
    scheduler = scheduler_with(
        sharing("a", 16, 16, 1), sharing("b", 16, 16, 2), sharing("c", 16, 16, 9), enable_prefix_caching=True
    )
    # Each computes its own copy of the fourth block, for the last token is never taken from the cache.
    assert scheduled(scheduler) == {"a": 16, "b": 4, "c": 4}
    scheduler.step()
    # a and b are gone. These four blocks are overwritten: three never used, then a's copy.
    scheduler.add(request("other", 14, 1))
    scheduler.step()
    assert scheduler.num_free_blocks == 5
    scheduler.add(sharing("d", 20, 16, 1))
    # d takes up three blocks that c holds, b's copy, which is idle, and one to compute; c's copy would be held.
    assert batch_of(scheduler.step()).num_free_blocks == 3


def test_the_end_of_a_sequence_is_forgotten_before_its_start() -> None:
    scheduler = scheduler_with(sharing("a", 20, 20, 1), enable_prefix_caching=True)
    run_out(scheduler)
    # Nine blocks: the five that were never used and four of a's, the last of them first.
    scheduler.add(request("other", 28, 1))
    run_out(scheduler)
    scheduler.add(sharing("b", 20, 20, 1))
    assert scheduled(scheduler) == {"b": 20 - 12}


@pytest.mark.parametrize(("uncached_blocks_first", "computed"), [(True, 4), (False, 8)])
def test_freed_blocks_that_cannot_be_found_are_reused_first(*, uncached_blocks_first: bool, computed: int) -> None:
    scheduler = scheduler_with(
        sharing("a", 16, 16, 1), enable_prefix_caching=True, uncached_blocks_first=uncached_blocks_first
    )
    run_out(scheduler)
    # Each of these wants one block and leaves nothing to be found. Six blocks were never used: if they all come
    # before those of a, the seventh and the eighth overwrite a's last two.
    for number in range(8):
        scheduler.add(request(f"tiny {number}", 3, 1))
        run_out(scheduler)
    scheduler.add(sharing("b", 16, 16, 1))
    assert scheduled(scheduler) == {"b": computed}


def test_a_resumed_request_finds_what_is_left_of_what_it_had_computed() -> None:
    scheduler = crowded(enable_prefix_caching=True)
    resumed = [batch_of(scheduler.step()) for _ in range(5)][-1]
    # a and b have each overwritten one of its three blocks, the last ones.
    assert resumed.num_scheduled_tokens == {"c": 9}
    assert resumed.recomputed_tokens == 8


def test_its_own_output_can_be_found_again() -> None:
    scheduler = scheduler_with(
        request("a", 8, 20, priority=1), enable_prefix_caching=True, scheduling_policy="priority"
    )
    for _ in range(10):
        scheduler.step()
    # a has computed 17 tokens in five blocks. An urgent request takes the other five, and one more for its last token.
    scheduler.add(request("urgent", 20, 2, priority=0))
    assert scheduled(scheduler) == {"a": 1, "urgent": 20}
    assert batch_of(scheduler.step()).preempted == ("a",)
    resumed = batch_of(scheduler.step())
    # 19 tokens are known; the four whole blocks among the 18 computed are still there.
    assert resumed.num_scheduled_tokens == {"a": 3}
    assert resumed.recomputed_tokens == 2


def test_lookups_are_counted_when_a_request_is_admitted() -> None:
    scheduler = scheduler_with(request("a", 24, 3), request("b", 20, 1), enable_prefix_caching=True)
    queries = [output_of(result).stats.prefix_cache_queries for result in run_out(scheduler)]
    assert queries == [24, 0, 0, 20, 0]


def test_before_0_27_every_look_at_a_blocked_head_counted() -> None:
    scheduler = scheduler_with(
        request("a", 24, 3), request("b", 20, 1), enable_prefix_caching=True, count_lookups_every_step=True
    )
    queries = [output_of(result).stats.prefix_cache_queries for result in run_out(scheduler)]
    assert queries == [44, 20, 20, 20, 0]


@pytest.mark.parametrize("counted", [False, True])
def test_lookups_of_resumed_requests_count_only_before_0_11_1(*, counted: bool) -> None:
    scheduler = crowded(enable_prefix_caching=True, count_preempted_lookups=counted)
    queries = sum(output_of(result).stats.prefix_cache_queries for result in run_out(scheduler))
    assert queries == (13 if counted else 0)


def test_without_prefix_caching_nothing_is_looked_up() -> None:
    scheduler = scheduler_with(sharing("a", 20, 16), sharing("b", 20, 16))
    stats = [output_of(result).stats for result in run_out(scheduler)]
    assert all(each.prefix_cache_queries == each.prefix_cache_hits == 0 for each in stats)


# --- Async scheduling ---


def test_the_first_step_has_no_output_and_each_later_one_that_of_the_step_before() -> None:
    scheduler = scheduler_with(request("a", 4, 2), async_scheduling=True)
    results = run_out(scheduler)
    assert [result.output and result.output.step for result in results] == [None, 0, 1, 2, 3]
    assert [result.batch and result.batch.num_scheduled_tokens for result in results] == [
        {"a": 4},
        {"a": 1},
        {},
        {},
        None,
    ]


def test_a_request_still_gets_one_token_a_step() -> None:
    scheduler = scheduler_with(request("a", 4, 9), async_scheduling=True)
    emitted = [len(result.output.emitted) for result in run_out(scheduler) if result.output]
    assert emitted == [1] * 9 + [0, 0]


def test_a_finished_request_keeps_its_place_and_its_blocks_one_step_longer() -> None:
    scheduler = scheduler_with(request("a", 4, 1), request("b", 4, 1), max_num_seqs=1, async_scheduling=True)
    batches = [batch_of(scheduler.step()) for _ in range(3)]
    assert [batch.num_scheduled_tokens for batch in batches] == [{"a": 4}, {}, {"b": 4}]
    assert [batch.num_free_blocks for batch in batches] == [9, 9, 9]


def test_an_end_of_sequence_comes_too_late_to_save_one_step() -> None:
    scheduler = scheduler_with(request("a", 4, 9, eos_after=2), async_scheduling=True)
    results = run_out(scheduler)
    tokens = [result.batch.num_scheduled_tokens for result in results if result.batch]
    assert tokens[:3] == [{"a": 4}, {"a": 1}, {"a": 1}]
    assert all(not each for each in tokens[3:])
    assert sum(len(result.output.emitted) for result in results if result.output) == 2


def test_a_token_in_flight_when_its_request_is_preempted_is_delivered() -> None:
    scheduler = scheduler_with(request("a", 16, 5), request("b", 12, 5), request("c", 12, 5), async_scheduling=True)
    scheduler.step()
    result = scheduler.step()
    assert batch_of(result).preempted == ("c",)
    assert output_of(result).emitted == ("a", "b", "c")
    assert output_of(result).preempt_events == ("c",)


def test_such_a_token_can_end_a_request_that_waits() -> None:
    scheduler = scheduler_with(
        request("a", 16, 5), request("b", 12, 5), request("c", 12, 5, eos_after=1), async_scheduling=True
    )
    scheduler.step()
    result = scheduler.step()
    assert batch_of(result).waiting == ("c",)
    assert output_of(result).finished == ("c",)
    assert scheduler.num_waiting == 0


# --- Aborts ---


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_an_aborted_request_is_gone_with_its_blocks(*, async_scheduling: bool) -> None:
    scheduler = scheduler_with(request("a"), request("b"), async_scheduling=async_scheduling)
    scheduler.step()
    assert scheduler.abort("a")
    assert scheduler.num_free_blocks == 9
    results = run_out(scheduler)
    assert all("a" not in result.output.emitted for result in results if result.output)
    assert sum(result.output.emitted.count("b") for result in results if result.output) >= 3


def test_a_waiting_request_can_be_aborted() -> None:
    for policy in ("fcfs", "priority"):
        scheduler = scheduler_with(request("a"), request("b"), max_num_seqs=1, scheduling_policy=policy)
        scheduler.step()
        assert scheduler.abort("b")
        assert scheduler.waiting_order() == ()


def test_aborting_what_is_not_there_does_nothing() -> None:
    assert not scheduler_with(request("a")).abort("b")


def test_an_id_can_be_used_again_once_its_request_is_gone() -> None:
    scheduler = scheduler_with(request("a", 8, 1), enable_prefix_caching=True)
    with pytest.raises(ValueError, match="already there"):
        scheduler.add(request("a"))
    run_out(scheduler)
    scheduler.add(request("a", 8, 1))
    assert scheduled(scheduler) == {"a": 8}


# --- Counts ---


def test_a_batch_tells_prefill_from_decode() -> None:
    scheduler = scheduler_with(request("a", 9))
    scheduler.step()
    scheduler.add(request("b", 6))
    batch = batch_of(scheduler.step())
    assert (batch.prefill_tokens, batch.decode_tokens, batch.total_num_scheduled_tokens) == (6, 1, 7)
    assert batch.context_tokens == 9
    assert (batch.num_running, batch.num_waiting) == (2, 0)
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 0)
    assert scheduler.num_used_blocks == 5 and scheduler.num_free_blocks == 5


# --- What is refused ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_gpu_blocks": 1}, "null block"),
        ({"block_size": 0}, "block_size"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_num_batched_tokens": 7}, "decodes one token"),
        ({"watermark": 1.0}, "watermark"),
        ({"scheduling_policy": "lottery"}, "lottery"),
        ({"max_num_active_seqs": 9}, "max_num_active_seqs"),
        ({"long_prefill_token_threshold": -1}, "long_prefill_token_threshold"),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 39}, "without chunked prefill"),
    ],
)
def test_flags_that_vllm_refuses_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**flags)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_tokens": 0}, "at least 1"),
        ({"max_tokens": 0}, "at least 1"),
        ({"eos_after": 0}, "eos_after"),
        ({"shared_prefix_tokens": 5, "prefix_group": "g"}, "within the prompt"),
        ({"shared_prefix_tokens": 4}, "prefix_group"),
    ],
)
def test_requests_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request("a", **fields)


def test_a_prompt_that_leaves_no_room_for_output_is_refused() -> None:
    with pytest.raises(ValueError, match="no room for output"):
        scheduler_with(request("a", 40))


def test_a_request_that_could_never_finish_is_refused() -> None:
    scheduler = scheduler_with(num_gpu_blocks=6)
    with pytest.raises(ValueError, match="grows to 6 blocks of 4 tokens, more than the 5 there are"):
        scheduler.add(request("a", 10, 12))
    scheduler.add(request("a", 10, 11))
    assert sum(len(output_of(result).emitted) for result in run_out(scheduler)) == 11


# --- Releases ---


def for_version(*version: int, **flags: Any) -> SchedulerConfig:
    return SchedulerConfig.for_version(
        version,
        num_gpu_blocks=11,
        block_size=4,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        max_model_len=40,
        **flags,
    )


@pytest.mark.parametrize(
    ("switch", "last_without", "first_with"),
    [
        ("async_scheduling", (0, 13, 0), (0, 14)),
        ("scheduler_reserve_full_isl", (0, 18, 1), (0, 19)),
        ("uncached_blocks_first", (0, 23, 0), (0, 24)),
    ],
)
def test_a_rule_holds_from_its_release_on(
    switch: str, last_without: tuple[int, ...], first_with: tuple[int, ...]
) -> None:
    assert not getattr(for_version(*last_without), switch)
    assert getattr(for_version(*first_with), switch)


@pytest.mark.parametrize(
    ("switch", "last_with", "first_without"),
    [
        ("count_preempted_lookups", (0, 11, 0), (0, 11, 1)),
        ("count_lookups_every_step", (0, 26, 0), (0, 27)),
        ("long_prefill_threshold_when_alone", (0, 30, 0), (0, 31)),
        ("stop_after_self_preemption", (0, 32, 0), (0, 33)),
    ],
)
def test_a_rule_holds_up_to_its_release(
    switch: str, last_with: tuple[int, ...], first_without: tuple[int, ...]
) -> None:
    assert getattr(for_version(*last_with), switch)
    assert not getattr(for_version(*first_without), switch)


def test_the_defaults_are_those_of_0_32() -> None:
    flags = {
        "num_gpu_blocks": 11,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "max_model_len": 40,
    }
    assert for_version(0, 32) == SchedulerConfig(**flags) == SchedulerConfig.for_version(**flags)


@pytest.mark.parametrize(
    ("version", "flags", "message"),
    [
        ((0, 10, 1), {}, "V1 scheduler takes vLLM 0.10.2 or newer, not 0.10.1"),
        ((0, 9, 2), {}, "not 0.9.2"),
        ((0, 18, 1), {"scheduler_reserve_full_isl": True}, "scheduler_reserve_full_isl takes vLLM 0.19 or newer"),
        ((0, 23, 0), {"watermark": 0.1}, "watermark takes vLLM 0.24"),
        ((0, 30, 0), {"max_num_active_seqs": 2}, "max_num_active_seqs takes vLLM 0.31"),
        ((0, 30, 0), {"long_prefill_token_threshold_adaptive": True}, "0.31"),
        ((0, 11, 0), {"async_scheduling": True}, "async_scheduling takes vLLM 0.11.1"),
        ((0, 11, 0), {"scheduling_policy": "priority"}, "priority takes vLLM 0.11.1"),
        ((0, 11, 2), {"enable_chunked_prefill": False}, "without chunked prefill takes vLLM 0.12"),
    ],
)
def test_a_release_that_works_otherwise_is_refused(
    version: tuple[int, ...], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        for_version(*version, **flags)


def test_the_cache_holds_one_block_less_than_reported() -> None:
    assert config().kv_cache_tokens == 40


# --- Any load ---


@st.composite
def loads(draw: st.DrawFn) -> tuple[SchedulerConfig, list[tuple[int, Request]]]:
    """Flags and requests, each with the step it is added before."""
    block_size = draw(st.integers(1, 6))
    usable_blocks = draw(st.integers(4, 30))
    max_model_len = draw(st.integers(3, usable_blocks * block_size))
    max_num_seqs = draw(st.integers(1, 8))
    flags = config(
        num_gpu_blocks=usable_blocks + 1,
        block_size=block_size,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=draw(st.integers(max_num_seqs, 40)),
        enable_prefix_caching=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
        scheduler_reserve_full_isl=draw(st.booleans()),
        scheduling_policy=draw(st.sampled_from(("fcfs", "priority"))),
        stop_after_self_preemption=False,
        uncached_blocks_first=draw(st.booleans()),
        watermark=draw(st.sampled_from((0.0, 0.1, 0.5))),
        long_prefill_token_threshold=draw(st.integers(0, 10)),
    )
    requests = []
    for number in range(draw(st.integers(1, 12))):
        prompt_tokens = draw(st.integers(1, max_model_len - 1))
        group = draw(st.sampled_from((None, "g", "h")))
        requests.append(
            (
                draw(st.integers(0, 30)),
                request(
                    str(number),
                    prompt_tokens,
                    draw(st.integers(1, 40)),
                    eos_after=draw(st.none() | st.integers(1, 40)),
                    prefix_group=group,
                    shared_prefix_tokens=draw(st.integers(0, prompt_tokens)) if group else 0,
                    priority=draw(st.integers(0, 2)),
                ),
            )
        )
    return flags, sorted(requests, key=lambda entry: entry[0])


def assert_blocks_add_up(scheduler: Scheduler) -> None:
    """Each block is free or held, by as many as count themselves among its holders, and shared only by equals."""
    pool: Any = scheduler._pool
    lives = list(scheduler._lives.values())
    assert 0 <= scheduler.num_free_blocks <= pool.num_blocks
    assert scheduler.num_used_blocks + scheduler.num_free_blocks == pool.num_blocks
    assert 0.0 <= pool.usage <= 1.0
    assert all(live.computed <= live.slots for live in lives)
    assert all(live.slots == 0 for live in scheduler._waiting)
    if not scheduler.config.enable_prefix_caching:
        assert scheduler.num_used_blocks == sum(live.slots for live in lives) // scheduler.config.block_size
        return
    holders = Counter(block for live in lives for block in live.blocks)
    assert {block for block, references in enumerate(pool._references) if references} == set(holders)
    assert all(pool._references[block] == number for block, number in holders.items())
    assert set(pool._free).isdisjoint(holders)
    assert len(pool._free) == pool.num_free and set(pool._free) | set(holders) == set(range(1, pool.num_blocks + 1))
    assert all(len(live.blocks) * pool.block_size == live.slots for live in lives)
    for block in (block for block, number in holders.items() if number > 1):
        places = {
            (
                live.blocks.index(block),
                live.shared_name if live.blocks.index(block) < live.num_shared else live.own_name,
            )
            for live in lives
            if block in live.blocks
        }
        assert len(places) == 1
    assert all(pool._names[block] == name for name, block in pool._found.items())
    assert all(pool._names[block] == name for name, blocks in pool._duplicates.items() for block in blocks)


@settings(max_examples=150)
@given(loads())
def test_blocks_add_up_and_nobody_is_lost_whatever_the_load(
    load: tuple[SchedulerConfig, list[tuple[int, Request]]],
) -> None:
    flags, requests = load
    scheduler = Scheduler(flags, record=True)
    pending = list(requests)
    tokens: Counter[str] = Counter()
    finished: list[str] = []
    events = step = 0
    while pending or scheduler.has_work:
        while pending and pending[0][0] <= step:
            scheduler.add(pending.pop(0)[1])
        result = scheduler.step()
        if result.batch is not None:
            batch = result.batch
            assert batch.num_scheduled_tokens is not None and batch.running is not None and batch.waiting is not None
            assert batch.total_num_scheduled_tokens == sum(batch.num_scheduled_tokens.values())
            assert batch.total_num_scheduled_tokens <= flags.max_num_batched_tokens
            assert set(batch.num_scheduled_tokens) <= set(batch.running)
            assert batch.num_running <= flags.max_num_seqs
            assert not (batch.preempted and batch.admitted)
            assert set(batch.running).isdisjoint(batch.waiting)
            assert set(batch.running) | set(batch.waiting) >= set(batch.preempted)
        if result.output is not None:
            tokens.update(result.output.emitted)
            finished.extend(result.output.finished)
            events += len(result.output.preempt_events)
            assert 0.0 <= result.output.stats.kv_cache_usage <= 1.0
        assert_blocks_add_up(scheduler)
        step += 1
        assert step < 20_000
    assert scheduler.num_free_blocks == flags.num_gpu_blocks - 1
    assert sorted(finished) == sorted(each.request_id for _, each in requests)
    assert events == scheduler.num_preemptions
    for _, each in requests:
        lengths = (each.max_tokens, each.eos_after or each.max_tokens, flags.max_model_len - each.prompt_tokens)
        assert tokens[each.request_id] == min(lengths)


@settings(max_examples=60)
@given(loads(), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 11)), max_size=8))
def test_aborts_leave_nothing_behind(
    load: tuple[SchedulerConfig, list[tuple[int, Request]]], aborts: list[tuple[int, int]]
) -> None:
    flags, requests = load
    scheduler = Scheduler(flags)
    pending = list(requests)
    ended: set[str] = set()
    step = 0
    while pending or scheduler.has_work:
        while pending and pending[0][0] <= step:
            scheduler.add(pending.pop(0)[1])
        for when, number in aborts:
            if when == step and scheduler.abort(str(number)):
                ended.add(str(number))
        result = scheduler.step()
        if result.output is not None:
            assert ended.isdisjoint(result.output.emitted)
            ended.update(result.output.finished)
        assert_blocks_add_up(scheduler)
        step += 1
        assert step < 20_000
    assert ended == {each.request_id for _, each in requests}
    assert scheduler.num_free_blocks == flags.num_gpu_blocks - 1


# --- Replay ---


def arrivals(*requests: tuple[float, Request]) -> list[Arrival]:
    return [Arrival(seconds=seconds, request=each) for seconds, each in requests]


ONE_SECOND = StepTimeModel(base_seconds=1.0)


def test_a_step_takes_its_fixed_part_and_a_part_for_what_is_in_it() -> None:
    model = StepTimeModel(
        base_seconds=1.0,
        per_prefill_token_seconds=0.1,
        per_decode_request_seconds=0.01,
        per_context_token_seconds=0.001,
    )
    scheduler = scheduler_with(request("a", 10))
    assert model(batch_of(scheduler.step())) == pytest.approx(2.0)
    assert model(batch_of(scheduler.step())) == pytest.approx(1.0 + 0.01 + 10 * 0.001)


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a_request_alone_takes_one_step_a_token(*, async_scheduling: bool) -> None:
    result = replay(config(async_scheduling=async_scheduling), arrivals((5.0, request("a", 4, 3))), ONE_SECOND)
    (times,) = result.requests
    assert (times.queue_seconds, times.time_to_first_token_seconds, times.end_to_end_seconds) == (0.0, 1.0, 3.0)
    assert (times.max_gap_seconds, times.mean_gap_seconds, times.output_tokens) == (1.0, 1.0, 3)
    assert (result.steps, result.output_tokens, result.prefill_tokens) == (3, 3, 4)
    assert (result.duration_seconds, result.busy_seconds, result.output_tokens_per_second) == (3.0, 3.0, 1.0)
    assert (result.mean_running, result.peak_running) == (1.0, 1)
    # One block in the first step, two in the other two.
    assert result.peak_usage == 0.2
    if not async_scheduling:
        assert result.mean_usage == pytest.approx((0.1 + 0.2 + 0.2) / 3)


def test_a_request_that_arrives_during_a_step_joins_the_next() -> None:
    result = replay(config(), arrivals((0.0, request("a", 4, 4)), (0.25, request("b", 4, 1))), ONE_SECOND)
    second = result.requests[1]
    assert second.queue_seconds == pytest.approx(0.75)
    assert second.time_to_first_token_seconds == pytest.approx(1.75)
    assert second.end_to_end_seconds == pytest.approx(1.75)
    assert second.max_gap_seconds == second.mean_gap_seconds == 0.0


def test_with_async_scheduling_it_joins_the_one_after() -> None:
    flags = config(async_scheduling=True)
    result = replay(flags, arrivals((0.0, request("a", 4, 4)), (0.25, request("b", 4, 1))), ONE_SECOND)
    # The second step was scheduled at once, so that b is in the third: from second 2 to second 3.
    second = result.requests[1]
    assert second.queue_seconds == pytest.approx(0.75)
    assert second.time_to_first_token_seconds == pytest.approx(2.75)


def test_a_long_prefill_stalls_those_that_decode() -> None:
    model = StepTimeModel(base_seconds=1.0, per_prefill_token_seconds=0.5)
    result = replay(config(), arrivals((0.0, request("a", 2, 5)), (2.5, request("b", 20, 1))), model)
    # Steps end at 2 (two prompt tokens), 3, then 14 (b's twenty), 15, 16.
    first, second = result.requests
    assert first.time_to_first_token_seconds == 2.0
    assert first.max_gap_seconds == 11.0
    assert first.end_to_end_seconds == 16.0
    assert first.mean_gap_seconds == 3.5
    assert second.time_to_first_token_seconds == 11.5


def test_time_without_work_is_skipped_and_counts_as_nothing() -> None:
    result = replay(config(), arrivals((0.0, request("a", 4, 2)), (8.0, request("b", 4, 2))), ONE_SECOND)
    assert (result.duration_seconds, result.busy_seconds, result.steps) == (10.0, 4.0, 4)
    assert result.mean_running == pytest.approx(0.4)
    assert result.output_tokens_per_second == pytest.approx(0.4)
    assert result.requests[1].time_to_first_token_seconds == 1.0


def test_waiting_for_a_place_is_queue_time() -> None:
    result = replay(config(max_num_seqs=1), arrivals(*((0.0, request(name, 4, 2)) for name in "abc")), ONE_SECOND)
    assert [times.queue_seconds for times in result.requests] == [0.0, 2.0, 4.0]
    assert result.peak_waiting == 2
    assert result.mean_waiting == pytest.approx((2 * 2 + 1 * 2) / 6)
    assert result.mean_running == 1.0


def test_preemptions_show_in_counts_and_as_a_stall() -> None:
    result = replay(
        config(),
        arrivals((0.0, request("a", 16, 5)), (0.0, request("b", 12, 5)), (0.0, request("c", 12, 5))),
        ONE_SECOND,
    )
    assert [times.num_preemptions for times in result.requests] == [0, 0, 1]
    # c has its first token at 1, waits until a and b are done at 5, and has its second at 6 and its last at 9.
    last = result.requests[2]
    assert (last.time_to_first_token_seconds, last.max_gap_seconds, last.end_to_end_seconds) == (1.0, 5.0, 9.0)
    assert last.queue_seconds == 0.0
    assert (result.num_preemptions, result.recomputed_tokens) == (1, 12)
    assert result.prefill_tokens == 16 + 12 + 12 + 13


def test_prefix_hits_show_in_what_is_computed() -> None:
    result = replay(
        config(enable_prefix_caching=True),
        arrivals((0.0, sharing("a", 20, 16)), (0.0, sharing("b", 20, 16))),
        ONE_SECOND,
    )
    assert (result.prefix_cache_queries, result.prefix_cache_hits, result.prefill_tokens) == (40, 16, 24)


def test_the_order_of_the_arrivals_given_does_not_matter() -> None:
    given_arrivals = arrivals((3.0, request("b")), (0.0, request("a")))
    assert replay(config(), given_arrivals, ONE_SECOND) == replay(config(), given_arrivals[::-1], ONE_SECOND)


def test_any_function_of_the_batch_can_tell_the_time() -> None:
    result = replay(config(), arrivals((0.0, request("a", 4, 2))), lambda batch: batch.total_num_scheduled_tokens / 2)
    assert result.duration_seconds == 2.5


def test_steps_that_take_no_time_give_no_division_by_it() -> None:
    result = replay(config(), arrivals((0.0, request("a"))), lambda _batch: 0.0)
    assert result.duration_seconds == result.output_tokens_per_second == result.mean_running == 0.0


def test_a_replay_that_takes_too_long_says_how_far_it_got() -> None:
    load = arrivals((0.0, request("a", 4, 2)), (0.0, request("b", 4, 30)), (0.0, request("c", 4, 2)))
    with pytest.raises(
        StepLimitError, match=r"10 steps, 10\.0 simulated seconds.*1 of 3 requests have finished, 1 wait"
    ):
        replay(config(max_num_seqs=1, max_model_len=36), load, ONE_SECOND, max_steps=10)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ([], "no arrivals"),
        (arrivals((0.0, request("a")), (1.0, request("a"))), "same request_id"),
        (arrivals((0.0, request("a", 40))), "no room for output"),
    ],
)
def test_a_load_that_cannot_be_replayed_is_refused(load: list[Arrival], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replay(config(), load, ONE_SECOND)


def test_requests_of_equal_urgency_that_arrived_together_can_preempt_each_other_forever_as_in_vllm() -> None:
    flags = config(
        scheduling_policy="priority",
        scheduler_reserve_full_isl=False,
        long_prefill_token_threshold=4,
        max_model_len=36,
    )
    load = arrivals(*((0.0, request(name, 20, 16, arrival_time=0)) for name in "ab"))
    with pytest.raises(StepLimitError, match="0 of 2 requests have finished"):
        replay(flags, load, ONE_SECOND, max_steps=20_000)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_step_that_takes_no_possible_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        replay(config(), arrivals((0.0, request("a"))), lambda _batch: seconds)


@settings(max_examples=60)
@given(loads())
def test_times_are_in_order_whatever_the_load(load: tuple[SchedulerConfig, list[tuple[int, Request]]]) -> None:
    flags, requests = load
    model = StepTimeModel(base_seconds=0.5, per_prefill_token_seconds=0.01)
    result = replay(flags, arrivals(*((float(when), each) for when, each in requests)), model, max_steps=20_000)
    for times in result.requests:
        assert 0.0 <= times.queue_seconds < times.time_to_first_token_seconds <= times.end_to_end_seconds + 1e-9
        assert times.max_gap_seconds + 1e-9 >= times.mean_gap_seconds
    assert result.busy_seconds <= result.duration_seconds + 1e-6
    assert 0.0 <= result.mean_usage <= result.peak_usage <= 1.0
    assert 0.0 <= result.mean_running <= result.peak_running <= flags.max_num_seqs
    assert result.steps * 0.5 <= result.busy_seconds + 1e-6

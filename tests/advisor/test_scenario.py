"""Scripted runs of the scheduler, and their recordings."""

import gzip
import json
from pathlib import Path

import pytest

from advisor.scenario import ScenarioError, StepsExceededError, play, scenario_from, trace_record
from tests.advisor.test_simulate import as_recorded

CAPTURES = Path(__file__).parents[1] / "captures" / "scheduler"
KEYS = {
    "num_gpu_blocks": "num_blocks",
    "async_scheduling": "async",
    "enable_prefix_caching": "prefix_caching",
    "enable_chunked_prefill": "chunked_prefill",
    "scheduling_policy": "policy",
    "scheduler_reserve_full_isl": "reserve_full_isl",
}


def script(**changes):
    """Two requests of one block each in a pool of ten blocks of four tokens."""
    return {
        "name": "two",
        "num_blocks": 11,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "max_model_len": 40,
        "async": False,
        "prefix_caching": False,
        "requests": [
            {"id": "a", "step": 0, "prompt": 3, "max_tokens": 2, "prefix": 0, "priority": 0},
            {"id": "b", "step": 1, "prompt": 3, "max_tokens": 1, "prefix": 0, "priority": 0},
        ],
    } | changes


def played(row, **more):
    return play(scenario_from(row, where="here"), **more)


def recorded(name):
    for line in gzip.decompress((CAPTURES / "traces-0.32.0.jsonl.gz").read_bytes()).splitlines():
        run = json.loads(line)
        if run["name"] == name:
            return run
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["tiny-1", "unchunked-0", "unchunked-1"])
def test_a_script_does_at_every_step_what_vllm_did(name):
    run = recorded(name)
    names = {str(position): position for position in range(len(run["requests"]))}
    config = {
        KEYS.get(key, key): value
        for key, value in run["config"].items()
        if key != "long_prefill_token_threshold_adaptive"
    }
    requests = [
        {
            "id": position,
            "step": each["step"],
            "prompt": each["prompt_tokens"],
            "max_tokens": each["max_tokens"],
            "prefix": each["shared_prefix_tokens"],
            "priority": each["priority"],
        }
        for position, each in enumerate(run["requests"])
    ]
    trace = played({"name": name, **config, "requests": requests})
    assert [as_recorded(step) for step in trace.steps] == [step for step in run["steps"] if step[1] or step[2]]
    assert set(trace.finished) == set(names)


def test_the_record_has_the_names_of_recordings_of_vllm():
    record = trace_record(played(script()))
    assert record["finished"] == {"a": 1, "b": 1}
    assert (record["num_steps"], record["total_preemptions"]) == (3, 0)
    assert record["steps"][1] == {
        "step": 1,
        "scheduled": {"a": 1, "b": 3},
        "preempted": [],
        "running": ["a", "b"],
        "waiting": [],
        "free_after_schedule": 8,
        "processed_step": 1,
        "emitted": ["a", "b"],
        "finished": ["a", "b"],
        "preempt_events_delivered": [],
        "free_after_output": 10,
        "stats": {"running": 0, "waiting": 0, "deferred": 0, "usage": 0.0, "pc_queries": 0, "pc_hits": 0},
    }


def test_with_async_scheduling_a_request_finishes_in_the_step_that_computed_its_last_token():
    record = trace_record(played(script(**{"async": True})))
    assert record["finished"] == {"a": 1, "b": 1}
    assert "processed_step" not in record["steps"][0]
    assert record["steps"][-1]["processed_step"] == record["steps"][-1]["step"] - 1


def test_steps_without_work_count_and_are_not_recorded():
    late = script(requests=[{"id": "late", "step": 5, "prompt": 3, "max_tokens": 1}])
    record = trace_record(played(late))
    assert [step["step"] for step in record["steps"]] == [5, 6]
    assert (record["num_steps"], record["finished"]) == (2, {"late": 5})


def test_requests_join_in_the_order_of_their_steps_whatever_the_order_of_the_file():
    rows = script()["requests"]
    assert trace_record(played(script(requests=rows[::-1])))["steps"][0]["running"] == ["a"]


def test_a_prefix_longer_than_a_prompt_is_the_whole_prompt():
    row = script(prefix_caching=True, requests=[{"id": "a", "step": 0, "prompt": 6, "max_tokens": 1, "prefix": 13}])
    assert scenario_from(row, where="here").arrivals[0][1].shared_prefix_tokens == 6


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_blocks": None}, "here: num_blocks is missing"),
        ({"num_blocks": "many"}, "here: num_blocks must be a whole number, not 'many'"),
        ({"num_blocks": 10**12}, "here: num_blocks is 1,000,000,000,000, at most"),
        ({"async": 1}, "here: async must be true or false, not 1"),
        ({"max_num_sequences": 4}, "here: unknown key 'max_num_sequences'"),
        ({"policy": "lifo"}, "here: scheduling_policy is fcfs or priority, not 'lifo'"),
        ({"requests": []}, "here: requests must be a list with at least one request"),
        ({"requests": ["a"]}, r"here: requests\[0\]: an object is needed, this is str"),
        ({"requests": [{"prompt": 0, "max_tokens": 1}]}, r"requests\[0\]: request 0: prompt_tokens and max_tokens"),
        ({"requests": [{"prompt": 1.5, "max_tokens": 1}]}, r"requests\[0\]: prompt must be a whole number, not 1.5"),
        ({"requests": [{"prompt": 1, "max_tokens": 1, "step": -1}]}, r"step must be a whole number, not -1"),
        ({"requests": [{"prompt": 1, "max_tokens": 1, "length": 2}]}, r"requests\[0\]: unknown key 'length'"),
        ({"requests": [{"id": 1, "prompt": 1, "max_tokens": 1}] * 2}, r"requests\[1\]: the id 1 is used twice"),
        ({"requests": [{"prompt": 40, "max_tokens": 1}]}, "leaves no room for output"),
    ],
)
def test_what_is_no_scenario_is_refused_with_its_place(changes, problem):
    with pytest.raises(ScenarioError, match=problem):
        played(script(**changes))


def test_every_problem_is_told_at_once():
    with pytest.raises(ScenarioError) as caught:
        scenario_from(script(num_blocks=None, block_size=None, speed=2), where="here")
    assert len(str(caught.value).splitlines()) == 3


def test_a_run_without_end_stops_at_its_limit():
    with pytest.raises(StepsExceededError, match="2 steps were not enough, 0 of 2"):
        played(script(requests=[{"prompt": 8, "max_tokens": 20}, {"prompt": 8, "max_tokens": 20}]), max_steps=2)

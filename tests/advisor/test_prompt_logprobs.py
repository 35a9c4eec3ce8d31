"""What prompt_logprobs would take on Llama-3.1-8B on an H100, whose profile run peaks at 1.89 GiB."""

from dataclasses import replace

import pytest

from advisor.prompt_logprobs import beyond_start_bytes
from advisor.runner import Runner
from advisor.units import GIB
from tests.advisor.examples import gpu, gpu_process, reading, server
from tests.advisor.test_advise import advised, situation
from tests.advisor.test_plan import LLAMA_3_1_8B, planned

VOCABULARY = 128_256


def beyond(*words, version=(0, 19, 0)):
    return beyond_start_bytes(planned(LLAMA_3_1_8B, *words, version=version), VOCABULARY)


def test_the_first_runner_takes_all_rows_of_a_step_at_once():
    plan = planned(LLAMA_3_1_8B)
    assert (plan.runner, plan.flags.max_num_batched_tokens) == (Runner.V1, 8192)
    # 8,192 rows x 128,256 entries x (2 + 4) bytes are 5.87 GiB.
    assert beyond() / GIB == pytest.approx(5.87 - 1.89, abs=0.04)


def test_smaller_steps_and_shorter_contexts_take_less():
    assert beyond("--max-num-batched-tokens", "16384") > beyond()
    assert beyond("--max-model-len", "6000") / GIB == pytest.approx(6000 * VOCABULARY * 6 / GIB - 1.89, abs=0.04)
    assert beyond("--max-model-len", "1024") == 0.0, "what the profile run found suffices"


def test_the_second_runner_takes_them_in_pieces_that_fit_what_was_rehearsed():
    assert planned(LLAMA_3_1_8B, version=(0, 32, 0)).runner is Runner.V2
    assert beyond(version=(0, 32, 0)) == 0.0


def crowded(command):
    """Return the report on one engine of 0.19 beside which 2 GiB are free."""
    held = int(76.5 * GIB)
    return advised(
        situation(
            gpus=(gpu(used=held + GIB),),
            gpu_processes=(gpu_process(101, held), gpu_process(900, GIB)),
            servers=(server(command),),
            engines=(replace(reading(usage=0.5, tokens=None), vllm_version="0.19.0"),),
        )
    )


def found(report):
    return [each for each in report.findings if each.rule == "prompt_logprobs_would_not_fit"]


def test_a_host_without_that_much_left_is_told_and_its_risk_is_not_raised():
    report = crowded("vllm serve /models/m --gpu-memory-utilization 0.95 --max-num-batched-tokens 8192")
    (finding,) = found(report)
    (engine,) = report.engines
    assert engine.prompt_logprobs_bytes > report.gpus[0].memory_slack_bytes
    assert (finding.severity, finding.subject) == ("info", engine.engine)
    assert f"{engine.prompt_logprobs_bytes / GIB:.2f} GiB that its start did not rehearse" in finding.summary
    assert report.gpus[0].oom_risk_factor_ratio["claims"] < 0.25


def test_a_host_with_room_for_it_is_not():
    report = advised(situation(gpus=(gpu(used=41 * GIB),), gpu_processes=(gpu_process(101, 40 * GIB),)))
    assert found(report) == []


def test_an_embedding_server_has_no_such_requests():
    report = crowded("vllm serve /models/m --gpu-memory-utilization 0.95 --runner pooling")
    assert report.engines[0].prompt_logprobs_bytes is None
    assert found(report) == []

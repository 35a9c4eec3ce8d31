"""The smallest part of the tuning benchmark on a real vLLM 0.32: what is advised at 64, and what comes of it.

Counts only: wall time is noise.
"""

import os
from pathlib import Path

import pytest

from bench.fidelity.server import QUICK_ENVIRONMENT, serving, write_smaller_model
from bench.tuning.judge import BY_MAX_MODEL_LEN, advice, by_mean_length
from bench.tuning.serve import FLAGS, Server, serve
from bench.tuning.workloads import workloads

pytestmark = pytest.mark.needs_vllm

NAME = "conversation x 0.5"


@pytest.fixture(scope="module")
def vllm():
    return Path(os.environ["VLLM_HEADROOM_TEST_VLLM"])


@pytest.fixture(scope="module")
def model(vllm, tmp_path_factory):
    return write_smaller_model(vllm, tmp_path_factory.mktemp("model"))


def served(vllm, model, log, max_num_seqs, *loads):
    """Start a server and return what came of each (repetition, workload)."""
    flags = (*FLAGS, "--max-num-seqs", str(max_num_seqs))
    with serving(vllm, model, *flags, log=log, environment=QUICK_ENVIRONMENT) as url:
        server = Server(url=url, model=model, log=log, max_num_seqs=max_num_seqs)
        server.warm_up()
        return [serve(server, workload, repetition=repetition) for repetition, workload in loads]


def test_preemptions_fall_and_the_same_work_is_done_with_what_is_advised(vllm, model, tmp_path):
    judged, observed = workloads("judged")[NAME], (0, workloads("observed")[NAME])
    # A load is over in seconds: where other work starves who looks at it, once may be too few looks for any advice.
    *watched, crowded = served(vllm, model, tmp_path / "64.log", 64, observed, observed, observed, (1, judged))
    said = next((found for each in watched if (found := advice([each], NAME, 64))), None)
    assert said is not None, [each.load for each in watched]
    assert (said.current, said.binding) == (64, "kv")
    assert BY_MAX_MODEL_LEN < said.lower <= said.recommended <= said.upper <= by_mean_length(judged)
    (calm,) = served(vllm, model, tmp_path / "advised.log", said.recommended, (1, judged))

    assert all(each.complete for each in watched)
    assert crowded.complete
    assert calm.complete
    assert (calm.prompt_tokens, calm.output_tokens) == (crowded.prompt_tokens, crowded.output_tokens)
    assert crowded.preempted_ratio > 0.05, "the load was meant to overfill the cache"
    assert calm.preempted_ratio < crowded.preempted_ratio / 4
    assert calm.recomputed_tokens < crowded.recomputed_tokens
    # Steps are no matter here: where a busy machine starves the clients, the engine steps with few requests running.

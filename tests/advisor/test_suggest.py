"""What each flag could be instead: the edges of what passes, each a whole plan."""

from dataclasses import replace

import pytest

from advisor.defaults import Device
from advisor.flags import parse_flags
from advisor.model import parse_model
from advisor.plan import plan_engine
from advisor.suggest import suggestions_for
from advisor.units import GIB
from tests.advisor.test_plan import LLAMA_3_1_8B

RTX_4090 = Device(name="NVIDIA GeForce RTX 4090", memory_bytes=int(23.52 * GIB))
SPEC = parse_model(LLAMA_3_1_8B)


def planner(*words, version=(0, 16, 0)):
    flags = parse_flags(["serve", "m", *words])

    def planned(gpu=None, **changes):
        device = RTX_4090 if gpu is None else Device(name=gpu.name, memory_bytes=int(gpu.cuda_total.expected))
        try:
            return plan_engine(SPEC, replace(flags, **changes), version=version, device=device)
        except ValueError:
            return None

    return planned


def suggested(flag, *words):
    planned = planner(*words)
    return [each for each in suggestions_for(planned(), planned) if each.flag == flag], planned


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("max_num_seqs", ("--max-model-len", "8192")),
        ("max_num_batched_tokens", ("--max-model-len", "8192")),
        ("max_model_len", ("--max-model-len", "8192")),
        ("max_model_len", ()),
    ],
)
def test_the_largest_value_that_passes_is_named_and_one_more_does_not_pass(flag, words):
    found, planned = suggested(flag, *words)

    (largest,) = [each.suggested for each in found if each.is_largest]

    assert planned(**{flag: largest}).verdict == "fits"
    more = planned(**{flag: largest + 1})
    assert more is None or more.verdict != "fits"


def test_a_usual_value_that_is_the_largest_to_pass_is_named_once():
    planned = planner("--max-model-len", "44608", version=(0, 33, 0))
    found = [each for each in suggestions_for(planned(), planned) if each.flag == "max_num_seqs"]

    assert [each.suggested for each in found if each.is_largest] == [128]
    assert [each.suggested for each in found].count(128) == 1


def test_a_length_is_never_stretched_beyond_the_models_own():
    found, _ = suggested("max_model_len", "--max-model-len", "2048", "--tensor-parallel-size", "2")

    assert max(each.suggested for each in found) == SPEC.max_position_embeddings


def test_what_a_value_costs_is_what_its_whole_plan_holds_less():
    found, planned = suggested("max_num_seqs", "--max-model-len", "8192")

    for each in found:
        changed = planned(max_num_seqs=each.suggested)
        assert (each.capacity_tokens, each.verdict) == (round(changed.kv_tokens.expected), changed.verdict)
        assert each.tokens_gained == round(changed.kv_tokens.expected - planned().kv_tokens.expected)


def test_a_model_that_is_too_large_gets_the_fewest_gpus_and_the_smallest_gpu_that_hold_it():
    planned = planner("--max-model-len", "131072", "--gpu-memory-utilization", "0.5")
    found = {each.flag: each for each in suggestions_for(planned(), planned)}

    assert planned().verdict == "does_not_fit"
    assert found["tensor_parallel_size"].verdict == found["gpu"].verdict == "fits"
    fewer = planned(tensor_parallel_size=found["tensor_parallel_size"].suggested // 2)
    assert fewer.verdict != "fits"

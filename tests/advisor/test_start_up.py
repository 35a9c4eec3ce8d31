import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.defaults import Device, resolve_flags
from advisor.estimate import Estimate, exactly
from advisor.flags import parse_flags
from advisor.kv.layout import longest_that_fits
from advisor.layers import FullAttention
from advisor.spec import ModelSpec, Quantization
from advisor.start_up import (
    RankMemory,
    Requirement,
    cache_error,
    first_flag_error,
    first_memory_error,
    free_memory_error,
    no_cache_error,
    v0_cache_error,
    verdict,
)
from advisor.units import GIB, MIB
from advisor.versions import parse_version

CAPTURES = Path(__file__).parent.parent / "captures" / "defaults"
T4 = Device(name="Tesla T4", memory_bytes=int(14.56 * GIB))
V100 = Device(name="Tesla V100-SXM2-16GB", memory_bytes=int(15.77 * GIB))
H100 = Device(name="NVIDIA H100 80GB HBM3", memory_bytes=int(79.19 * GIB))


def model(*, heads=8, kv_heads=4, length=40960, dtype="bfloat16", quantization=None):
    layer = (FullAttention(num_kv_heads=kv_heads, head_size=32, head_size_v=32),)
    return ModelSpec(
        architecture="LlamaForCausalLM",
        layers=(layer, layer),
        hidden_size=256,
        intermediate_size=512,
        num_attention_heads=heads,
        num_kv_heads=kv_heads,
        head_size=32,
        vocab_size=1000,
        dtype=dtype,
        quantization=quantization,
        max_position_embeddings=length,
        tie_word_embeddings=False,
        parameters=(),
    )


def resolve(text, *, version, device=H100, length=40960):
    return resolve_flags(
        parse_flags(["serve", "m", *text.split()]),
        version=parse_version(version),
        device=device,
        max_position_embeddings=length,
    )


def flag_error(text, *, version="0.32.0", device=H100, spec=None, **options):
    spec = spec or model()
    flags = resolve(text, version=version, device=device, length=spec.max_position_embeddings)
    return first_flag_error(flags, spec, version=parse_version(version), device=device, **options)


def refusals():
    lines = [line for path in sorted(CAPTURES.glob("flags-*.jsonl")) for line in path.read_text().splitlines()]
    return [record for record in map(json.loads, lines) if "refused" in record]


@pytest.mark.parametrize("record", refusals(), ids=lambda each: f"{each['version']} {' '.join(each['args'])}")
def test_a_real_refusal_is_told_in_the_same_words(record):
    error = flag_error(" ".join(record["args"]), version=record["version"])
    assert error is not None
    assert error.text == record["refused"]


def test_some_refusals_were_compared():
    assert len(refusals()) == 10


def test_flags_that_agree_are_not_refused():
    assert flag_error("--tensor-parallel-size 4 --max-model-len 40960") is None


def test_a_longer_context_may_be_allowed():
    assert flag_error("--max-model-len 50000", allows_long_max_model_len=True) is None
    old = flag_error("--max-model-len 50000", version="0.9.2")
    assert old.text == (
        "User-specified max_model_len (50000) is greater than the derived max_model_len (max_position_embeddings=40960 "
        "or model_max_length=None in model's config.json). This may lead to incorrect model outputs or CUDA errors. "
        "To allow overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"
    )


def test_before_0_10_few_tokens_clash_with_the_default_number_of_requests():
    # From 0.10 on the number of requests follows the tokens.
    text = "--max-num-batched-tokens 512"
    assert flag_error(text, version="0.9.2").text == (
        "max_num_batched_tokens (512) must be greater than or equal to max_num_seqs (1024)."
    )
    assert flag_error(text, version="0.10.2") is None


def test_bfloat16_needs_ampere():
    error = flag_error("--dtype bfloat16", device=T4)
    assert error.text == (
        "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has compute "
        "capability 7.5. You can use float16 instead by explicitly setting the `dtype` flag in CLI, for example: "
        "--dtype=half."
    )
    assert flag_error("--dtype half", device=T4) is None
    assert flag_error("--dtype bfloat16", device=H100) is None


def test_auto_took_bfloat16_from_the_config_until_it_learnt_to_fall_back():
    assert flag_error("", version="0.7.3", device=T4).kind == "bfloat16_unsupported"
    assert flag_error("", version="0.9.2", device=T4) is None


@pytest.mark.parametrize(
    ("version", "method", "config", "device", "said"),
    [
        ("0.10.2", "awq", {}, V100, "The quantization method awq is not supported for the current GPU. Minimum "),
        ("0.24.0", "awq", {}, V100, "The quantization method auto_awq is not supported for the current GPU. Minimum "),
        ("0.13.0", "fp8", {}, T4, "The quantization method fp8 is not supported for the current GPU. Minimum "),
        ("0.16.0", "fp8", {}, T4, None),
        ("0.10.2", "gptq", {}, V100, None),
        ("0.10.2", "awq", {}, T4, None),
        ("0.20.0", "modelopt", {"quant_algo": "NVFP4"}, V100, "The quantization method modelopt_fp4 is not supported"),
        (
            "0.11.0",
            "compressed-tensors",
            {"config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4}}}},
            T4,
            "Quantization scheme is not supported for the current GPU. Min capability: 80. Current capability: 75.",
        ),
        (
            "0.12.0",
            "compressed-tensors",
            {"config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4}}}},
            T4,
            None,
        ),
        ("0.10.2", "unheard_of", {}, V100, None),
    ],
)
def test_quantised_weights_need_a_gpu_that_can_multiply_them(version, method, config, device, said):
    spec = model(dtype="float16", quantization=Quantization(method=method, config=config))
    error = flag_error("", version=version, device=device, spec=spec)
    if said is None:
        assert error is None
    else:
        assert error.text.startswith(said)


# Real reports: release, context, GiB needed and available, longest context that fits, what it said, where.

REPORTS = [
    (
        "0.10.2",
        131072,
        4.54,
        1.71,
        0,
        "(4.54 GiB KV cache is needed, which is larger than the available KV cache memory (1.71 GiB).",
        "https://github.com/vllm-project/vllm/issues/27508",
    ),
    (
        "0.15.2",
        262144,
        24.0,
        3.18,
        34736,
        (
            "(24.0 GiB KV cache is needed, which is larger than the available KV cache memory (3.18 GiB). Based on the "
            "available memory, the estimated maximum model length is 34736. Try"
        ),
        "https://github.com/vllm-project/vllm/issues/34076",
    ),
    (
        "0.18.0",
        1048576,
        22.5,
        17.39,
        810208,
        (
            "(22.5 GiB KV cache is needed, which is larger than the available KV cache memory (17.39 GiB). Based on "
            "the available memory, the estimated maximum model length is 810208. Try"
        ),
        "https://github.com/kaito-project/kaito/issues/2132",
    ),
    (
        "0.29.1",
        196608,
        23.25,
        22.5,
        190272,
        (
            "(23.25 GiB KV cache is needed, which is larger than the available KV cache memory (22.5 GiB). Based on "
            "the available memory, the estimated maximum model length is 190272. Try"
        ),
        "https://github.com/eugr/spark-vllm-docker/issues/396",
    ),
]


@pytest.mark.parametrize(("version", "length", "needed", "available", "longest", "said", "source"), REPORTS)
def test_a_real_report_of_too_small_a_cache_is_told_in_its_words(
    version, length, needed, available, longest, said, source
):
    error = cache_error(
        parse_version(version),
        max_model_len=length,
        available_bytes=available * GIB,
        needed_bytes=needed * GIB,
        bytes_per_block=0,
        longest_max_model_len=longest,
    )
    assert said in error.text
    assert f"max seq len ({length})" in error.text


@pytest.mark.parametrize(("version", "length", "needed", "available", "longest", "said", "source"), REPORTS[1:])
def test_the_longest_context_in_a_real_report_is_found_from_its_sizes(
    version, length, needed, available, longest, said, source
):
    bytes_per_token = needed * GIB / length
    # The report shows two decimals of what was available.
    found = [
        longest_that_fits(length, (available + slack) * GIB, lambda tokens: -(-tokens // 16) * 16 * bytes_per_token)
        for slack in (-0.005, 0.005)
    ]
    assert found[0] <= longest <= found[1]


@pytest.mark.parametrize(
    ("blocks", "length", "tokens", "source"),
    [
        (5096, 131072, 81536, "https://github.com/vllm-project/vllm/issues/13061"),
        (3336, 131072, 53376, "https://github.com/xorbitsai/inference/issues/2440"),
        (148, 16000, 2368, "https://github.com/vllm-project/vllm/pull/4650"),
        (
            471,
            32768,
            7536,
            "https://huggingface.co/spaces/yusufs/vllm-inference/commit/4a9e328471fa0975c70a7ce9677eca3877e860b3",
        ),
        (507, 16384, 8112, "https://github.com/vllm-project/vllm/issues/5248"),
    ],
)
def test_v0_counted_tokens_in_real_reports(blocks, length, tokens, source):
    error = v0_cache_error((0, 6, 3), max_model_len=length, num_gpu_blocks=blocks, block_size=16)
    assert error.text == (
        f"The model's max seq len ({length}) is larger than the maximum number of tokens that can be stored in KV "
        f"cache ({tokens}). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing "
        "the engine."
    )


def test_v0_stages_share_the_blocks_from_0_8():
    shared = {"max_model_len": 1600, "num_gpu_blocks": 100, "block_size": 16, "pipeline_parallel_size": 2}
    assert v0_cache_error((0, 7, 3), **shared) is None
    assert v0_cache_error((0, 8, 5), **shared).numbers["capacity_tokens"] == 800


@pytest.mark.parametrize(
    ("available_gib", "source"),
    [
        (-1.05, "https://github.com/vllm-project/vllm/issues/13882"),
        (-1.44, "https://github.com/llm-d-incubation/llm-d-planner/blob/main/docs/empirical-vllm-memory-results.md"),
    ],
)
def test_nothing_left_for_the_cache_is_told_before_how_much_is_needed(available_gib, source):
    error = cache_error(
        (0, 11, 0), max_model_len=4096, available_bytes=available_gib * GIB, needed_bytes=GIB, bytes_per_block=MIB
    )
    assert error.kind == "no_cache_blocks"
    assert error.text == (
        "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the "
        "engine."
    )


def test_the_words_changed_with_the_releases():
    assert no_cache_error((0, 12, 0)).text.endswith("the engine.")
    assert no_cache_error((0, 13, 0)).text.endswith("the engine. See https://docs.vllm.ai/en/latest/configuration/"
                                                    "conserving_memory/ for more details.")  # fmt: skip
    assert "(this flag also controls CPU memory reservation" in no_cache_error((0, 22, 0)).text


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (
            "0.7.3",
            (
                "To serve at least one request with the models's max seq len (100), (2.00 GB KV cache is needed, which "
                "is larger than the available KV cache memory (1.00 GB). Try increasing `gpu_memory_utilization` or "
                "decreasing `max_model_len` when initializing the engine."
            ),
        ),
        (
            "0.8.5",
            (
                "To serve at least one request with the models's max seq len (100), (2.00 GiB KV cache is needed, "
                "which is larger than the available KV cache memory (1.00 GiB). Based on the available memory,  Try "
                "increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
            ),
        ),
        (
            "0.9.2",
            (
                "To serve at least one request with the models's max seq len (100), (2.00 GiB KV cache is needed, "
                "which is larger than the available KV cache memory (1.00 GiB). Based on the available memory, the "
                "estimated maximum model length is 50. Try increasing `gpu_memory_utilization` or decreasing "
                "`max_model_len` when initializing the engine."
            ),
        ),
        (
            "0.16.0",
            (
                "To serve at least one request with the models's max seq len (100), (2.0 GiB KV cache is needed, which "
                "is larger than the available KV cache memory (1.0 GiB). Based on the available memory, the estimated "
                "maximum model length is 50. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` "
                "when initializing the engine. See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for "
                "more details."
            ),
        ),
        (
            "0.27.0",
            (
                "To serve at least one request with the model's max seq len (100), (2.0 GiB KV cache is needed, which "
                "is larger than the available KV cache memory (1.0 GiB). Based on the available memory, the estimated "
                "maximum model length is 50. Try increasing `gpu_memory_utilization` (which also controls CPU memory "
                "on the CPU backend) or decreasing `max_model_len` when initializing the engine. See "
                "https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
            ),
        ),
    ],
)
def test_each_release_asks_for_a_full_request_in_its_own_words(version, text):
    error = cache_error(
        parse_version(version),
        max_model_len=100,
        available_bytes=GIB,
        needed_bytes=2 * GIB,
        bytes_per_block=0,
        longest_max_model_len=50,
    )
    assert error.text == text


def test_from_0_29_the_null_block_is_set_aside_first():
    sizes = {"max_model_len": 1600, "available_bytes": 100 * MIB, "needed_bytes": 100 * MIB, "bytes_per_block": MIB}
    assert cache_error((0, 27, 0), **sizes) is None
    assert cache_error((0, 29, 0), **sizes).numbers["available_bytes"] == 99 * MIB


def test_auto_shrinks_until_it_fits_and_fails_only_where_nothing_does():
    sizes = {"max_model_len": 1600, "available_bytes": MIB, "needed_bytes": 100 * MIB, "bytes_per_block": MIB}
    assert cache_error((0, 20, 0), **sizes, is_auto=True, longest_max_model_len=16) is None
    assert cache_error((0, 20, 0), **sizes, is_auto=True).kind == "cannot_auto_fit"


def test_v1_wants_its_share_free_from_0_9_1():
    sizes = {"total_bytes": 79.19 * GIB, "free_bytes": 60.5 * GIB, "gpu_memory_utilization": 0.9}
    assert free_memory_error((0, 8, 5), **sizes) is None
    assert free_memory_error((0, 10, 2), **sizes, is_v1=False) is None
    assert free_memory_error((0, 13, 0), **sizes).text == (
        "Free memory on device (60.5/79.19 GiB) on startup is less than desired GPU memory utilization (0.9, 71.27 "
        "GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
    )
    assert "on device cuda:0 (60.5/79.19 GiB)" in free_memory_error((0, 14, 0), **sizes).text
    assert free_memory_error((0, 14, 0), **(sizes | {"free_bytes": 72 * GIB})) is None


def memory(**parts):
    defaults = {
        "total_bytes": 24 * GIB,
        "free_bytes": 23.5 * GIB,
        "weights_bytes": 15 * GIB,
        "kv_available_bytes": 5 * GIB,
        "kv_needed_bytes": 2 * GIB,
        "bytes_per_block": MIB,
        "activation_peak_bytes": GIB,
    }
    return RankMemory(**(defaults | parts))


def memory_error(*, version="0.11.0", text="--max-model-len 4096", **parts):
    flags = resolve(text, version=version, device=Device(name="NVIDIA GeForce RTX 4090", memory_bytes=24 * GIB))
    return first_memory_error(memory(**parts), flags, version=parse_version(version))


def test_what_fits_raises_nothing():
    assert memory_error() is None


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ({"free_bytes": 20 * GIB}, "free_memory_below_budget"),
        ({"weights_bytes": 30 * GIB, "kv_available_bytes": -9 * GIB}, "out_of_memory_loading"),
        ({"activation_peak_bytes": 9 * GIB, "kv_available_bytes": -1 * GIB}, "out_of_memory_profiling"),
        ({"kv_available_bytes": -1 * GIB}, "no_cache_blocks"),
        ({"kv_needed_bytes": 6 * GIB}, "cache_below_one_request"),
        ({"cuda_graph_bytes": 4 * GIB}, "out_of_memory_capturing"),
        ({"cuda_graph_bytes": 3 * GIB, "sampler_bytes": GIB}, "out_of_memory_sampling"),
        (
            {"activation_peak_bytes": 9 * GIB, "sampler_bytes": 9 * GIB, "kv_available_bytes": -1 * GIB},
            "out_of_memory_sampling",
        ),
    ],
)
def test_the_first_thing_that_does_not_fit_is_told(parts, kind):
    assert memory_error(**parts).kind == kind


def test_the_sampler_is_warmed_up_for_all_requests_from_0_8():
    error = memory_error(cuda_graph_bytes=3 * GIB, sampler_bytes=GIB)
    assert error.text == (
        "CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try lowering "
        "`max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
    )
    assert memory_error(version="0.7.3", cuda_graph_bytes=3 * GIB, sampler_bytes=GIB) is None


def test_v0_judges_the_cache_by_its_blocks():
    # 5,120 blocks of 16 tokens.
    assert memory_error(version="0.7.3", text="--max-model-len 30000") is None
    assert memory_error(version="0.7.3", text="--max-model-len 40000", kv_available_bytes=GIB).numbers == {
        "max_model_len": 40000,
        "capacity_tokens": 1024 * 16,
    }


def test_pytorchs_own_errors_are_not_taken_for_verbatim():
    error = memory_error(weights_bytes=30 * GIB)
    assert not error.is_verbatim
    assert error.text == "torch.OutOfMemoryError: CUDA out of memory. GPU 0 has a total capacity of 24.00 GiB"
    assert error.numbers["missing_bytes"] == 6.5 * GIB


@pytest.mark.parametrize(
    ("total_gib", "weights_gib", "tried_gib", "free_mib", "source"),
    [
        (15.47, 14.1931, 1.02, 857.31, "https://github.com/Kelsidavis/rusteze/blob/HEAD/vllm.log"),
        (14.56, 14.25, 1.02, 111.81, "https://github.com/mobambas/Agentic-Healthcare-Maps/blob/HEAD/vllm_server.log"),
        (31.73, 10.0714, 3.59, 3.11 * 1024, "https://github.com/vllm-project/vllm/issues/9356"),
    ],
)
def test_real_reports_of_a_profile_run_without_room_are_told_as_such(
    total_gib, weights_gib, tried_gib, free_mib, source
):
    held = total_gib * GIB - free_mib * MIB - weights_gib * GIB
    error = memory_error(
        total_bytes=total_gib * GIB,
        free_bytes=total_gib * GIB,
        weights_bytes=weights_gib * GIB,
        activation_peak_bytes=held + tried_gib * GIB,
    )
    assert error.kind == "out_of_memory_profiling"
    assert error.text.endswith(f"total capacity of {total_gib} GiB")


def between(lower, upper):
    return Estimate(lower=lower, expected=(lower + upper) / 2, upper=upper)


def test_bounds_decide_whether_it_fits():
    needed = between(10, 12)
    for available, fit in (
        (between(12, 14), "fits"),
        (between(11, 14), "too_close_to_call"),
        (between(5, 10), "too_close_to_call"),
        (between(5, 9), "does_not_fit"),
    ):
        assert verdict([Requirement(name="kv_cache", available=available, needed=needed)]).fit == fit


def test_the_tightest_requirement_decides_and_says_by_how_much():
    answer = verdict(
        [
            Requirement(name="weights", available=exactly(20), needed=exactly(15)),
            Requirement(name="kv_cache", available=between(4, 6), needed=exactly(3)),
        ]
    )
    assert (answer.fit, answer.binding, answer.margin.expected) == ("fits", "kv_cache", 2)


def test_what_cannot_fit_decides_over_what_may_not():
    answer = verdict(
        [
            Requirement(name="kv_cache", available=between(-9, 9), needed=exactly(3)),
            Requirement(name="weights", available=exactly(10), needed=exactly(15)),
        ]
    )
    assert (answer.fit, answer.binding) == ("does_not_fit", "weights")


def test_of_two_that_cannot_fit_the_one_that_vllm_meets_first_decides():
    answer = verdict(
        [
            Requirement(name="loading", available=exactly(10), needed=exactly(15)),
            Requirement(name="kv_cache", available=exactly(0), needed=exactly(8)),
        ]
    )
    assert (answer.binding, answer.margin.expected) == ("loading", -5)


def test_a_verdict_on_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one requirement"):
        verdict([])


@given(st.integers(1, 5000), st.integers(1, 10**6))
def test_the_longest_context_fits_and_one_more_does_not(bytes_per_token, available):
    longest = longest_that_fits(100_000, available, lambda tokens: tokens * bytes_per_token)
    assert longest * bytes_per_token <= available
    assert longest == 100_000 or (longest + 1) * bytes_per_token > available

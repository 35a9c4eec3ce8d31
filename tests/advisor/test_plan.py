"""What `plan_engine` says, held against public start-up logs and against what must hold for every plan."""

import math
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.defaults import Device
from advisor.estimate import Estimate
from advisor.flags import parse_flags
from advisor.model import parse_model
from advisor.plan import _kept, plan_again, plan_engine
from advisor.runner import Runner
from advisor.units import GIB
from advisor.versions import NEWEST_STUDIED
from tests.advisor.examples import DEEPSEEK_V4_FLASH, LLAMA_8B, odd_flags

LLAMA_3_1_8B = LLAMA_8B | {
    "max_position_embeddings": 131_072,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
}
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32768,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}
H100 = Device(name="NVIDIA H100 80GB HBM3", memory_bytes=int(79.19 * GIB))


def planned(config=LLAMA_3_1_8B, *words, version=(0, 19, 0), device=H100, **more):
    return plan_engine(
        parse_model(config), parse_flags(["vllm", "serve", "m", *words]), version=version, device=device, **more
    )


def memory_under(variable, value, version):
    flags = parse_flags(["serve", "m"], environment={variable: value})
    return plan_engine(parse_model(LLAMA_3_1_8B), flags, version=version, device=H100).memory


def test_llama_on_an_h100_is_what_its_log_printed():
    """0.19.0, utilization 0.95, 8,192 tokens: 14.99 GiB, 1.89, 0.25, KV 58.11 GiB, 476,016 tokens."""
    plan = planned(LLAMA_3_1_8B, "--gpu-memory-utilization", "0.95", "--max-model-len", "8192")
    memory = plan.memory
    assert memory.weights.expected / GIB == pytest.approx(14.99, abs=0.01)
    assert memory.activation_peak.expected / GIB == pytest.approx(1.89, abs=0.03)
    assert memory.non_torch.expected / GIB == pytest.approx(0.25, abs=0.01)
    assert memory.kv_cache.expected / GIB == pytest.approx(58.11, abs=0.05)
    assert plan.kv_tokens.expected == pytest.approx(476_016, rel=0.001)
    assert plan.kv_tokens.lower <= 476_016 <= plan.kv_tokens.upper
    assert plan.verdict == "fits"
    assert plan.error is None


def test_mixtral_on_two_h100_is_what_its_log_printed():
    plan = planned(MIXTRAL, "--gpu-memory-utilization", "0.95", "--max-model-len", "8192", "-tp", "2")
    assert plan.gpus_needed == 2
    assert plan.memory.weights.expected / GIB == pytest.approx(43.51, abs=0.02)
    assert plan.memory.kv_cache.expected / GIB == pytest.approx(28.44, abs=0.1)
    assert plan.kv_tokens.expected == pytest.approx(465_936, rel=0.005)


def test_parts_and_kv_make_the_budget():
    for version in ((0, 11, 0), (0, 19, 0), (0, 24, 0), (0, 32, 0)):
        memory = planned(version=version).memory
        parts = memory.weights.expected + memory.activation_peak.expected + memory.non_torch.expected
        parts += memory.cuda_graphs.expected if memory.graphs_in_budget else 0
        assert parts + memory.kv_cache.expected == pytest.approx(memory.budget_bytes)


def test_graphs_come_out_of_the_budget_from_0_20_and_not_while_runner_v2_estimates_none():
    assert not planned(version=(0, 19, 0)).memory.graphs_in_budget
    assert planned(version=(0, 21, 0)).memory.graphs_in_budget
    of_v2 = planned(version=(0, 26, 0))
    assert (of_v2.runner, of_v2.memory.graphs_in_budget) == (Runner.V2, False)
    assert planned(version=(0, 32, 0)).memory.graphs_in_budget


@pytest.mark.parametrize(
    ("version", "value", "expected"),
    [((0, 17, 0), "1", False), ((0, 19, 0), "1", True), ((0, 20, 0), "1", True), ((0, 20, 0), "0", False)],
)
def test_the_environment_decides_whether_graphs_come_out_of_the_budget_since_it_can(version, value, expected):
    memory = memory_under("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", value, version)
    assert memory.graphs_in_budget is expected


def test_the_environment_decides_how_layers_are_split_with_their_weights_and_their_cache():
    def planned_in(partition):
        flags = parse_flags(["serve", "m", "-pp", "2"], environment={"VLLM_PP_LAYER_PARTITION": partition})
        return plan_engine(parse_model(LLAMA_3_1_8B), flags, version=(0, 19, 0), device=H100)

    even, uneven = planned_in("16,16"), planned_in("8,24")

    assert uneven.memory.weights.expected > 1.3 * even.memory.weights.expected
    assert uneven.layout.bytes_per_token == 1.5 * even.layout.bytes_per_token


def test_the_environment_decides_which_sampler_is_rehearsed():
    def peak(value, version):
        return memory_under("VLLM_USE_FLASHINFER_SAMPLER", value, version).activation_peak

    assert peak("1", (0, 16, 0)).expected < 0.6 * peak("0", (0, 16, 0)).expected
    assert peak("0", (0, 10, 2)).lower > 2 * peak("1", (0, 10, 2)).lower
    assert peak("0", (0, 10, 2)).expected == peak("0", (0, 16, 0)).expected


def test_no_graphs_no_memory_for_them():
    eager = planned(LLAMA_3_1_8B, "--enforce-eager", version=(0, 32, 0))
    assert eager.memory.cuda_graphs.upper == 0
    assert eager.kv_tokens.expected > planned(version=(0, 32, 0)).kv_tokens.expected


def test_the_stage_with_the_least_room_decides():
    plan = planned(LLAMA_3_1_8B, "-pp", "2", "--gpu-memory-utilization", "0.95", "--max-model-len", "8192")
    assert plan.kv_tokens.expected == pytest.approx(1_075_312, rel=0.005), "as 0.19.0 printed"


def test_a_context_too_long_does_not_fit_and_names_the_longest_that_does():
    small = Device(name="Tesla T4", memory_bytes=int(14.56 * GIB))
    plan = planned(LLAMA_3_1_8B, "--max-model-len", "131072", "--dtype", "half", version=(0, 24, 0), device=small)
    assert plan.verdict == "does_not_fit"
    assert plan.error


def test_a_given_kv_cache_replaces_what_the_budget_leaves():
    plan = planned(LLAMA_3_1_8B, "--kv-cache-memory-bytes", str(8 * GIB))
    assert plan.kv_bytes == Estimate(lower=8 * GIB, expected=8 * GIB, upper=8 * GIB, origin=plan.kv_bytes.origin)
    assert plan.num_gpu_blocks.expected == 8 * GIB // (16 * 131_072)


def test_a_given_kv_cache_does_not_spare_the_check_of_free_memory():
    plan = planned(
        LLAMA_3_1_8B,
        "--kv-cache-memory-bytes",
        str(8 * GIB),
        "--gpu-memory-utilization",
        "1.0",
        "--max-model-len",
        "8k",
    )
    assert (plan.verdict, plan.binding) == ("does_not_fit", "free memory")
    assert "is less than desired GPU memory utilization (1.0, 79.19 GiB)" in plan.error


def test_an_override_of_blocks_is_exact_and_starts():
    plan = planned(LLAMA_3_1_8B, "--num-gpu-blocks-override", "1000", "--max-model-len", "4096")
    assert (plan.num_gpu_blocks.lower, plan.num_gpu_blocks.upper) == (1000, 1000)
    assert plan.kv_tokens.expected == 16_000


def test_a_total_with_bounds_widens_the_kv_cache():
    exact = planned()
    loose = planned(total=Estimate(lower=78.5 * GIB, expected=79.19 * GIB, upper=79.5 * GIB))
    assert loose.kv_bytes.expected == pytest.approx(exact.kv_bytes.expected)
    assert loose.kv_bytes.lower < exact.kv_bytes.lower


def test_more_gpus_than_there_are_is_refused_in_words():
    with pytest.raises(ValueError, match=r"4 GPUs are needed .* there are 2"):
        planned(LLAMA_3_1_8B, "-tp", "4", gpu_count=2)


def test_a_window_keeps_less_where_no_step_is_scheduled_ahead():
    """From 0.26 a sliding window keeps what is in flight: a CPU server and --no-async-scheduling have half of it."""
    windowed = LLAMA_8B | {"architectures": ["MistralForCausalLM"], "sliding_window": 1024, "head_dim": 128}
    small_steps = ("--max-num-batched-tokens", "1024")
    ahead = planned(windowed, *small_steps, version=(0, 32, 0))
    plain = planned(windowed, *small_steps, "--no-async-scheduling", version=(0, 32, 0))
    assert plain.layout.groups[0].blocks_per_request < ahead.layout.groups[0].blocks_per_request
    on_cpu = planned(windowed, version=(0, 32, 0), device=Device(name="cpu", memory_bytes=0))
    assert on_cpu.layout.settings.async_scheduling is False


def test_ranks_that_do_not_divide_the_heads_are_refused_in_words():
    with pytest.raises(ValueError, match="tensor-parallel-size"):
        planned(LLAMA_3_1_8B, "-tp", "3")


def test_an_answer_is_worked_out_once_for_the_same_question():
    spec, flags = parse_model(LLAMA_3_1_8B), parse_flags(["vllm", "serve", "m"])
    first = plan_again(spec, flags, version=(0, 19, 0), device=H100)
    assert plan_again(spec, flags, version=(0, 19, 0), device=H100) is first
    assert plan_again(spec, flags, version=(0, 20, 0), device=H100) is not first
    again = parse_model(LLAMA_3_1_8B)
    assert plan_again(again, flags, version=(0, 19, 0), device=H100) is not first


def test_models_of_which_nothing_is_asked_any_more_are_let_go():
    flags = parse_flags(["vllm", "serve", "m"])
    used = parse_model(LLAMA_3_1_8B)
    first = plan_again(used, flags, version=(0, 19, 0), device=H100)
    for _ in range(100):
        plan_again(parse_model(LLAMA_3_1_8B), flags, version=(0, 19, 0), device=H100)
        assert plan_again(used, flags, version=(0, 19, 0), device=H100) is first
    assert len(_kept) <= 65


_VERSIONS = st.sampled_from([(0, 7, 3), (0, 8, 5), (0, 10, 2), (0, 12, 0), (0, 19, 0), (0, 24, 0), (0, 32, 0)])


@given(version=_VERSIONS, low=st.floats(0.3, 0.94), more=st.floats(0.0, 0.05))
def test_more_utilization_never_holds_fewer_tokens(version, low, more):
    few, many = (
        planned(LLAMA_3_1_8B, "--gpu-memory-utilization", f"{share:.4f}", "--max-model-len", "8192", version=version)
        for share in (low, low + more)
    )
    assert few.kv_tokens.expected <= many.kv_tokens.expected


@given(version=_VERSIONS, length=st.integers(16, 65_536), more=st.integers(0, 65_536))
def test_longer_contexts_never_raise_the_concurrency(version, length, more):
    short, long = (
        planned(LLAMA_3_1_8B, "--max-model-len", str(tokens), "--max-num-batched-tokens", "131072", version=version)
        for tokens in (length, length + more)
    )
    assert long.full_context_concurrency.expected <= short.full_context_concurrency.expected


@given(version=_VERSIONS, ranks=st.sampled_from([1, 2, 4]))
def test_more_ranks_never_cost_a_gpu_more_weights(version, ranks):
    few, many = (planned(LLAMA_3_1_8B, "-tp", str(count), version=version) for count in (ranks, 2 * ranks))
    assert many.memory.weights.expected <= few.memory.weights.expected


@given(version=_VERSIONS, seqs=st.integers(1, 1024), tokens=st.sampled_from([1024, 2048, 8192]))
def test_bytes_a_token_do_not_depend_on_the_batch(version, seqs, tokens):
    words = ("--max-num-seqs", str(seqs), "--max-num-batched-tokens", str(tokens), "--max-model-len", "1024")
    assert planned(LLAMA_3_1_8B, *words, version=version).layout.bytes_per_token == 131_072


@given(st.sampled_from([0.5, 0.9, 0.95]))
def test_bounds_are_in_order(share):
    plan = planned(LLAMA_3_1_8B, "--gpu-memory-utilization", str(share))
    for each in (plan.kv_tokens, plan.kv_bytes, plan.memory.weights, plan.memory.startup_peak):
        assert each.lower <= each.expected <= each.upper


def test_a_release_newer_than_any_that_was_studied_is_planned_and_said():
    newest_name = "{}.{}".format(*NEWEST_STUDIED)
    newest, ahead = (planned(version=version) for version in (NEWEST_STUDIED, (NEWEST_STUDIED[0], 99, 0)))
    assert ahead.kv_tokens == newest.kv_tokens
    assert [note for note in ahead.notes if note not in newest.notes] == [
        f"vLLM 0.99 is newer than {newest_name}, the newest that was studied: it is planned like that one"
    ]
    patched = planned(version=(*NEWEST_STUDIED[:2], 9))
    assert patched.notes == newest.notes


def test_a_release_older_than_any_that_was_studied_is_said_too():
    assert planned(version=(0, 3, 3)).notes[0].startswith("vLLM 0.3 is older than 0.4, the oldest that was studied")
    assert not any("studied" in note for note in planned(version=(0, 4, 0)).notes)


@pytest.mark.parametrize(
    ("speculative", "verdict", "is_noted"),
    [
        ({"model": "draft", "method": "eagle3"}, "too_close_to_call", True),
        ({"model": "draft"}, "too_close_to_call", True),
        ({"method": "ngram", "model": "ngram"}, "fits", False),
        ({"method": "ngram"}, "fits", False),
        ({"method": "mtp", "model": "m"}, "fits", False),
    ],
)
def test_beside_a_draft_model_that_is_not_counted_nothing_is_said_to_fit(speculative, verdict, is_noted):
    drafting = replace(
        parse_flags(["vllm", "serve", "m"]), speculative_config={**speculative, "num_speculative_tokens": 3}
    )
    plan = plan_engine(parse_model(LLAMA_3_1_8B), drafting, version=(0, 19, 0), device=H100)
    assert plan.verdict == verdict
    assert any("draft model" in note for note in plan.notes) is is_noted


QWEN3_5 = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 32768,
    "vocab_size": 151_936,
    "torch_dtype": "bfloat16",
}


NEMOTRON_H = {
    "architectures": ["NemotronHForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hybrid_override_pattern": "M-M*-M",
    "mamba_num_heads": 16,
    "mamba_head_dim": 8,
    "n_groups": 4,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "chunk_size": 64,
    "max_position_embeddings": 4096,
    "vocab_size": 320,
    "torch_dtype": "bfloat16",
}


QWEN3_6_27B = QWEN3_5 | {
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "num_attention_heads": 24,
    "num_hidden_layers": 64,
    "layer_types": QWEN3_5["layer_types"] * 16,
    "linear_num_value_heads": 48,
    "mamba_ssm_dtype": "float32",
    "max_position_embeddings": 262_144,
    "mtp_num_hidden_layers": 1,
}


@pytest.mark.parametrize(
    ("drafted", "kv_gib", "printed_blocks"), [(None, 50.37, 1052), (2, 47.81, 921), (3, 58.77, 1132)]
)
def test_prediction_layers_keep_a_cache_of_their_own(drafted, kv_gib, printed_blocks):
    """Qwen3.6-27B on an RTX PRO 6000, May 2026: what was available and vLLM's num_gpu_blocks, with and without MTP."""
    drafting = f'{{"method": "mtp", "num_speculative_tokens": {drafted}}}'
    words = ["--enable-prefix-caching"] + (["--speculative-config", drafting] if drafted else [])
    plan = planned(QWEN3_6_27B, *words, version=(0, 20, 0))

    assert plan.layout.num_blocks(kv_gib * GIB) == printed_blocks


def test_deepseek_v4s_prediction_layer_keeps_a_window_alone():
    def kept(*words):
        plan = planned(DEEPSEEK_V4_FLASH, "-tp", "8", *words, version=(0, 32, 0))
        return sorted(each.layers for each in plan.layout.groups)

    drafting = '{"method": "mtp", "num_speculative_tokens": 1}'
    assert kept() == [20, 21, 22, 42, 62]
    assert kept("--speculative-config", drafting) == [20, 22, 22, 42, 62]


def test_a_server_on_the_cpu_takes_four_gib_for_kv_unless_it_is_told_otherwise():
    on_cpu = {"version": (0, 32, 0), "device": Device(name="cpu", memory_bytes=0)}
    assert planned(LLAMA_3_1_8B, **on_cpu).kv_bytes.expected == 4 * GIB
    told = parse_flags(["vllm", "serve", "m"], environment={"VLLM_CPU_KVCACHE_SPACE": "1.5"})
    assert plan_engine(parse_model(LLAMA_3_1_8B), told, **on_cpu).kv_bytes.expected == 1.5 * GIB


def test_the_config_decides_what_the_state_is_kept_in_unless_a_flag_does():
    def state_dtype(config, *words, version=(0, 32, 0)):
        return planned(config, *words, version=version).layout.settings.mamba_ssm_cache_dtype

    asking = QWEN3_5 | {"mamba_ssm_dtype": "float32"}
    assert state_dtype(asking) == "float32"
    assert state_dtype(asking, version=(0, 16, 0)) == "auto", "before the release that looks"
    assert state_dtype(asking, "--mamba-ssm-cache-dtype", "float16") == "float16"
    assert state_dtype(QWEN3_5) == "auto"
    assert state_dtype(NEMOTRON_H, version=(0, 12, 0)) == "auto"
    assert state_dtype(NEMOTRON_H, version=(0, 19, 0)) == "float16"
    assert state_dtype(NEMOTRON_H, version=(0, 20, 0)) == "float32"


@pytest.mark.parametrize("amount", ["inf", "nan", "-4", "1e300", "four"])
def test_an_environment_that_gives_no_amount_of_memory_is_refused(amount):
    told = parse_flags(["vllm", "serve", "m"], environment={"VLLM_CPU_KVCACHE_SPACE": amount})
    with pytest.raises(ValueError, match=r"VLLM_CPU_KVCACHE_SPACE.*it must be a number of GiB"):
        plan_engine(parse_model(LLAMA_3_1_8B), told, version=None, device=Device(name="cpu", memory_bytes=0))


@pytest.mark.parametrize("flag", ["-tp", "-pp", "-dp", "--prefill-context-parallel-size", "--num-gpu-blocks-override"])
def test_sizes_below_one_are_refused_by_name(flag):
    with pytest.raises(ValueError, match="it is 1 or more"):
        planned(LLAMA_3_1_8B, flag, "0")


def test_absurdly_large_cuda_graphs_are_refused_before_they_are_listed():
    absurd = "4000000000000000000"
    with pytest.raises(ValueError, match="CUDA graphs up to"):
        planned(LLAMA_3_1_8B, "--max-cudagraph-capture-size", absurd, "--max-num-batched-tokens", absurd)
    with pytest.raises(ValueError, match="CUDA graphs up to"):
        planned(LLAMA_3_1_8B, "--cuda-graph-sizes", absurd, version=(0, 8, 4))


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(
    flags=odd_flags(),
    config=st.sampled_from([LLAMA_3_1_8B, QWEN3_5, NEMOTRON_H]),
    version=st.sampled_from([(0, 6, 3), (0, 8, 4), (0, 11, 0), (0, 16, 0), (0, 25, 0), None]),
    memory_bytes=st.sampled_from([0, 1, 80 * GIB]),
)
def test_whatever_a_command_line_asks_for_is_planned_or_refused(flags, config, version, memory_bytes):
    device = Device(name="cpu" if memory_bytes == 0 else "a GPU", memory_bytes=memory_bytes)
    with suppress(ValueError):
        tokens = plan_engine(parse_model(config), flags, version=version, device=device).kv_tokens
        assert 0 <= tokens.lower <= tokens.upper < math.inf

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.estimate import Origin
from advisor.layers import Latent
from advisor.rope import rope_tables
from advisor.spec import DeclinedError, Encoder, Parameter, Quantization, RopeTable
from advisor.units import GIB
from advisor.weights import TensorIndex, TensorInfo, model_dtype, stage_weights, unmatched_tensors
from tests.advisor.specs import decoder, matrix, vector

SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_layers": 3, "heads": 8, "kv_heads": 2, "vocab_size": 1000}
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_layers": 32,
    "heads": 32,
    "kv_heads": 8,
    "vocab_size": 128256,
    "positions": 131072,
}
QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_layers": 28,
    "heads": 28,
    "kv_heads": 4,
    "vocab_size": 152064,
    "positions": 32768,
    "qkv_bias": True,
}
QWEN3_30B = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_layers": 48,
    "heads": 32,
    "kv_heads": 4,
    "head_size": 128,
    "vocab_size": 151936,
    "positions": 262144,
    "qk_norm": True,
    "experts": (128, 768),
}


def stages(spec, *, tp=1, pp=1, dtype="bfloat16", version=(0, 32, 0), **more):
    return stage_weights(spec, dtype=dtype, tensor_parallel_size=tp, pipeline_parallel_size=pp, version=version, **more)


def held(spec, **more):
    """Bytes of the only stage, as expected."""
    (only,) = stages(spec, **more)
    return only.expected


def tensor_index(tensors):
    total = sum(each.size_bytes for each in tensors.values())
    return TensorIndex(total_bytes=total, source="safetensors headers", tensors=tensors)


def index_of(spec, dtype="BF16", **extra):
    """The headers of a checkpoint that holds the spec's parameters as they are."""
    tensors = {}
    for each in spec.parameters:
        for number in range(each.count):
            tensors[each.name.replace("*", str(number))] = TensorInfo(dtype, each.shape)
    return tensor_index(tensors | extra)


# What vLLM's own parameters and buffers add up to, beside four float32 scales in each attention layer: read from the
# CPU build of 0.32 with --load-format dummy.
@pytest.mark.parametrize(
    ("shape", "reported_bytes"),
    [
        (SMALL, 4_525_616),
        (SMALL | {"tied": True, "qkv_bias": True}, 4_003_632),
        (SMALL | {"head_size": 64, "qk_norm": True}, 5_640_496),
        (SMALL | {"head_size": 64, "qk_norm": True, "experts": (8, 128)}, 8_012_080),
        (SMALL | {"experts": (4, 512)}, 11_609_648),
    ],
    ids=["llama", "qwen2_tied", "qwen3", "qwen3_moe", "mixtral"],
)
def test_small_models_hold_what_vllm_itself_counts(shape, reported_bytes):
    assert held(decoder(**shape)) == reported_bytes - 3 * 4 * 4


# "Model loading took" of public start-up logs, in GiB of one GPU.
@pytest.mark.parametrize(
    ("shape", "sharing", "reported_gib", "source"),
    [
        (LLAMA_8B, {}, 14.9889, "https://github.com/qweewqq/EnergyLLM/blob/HEAD/vllm_server.log"),
        (LLAMA_8B, {"tp": 4}, 3.77, "https://github.com/llm-d-incubation/llm-d-planner accuracy/results/v0.19.0 tp4"),
        (LLAMA_8B, {"dtype": "float32"}, 29.98, "https://github.com/llm-d-incubation/llm-d-planner v0.19.0 float32"),
        (LLAMA_8B, {"quantization": "fp8"}, 8.49, "https://github.com/llm-d-incubation/llm-d-planner v0.19.0 qfp8"),
        (QWEN2_7B, {}, 14.2488, "https://github.com/dennislee22/vLLM-benchmarking/tree/HEAD/log 7B 1 GPU"),
        (QWEN2_7B, {"tp": 2}, 7.1217, "https://github.com/dennislee22/vLLM-benchmarking/tree/HEAD/log 7B 2 GPUs"),
        (QWEN3_30B, {}, 56.9342, "https://github.com/kolyangg/mlops-assignment/blob/HEAD/logs/vllm.log"),
    ],
)
def test_logs_of_real_servers_agree(shape, sharing, reported_gib, source):
    """To half a MiB where they print four digits: each small tensor is given up to 511 bytes more than it needs."""
    printed_to = 0.005 if (reported_gib * 100).is_integer() else 0
    assert held(decoder(**shape), **sharing) / GIB == pytest.approx(reported_gib, abs=0.0005 + printed_to), source


def test_every_stage_of_a_pipeline_agrees_with_its_log():
    """Llama-3.1-8B in four stages printed 4.26 GiB on the ends: https://github.com/llm-d-incubation/llm-d-planner."""
    first, second, third, last = stages(decoder(**LLAMA_8B), pp=4)
    assert first.expected / GIB == pytest.approx(4.26, abs=0.005)
    assert second == third
    assert last.expected - first.expected == 2 * 4096  # the final norm


def test_until_0_8_the_last_stage_took_the_layers_that_do_not_divide_with_their_weights():
    spec = decoder(**LLAMA_8B)  # 32 layers in three stages: 11, 11, 10 and before 10, 10, 12
    now, before = (stages(spec, pp=3, version=version) for version in ((0, 8, 0), (0, 7, 3)))
    layer = now[1].expected - before[1].expected
    assert layer > 0
    assert now[0].expected - before[0].expected == pytest.approx(layer)
    assert before[2].expected - now[2].expected == pytest.approx(2 * layer)


def test_a_rank_never_holds_less_than_one_kv_head():
    spec = decoder(**SMALL, head_size=32)
    key = 2 * 32 * 256 * 2  # two heads of 32 rows
    alone, four, eight = (sum(each.expected for each in stages(spec, tp=tp)) for tp in (1, 4, 8))
    shared = [part for part in spec.parameters if part.sharding in ("column", "row")]
    elements = sum(part.elements for part in shared) * 2
    vocabulary = 2 * 1024 * 256 * 2
    assert alone - four == (elements + vocabulary) * 3 / 4 + 3 * 2 * key / 2
    assert four - eight == (elements + vocabulary) / 8  # the heads no longer shrink


def test_the_vocabulary_is_padded_to_64_rows_before_it_is_shared():
    spec = decoder(**SMALL)
    narrower = decoder(**SMALL | {"vocab_size": 961})
    assert held(spec) == held(narrower)
    assert held(spec) - held(decoder(**SMALL | {"vocab_size": 960})) == 2 * 64 * 256 * 2


def test_what_is_copied_stands_whole_on_every_rank():
    spec = decoder(**SMALL)
    more = replace(spec, parameters=(*spec.parameters, matrix("model.layers.0.x", 100, 10, "copied", layer=0)))
    for tp in (1, 2, 8):
        assert held(more, tp=tp) - held(spec, tp=tp) == 100 * 10 * 2


def test_experts_are_split_or_dealt_out_whole():
    spec = decoder(**SMALL, experts=(6, 128))
    experts = 3 * 6 * 3 * 128 * 256 * 2
    assert held(spec, tp=4) == held(spec, tp=4, enable_expert_parallel=True) - experts * (2 / 6 - 1 / 4)


def test_some_families_keep_their_routers_in_float32():
    spec = decoder(**SMALL, experts=(6, 128))
    wide = replace(spec, architecture="Glm4MoeForCausalLM")
    assert held(wide) - held(spec) == 3 * 6 * 256 * 2


def test_replicas_share_the_experts_and_nothing_else():
    mixture = decoder(**SMALL, experts=(8, 128))
    assert held(mixture) - held(mixture, data_parallel_size=4) == 3 * 8 * 3 * 128 * 256 * 2 * 3 / 4
    dense = decoder(**SMALL)
    assert held(dense) == held(dense, data_parallel_size=4)


def test_a_tied_embedding_stands_on_both_ends_of_a_pipeline():
    spec = decoder(**SMALL, tied=True)
    first, middle, last = stages(spec, pp=3)
    embedding = 1024 * 256 * 2
    assert first.expected - middle.expected == embedding
    assert last.expected - middle.expected == embedding + 256 * 2


def test_a_pooling_model_has_no_head():
    spec = decoder(**SMALL)
    assert held(spec) - held(spec, pooling=True) == 1024 * 256 * 2


def test_adapters_hold_a_vector_of_either_size_a_rank():
    spec = decoder(**SMALL)
    # q, k, v, o, gate, up, down: rows and columns
    widths = (256 + 256) + 2 * (64 + 256) + (256 + 256) + 3 * (512 + 256)
    assert held(spec, max_loras=2, max_lora_rank=8) - held(spec) == 2 * 8 * 3 * widths * 2


def test_encoders_stand_on_every_stage_and_can_be_left_out_or_replicated():
    tower = matrix("vision_tower.blocks.0.attn.qkv", 300, 100, "column")
    spec = decoder(**SMALL)
    seeing = replace(spec, parameters=(tower, *spec.parameters))
    whole = 300 * 100 * 2
    for tp, each in ((1, whole), (2, whole / 2)):
        blind = stages(spec, tp=tp, pp=3)
        assert [a.expected - b.expected for a, b in zip(stages(seeing, tp=tp, pp=3), blind, strict=True)] == [each] * 3
    assert held(seeing, tp=2, replicate_encoder=True) - held(spec, tp=2) == whole
    assert held(seeing, language_model_only=True) == held(spec)


def test_mistrals_own_format_does_not_split_the_encoder():
    tower = matrix("vision_tower.blocks.0.attn.qkv", 300, 100, "column")
    spec = decoder(**SMALL)
    spec = replace(spec, parameters=(tower, *spec.parameters))
    index = index_of(spec)
    native = replace(index, mistral_format=True)
    split = held(spec, tp=2, tensors=index)
    assert held(spec, tp=2, tensors=native, version=(0, 12, 0)) - split == 300 * 100
    assert held(spec, tp=2, tensors=native, version=(0, 11, 0)) == split


def test_qwen3_vl_keeps_a_buffer_for_each_deep_layer():
    spec = replace(decoder(**SMALL), architecture="Qwen3VLForConditionalGeneration")
    with_buffers = held(spec, max_num_batched_tokens=100)
    assert with_buffers - held(spec) == 3 * 100 * 256 * 2
    assert held(spec, max_num_batched_tokens=100, language_model_only=True) == held(spec)


def test_draft_layers_are_held_for_speculative_decoding_alone():
    spec = decoder(**SMALL, draft_layers=1)
    one_layer = held(decoder(**SMALL)) - held(decoder(**SMALL | {"num_layers": 2}))
    assert held(spec, load_draft_layers=True) - held(spec) == one_layer


def test_mla_keeps_a_copy_of_what_it_expands_by_where_that_is_quantised():
    expand = matrix("model.layers.0.self_attn.kv_b_proj", 512, 64, "column", layer=0)
    latent = Latent(kv_lora_rank=64, qk_rope_head_dim=16)
    spec = decoder(**SMALL | {"num_layers": 1}, rope_tables=())
    spec = replace(spec, layers=((latent,),), parameters=(*spec.parameters, expand))
    quantised = replace(spec, quantization=Quantization(method="fp8", config={"weight_block_size": [128, 128]}))
    without = replace(quantised, parameters=quantised.parameters[:-1])
    assert held(quantised) - held(without) == 512 * 64 + 4 * 4 + 512 * 64 * 2
    assert held(spec) - held(replace(spec, parameters=spec.parameters[:-1])) == 512 * 64 * 2


def test_the_allocator_rounds_large_tensors_up():
    """A tensor of 11.5 MiB is given 12; one of 10.5 leaves 1.5 MiB that the next small one takes."""
    mib = 1024**2
    spec = decoder(**SMALL)
    base = held(spec)

    def with_tensors(*sizes):
        more = tuple(vector(f"x{number}", size // 2) for number, size in enumerate(sizes))
        return held(replace(spec, parameters=(*spec.parameters, *more))) - base

    assert with_tensors(23 * mib // 2) == 12 * mib
    assert with_tensors(21 * mib // 2) == 21 * mib // 2
    assert with_tensors(21 * mib // 2, 5 * mib // 4) == 21 * mib // 2 + 3 * mib // 2
    assert with_tensors(19 * mib // 2, 19 * mib // 2) == 20 * mib  # the second one is given what is left


@pytest.mark.parametrize(
    ("stored", "flag", "version", "used"),
    [
        ("bfloat16", None, (0, 8, 5), "bfloat16"),
        ("bfloat16", "half", (0, 8, 5), "float16"),
        ("float32", "auto", (0, 8, 5), "float16"),
        ("float32", "auto", (0, 9, 0), "bfloat16"),
        (None, None, (0, 8, 5), "float16"),
        ("float16", "float", (0, 32, 0), "float32"),
    ],
)
def test_the_dtype_is_the_flags_else_the_models_in_sixteen_bits(stored, flag, version, used):
    assert model_dtype(decoder(**SMALL, dtype=stored), flag, version) == used


@pytest.mark.parametrize(("stored", "used"), [("F16", "float16"), ("BF16", "bfloat16"), ("F32", "bfloat16")])
def test_a_config_without_a_dtype_is_read_by_the_headers_since_0_9(stored, used):
    spec = decoder(**SMALL, dtype=None)
    assert model_dtype(spec, None, (0, 9, 0), index_of(spec, stored)) == used
    assert model_dtype(spec, None, (0, 8, 5), index_of(spec, stored)) == "float16"


def test_headers_of_the_same_tensors_change_the_origin_and_not_the_figure():
    for shape in (SMALL, SMALL | {"tied": True}, SMALL | {"experts": (8, 128)}):
        spec = decoder(**shape)
        (guessed,), (read,) = stages(spec, tp=2), stages(spec, tp=2, tensors=index_of(spec))
        assert read.expected == guessed.expected
        assert (guessed.origin, read.origin) == (Origin.ESTIMATED, Origin.DERIVED)
        assert read.upper - read.lower < guessed.upper


def test_float32_files_are_served_in_the_models_dtype():
    spec = decoder(**SMALL)
    assert held(spec, tensors=index_of(spec, "F32")) == held(spec)
    assert held(spec, dtype="float32", tensors=index_of(spec)) == held(spec, dtype="float32")


def test_another_wrappers_prefix_is_the_same_tensor():
    spec = decoder(**SMALL)
    renamed = {
        name.replace("model.", "model.language_model.", 1): info for name, info in index_of(spec).tensors.items()
    }
    assert unmatched_tensors(spec, tensor_index(renamed)) == ()
    assert stages(spec, tensors=tensor_index(renamed)) == stages(spec, tensors=index_of(spec))


def test_tensors_that_vllm_skips_are_not_counted():
    skipped = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": TensorInfo("F32", (16,)),
        "model.layers.3.mlp.down_proj.weight": TensorInfo("BF16", (256, 512)),  # a predictor after the three layers
        "mtp.fc.weight": TensorInfo("BF16", (256, 512)),
        "lm_head.weight": TensorInfo("BF16", (1000, 256)),  # tied
        "model.layers.0.self_attn.k_proj.k_scale": TensorInfo("F32", ()),
    }
    spec = decoder(**SMALL, tied=True)
    assert unmatched_tensors(spec, index_of(spec, **skipped)) == ()
    assert stages(spec, tensors=index_of(spec, **skipped)) == stages(spec, tensors=index_of(spec))


def test_a_wrapper_keeps_a_steps_per_layer_embeddings():
    spec = decoder(**SMALL)
    per_layer = Parameter(
        name="model.embed_tokens_per_layer.weight", shape=(100, 48), role="embedding", sharding="vocabulary"
    )
    spec = replace(spec, parameters=(*spec.parameters, per_layer))
    seeing = replace(
        spec,
        encoder=Encoder(hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, max_item_tokens=16),
    )

    assert held(seeing, max_num_batched_tokens=1000) - held(spec, max_num_batched_tokens=1000) == 1000 * 48 * 2


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_experts_stacked_in_one_tensor_are_those_of_many(dtype):
    spec = decoder(**SMALL, experts=(4, 128), quantization=Quantization(method="modelopt", config={}))
    plain = {name: info for name, info in index_of(spec).tensors.items() if ".experts." not in name}
    apart, stacked = dict(plain), dict(plain)
    for layer in range(3):
        prefix = f"model.layers.{layer}.mlp.experts"
        for number in range(4):
            for name, shape in (("gate", (128, 256)), ("up", (128, 256)), ("down", (256, 128))):
                apart[f"{prefix}.{number}.{name}_proj.weight"] = TensorInfo(dtype, shape)
        stacked[f"{prefix}.gate_up_proj"] = TensorInfo(dtype, (4, 256, 256))
        stacked[f"{prefix}.down_proj"] = TensorInfo(dtype, (4, 256, 128))
    one, other = tensor_index(apart), tensor_index(stacked)
    assert unmatched_tensors(spec, one) == unmatched_tensors(spec, other) == ()
    assert stages(spec, tensors=one) == stages(spec, tensors=other)
    all_plain = held(replace(spec, quantization=None))
    experts = 3 * 4 * 3 * 128 * 256
    assert held(spec, tensors=one) == (all_plain if dtype == "BF16" else all_plain - experts + 3 * 4 * 3 * 8)


def test_unknown_tensors_are_named_and_widen_the_upper_bound():
    spec = decoder(**SMALL)
    index = index_of(spec, **{"model.layers.0.mlp.surprise.weight": TensorInfo("BF16", (1000, 1000))})
    assert unmatched_tensors(spec, index) == ("model.layers.0.mlp.surprise.weight",)
    (known,), (puzzled,) = stages(spec, tensors=index_of(spec)), stages(spec, tensors=index)
    assert puzzled.upper - known.upper == 2_000_000
    assert (puzzled.expected, puzzled.lower) == (known.expected, known.lower)


def test_missing_tensors_lower_the_lower_bound():
    spec = decoder(**SMALL)
    tensors = {name: info for name, info in index_of(spec).tensors.items() if name != "lm_head.weight"}
    (whole,), (short,) = stages(spec, tensors=index_of(spec)), stages(spec, tensors=tensor_index(tensors))
    assert whole.lower - short.lower == 1024 * 256 * 2
    assert short.expected == whole.expected


def test_a_table_with_other_rows_than_the_config_is_counted_as_stored():
    spec = decoder(**SMALL)
    tensors = dict(index_of(spec).tensors)
    tensors["model.layers.0.mlp.up_proj.weight"] = TensorInfo("BF16", (640, 256))
    assert held(spec, tensors=tensor_index(tensors)) - held(spec) == 128 * 256 * 2


def test_a_matrix_that_the_file_holds_in_plain_stays_plain_whatever_the_config_lists():
    spec = decoder(**SMALL, quantization=Quantization(method="fp8", config={}))
    plain = index_of(spec)
    packed = {
        name: TensorInfo("F8_E4M3", info.shape) if ".layers.0." in name and len(info.shape) == 2 else info
        for name, info in plain.tensors.items()
    }
    unquantised = held(replace(spec, quantization=None))
    assert held(spec, tensors=plain) == unquantised
    layer = sum(each.elements for each in spec.parameters if each.layer == 0 and len(each.shape) == 2)
    assert held(spec, tensors=tensor_index(packed)) == unquantised - layer + 7 * 8


def test_quantised_tensors_of_every_spelling_are_claimed():
    spec = decoder(**SMALL | {"num_layers": 1}, experts=(2, 128), quantization=Quantization(method="awq", config={}))
    tensors = {}
    for name, info in index_of(spec).tensors.items():
        base = name.removesuffix(".weight")
        if "_proj" not in name:
            tensors[name] = info
            continue
        for suffix in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[f"{base}.{suffix}"] = TensorInfo("I32", (4, 4))
    assert unmatched_tensors(spec, tensor_index(tensors)) == ()


def test_a_total_that_agrees_makes_the_figure_derived_and_one_that_does_not_widens_it():
    spec = decoder(**SMALL)
    total = index_of(spec).total_bytes
    (agreeing,) = stages(spec, tensors=TensorIndex(total_bytes=total, source="safetensors index"))
    assert (agreeing.expected, agreeing.origin) == (held(spec), Origin.DERIVED)
    (doubled,) = stages(spec, tensors=TensorIndex(total_bytes=2 * total, source="file sizes"))
    assert doubled.origin is Origin.ESTIMATED
    assert doubled.lower <= held(spec) < 2 * held(spec) <= doubled.upper * 1.01


def test_a_dtype_without_rules_and_too_many_stages_are_refused():
    spec = decoder(**SMALL)
    with pytest.raises(DeclinedError, match="weights in float8 are not described"):
        stages(spec, dtype="float8")
    with pytest.raises(ValueError, match="pipeline-parallel-size 4 exceeds the 3 layers"):
        stages(spec, pp=4)


SIZES = st.builds(
    dict,
    hidden_size=st.integers(1, 5).map(lambda n: n * 64),
    intermediate_size=st.integers(1, 16).map(lambda n: n * 32),
    num_layers=st.integers(1, 6),
    heads=st.just(8),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    head_size=st.sampled_from([32, 64]),
    vocab_size=st.integers(1, 500),
    tied=st.booleans(),
    experts=st.none() | st.tuples(st.integers(1, 9), st.sampled_from([32, 64, 80])),
)
METHODS = st.sampled_from(
    [
        None,
        Quantization(method="fp8", config={"weight_block_size": [128, 128]}),
        Quantization(method="awq", config={"bits": 4, "group_size": 64}),
        Quantization(method="gptq", config={"bits": 8, "group_size": 32, "desc_act": True}),
        Quantization(method="mxfp4", config={}),
    ]
)


# Tensors of up to 1 MiB share the allocator's pool of small ones, so that its rounding does not blur the comparison.
@given(shape=SIZES, quantization=METHODS, tp=st.sampled_from([1, 2, 4]), expert_parallel=st.booleans())
def test_more_tensor_parallelism_never_costs_a_gpu_more(shape, quantization, tp, expert_parallel):
    spec = decoder(**shape, quantization=quantization)
    some = held(spec, tp=tp, enable_expert_parallel=expert_parallel)
    more = held(spec, tp=2 * tp, enable_expert_parallel=expert_parallel)
    assert some / 2 <= more * 1.0000001 and more <= some


@given(shape=SIZES, quantization=METHODS, pp=st.integers(1, 6))
def test_the_stages_together_hold_at_least_the_whole(shape, quantization, pp):
    spec = decoder(**shape, quantization=quantization)
    pp = min(pp, len(spec.layers))
    several = stages(spec, pp=pp)
    assert len(several) == pp
    assert sum(each.expected for each in several) >= held(spec)
    assert max(each.expected for each in several) <= held(spec)


@given(shape=SIZES, quantization=METHODS, tp=st.sampled_from([1, 2, 4, 8]), headers=st.booleans())
def test_the_bounds_hold_the_figure_and_are_narrow(shape, quantization, tp, headers):
    spec = decoder(**shape, quantization=quantization)
    (estimate,) = stages(
        spec, tp=tp, tensors=index_of(spec) if headers and quantization is None else None, capability=90
    )
    assert 0 < estimate.lower <= estimate.expected <= estimate.upper
    assert estimate.upper - estimate.lower <= 0.1 * estimate.expected


ODD = st.sampled_from(
    [
        *(None, -1, 0, 7, 1.5, "x", [], {}),
        *({"type": 3}, {"type": [0]}, {"type": {}}, {"full_attention": {"rope_type": 1}}),
        *({"factor": "x"}, {"type": "linear", "factor": math.nan}, {"type": "linear", "factor": math.inf}),
        *({"type": "yarn", "factor": 1e308}, {"factor": math.inf, "original_max_position_embeddings": 4096}),
    ]
)


@given(
    architecture=st.sampled_from(["LlamaForCausalLM", "Gemma3ForCausalLM", "DeepseekV4ForCausalLM"]),
    config=st.fixed_dictionaries(
        {"qk_rope_head_dim": st.sampled_from([None, 64]), "compress_ratios": st.sampled_from([None, [4, 0]])},
        optional=dict.fromkeys(
            ["alibi", "max_position_embeddings", "head_dim", "rope_scaling", "rope_parameters", "hidden_size"],
            ODD,
        ),
    ),
)
def test_no_config_makes_the_rope_tables_fall_over(architecture, config):
    for table in rope_tables(config, architecture=architecture, head_size=64, max_position_embeddings=2048):
        assert isinstance(table, RopeTable)


BASE = {"max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("more", "tables"),
    [
        ({}, [(4096, 128)]),
        ({"head_dim": 64, "partial_rotary_factor": 0.5}, [(4096, 32)]),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, [(16384, 128)]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, [(4096, 128)]),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}},
            [(8192, 128)],
        ),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 512}, [(4608, 128)]),
        ({"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}}, [(16384, 128)]),
        ({"rope_local_base_freq": 1e4, "rope_scaling": {"type": "linear", "factor": 8.0}}, [(32768, 128), (4096, 128)]),
        ({"rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25},
                              "sliding_attention": {"rope_type": "default"}}, "global_head_dim": 512},
         [(4096, 512), (4096, 128)]),
        ({"qk_rope_head_dim": 64, "kv_lora_rank": 512}, [(4096, 64)]),
        ({"max_position_embeddings": None}, [(2048, 128)]),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, [(4096, 128)]),
        ({"rope_scaling": {"rope_type": [0], "factor": 2.0}}, [(4096, 128)]),
    ],
)  # fmt: skip
def test_each_kind_of_rope_has_its_own_table(more, tables):
    found = rope_tables(BASE | more, architecture="LlamaForCausalLM", head_size=128, max_position_embeddings=2048)
    assert [(each.positions, each.dims) for each in found] == tables


def test_learned_positions_have_no_table_and_gemma_3_always_has_two():
    usual = {"head_size": 128, "max_position_embeddings": 2048}
    assert rope_tables(BASE, architecture="OPTForCausalLM", **usual) == ()
    gemma = rope_tables(BASE, architecture="Gemma3ForConditionalGeneration", **usual)
    assert [each.positions for each in gemma] == [8 * 4096, 4096]
    assert rope_tables(BASE, architecture="Qwen3VLForConditionalGeneration", **usual)[0].positions == 4 * 4096


def test_float32_tables_take_four_bytes_from_their_release_on():
    table = RopeTable(positions=100, dims=10, float32_since=(0, 14, 0))
    none, some = decoder(**SMALL, rope_tables=()), decoder(**SMALL, rope_tables=(table,))
    assert held(some, version=(0, 13, 0)) - held(none) == 2000
    assert held(some, version=(0, 14, 0)) - held(none) == 4000

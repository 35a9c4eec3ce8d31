from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.quantization import CHECKPOINT_METHODS, RUN_TIME_METHODS, choice_of
from advisor.quantization.names import Names
from advisor.spec import DeclinedError, ModelConfigError, Quantization
from advisor.units import GIB
from advisor.weights import stage_weights
from tests.advisor.specs import decoder, matrix, vector

ROWS, COLUMNS = 1024, 2048
CELLS = ROWS * COLUMNS
NEW = (0, 32, 0)


def choose(method, config, *, version=NEW, capability=None):
    return choice_of(Quantization(method=method, config=config), None, version=version, capability=capability)


def size(scheme, rows=ROWS, columns=COLUMNS):
    return scheme.value_bytes(rows, columns) + scheme.scales_bytes(rows, columns, columns)


def of_linear(method, config, **more):
    """Bytes of one 1,024 x 2,048 matrix of a decoder layer."""
    return size(choose(method, config, **more)("model.layers.#.mlp.up_proj", 0, False))


@pytest.mark.parametrize(
    ("method", "config", "expected"),
    [
        ("fp8", {}, CELLS + 8),
        ("fp8", {"weight_block_size": [128, 128]}, CELLS + 8 * 16 * 4),
        ("fbgemm_fp8", {}, CELLS + 1024 * 4),
        ("awq", {"bits": 4, "group_size": 128}, CELLS // 2 + 1024 * 16 * (2 + 0.5)),
        ("awq", {"w_bit": 4, "q_group_size": 64, "zero_point": False}, CELLS // 2 + 1024 * 32 * 2),
        ("gptq", {"bits": 4, "group_size": 128}, CELLS // 2 + 1024 * 16 * 2),
        ("gptq", {"bits": 8, "group_size": -1}, CELLS + 1024 * 2),
        ("gptq", {"bits": 4, "group_size": 128, "desc_act": True}, CELLS // 2 + 1024 * 16 * 2 + 2048 * 8),
        ("gptq", {"bits": 4, "group_size": 128, "sym": False}, CELLS // 2 + 1024 * 16 * (2 + 0.5)),
        ("auto-round", {"bits": 4, "group_size": 128, "sym": True}, CELLS // 2 + 1024 * 16 * 2),
        ("auto-round", {"bits": 4, "data_type": "mx_fp", "group_size": 32}, CELLS // 2 + CELLS // 32),
        ("bitsandbytes", {"load_in_4bit": True}, CELLS // 2 + CELLS // 64 * 4),
        ("bitsandbytes", {"load_in_8bit": True}, CELLS + 1024 * 4),
        ("modelopt", {"quant_algo": "FP8"}, CELLS + 8),
        ("modelopt", {"quantization": {"quant_algo": "NVFP4"}}, CELLS // 2 + CELLS // 16),
        ("modelopt", {"quant_algo": "MXFP8"}, CELLS + CELLS // 32),
        ("quark", {"global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}}, CELLS + 8),
        ("quark", {"global_quant_config": {"weight": {"dtype": "fp4", "qscheme": "per_group"}}}, CELLS * 17 // 32),
        ("torchao", {"quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 128}}}},
         CELLS // 2 + 1024 * 16 * 4),
        ("torchao", {"quant_type": "float8_weight_only"}, CELLS + 1024 * 4),
    ],
)  # fmt: skip
def test_each_method_keeps_values_and_what_they_share(method, config, expected):
    assert of_linear(method, config) == expected


def group(stored_as="", targets=("Linear",), **weights):
    return {"targets": list(targets), "weights": weights, **({"format": stored_as} if stored_as else {})}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"format": "int-quantized", "config_groups": {"g": group(num_bits=8, type="int", strategy="channel")}},
         CELLS + 1024 * 4),
        ({"format": "float-quantized", "config_groups": {"g": group(num_bits=8, type="float", strategy="tensor")}},
         CELLS + 8),
        ({"format": "float-quantized", "config_groups": {
            "g": group(num_bits=8, type="float", strategy="block", block_structure=[128, 128])}}, CELLS + 8 * 16 * 4),
        ({"format": "pack-quantized", "config_groups": {
            "g": group(num_bits=4, type="int", strategy="group", group_size=128)}}, CELLS // 2 + 1024 * 16 * 2),
        ({"format": "pack-quantized", "config_groups": {
            "g": group(num_bits=4, type="int", strategy="group", group_size=128, symmetric=False)}},
         CELLS // 2 + 1024 * 16 * (2 + 0.5)),
        ({"format": "pack-quantized", "config_groups": {
            "g": group(num_bits=4, type="int", strategy="group", group_size=128, actorder="group")}},
         CELLS // 2 + 1024 * 16 * 2 + 2048 * 8),
        ({"format": "pack-quantized", "config_groups": {"g": group(num_bits=8, type="int", strategy="channel")}},
         CELLS + 1024 * 2),
        ({"format": "nvfp4-pack-quantized", "config_groups": {
            "g": group(num_bits=4, type="float", strategy="tensor_group", group_size=16)}}, CELLS // 2 + CELLS // 16),
        ({"format": "mxfp4-pack-quantized", "config_groups": {
            "g": group(num_bits=4, type="float", strategy="group", group_size=32)}}, CELLS // 2 + CELLS // 32),
        ({"format": "int-quantized"}, CELLS + 1024 * 4),  # re-exports that keep no more than the format
    ],
)  # fmt: skip
def test_each_strategy_of_compressed_tensors_has_its_scales(config, expected):
    assert of_linear("compressed-tensors", config) == expected


def test_mixed_precision_follows_the_targets_and_the_ignore_list_wins():
    config = {
        "ignore": ["lm_head", "re:.*vision_tower.*", "model.layers.1.mlp.up_proj"],
        "config_groups": {
            "eight": group("float-quantized", ["re:.*self_attn.*"], num_bits=8, type="float", strategy="tensor"),
            "four": group("pack-quantized", num_bits=4, type="int", strategy="group", group_size=128),
        },
    }
    held_as = choose("compressed-tensors", config)
    assert held_as("model.layers.#.self_attn.q_proj", 1, False).bits == 8
    assert held_as("model.layers.#.mlp.up_proj", 0, False).bits == 4
    assert held_as("model.layers.#.mlp.up_proj", 1, False) is None
    assert held_as("lm_head", None, False) is None
    assert held_as("model.vision_tower.blocks.0.attn.qkv", None, False) is None


def test_a_target_that_names_no_group_of_weights_stays_plain():
    config = {"config_groups": {"g": {"targets": ["re:.*mlp.*"], "weights": None}}}
    assert choose("compressed-tensors", config)("model.layers.#.mlp.up_proj", 0, False) is None
    assert choose("compressed-tensors", config)("model.layers.#.self_attn.q_proj", 0, False) is None


def deepseek_v4(name, **config):
    chosen = choose("deepseek_v4_fp8", {"weight_block_size": [128, 128], **config})
    return chosen(name, 0, ".experts." in name)


def test_deepseek_v4_has_blocks_of_fp8_and_experts_in_four_bits_unless_told():
    experts = "layers.#.ffn.experts.*.w1"

    assert size(deepseek_v4("layers.#.attn.wq_b")) == CELLS + 8 * 16 * 4
    assert size(deepseek_v4(experts)) == CELLS // 2 + CELLS // 32
    assert size(deepseek_v4(experts, moe_quant_algo="NVFP4")) == CELLS // 2 + CELLS // 16
    assert size(deepseek_v4(experts, expert_dtype="fp8")) == CELLS + 8 * 16 * 4
    with pytest.raises(ModelConfigError, match="expert_dtype is 'int4'; it must be fp4 or fp8"):
        deepseek_v4(experts, expert_dtype="int4")


@pytest.mark.parametrize("name", ["attn.indexer.weights_proj", "attn.compressor.wkv", "attn.indexer.compressor.wgate"])
def test_deepseek_v4_leaves_alone_what_compresses_and_what_weighs_the_indexs_heads(name):
    assert deepseek_v4(f"layers.#.{name}") is None


def test_modelopt_lists_layers_with_an_algorithm_each():
    config = {
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {
            "model.language_model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
            "model.language_model.layers.0.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16},
        },
    }
    held_as = choose("modelopt", config)
    assert held_as("model.language_model.layers.#.self_attn.q_proj", 0, False).bits == 8
    assert held_as("model.language_model.layers.#.mlp.experts.*.up_proj", 0, True).bits == 4
    assert held_as("model.language_model.layers.#.mlp.experts.*.up_proj", 1, True) is None


def test_modelopts_wildcards_name_whole_layers():
    config = {"config_groups": {"g": group(num_bits=4, type="float", group_size=16)},
              "ignore": ["lm_head", "model.layers.0*", "model.layers.1.self_attn*"]}  # fmt: skip
    held_as = choose("modelopt", config)
    assert held_as("model.layers.#.mlp.up_proj", 0, False) is None
    assert held_as("model.layers.#.mlp.up_proj", 1, False).bits == 4
    assert held_as("model.layers.#.self_attn.o_proj", 1, False) is None
    assert held_as("model.layers.#.self_attn.o_proj", 10, False).bits == 4


def test_gptq_rules_by_name_change_bits_or_leave_out():
    config = {"bits": 4, "group_size": 128, "dynamic": {"-:.*self_attn.*": {}, r"+:.*layers\.1\..*": {"bits": 8}}}
    held_as = choose("gptq", config)
    assert held_as("model.layers.#.self_attn.q_proj", 0, False) is None
    assert held_as("model.layers.#.mlp.up_proj", 0, False).bits == 4
    assert held_as("model.layers.#.mlp.up_proj", 1, False).bits == 8


def test_auto_round_keeps_exceptions_in_sixteen_bits():
    config = {"bits": 4, "group_size": 128, "extra_config": {"model.layers.0.mlp.up_proj": {"bits": 16}}}
    held_as = choose("auto-round", config)
    assert held_as("model.layers.#.mlp.up_proj", 0, False) is None
    assert held_as("model.layers.#.mlp.up_proj", 1, False).bits == 4


def test_awq_and_gptq_leave_encoders_alone():
    for method in ("awq", "gptq"):
        held_as = choose(method, {"bits": 4, "group_size": 128})
        assert held_as("visual.blocks.0.attn.qkv", None, False) is None
        assert held_as("model.layers.#.self_attn.q_proj", 0, False).bits == 4


def test_bitsandbytes_scales_were_in_eight_bits_before_0_9():
    before = of_linear("bitsandbytes", {"bnb_4bit_use_double_quant": True}, version=(0, 8, 5))
    since = of_linear("bitsandbytes", {"bnb_4bit_use_double_quant": True}, version=(0, 9, 0))
    assert since - before == CELLS // 64 * (3 - 4 / 256)


def test_names_match_whole_components_whatever_the_wrapper():
    names = Names(["model.layers.1.mlp.gate", "visual", "lm_head", "re:^model\\.embed.*", "*.shared_expert.*"])
    assert names.matches("language_model.model.layers.#.mlp.gate", 1)
    assert not names.matches("model.layers.#.mlp.gate", 10)
    assert not names.matches("model.layers.#.mlp.gate_proj", 1)
    assert names.matches("model.visual.blocks.0.attn", None)
    assert not names.matches("visual_projection.dense", None)
    assert names.matches("language_model.lm_head", None)
    assert names.matches("language_model.model.embed_tokens", None)
    assert names.matches("model.layers.#.mlp.shared_expert.up_proj", 7)


def test_a_regular_expression_that_is_none_matches_nothing():
    assert not Names(["re:*("]).matches("model.layers.#.mlp.up_proj", 0)


def test_unknown_methods_are_declined_by_their_names():
    with pytest.raises(DeclinedError, match="quantised with gguf are not described"):
        choose("gguf", {})
    with pytest.raises(DeclinedError, match="--quantization deepspeedfp of a checkpoint that is not quantised"):
        choice_of(None, "deepspeedfp", version=NEW)
    with pytest.raises(DeclinedError, match="modelopt W9A9"):
        choose("modelopt", {"quant_algo": "W9A9"})
    with pytest.raises(DeclinedError, match="strategy token"):
        of_linear("compressed-tensors", {"config_groups": {"g": group(num_bits=8, strategy="token")}})


@pytest.mark.parametrize(
    ("method", "config", "words"),
    [
        ("gptq", {"bits": 17}, "bits is 17; it must be from 2 to 8"),
        ("awq", {"group_size": "big"}, "group_size is 'big'; it must be a whole number"),
        ("fp8", {"weight_block_size": [0, 128]}, r"weight_block_size is \[0, 128\]; it must be a pair such as"),
        ("compressed-tensors", {"config_groups": {"g": 3}}, "config_groups.g must be an object"),
    ],
)
def test_nonsense_configs_are_one_clear_line(method, config, words):
    with pytest.raises(ModelConfigError, match=words):
        choose(method, config)


def test_a_plain_checkpoint_without_the_flag_has_no_choice_to_make():
    assert choice_of(None, None, version=NEW) is None
    assert choice_of(None, "none", version=NEW) is None


def test_the_flag_only_names_a_kernel_where_the_checkpoint_is_quantised():
    given = choice_of(Quantization(method="awq", config={}), "awq_marlin", version=NEW)
    assert given("model.layers.#.mlp.up_proj", 0, False).bits == 4


def test_routers_norms_and_embeddings_are_never_quantised():
    spec = decoder(
        hidden_size=256, intermediate_size=512, num_layers=1, heads=8, kv_heads=8, vocab_size=1000, experts=(4, 128)
    )

    def bytes_of(spec, flag):
        (only,) = stage_weights(
            spec, dtype="bfloat16", tensor_parallel_size=1, pipeline_parallel_size=1, version=NEW, quantization=flag
        )
        return only.expected

    quantised = 4 * 256 * 256 + 4 * 3 * 128 * 256
    assert bytes_of(spec, None) - bytes_of(spec, "fp8") == quantised - (4 + 4 * 3) * 8


# gpt-oss-120b: 36 layers of 128 experts of 2,880 x 2,880, all else in 16 bits.
GPT_OSS = decoder(
    hidden_size=2880,
    intermediate_size=2880,
    num_layers=36,
    heads=64,
    kv_heads=8,
    head_size=64,
    vocab_size=201088,
    positions=131072,
    qkv_bias=True,
    experts=(128, 2880),
    quantization=Quantization(method="mxfp4", config={}),
)


def gpt_oss():
    """With what a Llama-like decoder lacks: biases of experts, routers and outputs, and sinks."""
    more = []
    for layer in range(36):
        prefix = f"model.layers.{layer}"
        more += [
            vector(f"{prefix}.self_attn.sinks", 64, "column", layer=layer),
            vector(f"{prefix}.self_attn.o_proj.bias", 2880, layer=layer),
            vector(f"{prefix}.mlp.router.bias", 128, layer=layer),
            matrix(f"{prefix}.mlp.experts.gate_up_proj_bias", 128, 5760, "row", role="norm", layer=layer),
            matrix(f"{prefix}.mlp.experts.down_proj_bias", 128, 2880, "copied", role="norm", layer=layer),
        ]
    return replace(GPT_OSS, parameters=(*GPT_OSS.parameters, *more))


@pytest.mark.parametrize(
    ("capability", "tp", "reported_gib", "source"),
    [
        (90, 1, 64.38, "https://github.com/vllm-project/vllm/issues/33155"),
        (80, 4, 17.2217, "https://github.com/dennislee22/vLLM-benchmarking/tree/HEAD/log 120B 4 GPUs"),
    ],
)
def test_mxfp4_experts_are_padded_as_the_gpus_kernel_needs(capability, tp, reported_gib, source):
    (only,) = stage_weights(
        gpt_oss(),
        dtype="bfloat16",
        tensor_parallel_size=tp,
        pipeline_parallel_size=1,
        version=(0, 11, 0),
        capability=capability,
    )
    assert only.expected / GIB == pytest.approx(reported_gib, rel=0.003), source


def test_an_unknown_gpu_widens_what_its_kernel_decides():
    def width(capability):
        (only,) = stage_weights(
            GPT_OSS,
            dtype="bfloat16",
            tensor_parallel_size=1,
            pipeline_parallel_size=1,
            version=NEW,
            capability=capability,
        )
        return only.upper - only.lower

    assert width(None) > 2 * width(90)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.sampled_from(["Linear", "re:(", "FP8", "group", "int", "x.y"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["g", "weights", "bits"]), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = (
    *(
        "bits",
        "group_size",
        "weight_block_size",
        "config_groups",
        "ignore",
        "quant_algo",
        "quantized_layers",
        "dynamic",
    ),
    *("extra_config", "format", "modules_to_not_convert", "quant_type", "global_quant_config"),
)


@given(
    method=st.sampled_from(sorted(CHECKPOINT_METHODS)),
    config=st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JUNK)),
    version=st.sampled_from([(0, 6, 3), (0, 32, 0)]),
)
def test_no_config_makes_a_method_fall_over(method, config, version):
    try:
        held_as = choose(method, config, version=version)
        scheme = held_as("model.layers.#.mlp.up_proj", 0, False)
    except (DeclinedError, ModelConfigError):
        return
    assert scheme is None or 0 < size(scheme) <= 5 * CELLS


def test_every_run_time_method_shrinks_what_it_quantises():
    for flag in RUN_TIME_METHODS:
        scheme = choice_of(None, flag, version=NEW)("model.layers.#.mlp.experts.*.up_proj", 0, True)
        assert size(scheme) < 2 * CELLS * 0.6, flag

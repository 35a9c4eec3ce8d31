import pytest

from advisor.layers import FullAttention, Latent, SlidingWindow, SparseIndex
from advisor.model import parse_model

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 4096,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}


def parsed(architecture="LlamaForCausalLM", **changes):
    return parse_model({**LLAMA, "architectures": [architecture], **changes})


def lengths(**changes):
    spec = parsed(**changes)
    return spec.max_position_embeddings, spec.extended_position_embeddings


def test_the_smallest_of_several_length_keys_counts():
    assert lengths(model_max_length=2048)[0] == 2048


def test_a_linear_scaling_multiplies_the_length():
    assert lengths(rope_scaling={"type": "linear", "factor": 4.0}) == (16384, None)


def test_llama_3_scaling_is_already_in_the_length():
    assert lengths(rope_scaling={"rope_type": "llama3", "factor": 8.0}) == (4096, None)


def test_yarn_over_an_unscaled_length_is_told_as_what_older_releases_derive():
    assert lengths(rope_scaling=YARN) == (4096, 16384)


def test_yarn_over_a_scaled_length_adds_nothing():
    assert lengths(rope_scaling=YARN, max_position_embeddings=16384) == (16384, None)


def test_longrope_takes_the_original_length_until_asked_for_more():
    spec = parsed(
        "Phi3ForCausalLM",
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_scaling={"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
    )

    assert (spec.max_position_embeddings, spec.extended_position_embeddings) == (4096, 131072)
    assert spec.extended_by == "longrope"


def test_a_config_that_names_no_length_gets_vllms_own():
    config = {key: value for key, value in LLAMA.items() if key != "max_position_embeddings"}

    assert parse_model(config).max_position_embeddings == 2048


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [("LlamaForCausalLM", False), ("Qwen2ForCausalLM", False), ("GemmaForCausalLM", True), ("CohereForCausalLM", True)],
)
def test_the_head_is_tied_by_the_familys_default_where_the_config_is_silent(architecture, tied):
    spec = parsed(architecture, head_dim=8)

    assert spec.tie_word_embeddings is tied
    assert any(each.role == "lm_head" for each in spec.parameters) is not tied


def test_a_window_counts_only_where_it_is_used():
    off = parsed("Qwen2ForCausalLM", sliding_window=512, use_sliding_window=False)
    on = parsed("Qwen2ForCausalLM", sliding_window=512, use_sliding_window=True, max_window_layers=0)

    full = FullAttention(num_kv_heads=2, head_size=8, head_size_v=8)
    window = SlidingWindow(num_kv_heads=2, head_size=8, head_size_v=8, window=512)
    assert (off.layers, on.layers) == (((full,),) * 4, ((window,),) * 4)


def test_null_kv_heads_are_as_many_as_heads():
    assert parsed(num_key_value_heads=None).num_kv_heads == 8


def test_a_predictors_layers_are_counted_but_not_listed():
    plain = parsed(
        "Glm4MoeForCausalLM", head_dim=8, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    )
    drafting = parsed(
        "Glm4MoeForCausalLM",
        head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        num_nextn_predict_layers=1,
    )

    assert (plain.draft_layers, drafting.draft_layers) == (0, 1)
    assert plain.parameters == drafting.parameters


def test_layers_that_reuse_an_index_keep_only_the_latent():
    spec = parsed(
        "GlmMoeDsaForCausalLM",
        num_hidden_layers=8,
        kv_lora_rank=32,
        q_lora_rank=48,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        index_n_heads=4,
        index_head_dim=128,
        index_topk_freq=4,
        index_skip_topk_offset=3,
    )

    latent = Latent(kv_lora_rank=32, qk_rope_head_dim=8, sparse=True)
    assert [layer == (latent, SparseIndex(head_dim=128)) for layer in spec.layers] == [
        *(True, True, True, False),
        *(False, False, True, False),
    ]
    assert all(layer[0] == latent for layer in spec.layers)


def test_experts_are_one_entry_a_matrix():
    spec = parsed("MixtralForCausalLM", num_local_experts=8, num_experts_per_tok=2)
    first = [each for each in spec.parameters if each.layer == 0 and each.role == "expert"]

    assert [(each.name.rpartition("experts.")[2], each.shape, each.count) for each in first] == [
        ("*.w1.weight", (128, 64), 8),
        ("*.w3.weight", (128, 64), 8),
        ("*.w2.weight", (64, 128), 8),
    ]
    assert (spec.experts.num_experts, spec.experts.experts_per_token) == (8, 2)


def test_a_fused_projections_rows_stand_apart_where_they_are_shared_apart():
    spec = parsed("Phi3ForCausalLM")
    fused = [each for each in spec.parameters if each.name == "model.layers.0.self_attn.qkv_proj.weight"]

    assert [(each.shape, each.sharding, each.kv_heads) for each in fused] == [
        ((64, 64), "column", None),
        ((32, 64), "kv_heads", 2),
    ]


def test_what_follows_the_layers_is_on_the_last_stage():
    placed = {each.name: (each.layer, each.last_stage) for each in parsed().parameters}

    assert placed["model.embed_tokens.weight"] == (None, False)
    assert placed["model.layers.3.mlp.down_proj.weight"] == (3, False)
    assert placed["model.norm.weight"] == placed["lm_head.weight"] == (None, True)


def test_a_wrappers_tower_is_on_the_first_stage_and_described():
    spec = parse_model(
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "text_config": LLAMA,
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "image_size": 56,
                "patch_size": 14,
            },
        }
    )

    assert not any(each.last_stage or each.layer is not None for each in spec.parameters if "vision" in each.name)
    assert (spec.encoder.hidden_size, spec.encoder.num_layers, spec.encoder.max_item_tokens) == (32, 2, 16)


def test_quantisation_inside_the_text_model_is_found():
    spec = parse_model(
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "text_config": {**LLAMA, "quantization_config": {"quant_method": "compressed_tensors"}},
        }
    )

    assert spec.quantization.method == "compressed-tensors"

import pytest

from advisor.model import parse_model


def llama(hidden, inner, layers, heads, kv_heads, vocab, **others):
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        **others,
    }


def kin(architecture, *sizes, **others):
    return {**llama(*sizes, **others), "architectures": [architecture]}


DEEPSEEK = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
QWEN3_VISION = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "patch_size": 16,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}

SHARED = 2 * 512 * 2048 + 256
"""Keys, values and their norm of a Gemma 3n layer that reads another's: in the files, not in vLLM."""


def gemma_3n(*, layers, inner, shared):
    text = {
        "model_type": "gemma3n_text",
        "hidden_size": 2048,
        "intermediate_size": [inner] * layers,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "vocab_size": 262_400,
        "vocab_size_per_layer_input": 262_144,
        "hidden_size_per_layer_input": 256,
        "num_kv_shared_layers": shared,
        "max_position_embeddings": 32_768,
    }
    return {
        "architectures": ["Gemma3nForConditionalGeneration"],
        "text_config": text,
        "vision_config": {"architecture": "mobilenetv5_300m_enc"},
    }


PUBLISHED = {
    "Llama-2-7B": (6_738_415_616, llama(4096, 11008, 32, 32, 32, 32000)),
    "Llama-2-13B": (13_015_864_320, llama(5120, 13824, 40, 40, 40, 32000)),
    "Llama-2-70B": (68_976_648_192, llama(8192, 28672, 80, 64, 8, 32000)),
    "Llama-3.1-8B": (8_030_261_248, llama(4096, 14336, 32, 32, 8, 128256)),
    "Llama-3.1-70B": (70_553_706_496, llama(8192, 28672, 80, 64, 8, 128256)),
    "Llama-3.2-1B": (1_235_814_400, llama(2048, 8192, 16, 32, 8, 128256, head_dim=64, tie_word_embeddings=True)),
    "Llama-3.2-3B": (3_212_749_824, llama(3072, 8192, 28, 24, 8, 128256, head_dim=128, tie_word_embeddings=True)),
    "TinyLlama-1.1B": (1_100_048_384, llama(2048, 5632, 22, 32, 4, 32000)),
    "Mistral-7B-v0.1": (7_241_732_096, kin("MistralForCausalLM", 4096, 14336, 32, 32, 8, 32000)),
    "Mistral-7B-v0.3": (7_248_023_552, kin("MistralForCausalLM", 4096, 14336, 32, 32, 8, 32768)),
    "Mistral-Nemo": (12_247_782_400, kin("MistralForCausalLM", 5120, 14336, 40, 32, 8, 131072, head_dim=128)),
    "Mistral-Small-24B": (23_572_403_200, kin("MistralForCausalLM", 5120, 32768, 40, 32, 8, 131072, head_dim=128)),
    "Mixtral-8x7B": (
        46_702_792_704,
        kin("MixtralForCausalLM", 4096, 14336, 32, 32, 8, 32000, num_local_experts=8, num_experts_per_tok=2),
    ),
    "Qwen2.5-0.5B": (494_032_768, kin("Qwen2ForCausalLM", 896, 4864, 24, 14, 2, 151936, tie_word_embeddings=True)),
    "Qwen2.5-7B": (7_615_616_512, kin("Qwen2ForCausalLM", 3584, 18944, 28, 28, 4, 152064)),
    "Qwen2.5-32B": (32_763_876_352, kin("Qwen2ForCausalLM", 5120, 27648, 64, 40, 8, 152064)),
    "Qwen2.5-72B": (72_706_203_648, kin("Qwen2ForCausalLM", 8192, 29568, 80, 64, 8, 152064)),
    "Qwen3-4B": (
        4_022_468_096,
        kin("Qwen3ForCausalLM", 2560, 9728, 36, 32, 8, 151936, head_dim=128, tie_word_embeddings=True),
    ),
    "Qwen3-8B": (8_190_735_360, kin("Qwen3ForCausalLM", 4096, 12288, 36, 32, 8, 151936, head_dim=128)),
    "Qwen3-32B": (32_762_123_264, kin("Qwen3ForCausalLM", 5120, 25600, 64, 64, 8, 151936, head_dim=128)),
    "Qwen3-30B-A3B": (
        30_532_122_624,
        kin(
            "Qwen3MoeForCausalLM",
            *(2048, 6144, 48, 32, 4, 151936),
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
        ),
    ),
    "Qwen3-235B-A22B": (
        235_093_634_560,
        kin(
            "Qwen3MoeForCausalLM",
            *(4096, 12288, 94, 64, 4, 151936),
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=1536,
        ),
    ),
    "Qwen1.5-MoE-A2.7B": (
        14_315_784_192,
        kin(
            "Qwen2MoeForCausalLM",
            *(2048, 5632, 24, 16, 16, 151936),
            num_experts=60,
            num_experts_per_tok=4,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
        ),
    ),
    "Qwen3-Next-80B-A3B, predictor left out": (
        79_674_391_296,
        kin(
            "Qwen3NextForCausalLM",
            *(2048, 5120, 48, 16, 2, 151936),
            head_dim=256,
            num_experts=512,
            num_experts_per_tok=10,
            moe_intermediate_size=512,
            shared_expert_intermediate_size=512,
            linear_num_key_heads=16,
            linear_num_value_heads=32,
        ),
    ),
    "Gemma-7B": (8_537_680_896, kin("GemmaForCausalLM", 3072, 24576, 28, 16, 16, 256000, head_dim=256)),
    "Gemma-2-2B": (2_614_341_888, kin("Gemma2ForCausalLM", 2304, 9216, 26, 8, 4, 256000, head_dim=256)),
    "Gemma-2-9B": (9_241_705_984, kin("Gemma2ForCausalLM", 3584, 14336, 42, 16, 8, 256000, head_dim=256)),
    "Gemma-2-27B": (27_227_128_320, kin("Gemma2ForCausalLM", 4608, 36864, 46, 32, 16, 256000, head_dim=128)),
    "Phi-2": (2_779_683_840, kin("PhiForCausalLM", 2560, 10240, 32, 32, 32, 51200)),
    "Phi-3-mini": (3_821_079_552, kin("Phi3ForCausalLM", 3072, 8192, 32, 32, 32, 32064)),
    "Phi-4": (14_659_507_200, kin("Phi3ForCausalLM", 5120, 17920, 40, 40, 10, 100352)),
    "StarCoder2-3B": (3_030_371_328, kin("Starcoder2ForCausalLM", 3072, 12288, 30, 24, 2, 49152)),
    "OLMoE-1B-7B": (
        6_919_161_856,
        kin("OlmoeForCausalLM", 2048, 1024, 16, 16, 16, 50304, num_experts=64, num_experts_per_tok=8),
    ),
    "gpt-oss-20b": (
        20_914_757_184,
        kin("GptOssForCausalLM", 2880, 2880, 24, 64, 8, 201088, num_local_experts=32, num_experts_per_tok=4),
    ),
    "gpt-oss-120b": (
        116_829_156_672,
        kin("GptOssForCausalLM", 2880, 2880, 36, 64, 8, 201088, num_local_experts=128, num_experts_per_tok=4),
    ),
    "Gemma-3n-E4B": (7_849_978_192 - 15 * SHARED, gemma_3n(layers=35, inner=16384, shared=15)),
    "Gemma-3n-E2B": (5_439_438_272 - 10 * SHARED, gemma_3n(layers=30, inner=8192, shared=10)),
    "DeepSeek-V2-Lite": (
        15_706_484_224,
        kin(
            "DeepseekV2ForCausalLM",
            *(2048, 10944, 27, 16, 16, 102400),
            **DEEPSEEK,
            n_routed_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            moe_intermediate_size=1408,
            first_k_dense_replace=1,
        ),
    ),
    "DeepSeek-V3, predictor left out": (
        671_026_419_200,
        kin(
            "DeepseekV3ForCausalLM",
            *(7168, 18432, 61, 128, 128, 129280),
            **DEEPSEEK,
            q_lora_rank=1536,
            n_routed_experts=256,
            n_shared_experts=1,
            num_experts_per_tok=8,
            moe_intermediate_size=2048,
            first_k_dense_replace=3,
            topk_method="noaux_tc",
        ),
    ),
    "OPT-125M": (
        125_239_296,
        {
            **kin("OPTForCausalLM", 768, 0, 12, 12, 12, 50272),
            "ffn_dim": 3072,
            "max_position_embeddings": 2048,
        },
    ),
    "GPT-2": (
        124_439_808,
        {
            "architectures": ["GPT2LMHeadModel"],
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "vocab_size": 50257,
        },
    ),
    "GPT-J-6B": (
        6_050_882_784,
        {"architectures": ["GPTJForCausalLM"], "n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400},
    ),
    "Pythia-6.9B": (6_857_302_016, kin("GPTNeoXForCausalLM", 4096, 16384, 32, 32, 32, 50432)),
    "BLOOM-7B1": (
        7_069_016_064,
        {"architectures": ["BloomForCausalLM"], "hidden_size": 4096, "n_layer": 30, "n_head": 32, "vocab_size": 250880},
    ),
    "Falcon-7B": (
        6_921_720_704,
        {
            "architectures": ["FalconForCausalLM"],
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "vocab_size": 65024,
        },
    ),
    "ChatGLM3-6B": (
        6_243_584_000,
        {
            "architectures": ["ChatGLMModel"],
            "hidden_size": 4096,
            "ffn_hidden_size": 13696,
            "num_layers": 28,
            "num_attention_heads": 32,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "kv_channels": 128,
            "padded_vocab_size": 65024,
            "add_qkv_bias": True,
        },
    ),
    "Mamba-2.8B": (
        2_768_345_600,
        {
            "architectures": ["MambaForCausalLM"],
            "hidden_size": 2560,
            "intermediate_size": 5120,
            "num_hidden_layers": 64,
            "state_size": 16,
            "conv_kernel": 4,
            "time_step_rank": 160,
            "vocab_size": 50280,
        },
    ),
    "Jamba-1.5-Mini": (
        51_570_323_328,
        kin(
            "JambaForCausalLM",
            *(4096, 14336, 32, 32, 8, 65536),
            num_experts=16,
            num_experts_per_tok=2,
            mamba_dt_rank=256,
        ),
    ),
    "Qwen2-VL-7B": (
        8_291_375_616,
        {**kin("Qwen2VLForConditionalGeneration", 3584, 18944, 28, 28, 4, 152064), "vision_config": {}},
    ),
    "Qwen2.5-VL-7B": (
        8_292_166_656,
        {
            **kin("Qwen2_5_VLForConditionalGeneration", 3584, 18944, 28, 28, 4, 152064),
            "vision_config": {"hidden_size": 1280},
        },
    ),
    "Qwen3-VL-8B": (
        8_767_123_696,
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "text_config": llama(4096, 12288, 36, 32, 8, 151936, head_dim=128),
            "vision_config": {**QWEN3_VISION, "out_hidden_size": 4096},
        },
    ),
    "Gemma-3-4B": (
        4_300_079_472,
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "sliding_window": 1024,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 896,
                "patch_size": 14,
            },
        },
    ),
    "Mistral-Small-3.1-24B": (
        24_011_361_280,
        {
            "architectures": ["Mistral3ForConditionalGeneration"],
            "text_config": {
                **llama(5120, 32768, 40, 32, 8, 131072, head_dim=128),
                "architectures": ["MistralForCausalLM"],
            },
            "vision_config": {"model_type": "pixtral", "image_size": 1540, "patch_size": 14},
            "spatial_merge_size": 2,
        },
    ),
    "InternVL3-8B": (
        7_944_373_760,
        {
            "architectures": ["InternVLChatModel"],
            "llm_config": kin("Qwen2ForCausalLM", 3584, 18944, 28, 28, 4, 151674),
            "vision_config": {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "qkv_bias": True,
            },
        },
    ),
    "Granite-3.1-8B": (
        8_170_848_256,
        kin("GraniteForCausalLM", 4096, 12800, 40, 32, 8, 49155, tie_word_embeddings=True),
    ),
    "SmolLM3-3B": (3_075_098_624, kin("SmolLM3ForCausalLM", 2048, 11008, 36, 16, 4, 128256)),
    "Seed-OSS-36B": (36_151_104_512, kin("SeedOssForCausalLM", 5120, 27648, 64, 80, 8, 155136)),
    "GLM-4-9B": (
        9_399_951_360,
        {
            "architectures": ["ChatGLMModel"],
            "hidden_size": 4096,
            "ffn_hidden_size": 13696,
            "num_layers": 40,
            "num_attention_heads": 32,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "kv_channels": 128,
            "padded_vocab_size": 151552,
            "add_qkv_bias": True,
        },
    ),
}
"""Totals as the checkpoints' headers or model cards give them, with the published sizes."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tensors_of_a_published_model_add_up_to_its_published_total(name):
    total, config = PUBLISHED[name]

    assert parse_model(config).num_parameters == total

import json
from pathlib import Path

import pytest

from advisor.defaults import (
    Device,
    default_block_size,
    default_gpu_memory_utilization,
    default_max_num_batched_tokens,
    default_max_num_seqs,
    resolve_flags,
    uses_v1,
)
from advisor.flags import parse_flags
from advisor.traits import ModelTraits
from advisor.units import GIB
from advisor.versions import parse_version

CAPTURES = Path(__file__).parent.parent / "captures" / "defaults"
H100 = Device(name="NVIDIA H100 80GB HBM3", memory_bytes=int(79.19 * GIB))
A100 = Device(name="NVIDIA A100-SXM4-80GB", memory_bytes=int(79.25 * GIB))
L4 = Device(name="NVIDIA L4", memory_bytes=int(22.03 * GIB))
T4 = Device(name="Tesla T4", memory_bytes=int(14.56 * GIB))
B200 = Device(name="NVIDIA B200", memory_bytes=int(178.35 * GIB))
GB10 = Device(name="NVIDIA GB10", memory_bytes=int(119.7 * GIB))
CPU = Device(name="cpu", memory_bytes=0)

# What the recorded models are to vLLM's defaults, and how long their contexts are; see record.py beside the captures.
MODELS = {
    "dense": (ModelTraits(architecture="LlamaForCausalLM"), 40960),
    "short": (ModelTraits(architecture="LlamaForCausalLM"), 1024),
    "mixture": (ModelTraits(architecture="MixtralForCausalLM"), 40960),
    "latent": (ModelTraits(architecture="DeepseekV2ForCausalLM", is_mla=True), 40960),
    "hybrid": (ModelTraits(architecture="Qwen3NextForCausalLM", is_hybrid=True), 40960),
    "hybrid that keeps all states": (ModelTraits(architecture="FalconH1ForCausalLM", is_hybrid=True), 40960),
    "encoder": (ModelTraits(architecture="BertModel", is_pooling=True, pools_last_token=False), 512),
}


def recorded():
    lines = [line for path in sorted(CAPTURES.glob("flags-*.jsonl")) for line in path.read_text().splitlines()]
    return [record for record in map(json.loads, lines) if "resolved" in record]


def said(record):
    return f"{record['version']} {record['model']} {record['device']['name']} {' '.join(record['args'])}"


def resolve(text, *, version, device=H100, traits=None, length=40960):
    return resolve_flags(
        parse_flags(["serve", "m", *text.split()]),
        version=parse_version(version),
        device=device,
        max_position_embeddings=length,
        traits=traits,
    )


@pytest.mark.parametrize("record", recorded(), ids=said)
def test_every_flag_is_what_vllm_itself_took(record):
    device = record["device"]
    traits, length = MODELS[record["model"]]
    flags = resolve_flags(
        parse_flags(["serve", "m", *record["args"]]),
        version=parse_version(record["version"]),
        device=Device(**{**device, "compute_capability": tuple(device["compute_capability"])}),
        max_position_embeddings=length,
        traits=traits,
    )
    expected = dict(record["resolved"])
    # The block size of compressed attention and of states is settled when the model is loaded, after the recording.
    if traits.is_mla:
        del expected["block_size"]
    expected["cudagraph_capture_sizes"] = tuple(expected["cudagraph_capture_sizes"])
    assert {name: getattr(flags, name) for name in expected} == expected


def test_some_recordings_were_compared():
    assert len(recorded()) > 100


@pytest.mark.parametrize(
    ("version", "utilization"), [("0.6.3", 0.90), ("0.19.0", 0.90), ("0.20.0", 0.92), ("0.33.0", 0.92)]
)
def test_the_share_of_the_gpu_grew_with_0_20(version, utilization):
    assert default_gpu_memory_utilization(parse_version(version)) == utilization


@pytest.mark.parametrize(
    ("version", "device", "seqs", "tokens"),
    [
        ("0.6.3", H100, 256, 40960),
        ("0.7.3", H100, 256, 40960),
        ("0.8.0", A100, 1024, 2048),
        ("0.8.4", H100, 1024, 8192),
        ("0.8.4", A100, 256, 2048),
        ("0.8.5", A100, 1024, 8192),
        ("0.9.2", A100, 256, 2048),
        ("0.9.2", H100, 1024, 8192),
        ("0.9.2", L4, 256, 2048),
        ("0.27.0", B200, 1024, 8192),
        ("0.29.0", B200, 1024, 16384),
        ("0.32.0", GB10, 1024, 8192),
        ("0.33.0", GB10, 256, 2048),
        ("0.9.2", CPU, 32, 2048),
        ("0.32.0", CPU, 128, 2048),
    ],
)
def test_batches_grow_with_the_gpu_by_each_releases_own_rule(version, device, seqs, tokens):
    parsed = parse_version(version)
    assert default_max_num_seqs(parsed, device) == seqs
    assert default_max_num_batched_tokens(parsed, device, 40960) == tokens


def test_v0_takes_a_whole_prompt_unless_the_context_is_long():
    assert resolve("--max-model-len 4096", version="0.7.3").max_num_batched_tokens == 4096
    assert resolve("--max-model-len 1024", version="0.7.3").max_num_batched_tokens == 2048
    long = resolve("", version="0.7.3", length=131072)
    assert (long.enable_chunked_prefill, long.max_num_batched_tokens) == (True, 2048)
    assert resolve("", version="0.6.3", length=131072).max_num_batched_tokens == 512


@pytest.mark.parametrize(
    "traits",
    [
        ModelTraits(is_mla=True),
        ModelTraits(has_sliding_window=True),
        ModelTraits(is_pooling=True),
        ModelTraits(is_multimodal=True),
    ],
)
def test_v0_does_not_cut_the_prompts_of_models_that_cannot(traits):
    assert not resolve("", version="0.7.3", length=131072, traits=traits).enable_chunked_prefill


def test_v0_leaves_room_for_images_and_embeddings():
    assert resolve("", version="0.7.3", length=2048, traits=ModelTraits(is_multimodal=True)).max_num_batched_tokens == (
        5120
    )
    assert resolve("", version="0.7.3", length=512, traits=ModelTraits(is_pooling=True)).max_num_batched_tokens == 32768


def test_before_0_10_the_number_of_requests_does_not_follow_the_tokens():
    assert resolve("--max-num-batched-tokens 512", version="0.9.2").max_num_seqs == 1024
    assert resolve("--max-num-batched-tokens 512", version="0.10.2").max_num_seqs == 512


def test_from_0_12_the_tokens_follow_the_number_of_requests():
    text = "--max-num-seqs 4 --max-model-len 100"
    assert resolve(text, version="0.11.0").max_num_batched_tokens == 8192
    assert resolve(text, version="0.12.0").max_num_batched_tokens == 400


def test_an_image_that_cannot_be_cut_raises_the_tokens_to_its_size():
    traits = ModelTraits(is_multimodal=True, is_mm_prefix_lm=True, max_mm_item_tokens=4096)
    assert resolve("", version="0.21.0", device=L4, traits=traits).max_num_batched_tokens == 2048
    assert resolve("", version="0.22.0", device=L4, traits=traits).max_num_batched_tokens == 4096
    assert resolve("--language-model-only", version="0.22.0", device=L4, traits=traits).max_num_batched_tokens == 2048


def test_the_cpu_build_takes_a_batch_for_every_rank():
    flags = resolve("-tp 2", version="0.32.0", device=CPU)
    assert (flags.max_num_seqs, flags.max_num_batched_tokens, flags.block_size) == (256, 4096, 128)
    assert flags.cudagraph_mode == "NONE"


def test_auto_length_is_the_models_own_until_the_cache_shortens_it():
    flags = resolve("--max-model-len auto", version="0.32.0")
    assert (flags.max_model_len, flags.is_max_model_len_auto) == (40960, True)
    assert flags.origins["max_model_len"] == "derived"


def test_drafts_take_tokens_of_a_step_from_0_17_to_0_28():
    text = '--max-num-seqs 100 --speculative-config {"method":"draft_model","num_speculative_tokens":5}'
    assert resolve(text, version="0.27.0").max_num_scheduled_tokens == 8192 - 100
    assert resolve(text, version="0.32.0").max_num_scheduled_tokens == 8192
    parallel = text.replace('"num_speculative_tokens":5', '"num_speculative_tokens":5,"parallel_drafting":true')
    assert resolve(parallel, version="0.27.0").max_num_scheduled_tokens == 8192 - 500


def test_origins_tell_what_was_given_and_what_was_not():
    table = resolve("--max-num-seqs 7 --gpu-memory-utilization 0.5", version="0.32.0").table()
    assert table["max_num_seqs"] == {"value": 7, "origin": "given"}
    assert table["gpu_memory_utilization"] == {"value": 0.5, "origin": "given"}
    assert table["block_size"] == {"value": 16, "origin": "default"}
    assert table["max_model_len"] == {"value": 40960, "origin": "derived"}


@pytest.mark.parametrize(
    ("version", "device", "kv_cache_dtype", "block_size"),
    [
        ("0.7.3", H100, "auto", 16),
        ("0.8.5", H100, "auto", 64),
        ("0.8.5", A100, "auto", 16),
        ("0.10.2", B200, "auto", 128),
        ("0.13.0", B200, "auto", 128),
        ("0.16.0", B200, "auto", 64),
        ("0.17.0", H100, "auto", 64),
        ("0.18.0", H100, "auto", 16),
        ("0.32.0", H100, "auto", 16),
        ("0.32.0", H100, "fp8", 64),
        ("0.32.0", B200, "auto", 32),
        ("0.32.0", L4, "auto", 16),
    ],
)
def test_compressed_attention_takes_the_block_that_its_kernel_reads(version, device, kv_cache_dtype, block_size):
    size = default_block_size(
        device,
        version=parse_version(version),
        traits=ModelTraits(is_mla=True),
        kv_cache_dtype=kv_cache_dtype,
    )
    assert size == block_size


def test_through_0_17_compressed_attention_replaces_the_block_size_given():
    traits = ModelTraits(is_mla=True)
    old = resolve("--block-size 32", version="0.17.0", traits=traits)
    assert (old.block_size, old.origins["block_size"]) == (64, "derived")
    new = resolve("--block-size 32", version="0.18.0", traits=traits)
    assert (new.block_size, new.origins["block_size"]) == (32, "given")


def test_an_index_reads_64_tokens_at_a_time():
    traits = ModelTraits(is_mla=True, is_sparse=True)
    assert resolve("", version="0.11.0", traits=traits).block_size == 64
    assert resolve("", version="0.32.0", device=B200, traits=traits).block_size == 64


def test_ordinary_attention_keeps_16_tokens_a_block_on_every_gpu():
    for device in (T4, L4, A100, H100, B200):
        assert resolve("", version="0.32.0", device=device).block_size == 16


def v1(text="", *, version="0.8.5", device=H100, traits=None, environment=None):
    flags = parse_flags(["serve", "m", *text.split()], environment=environment or {})
    return uses_v1(flags, version=parse_version(version), device=device, traits=traits)


def test_v1_had_to_be_asked_for_before_0_8_and_is_all_there_is_since_0_11():
    assert not v1(version="0.7.3")
    assert v1(version="0.7.3", environment={"VLLM_USE_V1": "1"})
    assert v1(version="0.8.5")
    assert not v1(version="0.10.2", environment={"VLLM_USE_V1": "0"})
    assert v1(version="0.11.0", environment={"VLLM_USE_V1": "0"})


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("--pipeline-parallel-size 2", "0.8.5"),
        ("--scheduling-policy priority", "0.8.5"),
        ("--dtype float32", "0.8.5"),
        ("--quantization gguf", "0.8.5"),
        ("--task embed", "0.8.5"),
        ("--kv-cache-dtype fp8_e5m2", "0.8.4"),
        ("--num-scheduler-steps 8", "0.9.2"),
        ('--speculative-config {"method":"ngram","num_speculative_tokens":3}', "0.8.5"),
        ('--speculative-config {"model":"small","num_speculative_tokens":3}', "0.9.2"),
    ],
)
def test_a_flag_that_v1_did_not_support_yet_brought_v0_back(text, version):
    assert not v1(text, version=version)
    assert v1(version=version)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("--pipeline-parallel-size 2 --distributed-executor-backend ray", "0.8.5"),
        ("--pipeline-parallel-size 2", "0.9.2"),
        ("--kv-cache-dtype fp8", "0.8.5"),
        ('--speculative-config {"method":"ngram","num_speculative_tokens":3}', "0.9.2"),
    ],
)
def test_what_v1_came_to_support_kept_it(text, version):
    assert v1(text, version=version)


def test_old_gpus_ran_v0_through_0_9():
    assert not v1(version="0.8.5", device=T4)
    assert not v1(version="0.9.2", device=T4)
    assert v1(version="0.10.2", device=T4)


def test_an_fp8_cache_needed_hopper_for_v1():
    assert not v1("--kv-cache-dtype fp8", version="0.9.2", device=A100)
    assert v1("--kv-cache-dtype fp8", version="0.9.2", device=H100)
    assert v1("--kv-cache-dtype fp8", version="0.10.2", device=B200)


def test_states_and_encoders_came_to_v1_late():
    assert not v1(version="0.9.2", traits=ModelTraits(is_hybrid=True))
    assert v1(version="0.10.2", traits=ModelTraits(is_hybrid=True))
    assert not v1(version="0.10.2", traits=ModelTraits(is_encoder_decoder=True))


def test_v0_sizes_its_batches_also_where_v1_was_the_default():
    flags = resolve("--pipeline-parallel-size 2 --max-model-len 20000", version="0.8.5")
    assert (flags.is_v1, flags.max_num_seqs, flags.max_num_batched_tokens) == (False, 256, 20000)
    assert not flags.enable_prefix_caching


def test_several_replicas_ran_without_graphs_in_0_8():
    flags = resolve("--data-parallel-size 2", version="0.8.5")
    assert (flags.enforce_eager, flags.origins["enforce_eager"]) == (True, "derived")
    assert flags.cudagraph_capture_sizes == ()


@pytest.mark.parametrize(
    ("version", "architecture", "mode"),
    [
        ("0.25.0", "NemotronHForCausalLM", "all"),
        ("0.26.0", "NemotronHForCausalLM", "align"),
        ("0.26.0", "JambaForCausalLM", "all"),
        ("0.29.0", "JambaForCausalLM", "align"),
    ],
)
def test_which_states_are_kept_for_reuse_depends_on_the_release_and_the_model(version, architecture, mode):
    traits = ModelTraits(is_hybrid=True, architecture=architecture)
    assert resolve("--enable-prefix-caching", version=version, traits=traits).mamba_cache_mode == mode
    assert resolve("--no-enable-prefix-caching", version=version, traits=traits).mamba_cache_mode == "none"

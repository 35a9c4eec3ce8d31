"""The KV arithmetic against vLLM's own, recorded, and the laws it has to obey whatever the model."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import advisor.layers
from advisor.kv import KvLayout, KvSettings, kv_heads_per_rank, kv_layout, stage_layer_counts
from advisor.layers import (
    ChunkedLocal,
    CrossAttention,
    DecoderLayer,
    FullAttention,
    GatedDeltaNet,
    KimiDelta,
    Latent,
    Mamba2,
    SlidingWindow,
    SparseIndex,
    State,
)
from advisor.model import parse_model
from advisor.spec import DeclinedError
from advisor.units import GIB
from advisor.versions import parse_version
from tests.advisor.examples import DEEPSEEK_V4_FLASH

CAPTURES = Path(__file__).parents[1] / "captures" / "kv"


def recorded() -> Iterator[Any]:
    for path in sorted(CAPTURES.glob("*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            for line in lines:
                case = json.loads(line)
                yield pytest.param(case, id=f"{case['version']} {case['name']}")


def layers_of(case: dict[str, Any]) -> tuple[DecoderLayer, ...]:
    layers: list[DecoderLayer] = []
    for count, caches in case["layers"]:
        layer = tuple(
            getattr(advisor.layers, cache["kind"])(**{name: value for name, value in cache.items() if name != "kind"})
            for cache in caches
        )
        layers += [layer] * count
    return tuple(layers)


def settings_of(case: dict[str, Any]) -> KvSettings:
    flags = {name: tuple(value) if isinstance(value, list) else value for name, value in case["settings"].items()}
    version = parse_version(case["version"])
    assert version is not None
    return KvSettings(version=version, **flags)


NO_ONE_PAGE = "cannot give all layers blocks of one size"
NO_ONE_KIND = "cannot run these layers without the hybrid KV cache manager"
OUR_REASON = {
    "All attention layers in the same KV cache group must have the same window size": "windows of different lengths",
    "Failed to promote local KV cache specs": NO_ONE_KIND,
    "Hybrid KV cache manager is disabled but failed to convert": NO_ONE_KIND,
    "MLA is not supported for slidingwindow": "latent .* beside sliding windows run from vLLM 0.26 on",
    "divisible by the maximum page size": NO_ONE_PAGE,
}
"""By what vLLM says. It has no words where the pages cannot be made one size: that is an assertion."""


def our_reason(case: dict[str, Any]) -> str:
    said = case["result"]["refused"]
    has_state = any(isinstance(cache, State) for layer in layers_of(case) for cache in layer)
    if case["version"] == "0.20.0" and has_state and case["settings"]["kv_cache_dtype"].startswith("turboquant"):
        return "vLLM 0.20 has it for attention alone"  # said by a check of vLLM's that comes before what was recorded
    if said == "AssertionError: ":
        return NO_ONE_PAGE
    [reason] = (ours for theirs, ours in OUR_REASON.items() if theirs in said)
    return reason


@pytest.mark.parametrize("case", list(recorded()))
def test_every_number_is_vllms_own(case):
    expected = case["result"]
    if "refused" in expected:
        with pytest.raises(ValueError, match=our_reason(case)) as refusal:
            kv_layout(layers_of(case), settings_of(case))
        assert not isinstance(refusal.value, DeclinedError)
        return
    layout = kv_layout(layers_of(case), settings_of(case))
    error = layout.start_up_error(case["kv_cache_bytes"])
    if "error" in expected:
        assert error is not None
        assert {name: getattr(error, name) for name in error.__dataclass_fields__} == expected["error"]
        return
    assert error is None
    num_blocks = layout.num_blocks(case["kv_cache_bytes"])
    assert {
        "block_size": layout.block_size,
        "groups": [
            [each.kind, each.layers, each.block_size, list(each.page_bytes), each.blocks_per_request]
            for each in layout.groups
        ],
        "stage_bytes": list(layout.stage_bytes),
        "num_blocks": num_blocks,
        "size_tokens": layout.size_tokens(num_blocks),
        "max_concurrency": layout.max_concurrency(num_blocks),
        "max_in_flight_tokens": layout.settings.max_in_flight_tokens,
    } == expected


FULL = FullAttention(num_kv_heads=8, head_size=128, head_size_v=128)
WINDOW = SlidingWindow(num_kv_heads=8, head_size=128, head_size_v=128, window=1024)
CHUNK = ChunkedLocal(num_kv_heads=8, head_size=128, head_size_v=128, chunk=8192)
LATENT = Latent(kv_lora_rank=512, qk_rope_head_dim=64)
DELTA = GatedDeltaNet(num_k_heads=16, num_v_heads=32, head_k_dim=128, head_v_dim=128, conv_kernel=4)
QWEN3_NEXT = tuple(
    (FullAttention(num_kv_heads=2, head_size=256, head_size_v=256),) if at % 4 == 3 else (DELTA,) for at in range(48)
)


def layout_of(*layers: DecoderLayer, version: str = "0.32.0", **flags: Any) -> KvLayout:
    parsed = parse_version(version)
    assert parsed is not None
    return kv_layout(layers, KvSettings(version=parsed, **({"max_model_len": 4096} | flags)))


def test_a_head_less_than_ranks_is_replicated():
    assert [kv_heads_per_rank(8, ranks) for ranks in (1, 2, 8, 16)] == [8, 4, 1, 1]
    per_token = [layout_of(*[(FULL,)] * 64, tensor_parallel_size=ranks).bytes_per_token for ranks in (1, 2, 4, 8, 16)]
    assert per_token == [262_144, 131_072, 65_536, 32_768, 32_768]


@pytest.mark.parametrize(("heads", "ranks"), [(8, 3), (6, 4), (0, 1), (8, 0)])
def test_ranks_that_do_not_divide_the_heads_are_refused_by_name(heads, ranks):
    with pytest.raises(ValueError, match="--tensor-parallel-size"):
        kv_heads_per_rank(heads, ranks)


def test_what_does_not_divide_goes_to_the_stages_before_the_last_and_once_went_to_the_last():
    assert stage_layer_counts(64, 3) == (21, 22, 21)
    assert stage_layer_counts(62, 4) == (15, 16, 16, 15)
    assert stage_layer_counts(64, 3, (0, 7, 3)) == (21, 21, 22)


def test_the_environment_may_say_how_many_layers_each_stage_has():
    assert stage_layer_counts(48, 2, partition="16,32") == (16, 32)


@pytest.mark.parametrize("partition", ["16", "16,16", "16,31", "0,48", "-1,49", "a,b", "16,,32"])
def test_a_partition_of_other_stages_or_layers_is_refused_by_its_name(partition):
    with pytest.raises(ValueError, match=r"VLLM_PP_LAYER_PARTITION.*2 whole numbers above zero.*48 layers"):
        stage_layer_counts(48, 2, partition=partition)


@pytest.mark.parametrize("stages", [0, 5])
def test_more_stages_than_layers_are_refused(stages):
    with pytest.raises(ValueError, match="--pipeline-parallel-size"):
        stage_layer_counts(4, stages)


def test_a_latent_costs_every_rank_the_same_and_is_shared_only_by_context_parallelism():
    deepseek = [(LATENT,)] * 61
    assert layout_of(*deepseek).bytes_per_token == 70_272
    assert layout_of(*deepseek, tensor_parallel_size=8).bytes_per_token == 70_272
    sharded = layout_of(*deepseek, tensor_parallel_size=8, decode_context_parallel_size=8)
    assert sharded.bytes_per_token == 8_784


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", 262_144),
        ("fp8", 131_072),
        ("int8_per_token_head", 135_168),
        ("fp8_per_token_head", 135_168),
        ("int4_per_token_head", 69_632),
        ("nvfp4", 73_728),
        ("turboquant_4bit_nc", 80_704),
    ],
)
def test_a_cache_dtype_brings_its_scales(dtype, expected):
    assert layout_of(*[(FULL,)] * 64, kv_cache_dtype=dtype).bytes_per_token == expected


@pytest.mark.parametrize(("dtype", "expected"), [("fp8_ds_mla", 48_068), ("fp8", 48_068), ("bfloat16", 78_324)])
def test_a_sparse_latent_brings_its_index(dtype, expected):
    layer = (SparseIndex(head_dim=128), replace(LATENT, sparse=True))
    assert layout_of(*[layer] * 61, kv_cache_dtype=dtype).bytes_per_token == expected


@pytest.mark.parametrize(
    ("flags", "block_size"),
    [
        ({}, 544),
        ({"tensor_parallel_size": 4}, 272),
        ({"tensor_parallel_size": 4, "kv_cache_dtype": "fp8"}, 544),
        ({"tensor_parallel_size": 4, "mamba_ssm_cache_dtype": "float32"}, 528),
        ({"version": "0.33.0"}, 576),
    ],
)
def test_attentions_block_grows_until_it_holds_a_state(flags, block_size):
    assert layout_of(*QWEN3_NEXT, **flags).block_size == block_size


def test_a_state_needs_a_block_less_where_prefixes_are_not_cached():
    cached, uncached = (layout_of(*QWEN3_NEXT, enable_prefix_caching=each) for each in (True, False))
    assert cached.blocks_per_request(4096) - uncached.blocks_per_request(4096) == 3


def test_what_is_printed_as_size_changes_with_the_release_where_layers_differ():
    gpt_oss = [(WINDOW,), (FULL,)] * 12
    flags: dict[str, Any] = {"max_model_len": 131_072, "max_num_batched_tokens": 8192}
    old, new = (layout_of(*gpt_oss, version=each, **flags) for each in ("0.20.0", "0.32.0"))
    blocks = old.num_blocks(20 * GIB)
    assert blocks == new.num_blocks(20 * GIB)
    assert old.size_tokens(blocks) == blocks // 2 * 16
    assert new.size_tokens(blocks) == int(blocks / (8192 + 1089) * 131_072)


def test_batches_in_flight_make_a_window_dearer_only_since_it_keeps_their_blocks():
    window_layers = [(WINDOW,)] * 32
    few, many = (
        [
            layout_of(*window_layers, version=version, max_num_batched_tokens=tokens).blocks_per_request(100_000)
            for version in ("0.25.0", "0.26.0")
        ]
        for tokens in (512, 2048)
    )
    assert few == [97, 129]
    assert many == [193, 321]


def test_without_the_hybrid_manager_every_layer_keeps_every_token():
    gemma = [(FULL,) if at % 6 == 5 else (WINDOW,) for at in range(62)]
    mixed = layout_of(*gemma)
    alone = layout_of(*gemma, disable_hybrid_kv_cache_manager=True)
    assert mixed.bytes_per_token == 10 * 4096
    assert alone.bytes_per_token == 62 * 4096


def test_values_narrower_than_keys_were_padded_to_their_width_until_0_20():
    full = FullAttention(num_kv_heads=4, head_size=192, head_size_v=128)
    window = SlidingWindow(num_kv_heads=8, head_size=192, head_size_v=128, window=128)
    mimo = [(window,) if at % 6 else (full,) for at in range(48)]
    padded, exact = (layout_of(*mimo, version=version).groups[0].page_bytes for version in ("0.19.0", "0.20.0"))
    assert set(padded) == {16 * 8 * (192 + 192) * 2}
    assert set(exact) == {16 * 8 * (192 + 128) * 2}


def test_chunks_are_full_attention_until_vllm_has_groups_for_them():
    layers = [(CHUNK,), (CHUNK,), (CHUNK,), (FULL,)] * 12
    assert [len(layout_of(*layers, version=version).groups) for version in ("0.8.5", "0.10.2", "0.11.0")] == [1, 1, 4]


def test_cross_attention_is_sized_by_the_batch_since_it_is_no_longer_by_the_encoder():
    whisper = [
        (FullAttention(num_kv_heads=20, head_size=64, head_size_v=64), CrossAttention(num_kv_heads=20, head_size=64))
    ]
    flags = {"max_model_len": 448, "encoder_positions": 1500}
    old = layout_of(*whisper * 32, version="0.12.0", **flags)
    new = layout_of(*whisper * 32, version="0.32.0", **flags)
    assert old.blocks_per_request(448) == 28 + 94
    assert new.blocks_per_request(448) == 28 + 128


def test_the_null_block_counts_in_the_check_since_0_29():
    exact = layout_of((FULL,), version="0.28.0").bytes_needed()
    assert layout_of((FULL,), version="0.28.0").start_up_error(exact) is None
    newer = layout_of((FULL,), version="0.29.0")
    error = newer.start_up_error(exact)
    assert error is not None
    assert (error.kind, error.largest_max_model_len) == ("too_long", 4080)
    assert newer.bytes_needed() == exact + newer.bytes_per_block


def flash(**settings):
    return kv_layout(
        parse_model(DEEPSEEK_V4_FLASH).layers, KvSettings(kv_cache_dtype="fp8", block_size=256, **settings)
    )


def test_deepseek_v4_flash_needs_what_a_servers_error_said():
    """vLLM 0.22 on two GH200 (vllm-project/vllm issue 44376): 6.66 GiB needed, 5.44 there, 13,528 tokens would fit."""
    layout = flash(version=(0, 22, 0), max_model_len=30_000, max_num_batched_tokens=16_384)
    least, most = (layout.largest_max_model_len(available * GIB) for available in (5.435, 5.445))

    assert round(layout.bytes_needed() / GIB, 2) == 6.66
    assert least < 13_528 < most


def test_deepseek_v4_flash_holds_what_a_servers_log_said():
    """vLLM 0.26 on two H20 (issue 51041): 7.7 GiB hold 150 thousand tokens at a max-model-len of 121,344."""
    layout = flash(version=(0, 26, 0), max_model_len=121_344, max_num_batched_tokens=8_192)

    assert round(layout.size_tokens(layout.num_blocks(7.7 * GIB)), -4) == 150_000


def test_drafts_stand_on_the_last_stage():
    layout = kv_layout(
        ((FULL,),) * 4, KvSettings(max_model_len=4096, pipeline_parallel_size=2), draft_layers=((FULL,),)
    )
    assert layout.stage_bytes == (2 * 65_536, 3 * 65_536)
    assert layout.bytes_per_block == 3 * 65_536


class TestV0:
    def test_windows_and_states_cost_as_it_did_not_know_them(self):
        mamba = Mamba2(intermediate_size=4096, n_groups=1, num_heads=64, head_dim=64, state_size=128, conv_kernel=4)
        layout = layout_of((WINDOW,), (FULL,), (mamba,), version="0.6.6")
        assert layout.bytes_per_block == 2 * 65_536
        assert len(layout.groups) == 1

    def test_a_length_beyond_the_pool_is_refused_with_the_pools_tokens(self):
        layout = layout_of(*[(FULL,)] * 32, version="0.6.6", max_model_len=40_000)
        assert layout.start_up_error(8 * GIB) is None
        error = layout.start_up_error(4 * GIB)
        assert error is not None
        assert (error.kind, error.largest_max_model_len) == ("too_long", 32_768)
        assert error.needed_bytes == 2_500 * layout.bytes_per_block

    def test_0_7_2_pads_a_latent_to_256_bytes(self):
        assert layout_of((LATENT,), version="0.7.1").bytes_per_token == 1152
        assert layout_of((LATENT,), version="0.7.3").bytes_per_token == 1280

    def test_concurrency_is_in_tokens(self):
        layout = layout_of((FULL,), version="0.8.5", use_v1=False, max_model_len=1000)
        assert layout.max_concurrency(100) == 1.6


@pytest.mark.parametrize(
    ("layers", "flags", "message"),
    [
        ([(FULL,)], {"max_model_len": 0}, "--max-model-len"),
        ([(FULL,)], {"max_num_batched_tokens": 0}, "--max-num-batched-tokens"),
        ([(FULL,)], {"tensor_parallel_size": 3}, "--tensor-parallel-size 3"),
        ([(FULL,)], {"block_size": 24}, "--block-size 24"),
        ([(FULL,)], {"kv_cache_dtype": "fp6"}, "--kv-cache-dtype fp6"),
        ([(FULL,)], {"kv_cache_dtype": "nvfp4", "version": "0.19.0"}, "it came with 0.20"),
        ([(FULL,)], {"kv_cache_dtype": "fp8_ds_mla"}, "only sparse latent"),
        ([(FULL,)], {"model_dtype": "int3"}, "dtype int3"),
        ([(FULL,)], {"tensor_parallel_size": 8, "decode_context_parallel_size": 2}, "at most --tensor-parallel-size 8"),
        ([(LATENT,)], {"tensor_parallel_size": 8, "decode_context_parallel_size": 3}, "must divide"),
        ([(WINDOW,)], {"tensor_parallel_size": 16, "decode_context_parallel_size": 2}, "does not shard"),
        ([(FULL,), ()], {"pipeline_parallel_size": 2}, "no layer with a KV cache"),
        ([(DELTA,), (FULL,)], {"tensor_parallel_size": 64}, "does not divide"),
        ([(DELTA,), (FULL,)], {"disable_hybrid_kv_cache_manager": True}, "without the hybrid KV cache manager"),
        ([(DELTA,), (FULL,)], {"mamba_cache_mode": "some"}, "--mamba-cache-mode some"),
        (
            [(WINDOW,), (FULL,)],
            {"version": "0.9.2", "decode_context_parallel_size": 2, "tensor_parallel_size": 16},
            "0.10.2",
        ),
    ],
)
def test_what_vllm_refuses_is_refused_by_the_flags_name(layers, flags, message):
    with pytest.raises(ValueError, match=message):
        layout_of(*layers, **flags)


@pytest.mark.parametrize(
    ("layers", "flags", "message"),
    [
        ([()], {}, "no layer of this model keeps a KV cache"),
        ([(LATENT,)], {"version": "0.6.6"}, "latent"),
        ([(LATENT,)], {"kv_cache_dtype": "int8_per_token_head"}, "int8_per_token_head"),
        ([(FULL,)], {"kv_cache_dtype": "ultraquant_4bit"}, "ultraquant_4bit"),
        (
            [(KimiDelta(num_heads=8, head_dim=64, conv_kernel=4),)],
            {"version": "0.6.6"},
            "no layer of this model keeps a KV cache",
        ),
    ],
)
def test_what_is_not_described_is_declined_by_name(layers, flags, message):
    with pytest.raises(DeclinedError, match=message):
        layout_of(*layers, **flags)


VERSIONS = ("0.6.6", "0.8.5", "0.9.2", "0.10.2", "0.13.0", "0.18.0", "0.23.0", "0.27.0", "0.32.0", "0.33.0")


@st.composite
def drawn(draw: st.DrawFn) -> tuple[tuple[DecoderLayer, ...], KvSettings]:
    heads = draw(st.sampled_from((1, 2, 4, 8)))
    size = draw(st.sampled_from((64, 128)))
    full = FullAttention(num_kv_heads=heads, head_size=size, head_size_v=size)
    window = SlidingWindow(num_kv_heads=heads, head_size=size, head_size_v=size, window=512)
    other = draw(st.sampled_from((full, window, LATENT, DELTA)))
    count = draw(st.integers(1, 40))
    every = draw(st.integers(1, 4))
    rest: tuple[DecoderLayer, ...] = ((full,),) if other is not LATENT else ((LATENT,),)
    layers = tuple(rest[0] if at % every == 0 else (other,) for at in range(count))
    version = parse_version(draw(st.sampled_from(VERSIONS)))
    assert version is not None
    settings = KvSettings(
        version=version,
        max_model_len=draw(st.integers(1, 200_000)),
        tensor_parallel_size=draw(st.sampled_from((1, 2, 4, 8))),
        max_num_batched_tokens=draw(st.sampled_from((512, 2048, 8192))),
        enable_prefix_caching=draw(st.booleans()),
        block_size=draw(st.sampled_from((None, 16, 32, 128))),
    )
    return layers, settings


def laid_out(layers: tuple[DecoderLayer, ...], settings: KvSettings) -> KvLayout:
    """Return the layout; what vLLM refuses is no example."""
    try:
        return kv_layout(layers, settings)
    except ValueError:
        assume(False)
        raise


SIZES = st.integers(0, 80 * GIB)


@given(drawn(), SIZES)
def test_a_longer_context_never_raises_concurrency(case, kv_cache_bytes):
    layers, settings = case
    shorter = laid_out(layers, settings)
    longer = laid_out(layers, replace(settings, max_model_len=settings.max_model_len * 2))
    num_blocks = shorter.num_blocks(kv_cache_bytes)
    assert longer.max_concurrency(num_blocks) <= shorter.max_concurrency(num_blocks)


@given(drawn(), SIZES, SIZES)
def test_more_memory_never_means_fewer_tokens(case, one, other):
    layout = laid_out(*case)
    less, more = (layout.num_blocks(each) for each in sorted((one, other)))
    assert less <= more
    assert layout.size_tokens(less) <= layout.size_tokens(more)


@given(drawn())
def test_more_ranks_never_cost_a_rank_more_for_a_token(case):
    layers, settings = case
    one = laid_out(layers, replace(settings, tensor_parallel_size=1))
    many = laid_out(layers, settings)
    assert many.bytes_per_token <= one.bytes_per_token


@given(drawn(), st.sampled_from((256, 1024, 65_536)), st.booleans())
def test_bytes_per_token_do_not_depend_on_the_batch(case, tokens, is_async):
    layers, settings = case
    other = replace(settings, max_num_batched_tokens=tokens, async_scheduling=is_async)
    assert laid_out(layers, settings).bytes_per_token == laid_out(layers, other).bytes_per_token


@given(drawn())
def test_the_check_passes_with_what_it_needs_and_not_with_a_byte_less(case):
    layout = laid_out(*case)
    needed = layout.bytes_needed()
    assert layout.start_up_error(needed) is None
    assert layout.start_up_error(needed - 1) is not None


@given(drawn(), SIZES)
def test_the_longest_that_fits_fits_and_one_more_does_not(case, kv_cache_bytes):
    layout = laid_out(*case)
    longest = layout.largest_max_model_len(kv_cache_bytes, limit=1 << 24)
    assert longest == 0 or layout.bytes_needed(longest) <= kv_cache_bytes
    assert longest == 1 << 24 or layout.bytes_needed(longest + 1) > kv_cache_bytes

import json
import math
import re
from pathlib import Path

import pytest

from advisor.layers import (
    ChunkedLocal,
    CompressedIndex,
    CompressedLatent,
    CompressorState,
    CrossAttention,
    FullAttention,
    GatedDeltaNet,
    KimiDelta,
    Latent,
    LatentWindow,
    LinearAttention,
    Mamba1,
    Mamba2,
    ShortConv,
    SlidingWindow,
    SparseIndex,
)
from advisor.model import parse_model

RECORDED = [
    json.loads(line) for line in (Path(__file__).parents[2] / "captures/models/0.32.0.jsonl").read_text().splitlines()
]
NUMBERED_OTHERWISE = {"Zamba2ForCausalLM", "FalconH1ForCausalLM"}
"""Families whose attentions and states of one layer vLLM gives different numbers."""
every_model = pytest.mark.parametrize("recorded", [pytest.param(each, id=each["name"]) for each in RECORDED])


def held_by_one_rank(parameter, spec, ranks):
    """Elements of a parameter on one tensor-parallel rank, by the meaning of its sharding."""
    first, *rest = parameter.shape
    others = math.prod(rest)
    match parameter.sharding:
        case "column":
            return parameter.count * -(-first // ranks) * others
        case "row":
            return parameter.count * first * -(-rest[0] // ranks) * math.prod(rest[1:])
        case "kv_heads":
            heads = parameter.kv_heads or spec.num_kv_heads
            return parameter.count * first // heads * max(1, heads // ranks) * others
        case "vocabulary":
            return -(-first // 64) * 64 // ranks * others
        case "experts":
            return parameter.elements // ranks
        case "copied":
            return parameter.elements
    raise AssertionError(parameter.sharding)


def kept_like(recorded):
    """What vLLM's description of a layer's cache says, as far as our classes say it too."""
    kind, *sizes = recorded
    if kind == "MLAAttention":
        return (kind, *sizes)
    if kind == "Mamba":
        return (kind, *sorted(tuple(sorted(shape)) for shape in sizes))
    if kind == "CrossAttention":
        return (kind, *sizes[:2])
    return (kind, *sizes)


def as_kept(cache):
    match cache:
        case FullAttention(num_kv_heads=heads, head_size=size, head_size_v=values):
            return ("FullAttention", heads, size, values, None)
        case SlidingWindow(num_kv_heads=heads, head_size=size, head_size_v=values, window=window):
            return ("SlidingWindow", heads, size, values, window)
        case ChunkedLocal(num_kv_heads=heads, head_size=size, head_size_v=values, chunk=chunk):
            return ("ChunkedLocalAttention", heads, size, values, chunk)
        case CrossAttention(num_kv_heads=heads, head_size=size):
            return ("CrossAttention", heads, size)
        case Latent(kv_lora_rank=rank, qk_rope_head_dim=rope):
            return ("MLAAttention", rank + rope)
        case CompressedLatent(size=size):
            return ("MLAAttention", size)
        case LatentWindow(size=size, window=window):
            return ("SlidingWindowMLA", 1, size, 0, window)
        case CompressorState(size=size, ratio=ratio):
            return ("SlidingWindowMLA", 1, size, 0, 2 * ratio if ratio == 4 else ratio)
        case SparseIndex(head_dim=size) | CompressedIndex(head_dim=size):
            return ("MLAAttention", size + size // 128 * 4)
    return ("Mamba", *sorted(tuple(sorted(shape)) for shape in state_shapes(cache)))


def state_shapes(cache):
    match cache:
        case Mamba1(intermediate_size=inner, state_size=size, conv_kernel=kernel):
            return (kernel - 1, inner), (inner, size)
        case Mamba2():
            width = cache.intermediate_size + 2 * cache.n_groups * cache.state_size
            return (cache.conv_kernel - 1, width), (cache.num_heads, cache.head_dim, cache.state_size)
        case GatedDeltaNet():
            width = 2 * cache.num_k_heads * cache.head_k_dim + cache.num_v_heads * cache.head_v_dim
            return (cache.conv_kernel - 1, width), (cache.num_v_heads, cache.head_v_dim, cache.head_k_dim)
        case KimiDelta(num_heads=heads, head_dim=size, conv_kernel=kernel):
            return (kernel - 1, 3 * heads * size), (heads, size, size)
        case ShortConv(intermediate_size=inner, conv_kernel=kernel):
            return ((kernel - 1, inner),)
        case LinearAttention(num_heads=heads, head_dim=size):
            return ((heads, size, size),)
    raise AssertionError(cache)


def test_at_least_sixty_architectures_are_recorded():
    assert len({each["config"]["architectures"][0] for each in RECORDED}) >= 60


@every_model
def test_each_rank_holds_as_many_elements_as_vllm_allocates(recorded):
    spec = parse_model(recorded["config"])
    left_out = recorded.get("not_held", ())
    held = [each for each in spec.parameters if each.name not in left_out]

    assert {
        ranks: sum(held_by_one_rank(each, spec, int(ranks)) for each in held) for ranks in recorded["elements"]
    } == recorded["elements"]


@pytest.mark.parametrize("recorded", [pytest.param(each, id=each["name"]) for each in RECORDED if "tensors" in each])
def test_tensors_are_named_and_shaped_as_vllms_loader_takes_them(recorded):
    listed = {}
    for each in parse_model(recorded["config"]).parameters:
        if re.search(r"(layers|blocks|h|layer)\.([2-9]|\d\d+)\.", each.name):
            continue
        shape = "x".join(map(str, each.shape)) + (f"*{each.count}" if each.count > 1 else "")
        listed.setdefault(each.name, []).append(shape)

    assert {name: " + ".join(shapes) for name, shapes in listed.items()} == recorded["tensors"]


@every_model
def test_layers_keep_what_vllms_cache_specifications_say(recorded):
    spec = parse_model(recorded["config"])

    assert sorted(map(str, (as_kept(cache) for layer in spec.layers for cache in layer))) == sorted(
        map(str, map(kept_like, recorded["caches"].values()))
    )


@pytest.mark.parametrize(
    "recorded",
    [pytest.param(each, id=each["name"]) for each in RECORDED if each["class"] not in NUMBERED_OTHERWISE],
)
def test_a_cache_belongs_to_the_layer_that_vllm_names(recorded):
    by_layer = {}
    for name, cache in recorded["caches"].items():
        number = int(re.search(r"\d+", name).group())
        by_layer.setdefault(number, []).append(str(kept_like(cache)))
    spec = parse_model(recorded["config"])

    assert {number: sorted(kept) for number, kept in by_layer.items()} == {
        number: sorted(str(as_kept(cache)) for cache in layer) for number, layer in enumerate(spec.layers) if layer
    }


@every_model
def test_the_context_length_is_the_one_that_vllm_derives(recorded):
    assert parse_model(recorded["config"]).max_position_embeddings == recorded["max_model_len"]


@every_model
def test_the_stored_dtype_is_read_wherever_the_config_keeps_it(recorded):
    assert parse_model(recorded["config"]).dtype == recorded["dtype"]

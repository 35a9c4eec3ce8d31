"""Vision and audio towers: tensors by the checkpoint's names, and the sizes that profiling depends on.

Sources: vLLM 0.32 ``model_executor/models/{clip,siglip,pixtral,qwen2_vl,qwen2_5_vl,qwen3_vl,glm4_1v,intern_vit,
interns1_vit,mllama4,moonvit,dots_ocr,gemma4_mm,whisper,qwen2_audio}.py``; defaults of transformers' configuration
classes. A tower is split over tensor-parallel ranks by its heads and feed-forward width (``--mm-encoder-tp-mode
weights``, the default) except where a part says ``copied``.
"""

from collections.abc import Mapping
from typing import Any

from advisor.model.keys import Keys, divided
from advisor.model.tensors import Parts, Tower, matrix, mlp, norm, prefixed, repeated, small
from advisor.spec import Encoder, Sharding

CLIP: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
SIGLIP: Mapping[str, Any] = {**CLIP, "patch_size": 16}
PIXTRAL: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 1024,
    "patch_size": 16,
}
LLAMA4: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 5632,
    "num_hidden_layers": 34,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "vision_output_dim": 7680,
    "projector_input_dim": 4096,
    "projector_output_dim": 4096,
}
MLLAMA: Mapping[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "max_num_tiles": 4,
    "vision_output_dim": 7680,
}
_CHANNELS = 3
_MLLAMA_ASPECT_RATIOS = 8
"""Ways to lay at most four tiles side by side."""


def _both_norms(first: str, second: str, size: int, *, bias: bool = True) -> Parts:
    return (*norm(first, size, bias=bias), *norm(second, size, bias=bias))


def _projections(module: str, rows: int, hidden: int, sharding: Sharding, *, bias: bool = False) -> Parts:
    """Return query, key and value projections, which are alike in a tower."""
    names = ("q_proj", "k_proj", "v_proj")
    return tuple(part for name in names for part in matrix(f"{module}.{name}", rows, hidden, sharding, bias=bias))


def _patches(name: str, hidden: int, patch: int, *, frames: int = 0, bias: bool = True) -> Parts:
    shape = (hidden, _CHANNELS, *((frames,) if frames else ()), patch, patch)
    return (small(f"{name}.weight", *shape), *((small(f"{name}.bias", hidden),) if bias else ()))


def _video_patches(keys: Keys, width: int, *, bias: bool = True) -> Parts:
    frames = keys.size("temporal_patch_size", default=2)
    return _patches("patch_embed.proj", width, keys.size("patch_size"), frames=frames, bias=bias)


def _patch_count(keys: Keys, image: int, patch: int) -> int:
    if image < patch:
        raise keys.error("image_size", image, f"at least the patch_size {patch}")
    return (image // patch) ** 2


def used_layers(keys: Keys, layers: int) -> int:
    """Return how many layers of a tower a LLaVA-like wrapper reads: up to the last that ``vision_feature_layer`` names.

    Source: ``models/llava.py:_get_num_hidden_layers`` (0.32).
    """
    chosen = keys.raw("vision_feature_layer")[1]
    if chosen is None:
        chosen = -2
    wanted: list[int] = chosen if isinstance(chosen, list) else [chosen]
    if not wanted or not all(isinstance(each, int) and not isinstance(each, bool) for each in wanted):
        raise keys.error("vision_feature_layer", chosen, "a layer number or a list of them")
    counts = [each if each >= 0 else layers + each + 1 for each in wanted]
    if not 0 <= min(counts) <= max(counts) <= layers:
        raise keys.error("vision_feature_layer", chosen, f"within the tower's {layers} layers")
    return max(counts)


def clip(keys: Keys, prefix: str, *, used: int | None = None, family: str = "clip") -> Tower:
    """CLIP or SigLIP; ``used`` layers of it, without the last norm unless all are asked for by None."""
    keys = keys.with_defaults(CLIP if family == "clip" else SIGLIP)
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    layers, heads = keys.layers(), keys.size("num_attention_heads")
    count = layers if used is None else used
    patch = keys.size("patch_size")
    patches = _patch_count(keys, keys.size("image_size"), patch)
    is_clip = family == "clip"
    parts = (
        *((small("embeddings.class_embedding", hidden),) if is_clip else ()),
        *_patches("embeddings.patch_embedding", hidden, patch, bias=not is_clip),
        small("embeddings.position_embedding.weight", patches + is_clip, hidden),
        *(norm("pre_layrnorm", hidden, bias=True) if is_clip else ()),
        *repeated("encoder.layers.", count, _clip_layer(hidden, inner)),
        *(norm("post_layernorm", hidden, bias=True) if used is None else ()),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=count,
            num_heads=heads,
            max_item_tokens=patches,
        ),
    )


def _clip_layer(hidden: int, inner: int) -> Parts:
    return (
        *_projections("self_attn", hidden, hidden, "column", bias=True),
        *matrix("self_attn.out_proj", hidden, hidden, "row", bias=True),
        *mlp("mlp", hidden, inner, bias=True, names=("fc1", "fc2")),
        *_both_norms("layer_norm1", "layer_norm2", hidden),
    )


def siglip2(keys: Keys, prefix: str) -> Tower:
    """SigLIP 2 over patches of any layout."""
    keys = keys.with_defaults({**SIGLIP, "num_patches": 256})
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    layers, patch = keys.layers(), keys.size("patch_size")
    parts = (
        *matrix("embeddings.patch_embedding", hidden, _CHANNELS * patch * patch, "copied", bias=True),
        small("embeddings.position_embedding.weight", keys.size("num_patches"), hidden),
        *repeated("encoder.layers.", layers, _clip_layer(hidden, inner)),
        *norm("post_layernorm", hidden, bias=True),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=layers,
            num_heads=keys.size("num_attention_heads"),
            max_item_tokens=None,
        ),
    )


def pixtral(keys: Keys, prefix: str, *, merge: int, used: int) -> Tower:
    """Pixtral as transformers stores it; one token a square of ``merge`` x ``merge`` patches, and one a row's end."""
    keys = keys.with_defaults(PIXTRAL)
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    heads = keys.size("num_attention_heads")
    width = heads * (keys.optional_size("head_dim") or divided(keys, hidden, "hidden_size", heads, "heads"))
    layer = (
        *norm("attention_norm", hidden),
        *_projections("attention", width, hidden, "column"),
        *matrix("attention.o_proj", hidden, width, "row"),
        *mlp("feed_forward", hidden, inner),
        *norm("ffn_norm", hidden),
    )
    patch = keys.size("patch_size")
    side = max(1, keys.size("image_size") // (patch * merge))
    parts = (
        *_patches("patch_conv", hidden, patch, bias=False),
        *norm("ln_pre", hidden),
        *repeated("transformer.layers.", used, layer),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=used,
            num_heads=heads,
            max_item_tokens=side * (side + 1),
            tokens_per_output=merge * merge,
        ),
    )


def qwen2_vl(keys: Keys, prefix: str) -> Tower:
    """Qwen2-VL's; how many tokens an image has depends on the processor's pixel limit."""
    keys = keys.with_defaults(
        {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14}
    )
    width, out = keys.size("embed_dim"), keys.size("hidden_size")
    ratio = keys.number("mlp_ratio")
    inner = int(width * ratio)
    if inner < 1:
        raise keys.error("mlp_ratio", ratio, f"enough above zero for a width of it x embed_dim {width}")
    merge = keys.size("spatial_merge_size", default=2)
    layer = (
        *_both_norms("norm1", "norm2", width),
        *matrix("attn.qkv", 3 * width, width, "column", bias=True),
        *matrix("attn.proj", width, width, "row", bias=True),
        *mlp("mlp", width, inner, bias=True, names=("fc1", "fc2")),
    )
    parts = (
        *_video_patches(keys, width, bias=False),
        *repeated("blocks.", keys.layers("depth"), layer),
        *_merger(width, merge, out),
    )
    return _qwen_tower(keys, prefix, parts, width, inner, merge)


def _merger(width: int, merge: int, out: int, *, norm_bias: bool = True) -> Parts:
    """Return what makes one token of a square of ``merge`` x ``merge`` patches."""
    merged = width * merge * merge
    return (
        *norm("merger.ln_q", width, bias=norm_bias),
        *matrix("merger.mlp.0", merged, merged, "column", bias=True),
        *matrix("merger.mlp.2", out, merged, "row", bias=True),
    )


def _qwen_tower(keys: Keys, prefix: str, parts: Parts, width: int, inner: int, merge: int) -> Tower:
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=width,
            intermediate_size=inner,
            num_layers=keys.layers("depth"),
            num_heads=keys.size("num_heads"),
            max_item_tokens=None,
            tokens_per_output=merge * merge,
        ),
    )


def qwen2_5_vl(keys: Keys, prefix: str) -> Tower:
    """Qwen2.5-VL's, also in Qwen2.5-Omni."""
    keys = keys.with_defaults(
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
        }
    )
    width, inner, out = keys.size("hidden_size"), keys.size("intermediate_size"), keys.size("out_hidden_size")
    merge = keys.size("spatial_merge_size", default=2)
    layer = (
        *_both_norms("norm1", "norm2", width, bias=False),
        *matrix("attn.qkv", 3 * width, width, "column", bias=True),
        *matrix("attn.proj", width, width, "row", bias=True),
        *mlp("mlp", width, inner, bias=True),
    )
    parts = (
        *_video_patches(keys, width, bias=False),
        *repeated("blocks.", keys.layers("depth"), layer),
        *_merger(width, merge, out, norm_bias=False),
    )
    return _qwen_tower(keys, prefix, parts, width, inner, merge)


def qwen3_vl(keys: Keys, prefix: str, *, omni: bool = False, deepstack: bool = True) -> Tower:
    """Qwen3-VL's and Qwen 3.5's; Qwen3-Omni names the mergers otherwise."""
    keys = keys.with_defaults(
        {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            **({"deepstack_visual_indexes": [8, 16, 24]} if deepstack else {}),
        }
    )
    width, inner, out = keys.size("hidden_size"), keys.size("intermediate_size"), keys.size("out_hidden_size")
    merge = keys.size("spatial_merge_size", default=2)
    merged = width * merge * merge
    layer = (
        *_both_norms("norm1", "norm2", width),
        *matrix("attn.qkv", 3 * width, width, "column", bias=True),
        *matrix("attn.proj", width, width, "row", bias=True),
        *mlp("mlp", width, inner, bias=True, names=("linear_fc1", "linear_fc2")),
    )
    first, second, normed, listed = (
        ("mlp.0", "mlp.2", "ln_q", "merger_list")
        if omni
        else ("linear_fc1", "linear_fc2", "norm", "deepstack_merger_list")
    )

    def merger(name: str, norm_size: int) -> Parts:
        return (
            *norm(f"{name}.{normed}", norm_size, bias=True),
            *matrix(f"{name}.{first}", merged, merged, "column", bias=True),
            *matrix(f"{name}.{second}", out, merged, "row", bias=True),
        )

    deep = len(keys.whole_numbers("deepstack_visual_indexes") or ())
    parts = (
        *_video_patches(keys, width),
        small("pos_embed.weight", keys.size("num_position_embeddings"), width),
        *repeated("blocks.", keys.layers("depth"), layer),
        *merger("merger", width),
        *(part for index in range(deep) for part in merger(f"{listed}.{index}", merged)),
    )
    return _qwen_tower(keys, prefix, parts, width, inner, merge)


def glm4v(keys: Keys, prefix: str) -> Tower:
    """GLM-4.1V's and GLM-4.5V's."""
    keys = keys.with_defaults(
        {
            "depth": 24,
            "hidden_size": 1536,
            "intermediate_size": 13696,
            "num_heads": 12,
            "out_hidden_size": 4096,
            "patch_size": 14,
            "image_size": 336,
        }
    )
    width, inner, out = keys.size("hidden_size"), keys.size("intermediate_size"), keys.size("out_hidden_size")
    merge, patch = keys.size("spatial_merge_size", default=2), keys.size("patch_size")
    bias = keys.flag("attention_bias")
    layer = (
        *_both_norms("norm1", "norm2", width, bias=False),
        *matrix("attn.qkv", 3 * width, width, "column", bias=bias),
        *matrix("attn.proj", width, width, "row", bias=bias),
        *mlp("mlp", width, out),
    )
    parts = (
        *_video_patches(keys, width),
        small("embeddings.position_embedding.weight", _patch_count(keys, keys.size("image_size"), patch), width),
        *norm("post_conv_layernorm", width),
        *repeated("blocks.", keys.layers("depth"), layer),
        *norm("post_layernorm", width),
        small("downsample.weight", out, width, merge, merge),
        small("downsample.bias", out),
        *matrix("merger.proj", out, out, "column"),
        *norm("merger.post_projection_norm", out, bias=True),
        *mlp("merger", out, inner),
    )
    return _qwen_tower(keys, prefix, parts, width, out, merge)


def intern_vit(keys: Keys, prefix: str) -> Tower:
    """InternViT as OpenGVLab stores it."""
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    layers, patch = keys.layers(), keys.size("patch_size", default=14)
    patches = _patch_count(keys, keys.size("image_size", default=448), patch)
    has_bias = keys.text("norm_type", default="layer_norm") == "layer_norm"
    layer = (
        *matrix("attn.qkv", 3 * hidden, hidden, "column", bias=keys.flag("qkv_bias")),
        *(_both_norms("attn.q_norm", "attn.k_norm", hidden, bias=False) if keys.flag("qk_normalization") else ()),
        *matrix("attn.proj", hidden, hidden, "row", bias=True),
        *mlp("mlp", hidden, inner, bias=True, names=("fc1", "fc2")),
        *_both_norms("norm1", "norm2", hidden, bias=has_bias),
        small("ls1", hidden),
        small("ls2", hidden),
    )
    parts = (
        small("embeddings.class_embedding", 1, 1, hidden),
        *_patches("embeddings.patch_embedding", hidden, patch),
        small("embeddings.position_embedding", 1, patches + 1, hidden),
        *repeated("encoder.layers.", layers, layer),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=layers,
            num_heads=keys.size("num_attention_heads"),
            max_item_tokens=None,
            tokens_per_output=4,
        ),
    )


def intern_vit_transformers(keys: Keys, prefix: str) -> Tower:
    """InternViT as transformers stores it; its attention is whole on every rank."""
    keys = keys.with_defaults({**PIXTRAL, "image_size": 448, "patch_size": 14})
    hidden, inner, layers = keys.size("hidden_size"), keys.size("intermediate_size"), keys.layers()
    patch = _first(keys, "patch_size")
    patches = _patch_count(keys, _first(keys, "image_size"), patch)
    bias = keys.flag("attention_bias")
    has_bias = keys.text("norm_type", default="layer_norm") == "layer_norm"
    layer = (
        *_projections("attention", hidden, hidden, "copied", bias=bias),
        *(_both_norms("attention.q_norm", "attention.k_norm", hidden, bias=False) if keys.flag("use_qk_norm") else ()),
        *matrix("attention.projection_layer", hidden, hidden, "copied", bias=True),
        *mlp("mlp", hidden, inner, bias=True, names=("fc1", "fc2")),
        *_both_norms("layernorm_before", "layernorm_after", hidden, bias=has_bias),
        small("lambda_1", hidden),
        small("lambda_2", hidden),
    )
    positions = keys.flag("use_absolute_position_embeddings", default=True)
    parts = (
        small("embeddings.cls_token", 1, 1, hidden),
        *_patches("embeddings.patch_embeddings.projection", hidden, patch),
        *((small("embeddings.position_embeddings", 1, patches + 1, hidden),) if positions else ()),
        *repeated("encoder.layer.", layers, layer),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=layers,
            num_heads=keys.size("num_attention_heads"),
            max_item_tokens=None,
            tokens_per_output=4,
        ),
    )


def _first(keys: Keys, name: str) -> int:
    value = keys.raw(name)[1]
    if not isinstance(value, list):
        return keys.size(name)
    listed = keys.whole_numbers(name)
    if not listed or not listed[0]:
        raise keys.error(name, value, "whole numbers above zero")
    return listed[0]


def llama4(keys: Keys, prefix: str) -> Tower:
    """Llama 4's."""
    keys = keys.with_defaults(LLAMA4)
    hidden, inner = keys.size("hidden_size"), keys.size("intermediate_size")
    layers, patch = keys.layers(), keys.size("patch_size")
    patches = _patch_count(keys, keys.size("image_size"), patch)
    ratio = keys.fraction("pixel_shuffle_ratio", default=0.5)
    shuffled = int(hidden // ratio**2)
    middle = keys.size("projector_input_dim")
    layer = (
        *_projections("self_attn", hidden, hidden, "column", bias=True),
        *matrix("self_attn.o_proj", hidden, hidden, "row", bias=True),
        *mlp("mlp", hidden, inner, bias=True, names=("fc1", "fc2")),
        *_both_norms("input_layernorm", "post_attention_layernorm", hidden),
    )
    parts = (
        small("class_embedding", hidden),
        small("positional_embedding_vlm", patches + 1, hidden),
        *matrix("patch_embedding.linear", hidden, _CHANNELS * patch * patch, "column"),
        *norm("layernorm_pre", hidden, bias=True),
        *norm("layernorm_post", hidden, bias=True),
        *repeated("model.layers.", layers, layer),
        *matrix("vision_adapter.mlp.fc1", middle, shuffled, "column"),
        *matrix("vision_adapter.mlp.fc2", keys.size("projector_output_dim"), middle, "row"),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=layers,
            num_heads=keys.size("num_attention_heads"),
            max_item_tokens=None,
            tokens_per_output=int(1 / ratio**2),
        ),
    )


def moonvit(keys: Keys, prefix: str) -> Tower:
    """MoonViT of Kimi-VL to Kimi K3, whose last has no biases and a width of its own for queries, keys and values."""
    keys = keys.with_defaults(
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "patch_size": 14,
            "init_pos_emb_height": 64,
            "init_pos_emb_width": 64,
        }
    )
    hidden, inner, layers = keys.size("hidden_size"), keys.size("intermediate_size"), keys.layers()
    norm_bias = keys.text("norm_type", default="layernorm") != "rmsnorm"
    mlp_bias, attention_bias = keys.flag("linear_bias", default=True), keys.flag("attn_bias", default=True)
    width = keys.optional_size("qkv_hidden_size") or hidden
    layer = (
        *_both_norms("norm0", "norm1", hidden, bias=norm_bias),
        *mlp("mlp", hidden, inner, bias=mlp_bias, names=("fc0", "fc1")),
        *matrix("wqkv", 3 * width, hidden, "column", bias=attention_bias),
        *matrix("wo", hidden, width, "row", bias=attention_bias),
    )
    patch_bias = keys.flag("patch_embed_proj_bias", default=True)
    parts = (
        *_patches("patch_embed.proj", hidden, keys.size("patch_size"), bias=patch_bias),
        small(
            "patch_embed.pos_emb.weight",
            keys.size("init_pos_emb_height"),
            keys.size("init_pos_emb_width"),
            hidden,
        ),
        *repeated("encoder.blocks.", layers, layer),
        *norm("encoder.final_layernorm", hidden, bias=norm_bias),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=layers,
            num_heads=keys.size("num_attention_heads"),
            max_item_tokens=None,
            tokens_per_output=4,
        ),
    )


def gemma4(keys: Keys, prefix: str) -> Tower:
    """Gemma 4's vision tower, whole on every rank."""
    keys = keys.with_defaults(
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 16,
            "num_attention_heads": 12,
            "num_key_value_heads": 12,
            "head_dim": 64,
            "patch_size": 16,
            "position_embedding_size": 10240,
        }
    )
    hidden, inner, layers = keys.size("hidden_size"), keys.size("intermediate_size"), keys.layers()
    heads, head = keys.size("num_attention_heads"), keys.size("head_dim")
    kv_heads = keys.size("num_key_value_heads")
    bias = keys.flag("attention_bias")
    layer = (
        *matrix("self_attn.q_proj.linear", heads * head, hidden, "copied", bias=bias),
        *matrix("self_attn.k_proj.linear", kv_heads * head, hidden, "copied", bias=bias),
        *matrix("self_attn.v_proj.linear", kv_heads * head, hidden, "copied", bias=bias),
        *matrix("self_attn.o_proj.linear", hidden, heads * head, "copied", bias=bias),
        *_both_norms("self_attn.q_norm", "self_attn.k_norm", head, bias=False),
        *matrix("mlp.gate_proj.linear", inner, hidden, "copied"),
        *matrix("mlp.up_proj.linear", inner, hidden, "copied"),
        *matrix("mlp.down_proj.linear", hidden, inner, "copied"),
        *_both_norms("input_layernorm", "post_attention_layernorm", hidden, bias=False),
        *_both_norms("pre_feedforward_layernorm", "post_feedforward_layernorm", hidden, bias=False),
    )
    patch = keys.size("patch_size")
    parts = (
        small("patch_embedder.position_embedding_table", 2, keys.size("position_embedding_size"), hidden),
        *matrix("patch_embedder.input_proj", hidden, _CHANNELS * patch * patch, "copied"),
        *repeated("encoder.layers.", layers, layer),
    )
    merge = keys.size("pooling_kernel_size", default=3)
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=layers,
            num_heads=heads,
            max_item_tokens=keys.size("default_output_length", default=280),
            tokens_per_output=merge * merge,
        ),
    )


def dots(keys: Keys, prefix: str) -> Tower:
    """dots.ocr's."""
    keys = keys.with_defaults(
        {
            "embed_dim": 1536,
            "hidden_size": 1536,
            "intermediate_size": 4224,
            "num_hidden_layers": 42,
            "num_attention_heads": 12,
            "patch_size": 14,
        }
    )
    width, out, inner = keys.size("embed_dim"), keys.size("hidden_size"), keys.size("intermediate_size")
    merge, layers = keys.size("spatial_merge_size", default=2), keys.layers()
    bias = keys.flag("use_bias")
    layer = (
        *matrix("attn.qkv", 3 * width, width, "column", bias=bias),
        *matrix("attn.proj", width, width, "row", bias=bias),
        *mlp("mlp", width, inner, bias=bias, names=("fc1", "fc3", "fc2")),
        *_both_norms("norm1", "norm2", width, bias=False),
    )
    parts = (
        *_patches("patch_embed.patchifier.proj", width, keys.size("patch_size")),
        *norm("patch_embed.patchifier.norm", width),
        *repeated("blocks.", layers, layer),
        *(norm("post_trunk_norm", width) if keys.flag("post_norm", default=True) else ()),
        *_merger(width, merge, out),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=width,
            intermediate_size=inner,
            num_layers=layers,
            num_heads=keys.size("num_attention_heads"),
            max_item_tokens=None,
            tokens_per_output=merge * merge,
        ),
    )


def sides(*, split: bool) -> tuple[Sharding, Sharding]:
    """Return how ranks share a pair of matrices, one after the other: by its inner width, or not at all."""
    return ("column", "row") if split else ("copied", "copied")


def whisper_layer(width: int, inner: int, *, split: bool, cross: bool = False) -> Parts:
    """Return one layer of Whisper's build.

    The checkpoint's key projections have no bias; split over ranks they stand in vLLM's fused projections, which hold
    one of zeros.
    """
    column, row = sides(split=split)

    def attend(module: str) -> Parts:
        return (
            *matrix(f"{module}.q_proj", width, width, column, bias=True),
            *matrix(f"{module}.k_proj", width, width, column, bias=split),
            *matrix(f"{module}.v_proj", width, width, column, bias=True),
            *matrix(f"{module}.out_proj", width, width, row, bias=True),
            *norm(f"{module}_layer_norm", width, bias=True),
        )

    return (
        *attend("self_attn"),
        *(attend("encoder_attn") if cross else ()),
        *matrix("fc1", inner, width, column, bias=True),
        *matrix("fc2", width, inner, row, bias=True),
        *norm("final_layer_norm", width, bias=True),
    )


def whisper(
    keys: Keys,
    prefix: str,
    *,
    split: bool,
    tokens_per_output: int = 1,
    max_item_tokens: int | None = None,
    positions: bool = True,
    last_norm: str = "layer_norm",
) -> Tower:
    """Whisper's encoder and its copies; ``split`` says whether ranks share it."""
    keys = keys.with_defaults(
        {
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "num_mel_bins": 128,
            "max_source_positions": 1500,
        }
    )
    width, inner = keys.size("d_model", "hidden_size"), keys.size("encoder_ffn_dim", "intermediate_size")
    layers, source = keys.layers("encoder_layers", "num_hidden_layers"), keys.size("max_source_positions")
    parts = (
        small("conv1.weight", width, keys.size("num_mel_bins"), 3),
        small("conv1.bias", width),
        small("conv2.weight", width, width, 3),
        small("conv2.bias", width),
        *((small("embed_positions.weight", source, width),) if positions else ()),
        *repeated("layers.", layers, whisper_layer(width, inner, split=split)),
        *norm(last_norm, width, bias=True),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=width,
            intermediate_size=inner,
            num_layers=layers,
            num_heads=keys.size("encoder_attention_heads", "num_attention_heads"),
            max_item_tokens=max_item_tokens,
            tokens_per_output=tokens_per_output,
        ),
    )


def qwen3_omni_audio(keys: Keys, prefix: str) -> Tower:
    """Qwen3-Omni's audio tower: three convolutions before Whisper's layers."""
    keys = keys.with_defaults(
        {
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "num_mel_bins": 128,
            "downsample_hidden_size": 480,
            "output_dim": 3584,
        }
    )
    width, inner, down = keys.size("d_model"), keys.size("encoder_ffn_dim"), keys.size("downsample_hidden_size")
    layers, out, bins = keys.layers("encoder_layers"), keys.size("output_dim"), keys.size("num_mel_bins")
    for _ in range(3):
        bins = (bins + 1) // 2
    parts = (
        small("conv2d1.weight", down, 1, 3, 3),
        small("conv2d1.bias", down),
        small("conv2d2.weight", down, down, 3, 3),
        small("conv2d2.bias", down),
        small("conv2d3.weight", down, down, 3, 3),
        small("conv2d3.bias", down),
        *matrix("conv_out", width, down * bins, "copied"),
        *repeated("layers.", layers, whisper_layer(width, inner, split=True)),
        *norm("ln_post", width, bias=True),
        *matrix("proj1", width, width, "copied", bias=True),
        *matrix("proj2", out, width, "copied", bias=True),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=width,
            intermediate_size=inner,
            num_layers=layers,
            num_heads=keys.size("encoder_attention_heads"),
            max_item_tokens=None,
            tokens_per_output=8,
        ),
    )


def mllama(keys: Keys, prefix: str) -> Tower:
    """Llama 3.2 Vision's (vLLM up to 0.10.2 ``models/mllama.py``)."""
    hidden, inner, heads = keys.size("hidden_size"), keys.size("intermediate_size"), keys.size("attention_heads")
    patch, tiles = keys.size("patch_size"), keys.size("max_num_tiles")
    positions = _patch_count(keys, keys.size("image_size"), patch) + 1
    ratios = _MLLAMA_ASPECT_RATIOS + 1
    layer = (
        *_projections("self_attn", hidden, hidden, "column"),
        *matrix("self_attn.o_proj", hidden, hidden, "row"),
        *mlp("mlp", hidden, inner, bias=True, names=("fc1", "fc2")),
        *_both_norms("input_layernorm", "post_attention_layernorm", hidden),
    )
    gated = (*layer, small("gate_attn", 1), small("gate_ffn", 1))
    layers, globals_ = keys.layers(), keys.layers("num_global_layers")
    parts = (
        small("class_embedding", hidden),
        *_patches("patch_embedding", hidden, patch, bias=False),
        small("gated_positional_embedding.gate", 1),
        small("gated_positional_embedding.embedding", positions, hidden),
        small("gated_positional_embedding.tile_embedding.weight", ratios, tiles * positions * hidden),
        small("pre_tile_positional_embedding.gate", 1),
        small("pre_tile_positional_embedding.embedding.weight", ratios, tiles * hidden),
        small("post_tile_positional_embedding.gate", 1),
        small("post_tile_positional_embedding.embedding.weight", ratios, tiles * hidden),
        *norm("layernorm_pre", hidden, bias=True),
        *norm("layernorm_post", hidden, bias=True),
        *repeated("transformer.layers.", layers, layer),
        *repeated("global_transformer.layers.", globals_, gated),
    )
    return Tower(
        parts=prefixed(prefix, parts),
        encoder=Encoder(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=layers + globals_,
            num_heads=heads,
            max_item_tokens=positions * tiles,
        ),
    )

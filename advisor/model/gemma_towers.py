"""The encoders of Gemma 3n and Gemma 4 that are no transformers: a convolutional one for images, conformers for sound.

Sources: timm 1.0 ``models/mobilenetv5.py`` (``mobilenetv5_300m_enc``) and transformers 5 ``models/gemma3n`` and
``models/gemma4``, which vLLM 0.32 ``models/gemma3n_mm.py`` and ``gemma4_mm.py`` build as they are: whole on every rank,
and quantised by no method.
"""

from collections.abc import Mapping
from typing import Any

from advisor.model.keys import Keys, divided
from advisor.model.tensors import Part, Parts, Tower, prefixed, repeated, small
from advisor.spec import DeclinedError, Encoder

GEMMA3N_AUDIO: Mapping[str, Any] = {
    "hidden_size": 1536,
    "input_feat_size": 128,
    "conf_num_hidden_layers": 12,
    "conf_num_attention_heads": 8,
    "conf_conv_kernel_size": 5,
    "sscp_conv_channel_size": [128, 32],
    "vocab_size": 128,
}
GEMMA4_AUDIO: Mapping[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "conv_kernel_size": 5,
    "subsampling_conv_channels": [128, 32],
    "output_proj_dims": 1536,
}
_IMAGE_TOKENS = 256
"""Of any image; half a minute of sound is 188."""
_OUTPUT = 2048
_HALVED_TWICE = 4
"""The fewest features that two convolutions of stride 2 leave one of."""
_WIDEST_POSITIONS = 192 * 192
"""Of a 768 x 768 image where the encoder is widest: 128 channels, 512 inside."""


def _convolution(name: str, out: int, per_group: int, kernel: int, norm: str | None = None) -> tuple[Part, ...]:
    """Return a convolution and the norm after it; timm puts both in one module unless ``norm`` names another."""
    weight = f"{name}.weight" if norm else f"{name}.conv.weight"
    return small(weight, out, per_group, kernel, kernel), small(f"{norm or f'{name}.bn'}.weight", out)


def _edge_residual(inputs: int, inner: int, out: int) -> Parts:
    return (*_convolution("conv_exp", inner, inputs, 3, "bn1"), *_convolution("conv_pwl", out, inner, 1, "bn2"))


def _inverted(inputs: int, inner: int, out: int, start: int | None = None, middle: int | None = None) -> Parts:
    """Return a universal inverted bottleneck; without depthwise convolutions it is a feed-forward block."""
    return (
        *(_convolution("dw_start", inputs, 1, start) if start else ()),
        *_convolution("pw_exp", inner, inputs, 1),
        *(_convolution("dw_mid", inner, 1, middle) if middle else ()),
        *_convolution("pw_proj", out, inner, 1),
        small("layer_scale.gamma", out),
    )


def _multi_query(width: int, query: int, key: int, *, down: bool) -> Parts:
    def narrowed(name: str) -> Parts:
        before = (small(f"attn.{name}.down_conv.weight", width, 1, 3, 3), small(f"attn.{name}.norm.weight", width))
        return (*(before if down else ()), small(f"attn.{name}.proj.weight", key, width, 1, 1))

    return (
        small("norm.weight", width),
        small("attn.query.proj.weight", query, width, 1, 1),
        *narrowed("key"),
        *narrowed("value"),
        small("attn.output.proj.weight", width, query, 1, 1),
        small("layer_scale.gamma", width),
    )


_STAGES: tuple[tuple[Parts, ...], ...] = (
    (_edge_residual(64, 256, 128), *(_edge_residual(128, 512, 128),) * 2),
    (
        _inverted(128, 768, 256, 3, 5),
        *(_inverted(256, 1024, 256, 5), _inverted(256, 1024, 256, 3)) * 2,
    ),
    (
        _inverted(256, 1536, 640, 5, 5),
        *(_inverted(640, 2560, 640, 5),) * 7,
        _inverted(640, 640, 640),
        *(_multi_query(640, 768, 64, down=True), _inverted(640, 1280, 640)) * 14,
    ),
    (
        _inverted(640, 3840, 1280, 5, 5),
        *(_multi_query(1280, 1536, 96, down=False), _inverted(1280, 2560, 1280)) * 19,
    ),
)


def gemma3n_vision(keys: Keys, prefix: str) -> Tower:
    """Return the image encoder.

    Raises:
        DeclinedError: It is another one of timm's.
    """
    name = keys.text("architecture", default="mobilenetv5_300m_enc")
    if name != "mobilenetv5_300m_enc":
        raise DeclinedError(f"vision tower {name} is not described by these rules")
    parts: Parts = (
        small("conv_stem.conv.weight", 64, 3, 3, 3),
        small("conv_stem.conv.bias", 64),
        small("conv_stem.bn.weight", 64),
        *(
            part
            for stage, blocks in enumerate(_STAGES)
            for block, each in enumerate(blocks)
            for part in prefixed(f"blocks.{stage}.{block}.", each)
        ),
        *_convolution("msfa.ffn.pw_exp", 3840, 1920, 1),
        *_convolution("msfa.ffn.pw_proj", _OUTPUT, 3840, 1),
        small("msfa.norm.weight", _OUTPUT),
    )
    encoder = Encoder(
        hidden_size=128,
        intermediate_size=512,
        num_layers=sum(map(len, _STAGES)),
        num_heads=12,
        max_item_tokens=_IMAGE_TOKENS,
        tokens_per_output=_WIDEST_POSITIONS // _IMAGE_TOKENS,
    )
    return Tower(parts=prefixed(f"{prefix}timm_model.", parts), encoder=encoder)


def _subsampling(channels: tuple[int, int], hidden_size: int, inputs: int, names: tuple[str, str]) -> Parts:
    """Return two convolutions of stride 2 over ``inputs`` features."""
    first, second = channels
    return prefixed(
        "subsample_conv_projection.",
        (
            small(f"{names[0]}.conv.weight", first, 1, 3, 3),
            small(f"{names[0]}.norm.weight", first),
            small(f"{names[1]}.conv.weight", second, first, 3, 3),
            small(f"{names[1]}.norm.weight", second),
            small("input_proj_linear.weight", hidden_size, inputs // 4 * second),
        ),
    )


def _channels(keys: Keys, name: str, *, least: int = 1) -> tuple[int, int]:
    channels = keys.whole_numbers(name) or ()
    if len(channels) != 2 or channels[0] < least or not channels[1]:
        raise keys.error(name, list(channels), f"two whole numbers, the first from {least} and the second from 1 on")
    return channels[0], channels[1]


def _conformer(hidden: int, head_size: int, kernel: int, names: Mapping[str, str], *, wrapped: bool) -> Parts:
    """Return one layer; ``wrapped`` linear layers stand inside another module, which clips."""

    def linear(name: str, rows: int, columns: int) -> Part:
        return small(f"{name}.linear.weight" if wrapped else f"{name}.weight", rows, columns)

    def feed_forward(name: str) -> Parts:
        return (
            small(f"{name}.pre_layer_norm.weight", hidden),
            linear(f"{name}.ffw_layer_1", 4 * hidden, hidden),
            linear(f"{name}.ffw_layer_2", hidden, 4 * hidden),
            small(f"{name}.post_layer_norm.weight", hidden),
        )

    inside = names["attention"]
    return (
        *feed_forward(names["first"]),
        small(f"{names['before']}.weight", hidden),
        small(f"{inside}.per_dim_scale", head_size),
        small(f"{inside}.{names['position']}.weight", hidden, hidden),
        *(linear(f"{inside}.{name}", hidden, hidden) for name in ("q_proj", "k_proj", "v_proj")),
        linear(names["output"], hidden, hidden),
        small(f"{names['after']}.weight", hidden),
        small("lconv1d.pre_layer_norm.weight", hidden),
        linear("lconv1d.linear_start", 2 * hidden, hidden),
        small("lconv1d.depthwise_conv1d.weight", hidden, 1, kernel),
        small("lconv1d.conv_norm.weight", hidden),
        linear("lconv1d.linear_end", hidden, hidden),
        *feed_forward(names["last"]),
        small(f"{names['end']}.weight", hidden),
    )


_GEMMA3N_NAMES = {
    "first": "ffw_layer_start",
    "before": "attention.pre_attn_norm",
    "attention": "attention.attn",
    "position": "relative_position_embedding.pos_proj",
    "output": "attention.post",
    "after": "attention.post_norm",
    "last": "ffw_layer_end",
    "end": "norm",
}
_GEMMA4_NAMES = {
    "first": "feed_forward1",
    "before": "norm_pre_attn",
    "attention": "self_attn",
    "position": "relative_k_proj",
    "output": "self_attn.post",
    "after": "norm_post_attn",
    "last": "feed_forward2",
    "end": "norm_out",
}


def gemma3n_audio(keys: Keys, prefix: str) -> Parts:
    """Return Gemma 3n's sound encoder: two convolutions, then conformer layers."""
    keys = keys.with_defaults(GEMMA3N_AUDIO)
    hidden, inputs = keys.size("hidden_size"), keys.size("input_feat_size")
    if inputs < _HALVED_TWICE:
        raise keys.error("input_feat_size", inputs, f"at least {_HALVED_TWICE}: two convolutions halve it")
    heads = "conf_num_attention_heads"
    head = divided(keys, hidden, "hidden_size", keys.size(heads), heads)
    layer = _conformer(hidden, head, keys.size("conf_conv_kernel_size"), _GEMMA3N_NAMES, wrapped=False)
    parts = _subsampling(_channels(keys, "sscp_conv_channel_size"), hidden, inputs, ("conv_0", "conv_1"))
    return prefixed(prefix, (*parts, *repeated("conformer.", keys.layers("conf_num_hidden_layers"), layer)))


def gemma4_audio(keys: Keys, prefix: str) -> Parts:
    """Return Gemma 4's sound encoder, which Gemma 3n's was made into; it takes as many features as first channels."""
    keys = keys.with_defaults(GEMMA4_AUDIO)
    hidden, out = keys.size("hidden_size"), keys.size("output_proj_dims")
    head = divided(keys, hidden, "hidden_size", keys.size("num_attention_heads"), "num_attention_heads")
    layer = _conformer(hidden, head, keys.size("conv_kernel_size"), _GEMMA4_NAMES, wrapped=True)
    channels = _channels(keys, "subsampling_conv_channels", least=_HALVED_TWICE)
    parts = _subsampling(channels, hidden, channels[0], ("layer0", "layer1"))
    last = (small("output_proj.weight", out, hidden), small("output_proj.bias", out))
    return prefixed(prefix, (*parts, *repeated("layers.", keys.layers("num_hidden_layers"), layer), *last))


def embedder(prefix: str, vocab_size: int, width: int, hidden_size: int) -> Parts:
    """Return what brings an encoder's outputs, and tokens that stand for them, to the text model's width."""
    return prefixed(
        prefix,
        (
            small("embedding.weight", vocab_size, width, sharding="vocabulary"),
            small("hard_embedding_norm.weight", width),
            small("soft_embedding_norm.weight", width),
            small("embedding_projection.weight", hidden_size, width, sharding="row"),
        ),
    )

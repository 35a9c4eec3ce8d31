"""State-space models and their hybrids with attention.

Sources: vLLM 0.32 ``model_executor/models/<family>.py`` with ``layers/mamba/mamba_mixer.py`` and ``mamba_mixer2.py``
(Bamba from 0.21, which later releases dropped). A rank of a Mamba 2 layer holds its heads, and at least one
group whole.
"""

from collections.abc import Callable, Mapping

from advisor.layers import DecoderLayer, Mamba1, Mamba2, ShortConv
from advisor.model.dense import assembled, read_heads
from advisor.model.keys import Keys
from advisor.model.moe import granite_block, granite_shared
from advisor.model.tensors import (
    Decoder,
    Heads,
    Part,
    Parts,
    attention,
    experts,
    four_kinds,
    matrix,
    mlp,
    norm,
    prefixed,
    router,
    small,
)
from advisor.model.windows import FULL, attention_layer, layer_types
from advisor.spec import Experts


def mamba2_parts(
    state: Mamba2,
    hidden_size: int,
    *,
    projection_bias: bool,
    conv_bias: bool = True,
    gated_norm: bool = True,
) -> Parts:
    """Return a Mamba 2 mixer's tensors, names relative to the mixer."""
    inner, groups, heads = state.intermediate_size, state.n_groups, state.num_heads
    group_rows = 2 * groups * state.state_size
    kernel = state.conv_kernel
    conv = (
        Part("conv1d.weight", (inner, 1, kernel), "norm", "column"),
        Part("conv1d.weight", (group_rows, 1, kernel), "norm", "kv_heads", 1, groups),
    )
    conv_biases = (
        small("conv1d.bias", inner, sharding="column"),
        small("conv1d.bias", group_rows, sharding="kv_heads", kv_heads=groups),
    )
    return (
        *matrix("in_proj", 2 * inner + heads, hidden_size, "column", bias=projection_bias),
        *matrix("in_proj", group_rows, hidden_size, "kv_heads", bias=projection_bias, kv_heads=groups),
        *conv,
        *(conv_biases if conv_bias else ()),
        small("A_log", heads, sharding="column"),
        small("D", heads, sharding="column"),
        small("dt_bias", heads, sharding="column"),
        *(norm("norm", inner, sharding="column") if gated_norm else ()),
        *matrix("out_proj", hidden_size, inner, "row", bias=projection_bias),
    )


def _mamba1_parts(
    state: Mamba1,
    hidden_size: int,
    rank: int,
    *,
    projection_bias: bool,
    conv_bias: bool,
    inner_norms: bool,
) -> Parts:
    """Return a Mamba 1 mixer's tensors, names relative to the mixer; ``rank`` is that of the time step."""
    inner, size = state.intermediate_size, state.state_size
    return (
        *matrix("in_proj", 2 * inner, hidden_size, "column", bias=projection_bias),
        Part("conv1d.weight", (inner, 1, state.conv_kernel), "norm", "column"),
        *((small("conv1d.bias", inner, sharding="column"),) if conv_bias else ()),
        *matrix("x_proj", rank + 2 * size, inner, "row"),
        *matrix("dt_proj", inner, rank, "column", bias=True),
        Part("A_log", (inner, size), "norm", "column"),
        small("D", inner, sharding="column"),
        *matrix("out_proj", hidden_size, inner, "row", bias=projection_bias),
        *((*norm("dt_layernorm", rank), *norm("b_layernorm", size), *norm("c_layernorm", size)) if inner_norms else ()),
    )


def _mamba2_state(
    keys: Keys,
    *,
    heads: tuple[str, ...],
    head_dim: tuple[str, ...],
    groups: tuple[str, ...],
    state: tuple[str, ...],
    kernel: tuple[str, ...],
    defaults: tuple[int, int, int, int, int],
    inner: int | None = None,
) -> Mamba2:
    """Read a Mamba 2 state by the config's names for its sizes; ``inner`` where the config has the width itself."""
    count = keys.size(*heads, default=defaults[0])
    width = keys.size(*head_dim, default=defaults[1]) if inner is None else inner // count
    return Mamba2(
        intermediate_size=count * width if inner is None else inner,
        n_groups=keys.size(*groups, default=defaults[2]),
        num_heads=count,
        head_dim=width,
        state_size=keys.size(*state, default=defaults[3]),
        conv_kernel=keys.size(*kernel, default=defaults[4]),
    )


def _bamba_mixer(keys: Keys, hidden: int, *, width: int | None = None, gated_norm: bool = True) -> tuple[Mamba2, Parts]:
    """Return the state and the tensors of a Mamba 2 mixer under Bamba's key names, which others took over."""
    state = _mamba2_state(
        keys,
        heads=("mamba_n_heads",),
        head_dim=("mamba_d_head",),
        groups=("mamba_n_groups",),
        state=("mamba_d_state",),
        kernel=("mamba_d_conv",),
        defaults=(128, 64, 1, 256, 4),
        inner=width or keys.size("mamba_expand", default=2) * hidden,
    )
    parts = mamba2_parts(
        state,
        hidden,
        projection_bias=keys.flag("mamba_proj_bias"),
        conv_bias=keys.flag("mamba_conv_bias", default=True),
        gated_norm=gated_norm,
    )
    return state, prefixed("mamba.", parts)


def _time_step_rank(keys: Keys, name: str, hidden: int) -> int:
    automatic = -(-hidden // 16)
    return automatic if keys.raw(name)[1] == "auto" else keys.size(name, default=automatic)


def _jamba(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 8})
    sizes, layers = read_heads(keys), keys.layers()
    hidden, inner = sizes.hidden_size, keys.size("intermediate_size")
    state = Mamba1(
        intermediate_size=keys.size("mamba_expand", default=2) * hidden,
        state_size=keys.size("mamba_d_state", default=16),
        conv_kernel=keys.size("mamba_d_conv", default=4),
    )
    mixer = prefixed(
        "mamba.",
        _mamba1_parts(
            state,
            hidden,
            _time_step_rank(keys, "mamba_dt_rank", hidden),
            projection_bias=keys.flag("mamba_proj_bias"),
            conv_bias=keys.flag("mamba_conv_bias", default=True),
            inner_norms=True,
        ),
    )
    attending = attention("self_attn", sizes)
    norms = (*norm("input_layernorm", hidden), *norm("pre_ff_layernorm", hidden))
    count = keys.count("num_experts", default=16)
    dense = mlp("feed_forward", hidden, inner)
    mixture = (*router("feed_forward.router", count, hidden), *experts("feed_forward.experts", count, hidden, inner))
    attention_period, attention_offset = (
        keys.size("attn_layer_period", default=8),
        keys.count("attn_layer_offset", default=4),
    )
    expert_period, expert_offset = (
        keys.size("expert_layer_period", default=2),
        keys.count("expert_layer_offset", default=1),
    )
    attends = [layer % attention_period == attention_offset for layer in range(layers)]
    mixes = [count > 1 and layer % expert_period == expert_offset for layer in range(layers)]
    made = four_kinds((mixer, attending), (dense, mixture), norms)
    kept = attention_layer(sizes.kv_heads, sizes.head_size, None)
    return assembled(
        keys,
        sizes,
        layers=[kept if each else (state,) for each in attends],
        parts=[made[each] for each in zip(attends, mixes, strict=True)],
        intermediate_size=inner,
        tied=keys.flag("tie_word_embeddings"),
        mixture=Experts(
            num_experts=count,
            experts_per_token=keys.size("num_experts_per_tok", default=2),
            intermediate_size=inner,
        )
        if count > 1
        else None,
        final_norm="model.final_layernorm",
    )


def _bamba(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 8})
    sizes, layers = read_heads(keys), keys.layers()
    hidden, inner = sizes.hidden_size, keys.size("intermediate_size")
    state, mixer = _bamba_mixer(keys, hidden)
    attending = attention(
        "self_attn", sizes, qkv_bias=keys.flag("attention_bias"), output_bias=keys.flag("attention_bias")
    )
    rest = (
        *mlp("feed_forward", hidden, inner, bias=keys.flag("mlp_bias")),
        *norm("input_layernorm", hidden),
        *norm("pre_ff_layernorm", hidden),
    )
    indices = frozenset(keys.whole_numbers("attn_layer_indices") or ())
    made = ((*mixer, *rest), (*attending, *rest))
    kept: tuple[DecoderLayer, DecoderLayer] = ((state,), attention_layer(sizes.kv_heads, sizes.head_size, None))
    return assembled(
        keys,
        sizes,
        layers=[kept[layer in indices] for layer in range(layers)],
        parts=[made[layer in indices] for layer in range(layers)],
        intermediate_size=inner,
        tied=keys.flag("tie_word_embeddings"),
        final_norm="model.final_layernorm",
    )


def _falcon_h1(keys: Keys) -> Decoder:
    """Falcon-H1: attention and state side by side in every layer."""
    keys = keys.with_defaults({"num_key_value_heads": 8})
    sizes, layers = read_heads(keys), keys.layers()
    hidden, inner = sizes.hidden_size, keys.size("intermediate_size")
    state, mixer = _bamba_mixer(
        keys, hidden, width=keys.optional_size("mamba_d_ssm"), gated_norm=keys.flag("mamba_rms_norm")
    )
    parts = (
        *mixer,
        *attention("self_attn", sizes, qkv_bias=keys.flag("attention_bias"), output_bias=keys.flag("attention_bias")),
        *mlp("feed_forward", hidden, inner, bias=keys.flag("mlp_bias")),
        *norm("input_layernorm", hidden),
        *norm("pre_ff_layernorm", hidden),
    )
    return assembled(
        keys,
        sizes,
        layers=[(*attention_layer(sizes.kv_heads, sizes.head_size, None), state)] * layers,
        parts=[parts] * layers,
        intermediate_size=inner,
        tied=keys.flag("tie_word_embeddings"),
        final_norm="model.final_layernorm",
    )


_NEMOTRON_LAYERS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


def _nemotron_pattern(keys: Keys) -> str:
    words = keys.words("layers_block_type")
    if words is not None:
        pattern = "".join(_NEMOTRON_LAYERS.get(each, "?") for each in words)
    else:
        pattern = keys.text("hybrid_override_pattern")
        if not pattern:
            raise keys.missing("hybrid_override_pattern")
    layers = keys.layers(default=max(1, len(pattern)))
    if len(pattern) != layers or set(pattern) - set("M*-E"):
        raise keys.error("hybrid_override_pattern", pattern, f"{layers} letters out of M, *, - and E")
    return pattern


def _nemotron_h(keys: Keys) -> Decoder:
    """Nemotron-H and Nemotron 3: each layer is one of a state space, an attention, a dense MLP or a mixture."""
    keys = keys.with_defaults({"num_key_value_heads": 8, "head_dim": 128})
    pattern = _nemotron_pattern(keys)
    sizes = read_heads(keys)
    hidden = sizes.hidden_size
    state = _mamba2_state(
        keys,
        heads=("mamba_num_heads",),
        head_dim=("mamba_head_dim",),
        groups=("n_groups", "mamba_n_groups"),
        state=("ssm_state_size", "mamba_state_dim"),
        kernel=("conv_kernel", "mamba_d_conv"),
        defaults=(128, 64, 8, 128, 4),
    )
    blocks: dict[str, Parts] = {}
    caches: dict[str, DecoderLayer] = {
        "M": (state,),
        "*": attention_layer(sizes.kv_heads, sizes.head_size, keys.count("sliding_window") or None),
        "-": (),
        "E": (),
    }
    first = norm("norm", hidden)
    inner = keys.size("intermediate_size")
    mixture = None
    if "E" in pattern:
        mixture, blocks["E"] = _nemotron_mixture(keys, hidden)
    blocks["-"] = mlp("mixer", hidden, inner, bias=keys.flag("mlp_bias"), names=("up_proj", "down_proj"))
    blocks["*"] = attention(
        "mixer", sizes, qkv_bias=keys.flag("attention_bias"), output_bias=keys.flag("attention_bias")
    )
    blocks["M"] = prefixed(
        "mixer.",
        mamba2_parts(
            state, hidden, projection_bias=keys.flag("use_bias"), conv_bias=keys.flag("use_conv_bias", default=True)
        ),
    )
    made = {letter: (*first, *parts) for letter, parts in blocks.items()}
    return assembled(
        keys,
        sizes,
        layers=[caches[letter] for letter in pattern],
        parts=[made[letter] for letter in pattern],
        intermediate_size=inner,
        tied=keys.flag("tie_word_embeddings"),
        layer_prefix="backbone.layers.",
        embedding_name="backbone.embeddings",
        final_norm="backbone.norm_f",
        mixture=mixture,
        draft_layers=keys.count("num_nextn_predict_layers"),
        gated_mlp=False,
    )


def _nemotron_mixture(keys: Keys, hidden: int) -> tuple[Experts, Parts]:
    count, inner = keys.size("n_routed_experts"), keys.size("moe_intermediate_size")
    shared = keys.count("n_shared_experts") * keys.count("moe_shared_expert_intermediate_size", default=inner)
    latent = keys.optional_size("moe_latent_size")
    width = latent or hidden
    parts = (
        *router("mixer.gate", count, hidden),
        small("mixer.gate.e_score_correction_bias", count),
        *experts("mixer.experts", count, width, inner, names=("up_proj", "down_proj")),
        *(mlp("mixer.shared_experts", hidden, shared, names=("up_proj", "down_proj")) if shared else ()),
        *(
            (
                *matrix("mixer.fc1_latent_proj", latent, hidden, "copied"),
                *matrix("mixer.fc2_latent_proj", hidden, latent, "copied"),
            )
            if latent
            else ()
        ),
    )
    mixture = Experts(
        num_experts=count,
        experts_per_token=keys.size("num_experts_per_tok"),
        intermediate_size=inner,
        shared_intermediate_size=shared,
    )
    return mixture, parts


def _granite_hybrid(keys: Keys) -> Decoder:
    sizes, layers = read_heads(keys), keys.layers()
    hidden = sizes.hidden_size
    state, mixer = _bamba_mixer(keys, hidden)
    bias = keys.flag("attention_bias")
    attending = attention("self_attn", sizes, qkv_bias=bias, output_bias=bias)
    block, mixture = (
        granite_block(keys)
        if keys.count("num_local_experts")
        else (granite_shared(hidden, keys.size("shared_intermediate_size")), None)
    )
    rest = (*block, *norm("input_layernorm", hidden), *norm("post_attention_layernorm", hidden))
    types = keys.words("layer_types", "layers_block_type")
    if types is None:
        types = ("mamba",) * layers
    types = keys.per_layer("layer_types", types, layers)
    if set(types) - {"mamba", "attention", FULL, "linear_attention"}:
        raise keys.error("layer_types", sorted(set(types)), "mamba and attention")
    attends = [each.endswith("attention") and each != "linear_attention" for each in types]
    made = ((*mixer, *rest), (*attending, *rest))
    kept: tuple[DecoderLayer, DecoderLayer] = ((state,), attention_layer(sizes.kv_heads, sizes.head_size, None))
    return assembled(
        keys,
        sizes,
        layers=[kept[each] for each in attends],
        parts=[made[each] for each in attends],
        intermediate_size=keys.size("intermediate_size", "shared_intermediate_size"),
        tied=keys.flag("tie_word_embeddings"),
        mixture=mixture,
    )


def _pure(keys: Keys, state: DecoderLayer, mixer: Parts, layers: int, *, tied: bool, inner: int) -> Decoder:
    sizes = Heads(hidden_size=keys.size("hidden_size"), heads=1, kv_heads=1, head_size=1)
    parts = (*prefixed("mixer.", mixer), *norm("norm", sizes.hidden_size))
    return assembled(
        keys,
        sizes,
        layers=[state] * layers,
        parts=[parts] * layers,
        intermediate_size=inner,
        tied=tied,
        layer_prefix="backbone.layers.",
        embedding_name="backbone.embeddings",
        final_norm="backbone.norm_f",
        gated_mlp=False,
    )


def _mamba(keys: Keys) -> Decoder:
    hidden = keys.size("hidden_size")
    inner = keys.optional_size("intermediate_size") or keys.size("expand", default=2) * hidden
    state = Mamba1(
        intermediate_size=inner,
        state_size=keys.size("state_size", default=16),
        conv_kernel=keys.size("conv_kernel", default=4),
    )
    mixer = _mamba1_parts(
        state,
        hidden,
        _time_step_rank(keys, "time_step_rank", hidden),
        projection_bias=keys.flag("use_bias"),
        conv_bias=keys.flag("use_conv_bias", default=True),
        inner_norms=False,
    )
    return _pure(
        keys,
        (state,),
        mixer,
        keys.layers("num_hidden_layers", "n_layer"),
        tied=keys.flag("tie_word_embeddings", default=True),
        inner=inner,
    )


def _mamba2(keys: Keys) -> Decoder:
    hidden = keys.size("hidden_size")
    inner = keys.size("expand", default=2) * hidden
    state = _mamba2_state(
        keys,
        heads=("num_heads",),
        head_dim=("head_dim",),
        groups=("n_groups",),
        state=("state_size",),
        kernel=("conv_kernel",),
        inner=inner,
        defaults=(128, 64, 8, 128, 4),
    )
    mixer = mamba2_parts(
        state, hidden, projection_bias=keys.flag("use_bias"), conv_bias=keys.flag("use_conv_bias", default=True)
    )
    return _pure(keys, (state,), mixer, keys.layers(), tied=keys.flag("tie_word_embeddings"), inner=inner)


def _lfm2(keys: Keys) -> Decoder:
    keys = keys.with_defaults({"num_key_value_heads": 8})
    sizes, layers = read_heads(keys), keys.layers()
    hidden = sizes.hidden_size
    mixture: Experts | None = None
    first_mixture = layers
    block: Parts = ()
    inner = keys.size("block_ff_dim", "intermediate_size")
    if keys.count("num_experts"):
        count, moe_inner = keys.size("num_experts"), keys.size("moe_intermediate_size")
        first_mixture = keys.count("num_dense_layers", default=2)
        mixture = Experts(
            num_experts=count,
            experts_per_token=keys.size("num_experts_per_tok"),
            intermediate_size=moe_inner,
        )
        block = (
            *router("feed_forward.gate", count, hidden),
            *((small("feed_forward.expert_bias", count),) if keys.flag("use_expert_bias", default=True) else ()),
            *experts("feed_forward.experts", count, hidden, moe_inner, names=("w1", "w3", "w2")),
        )
    elif keys.flag("block_auto_adjust_ff_dim", default=True):
        inner = int(2 * inner / 3)
        multiplier = keys.raw("block_ffn_dim_multiplier")[1]
        if multiplier is not None:
            inner = int(keys.number("block_ffn_dim_multiplier") * inner)
        multiple = keys.size("block_multiple_of", default=256)
        inner = multiple * ((inner + multiple - 1) // multiple)
        if inner < 1:
            raise keys.error("block_ffn_dim_multiplier", multiplier, "a number above zero")
    width = keys.optional_size("conv_dim") or hidden
    kernel = keys.size("conv_L_cache", default=3)
    bias = keys.flag("conv_bias")
    convolution = (
        *matrix("conv.in_proj", 3 * width, hidden, "column", bias=bias),
        Part("conv.conv.weight", (width, 1, kernel), "norm", "column"),
        *((small("conv.conv.bias", width, sharding="column"),) if bias else ()),
        *matrix("conv.out_proj", hidden, width, "row", bias=bias),
    )
    attending = (
        *attention("self_attn", sizes, names=("q_proj", "k_proj", "v_proj", "out_proj")),
        *norm("self_attn.q_layernorm", sizes.head_size),
        *norm("self_attn.k_layernorm", sizes.head_size),
    )
    norms = (*norm("operator_norm", hidden), *norm("ffn_norm", hidden))
    dense = mlp("feed_forward", hidden, inner, names=("w1", "w3", "w2"))
    types = layer_types(keys, layers)
    if types is not None:
        attends = [each == FULL for each in types]
    else:
        indices = keys.whole_numbers("full_attn_idxs")
        attends = [indices is None or layer in indices for layer in range(layers)]
    made = four_kinds((convolution, attending), (dense, block), norms)
    kept = attention_layer(sizes.kv_heads, sizes.head_size, None)
    state: DecoderLayer = (ShortConv(intermediate_size=width, conv_kernel=kernel),)
    return assembled(
        keys,
        sizes,
        layers=[kept if each else state for each in attends],
        parts=[made[each, layer >= first_mixture] for layer, each in enumerate(attends)],
        intermediate_size=inner,
        tied=keys.flag("tie_embedding", "tie_word_embeddings", default=True),
        final_norm="model.embedding_norm",
        mixture=mixture,
    )


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    "JambaForCausalLM": _jamba,
    "BambaForCausalLM": _bamba,
    "FalconH1ForCausalLM": _falcon_h1,
    "NemotronHForCausalLM": _nemotron_h,
    "GraniteMoeHybridForCausalLM": _granite_hybrid,
    "MambaForCausalLM": _mamba,
    "FalconMambaForCausalLM": _mamba,
    "Mamba2ForCausalLM": _mamba2,
    "Lfm2ForCausalLM": _lfm2,
    "Lfm2MoeForCausalLM": _lfm2,
}
"""Every architecture with a state space or short convolution, by the name in the config's ``architectures``."""

"""Dense decoders of Llama's build: the table says what each family does otherwise.

Sources: vLLM ``model_executor/models/<family>.py`` (0.32; Olmo, Phi, StarCoder2 and others run on its transformers
backend since 0.24, before with the same tensors), key names and defaults of transformers' configuration classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from advisor.layers import DecoderLayer
from advisor.model.keys import Keys, divided
from advisor.model.tensors import (
    Decoder,
    Heads,
    Parts,
    attention,
    embedding,
    fused_qkv,
    lm_head,
    matrix,
    mlp,
    norm,
    small,
)
from advisor.model.windows import (
    WindowRule,
    attention_layer,
    every_nth_full,
    no_window,
    one_window_for_all,
    window_by_layer_type,
    window_from_layer,
)
from advisor.spec import Experts

Switch = bool | str
"""Whether something is there: always, never, or as the config key of that name says (``!`` before: true if absent)."""


def read_heads(keys: Keys) -> Heads:
    """Return the attention's sizes, checked to fit each other.

    Raises:
        ModelConfigError: One is missing, or they do not divide.
    """
    hidden_size = keys.size("hidden_size")
    heads = keys.size("num_attention_heads")
    kv_heads = keys.optional_size("num_key_value_heads", "num_kv_heads") or heads
    head_size = keys.optional_size("head_dim") or divided(
        keys, hidden_size, "hidden_size", heads, "num_attention_heads"
    )
    divided(keys, heads, "num_attention_heads", kv_heads, "num_key_value_heads")
    return Heads(hidden_size=hidden_size, heads=heads, kv_heads=kv_heads, head_size=head_size)


def assembled(
    keys: Keys,
    sizes: Heads,
    *,
    layers: Sequence[DecoderLayer],
    parts: Sequence[Parts],
    intermediate_size: int,
    tied: bool,
    layer_prefix: str = "model.layers.",
    embedding_name: str = "model.embed_tokens",
    beside_embedding: Parts = (),
    before_norm: Parts = (),
    final_norm: str = "model.norm",
    mixture: Experts | None = None,
    draft_layers: int = 0,
    gated_mlp: bool = True,
) -> Decoder:
    """Return a decoder of these layers, between an embedding and a norm with an output head: what most are."""
    hidden, vocab = sizes.hidden_size, keys.size("vocab_size")
    return Decoder(
        hidden_size=hidden,
        intermediate_size=intermediate_size,
        num_attention_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        head_size=sizes.head_size,
        vocab_size=vocab,
        layers=tuple(layers),
        layer_parts=parts,
        before=(embedding(embedding_name, vocab, hidden), *beside_embedding),
        after=(*before_norm, *norm(final_norm, hidden), *(() if tied else lm_head("lm_head", vocab, hidden))),
        tied=tied,
        layer_prefix=layer_prefix,
        experts=mixture,
        draft_layers=draft_layers,
        gated_mlp=gated_mlp,
    )


def _switched(keys: Keys, switch: Switch) -> bool:
    """Return what a `Switch` says of this config."""
    if isinstance(switch, bool):
        return switch
    return keys.flag(switch.removeprefix("!"), default=switch.startswith("!"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Dense:
    """How a family's decoder differs from Llama's."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    qkv_bias: Switch = False
    output_bias: Switch = False
    mlp_bias: Switch = False
    qk_norm: Switch = False
    qk_norm_whole: bool = False
    """Whether those norms span all heads instead of one head's width."""
    fused_qkv: str = ""
    """Name of the fused projection where the checkpoint has one."""
    fused_mlp: bool = False
    """Whether the checkpoint has gate and up in one ``gate_up_proj``."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norm_bias: bool = False
    norm_weights: bool = True
    attention_module: str = "self_attn"
    attention_names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj")
    qk_norm_names: tuple[str, str] = ("q_norm", "k_norm")
    mlp_module: str = "mlp"
    mlp_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    embedding: str = "model.embed_tokens"
    layer_prefix: str = "model.layers."
    final_norm: str = "model.norm"
    head: str = "lm_head"
    head_bias: bool = False
    layers_keys: tuple[str, ...] = ("num_hidden_layers",)
    tied: bool = False
    """Whether the head is tied where the config does not say."""
    windows: WindowRule = one_window_for_all
    further: Callable[[Keys, Heads], Parts] | None = None
    """Further tensors of each layer."""

    def __call__(self, keys: Keys) -> Decoder:
        """Return the decoder that the config describes."""
        return self.decoder(keys.with_defaults(self.defaults))

    def decoder(
        self,
        keys: Keys,
        feed_forwards: Callable[[int], Parts] | None = None,
        *,
        mixture: Experts | None = None,
        intermediate_size: int | None = None,
        draft_layers: int = 0,
    ) -> Decoder:
        """Return the decoder; ``feed_forwards`` makes the tensors after the attention of each layer by its index.

        Layers for which it returns the very same object are made only once.
        """
        sizes = read_heads(keys)
        layers = keys.layers(*self.layers_keys)
        hidden, vocab = sizes.hidden_size, keys.size("vocab_size")
        intermediate = intermediate_size or keys.size("intermediate_size")
        common = (
            *self._attention(keys, sizes),
            *(part for name in self.norms if self.norm_weights for part in norm(name, hidden, bias=self.norm_bias)),
            *(self.further(keys, sizes) if self.further else ()),
        )
        if feed_forwards is None:
            parts = [(*common, *self._mlp(keys, hidden, intermediate))] * layers
        else:
            made: dict[int, Parts] = {}
            blocks = [feed_forwards(layer) for layer in range(layers)]
            parts = [made.setdefault(id(block), (*common, *block)) for block in blocks]
        tied = keys.flag("tie_word_embeddings", default=self.tied)
        windows = self.windows(keys, layers)
        kinds = {each: attention_layer(sizes.kv_heads, sizes.head_size, each) for each in set(windows)}
        return Decoder(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_attention_heads=sizes.heads,
            num_kv_heads=sizes.kv_heads,
            head_size=sizes.head_size,
            vocab_size=vocab,
            layers=tuple(kinds[each] for each in windows),
            layer_parts=parts,
            before=(embedding(self.embedding, vocab, hidden),),
            after=(
                *(norm(self.final_norm, hidden, bias=self.norm_bias) if self.norm_weights else ()),
                *(() if tied else lm_head(self.head, vocab, hidden, bias=self.head_bias)),
            ),
            tied=tied,
            layer_prefix=self.layer_prefix,
            experts=mixture,
            draft_layers=draft_layers,
            gated_mlp=len(self.mlp_names) > 2 or self.fused_mlp,
        )

    def _attention(self, keys: Keys, sizes: Heads) -> Parts:
        module, qkv_bias = self.attention_module, _switched(keys, self.qkv_bias)
        output_bias = _switched(keys, self.output_bias)
        if self.fused_qkv:
            projections = (
                *fused_qkv(f"{module}.{self.fused_qkv}", sizes, bias=qkv_bias),
                *matrix(
                    f"{module}.{self.attention_names[3]}",
                    sizes.hidden_size,
                    sizes.heads * sizes.head_size,
                    "row",
                    bias=output_bias,
                ),
            )
        else:
            projections = attention(
                module, sizes, qkv_bias=qkv_bias, output_bias=output_bias, names=self.attention_names
            )
        if not _switched(keys, self.qk_norm):
            return projections
        query, key = (f"{module}.{name}" for name in self.qk_norm_names)
        whole = self.qk_norm_whole
        return (
            *projections,
            *norm(query, sizes.heads * sizes.head_size if whole else sizes.head_size),
            *norm(key, sizes.kv_heads * sizes.head_size if whole else sizes.head_size),
        )

    def _mlp(self, keys: Keys, hidden: int, intermediate: int) -> Parts:
        bias = _switched(keys, self.mlp_bias)
        if self.fused_mlp:
            return (
                *matrix(f"{self.mlp_module}.gate_up_proj", 2 * intermediate, hidden, "column", bias=bias),
                *matrix(f"{self.mlp_module}.down_proj", hidden, intermediate, "row", bias=bias),
            )
        return mlp(self.mlp_module, hidden, intermediate, bias=bias, names=self.mlp_names)


_AFTER_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")

_MISTRAL = Dense(defaults={"num_key_value_heads": 8, "sliding_window": 4096}, windows=window_by_layer_type)
_STABLELM = Dense(qkv_bias="use_qkv_bias", norm_bias=True)
_QWEN2 = Dense(defaults={"use_sliding_window": False}, qkv_bias=True, windows=window_from_layer)
_QWEN3 = Dense(
    defaults={"head_dim": 128, "use_sliding_window": False},
    qkv_bias="attention_bias",
    qk_norm=True,
    windows=window_from_layer,
)
_PHI3 = Dense(fused_qkv="qkv_proj", fused_mlp=True)
_GPT_MLP = ("c_fc", "c_proj")


def _llama(keys: Keys) -> Decoder:
    """Llama and its many kin: ``bias`` and ``qkv_bias`` are the old spellings of attention_bias (Smaug, InternLM 3)."""
    both = keys.flag("attention_bias") or keys.flag("bias")
    family = Dense(
        qkv_bias=keys.flag("qkv_bias", default=both),
        output_bias=both,
        mlp_bias="mlp_bias",
        windows=window_by_layer_type,
    )
    return family(keys)


def _xielu(keys: Keys, sizes: Heads) -> Parts:
    return (small("mlp.act_fn.alpha_p", 1), small("mlp.act_fn.alpha_n", 1))


def _cohere_qk_norms(keys: Keys, sizes: Heads) -> Parts:
    if not keys.flag("use_qk_norm"):
        return ()
    return (
        small("self_attn.q_norm.weight", sizes.heads, sizes.head_size, sharding="column"),
        small("self_attn.k_norm.weight", sizes.kv_heads, sizes.head_size, sharding="kv_heads", kv_heads=sizes.kv_heads),
    )


def _cohere2_windows(keys: Keys, layers: int) -> Sequence[int | None]:
    """One token more than the config says: Cohere counts the token itself beside its window."""
    windows = every_nth_full(keys.size("sliding_window_pattern", default=4))(
        keys.with_defaults({"sliding_window": 4096}), layers
    )
    return tuple(None if each is None else each + 1 for each in windows)


def _peri_norms(keys: Keys, sizes: Heads) -> Parts:
    if not keys.flag("use_post_norm"):
        return ()
    return (*norm("post_norm1", sizes.hidden_size), *norm("post_norm2", sizes.hidden_size))


def _step1(keys: Keys) -> Decoder:
    groups = keys.size("num_attention_groups", "num_key_value_heads", default=1)
    return Dense(defaults={"num_key_value_heads": groups})(keys)


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    "LlamaForCausalLM": _llama,
    "LLaMAForCausalLM": _llama,
    "InternLM3ForCausalLM": _llama,
    "IQuestCoderForCausalLM": _llama,
    "TeleChat3ForCausalLM": _llama,
    "XverseForCausalLM": _llama,
    "AquilaForCausalLM": _llama,
    "AquilaModel": _llama,
    "InternLMForCausalLM": _llama,
    "CwmForCausalLM": Dense(windows=window_by_layer_type),
    "MistralForCausalLM": _MISTRAL,
    "Ministral3ForCausalLM": Dense(defaults={"num_key_value_heads": 8, "head_dim": 128}, windows=window_by_layer_type),
    "SolarForCausalLM": Dense(qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
    "Qwen2ForCausalLM": _QWEN2,
    "MiMoForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
    "GraniteForCausalLM": Dense(
        qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias", windows=window_by_layer_type
    ),
    "Phi3ForCausalLM": _PHI3,
    "GemmaForCausalLM": Dense(defaults={"num_key_value_heads": 16, "head_dim": 256}, tied=True, windows=no_window),
    "StableLmForCausalLM": _STABLELM,
    "StableLMEpochForCausalLM": _STABLELM,
    "Starcoder2ForCausalLM": Dense(
        qkv_bias="!use_bias",
        output_bias="!use_bias",
        mlp_bias="!use_bias",
        mlp_names=_GPT_MLP,
        norm_bias=True,
        tied=True,
        defaults={"num_key_value_heads": 2},
        windows=window_by_layer_type,
    ),
    "OlmoForCausalLM": Dense(
        qkv_bias="attention_bias", output_bias="attention_bias", norm_weights=False, windows=no_window
    ),
    "Olmo2ForCausalLM": Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        norms=_AFTER_NORMS,
        qk_norm=True,
        qk_norm_whole=True,
        windows=no_window,
    ),
    "Olmo3ForCausalLM": Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        norms=_AFTER_NORMS,
        qk_norm=True,
        qk_norm_whole=True,
        windows=every_nth_full(4),
    ),
    "CohereForCausalLM": Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        norms=("input_layernorm",),
        tied=True,
        further=_cohere_qk_norms,
    ),
    "Cohere2ForCausalLM": Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        norms=("input_layernorm",),
        tied=True,
        windows=_cohere2_windows,
    ),
    "ExaoneForCausalLM": Dense(
        attention_module="attn.attention",
        attention_names=("q_proj", "k_proj", "v_proj", "out_proj"),
        mlp_names=("c_fc_0", "c_fc_1", "c_proj"),
        norms=("ln_1", "ln_2"),
        layers_keys=("num_layers", "num_hidden_layers"),
        embedding="transformer.wte",
        layer_prefix="transformer.h.",
        final_norm="transformer.ln_f",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    "Exaone4ForCausalLM": Dense(norms=_AFTER_NORMS, qk_norm=True, windows=every_nth_full(4)),
    "NemotronForCausalLM": Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        mlp_names=("up_proj", "down_proj"),
        norm_bias=True,
    ),
    "SmolLM3ForCausalLM": Dense(
        defaults={"num_key_value_heads": 4, "use_sliding_window": False},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        tied=True,
        windows=window_by_layer_type,
    ),
    "ArceeForCausalLM": Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        mlp_names=("up_proj", "down_proj"),
    ),
    "ApertusForCausalLM": Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        mlp_names=("up_proj", "down_proj"),
        norms=("attention_layernorm", "feedforward_layernorm"),
        qk_norm=True,
        further=_xielu,
    ),
    "HunYuanDenseV1ForCausalLM": Dense(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        qk_norm_names=("query_layernorm", "key_layernorm"),
    ),
    "SeedOssForCausalLM": Dense(
        defaults={"num_key_value_heads": 8, "head_dim": 128},
        qkv_bias="!attention_bias",
        output_bias="attention_out_bias",
        mlp_bias="mlp_bias",
        windows=no_window,
    ),
    "GlmForCausalLM": Dense(
        defaults={"num_key_value_heads": 2, "head_dim": 128},
        qkv_bias="!attention_bias",
        fused_mlp=True,
        windows=no_window,
    ),
    "Glm4ForCausalLM": Dense(
        defaults={"num_key_value_heads": 2, "head_dim": 128},
        qkv_bias="!attention_bias",
        fused_mlp=True,
        norms=("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
    ),
    "Ernie4_5ForCausalLM": Dense(
        defaults={"num_key_value_heads": 2, "head_dim": 128},
        qkv_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        tied=True,
    ),
    "OrionForCausalLM": Dense(norm_bias=True),
    "HyperCLOVAXForCausalLM": Dense(
        qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias", further=_peri_norms
    ),
    "InternLM2ForCausalLM": Dense(
        fused_qkv="wqkv",
        qkv_bias="bias",
        output_bias="bias",
        attention_module="attention",
        attention_names=("", "", "", "wo"),
        mlp_module="feed_forward",
        mlp_names=("w1", "w3", "w2"),
        norms=("attention_norm", "ffn_norm"),
        embedding="model.tok_embeddings",
        head="output",
    ),
    "PhiForCausalLM": Dense(
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        attention_names=("q_proj", "k_proj", "v_proj", "dense"),
        mlp_names=("fc1", "fc2"),
        norms=("input_layernorm",),
        norm_bias=True,
        final_norm="model.final_layernorm",
        head_bias=True,
        windows=no_window,
    ),
    "PersimmonForCausalLM": Dense(
        fused_qkv="query_key_value",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        attention_names=("", "", "", "dense"),
        mlp_names=("dense_h_to_4h", "dense_4h_to_h"),
        norm_bias=True,
        final_norm="model.final_layernorm",
        windows=no_window,
    ),
    "BaiChuanForCausalLM": Dense(fused_qkv="W_pack"),
    "BaichuanForCausalLM": Dense(fused_qkv="W_pack"),
    "MiniCPMForCausalLM": Dense(tied=True),
    "TeleFLMForCausalLM": _llama,
    "Step1ForCausalLM": _step1,
}
"""Every dense architecture of this build, by the name in the config's ``architectures``."""

"""Wrappers of a text model with towers for images or sound, and encoder-decoder speech models.

Sources: vLLM 0.32 ``model_executor/models/<wrapper>.py``. The text model is one of the text families, by the
text config's ``architectures`` or ``model_type``; a config without ``text_config`` has the text model's
keys at its top (Qwen2-VL).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from advisor.layers import CrossAttention, FullAttention
from advisor.model import gemma, gemma_towers, latent, linear, moe, towers
from advisor.model.dense import FAMILIES as DENSE
from advisor.model.dense import Dense
from advisor.model.hybrid import FAMILIES as HYBRID
from advisor.model.keys import Keys, divided
from advisor.model.tensors import (
    Decoder,
    Heads,
    Part,
    Parts,
    Renaming,
    Tower,
    attention,
    embedding,
    lm_head,
    matrix,
    norm,
    prefixed,
    small,
)
from advisor.model.windows import no_window
from advisor.spec import DeclinedError

TextFamily = Callable[[Keys], Decoder]

_TEXT: Mapping[str, TextFamily] = {
    **DENSE,
    **moe.FAMILIES,
    **latent.FAMILIES,
    **linear.FAMILIES,
    **gemma.FAMILIES,
    **HYBRID,
}
_BY_MODEL_TYPE = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "granite": "GraniteForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "lfm2_moe": "Lfm2MoeForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "seed_oss": "SeedOssForCausalLM",
}
_TEXT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "max_position_embeddings": 131072,
    },
    "gemma": {
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
    },
    "gemma3_text": {"max_position_embeddings": 131072},
    "gemma4_text": {"max_position_embeddings": 131072},
}
"""What a wrapper's text config leaves out because transformers' class has it as default."""


_MLLAMA_TEXT: Mapping[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """A wrapped model in parts."""

    text: Keys
    """Where lengths and dtypes of the text model stand."""
    decoder: Decoder
    towers: Parts = ()
    renaming: Renaming | None = None


def _text(
    keys: Keys, *, name: str = "text_config", fallback: str = "llama", family: TextFamily | None = None
) -> tuple[Keys, Decoder]:
    """Return the text model's keys and decoder; a head tied at the top counts as tied in the text model."""
    found = keys.raw(name)[1]
    text = keys if found is None else keys.nested(name)
    kind = text.text("model_type", default=fallback) if found is not None else fallback
    text = text.with_defaults(_TEXT_DEFAULTS.get(kind, {}))
    tied = keys.raw("tie_word_embeddings")[1]
    if tied is not None and found is not None:
        text = text.overridden({"tie_word_embeddings": keys.flag("tie_word_embeddings")})
    if family is None:
        named = text.words("architectures") if found is not None else None
        architecture = named[0] if named else _BY_MODEL_TYPE.get(kind, kind)
        family = _TEXT.get(architecture)
        if family is None:
            raise DeclinedError(f"text model {architecture} inside a wrapper is not described by these rules")
    return text, family(text)


def _vision(keys: Keys) -> Keys:
    return keys.nested("vision_config", defaults={})


def _with_tower(text: Keys, decoder: Decoder, tower: Tower, joint: Parts, renaming: Renaming | None) -> Whole:
    return Whole(
        text=text,
        decoder=replace(decoder, encoder=tower.encoder),
        towers=(*tower.parts, *joint),
        renaming=renaming,
    )


def _llava_tower(keys: Keys, *, merge: int = 1) -> Tower:
    vision = _vision(keys)
    kind = vision.text("model_type", default="clip_vision_model")
    prefix = "vision_tower."
    if kind in {"clip_vision_model", "siglip_vision_model"}:
        short = kind.removesuffix("_vision_model")
        used = towers.used_layers(keys, vision.with_defaults(towers.CLIP).layers())
        return towers.clip(vision, prefix + "vision_model.", used=used, family=short)
    if kind == "pixtral":
        used = towers.used_layers(
            keys.with_defaults({"vision_feature_layer": -1}), vision.with_defaults(towers.PIXTRAL).layers()
        )
        return towers.pixtral(vision, prefix, merge=merge, used=used)
    raise DeclinedError(f"vision tower {kind} is not described by these rules")


def _projector(inner: int, hidden: int, *, bias: bool = True, split: bool = True) -> Parts:
    first, second = towers.sides(split=split)
    return (
        *matrix("multi_modal_projector.linear_1", hidden, inner, first, bias=bias),
        *matrix("multi_modal_projector.linear_2", hidden, hidden, second, bias=bias),
    )


def _chosen_layers(keys: Keys) -> int:
    chosen = keys.raw("vision_feature_layer")[1]
    return len(chosen) if isinstance(chosen, list) else 1


def _llava(keys: Keys, *, fallback: str = "llama", split: bool = True, tiled: bool = False) -> Whole:
    """LLaVA; ``tiled`` where an image may be cut into tiles, whose rows end with a token of their own."""
    text, decoder = _text(keys, fallback=fallback)
    tower = _llava_tower(keys)
    joint = _projector(
        tower.encoder.hidden_size * _chosen_layers(keys),
        decoder.hidden_size,
        bias=keys.flag("multimodal_projector_bias", default=True),
        split=split,
    )
    if tiled:
        tower = replace(tower, encoder=replace(tower.encoder, max_item_tokens=None))
        joint = (*joint, small("image_newline", decoder.hidden_size))
    return _with_tower(text, decoder, tower, joint, Renaming())


def _llava_next(keys: Keys) -> Whole:
    return _llava(keys, tiled=True)


def _llava_onevision(keys: Keys) -> Whole:
    return _llava(keys.with_defaults({"vision_feature_layer": -1}), fallback="qwen2", split=False, tiled=True)


def _qwen2_vl(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="qwen2", family=DENSE["Qwen2ForCausalLM"])
    return _with_tower(text, decoder, towers.qwen2_vl(_vision(keys), "visual."), (), None)


def _qwen2_5_vl(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="qwen2", family=DENSE["Qwen2ForCausalLM"])
    return _with_tower(text, decoder, towers.qwen2_5_vl(_vision(keys), "visual."), (), None)


_NEW_NAMES = Renaming(root="model.language_model.", head="")


def _stacked_qwen3_moe(keys: Keys) -> Decoder:
    return moe.qwen3_moe(keys, stacked=True)


def _qwen3_vl(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="qwen3", family=DENSE["Qwen3ForCausalLM"])
    return _with_tower(text, decoder, towers.qwen3_vl(_vision(keys), "model.visual."), (), _NEW_NAMES)


def _qwen3_vl_moe(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="qwen3_moe", family=_stacked_qwen3_moe)
    return _with_tower(text, decoder, towers.qwen3_vl(_vision(keys), "model.visual."), (), _NEW_NAMES)


def _qwen3_5(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="qwen3_5_text", family=linear.qwen3_5)
    tower = towers.qwen3_vl(_vision(keys), "model.visual.", deepstack=False)
    return _with_tower(text, decoder, tower, (), _NEW_NAMES)


def _qwen3_5_moe(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="qwen3_5_moe_text", family=linear.qwen3_5_moe)
    tower = towers.qwen3_vl(_vision(keys), "model.visual.", deepstack=False)
    return _with_tower(text, decoder, tower, (), _NEW_NAMES)


def _glm4v(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="glm4", family=DENSE["Glm4ForCausalLM"])
    return _with_tower(text, decoder, towers.glm4v(_vision(keys), "model.visual."), (), _NEW_NAMES)


def _glm4v_moe(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="glm4_moe", family=moe.glm4_moe)
    return _with_tower(text, decoder, towers.glm4v(_vision(keys), "model.visual."), (), _NEW_NAMES)


def _gemma3(keys: Keys) -> Whole:
    text, decoder = _text(
        keys.with_defaults({"tie_word_embeddings": True}), fallback="gemma3_text", family=gemma.gemma3
    )
    tower = towers.clip(_vision(keys), "vision_tower.vision_model.", family="siglip")
    width = tower.encoder.hidden_size
    joint = prefixed(
        "multi_modal_projector.",
        (small("mm_input_projection_weight", width, decoder.hidden_size), *norm("mm_soft_emb_norm", width)),
    )
    patches, tokens = tower.encoder.max_item_tokens or 1, keys.size("mm_tokens_per_image", default=256)
    tower = replace(
        tower,
        encoder=replace(tower.encoder, max_item_tokens=tokens, tokens_per_output=max(1, patches // tokens)),
    )
    return _with_tower(text, decoder, tower, joint, Renaming())


def _gemma4(keys: Keys) -> Whole:
    text, decoder = _text(
        keys.with_defaults({"tie_word_embeddings": True}), fallback="gemma4_text", family=gemma.gemma4
    )
    tower = towers.gemma4(_vision(keys), "model.vision_tower.")
    hidden = decoder.hidden_size
    joint = matrix("model.embed_vision.embedding_projection", hidden, tower.encoder.hidden_size, "copied")
    if keys.raw("audio_config")[1] is not None:
        heard = keys.nested("audio_config").with_defaults(gemma_towers.GEMMA4_AUDIO)
        joint += gemma_towers.gemma4_audio(heard, "model.audio_tower.")
        joint += matrix("model.embed_audio.embedding_projection", hidden, heard.size("output_proj_dims"), "copied")
    return _with_tower(text, decoder, tower, joint, _NEW_NAMES)


def _gemma3n(keys: Keys) -> Whole:
    text, decoder = _text(
        keys.with_defaults({"tie_word_embeddings": True}), fallback="gemma3n_text", family=gemma.gemma3n
    )
    seen, heard = _vision(keys), keys.nested("audio_config", defaults=gemma_towers.GEMMA3N_AUDIO)
    tower = gemma_towers.gemma3n_vision(seen, "model.vision_tower.")
    hidden = decoder.hidden_size
    joint = (
        *gemma_towers.embedder(
            "model.embed_vision.",
            seen.size("vocab_size", default=128),
            seen.size("hidden_size", default=2048),
            hidden,
        ),
        *gemma_towers.gemma3n_audio(heard, "model.audio_tower."),
        *gemma_towers.embedder("model.embed_audio.", heard.size("vocab_size"), heard.size("hidden_size"), hidden),
    )
    return _with_tower(text, decoder, tower, joint, _NEW_NAMES)


def _paligemma(keys: Keys) -> Whole:
    text, decoder = _text(keys.with_defaults({"tie_word_embeddings": True}), fallback="gemma")
    tower = towers.clip(_vision(keys), "vision_tower.vision_model.", family="siglip")
    projected = _vision(keys).size("projection_dim", default=decoder.hidden_size)
    joint = matrix("multi_modal_projector.linear", projected, tower.encoder.hidden_size, "copied", bias=True)
    return _with_tower(text, decoder, tower, joint, Renaming())


def _mistral3(keys: Keys) -> Whole:
    # published checkpoints have a head of their own, which vLLM finds in the files where the config is silent
    text, decoder = _text(keys, fallback="mistral")
    merge = keys.size("spatial_merge_size", default=2)
    tower = _llava_tower(keys.with_defaults({"vision_feature_layer": -1}), merge=merge)
    width = tower.encoder.hidden_size
    joint = (
        *norm("multi_modal_projector.norm", width),
        *matrix("multi_modal_projector.patch_merger.merging_layer", width, width * merge * merge, "copied"),
        *_projector(width, decoder.hidden_size, bias=keys.flag("multimodal_projector_bias")),
    )
    return _with_tower(text, decoder, tower, joint, Renaming())


def _internvl_joint(keys: Keys, width: int, hidden: int) -> tuple[int, Parts]:
    squared = int(1 / keys.fraction("downsample_ratio", default=0.5)) ** 2
    return squared, (
        *norm("mlp1.0", width * squared, bias=True),
        *matrix("mlp1.1", hidden, width * squared, "copied", bias=True),
        *matrix("mlp1.3", hidden, hidden, "copied", bias=True),
    )


def _internvl(keys: Keys) -> Whole:
    text, decoder = _text(keys, name="llm_config")
    vision = _vision(keys)
    layers, chosen = vision.layers(), keys.raw("select_layer")[1]
    if isinstance(chosen, int) and chosen != -1:
        used = chosen + 1 if chosen >= 0 else layers + chosen + 1
        if not 0 < used <= layers:
            raise keys.error("select_layer", chosen, f"within the tower's {layers} layers")
        vision = vision.overridden({"num_hidden_layers": used})
    tower = towers.intern_vit(vision, "vision_model.")
    squared, joint = _internvl_joint(keys, tower.encoder.hidden_size, decoder.hidden_size)
    image, patch = vision.size("image_size", default=448), vision.size("patch_size", default=14)
    tiles = keys.size("max_dynamic_patch", default=12) + keys.flag("use_thumbnail", default=True)
    tower = replace(
        tower,
        encoder=replace(
            tower.encoder,
            max_item_tokens=tiles * ((image // patch) ** 2 // squared),
            tokens_per_output=squared,
        ),
    )
    return _with_tower(text, decoder, tower, joint, Renaming())


def _internvl_transformers(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="qwen2")
    tower = towers.intern_vit_transformers(_vision(keys), "vision_tower.")
    width = tower.encoder.hidden_size * int(1 / keys.fraction("downsample_ratio", default=0.5)) ** 2
    joint = (
        *norm("multi_modal_projector.layer_norm", width, bias=True),
        *_projector(width, decoder.hidden_size, split=False),
    )
    return _with_tower(text, decoder, tower, joint, Renaming())


def _llama4(keys: Keys) -> Whole:
    text, decoder = _text(keys, family=moe.llama4)
    tower = towers.llama4(_vision(keys), "vision_model.")
    vision = _vision(keys).with_defaults(towers.LLAMA4)
    joint = matrix("multi_modal_projector.linear_1", decoder.hidden_size, vision.size("vision_output_dim"), "column")
    return _with_tower(text, decoder, tower, joint, Renaming())


def _merged_patches(vision: Keys) -> int:
    """Return how many patches become one token, two by two where the config does not say."""
    listed = vision.whole_numbers("merge_kernel_size")
    if listed is None:
        return 2 * 2
    if len(listed) != 2 or not all(listed):
        raise vision.error("merge_kernel_size", list(listed), "two whole numbers above zero")
    return listed[0] * listed[1]


def _kimi_vl(keys: Keys) -> Whole:
    text, decoder = _text(keys, family=latent.deepseek)
    vision = _vision(keys)
    tower = towers.moonvit(vision, "vision_tower.")
    width = tower.encoder.hidden_size
    inner = width * _merged_patches(vision)
    joint = prefixed(
        "multi_modal_projector.",
        (
            *norm("pre_norm", width, bias=True),
            *matrix("linear_1", inner, inner, "copied", bias=True),
            *matrix("linear_2", decoder.hidden_size, inner, "copied", bias=True),
        ),
    )
    return _with_tower(text, decoder, tower, joint, Renaming())


def _kimi_k3(keys: Keys) -> Whole:
    return _kimi_k25(keys, family=linear.kimi_linear)


def _kimi_k25(keys: Keys, *, family: TextFamily = latent.deepseek) -> Whole:
    text, decoder = _text(keys, family=family)
    vision = _vision(keys)
    sizes = {
        "hidden_size": vision.size("vt_hidden_size", "hidden_size", default=1152),
        "intermediate_size": vision.size("vt_intermediate_size", "intermediate_size", default=4304),
        "num_hidden_layers": vision.layers("vt_num_hidden_layers", "num_hidden_layers", default=27),
        "num_attention_heads": vision.size("vt_num_attention_heads", "num_attention_heads", default=16),
    }
    tower = towers.moonvit(vision.overridden(sizes), "vision_tower.")
    width, out = sizes["hidden_size"], decoder.hidden_size
    inner = width * _merged_patches(vision)
    kind = vision.text("mm_projector_type", default="patchmerger")
    if kind == "patchmerger":
        joint = (
            *norm("pre_norm", width, bias=True),
            *matrix("proj.0", inner, inner, "copied", bias=True),
            *matrix("proj.2", out, inner, "copied", bias=True),
        )
    elif kind == "patchmergerv2":
        joint = (
            *matrix("proj.0", inner, inner, "copied"),
            *matrix("proj.2", out, inner, "copied"),
            *norm("post_norm", out),
        )
    else:
        raise DeclinedError(f"multimodal projector {kind} is not described by these rules")
    return _with_tower(text, decoder, tower, prefixed("mm_projector.", joint), Renaming())


def _idefics3(keys: Keys) -> Whole:
    text, decoder = _text(keys)
    vision = _vision(keys).with_defaults({"hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32})
    tower = towers.clip(vision, "model.vision_model.", family="siglip")
    scale = keys.size("scale_factor", default=2)
    joint = matrix(
        "model.connector.modality_projection.proj",
        decoder.hidden_size,
        tower.encoder.hidden_size * scale * scale,
        "copied",
    )
    tower = replace(tower, encoder=replace(tower.encoder, max_item_tokens=None, tokens_per_output=scale * scale))
    return _with_tower(text, decoder, tower, joint, Renaming(root="model.text_model.", head=""))


def _cohere2_vision(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="cohere2")
    tower = towers.clip(_vision(keys), "model.vision_tower.vision_model.", family="siglip")
    factor, inner = keys.size("downsample_factor", default=2), keys.size("alignment_intermediate_size", default=36864)
    half = divided(keys, inner, "alignment_intermediate_size", 2, "its halves")
    joint = prefixed(
        "model.multi_modal_projector.",
        (
            *matrix("linear_1", inner, tower.encoder.hidden_size * factor * factor, "column", bias=True),
            *matrix("linear_2", decoder.hidden_size, half, "row", bias=True),
        ),
    )
    tower = replace(tower, encoder=replace(tower.encoder, max_item_tokens=None, tokens_per_output=factor * factor))
    return _with_tower(text, decoder, tower, joint, _NEW_NAMES)


def _dots_ocr(keys: Keys) -> Whole:
    text, decoder = _text(keys, family=Dense(qkv_bias=keys.flag("attention_bias", default=True)))
    return _with_tower(text, decoder, towers.dots(_vision(keys), "vision_tower."), (), None)


def _lfm2_vl(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="lfm2")
    tower = towers.siglip2(_vision(keys), "model.vision_tower.vision_model.")
    factor = keys.size("downsample_factor", default=2)
    width, inner = tower.encoder.hidden_size * factor * factor, keys.size("projector_hidden_size", default=2560)
    bias = keys.flag("projector_bias", default=True)
    joint = prefixed(
        "model.multi_modal_projector.",
        (
            *(norm("layer_norm", width, bias=True) if keys.flag("projector_use_layernorm", default=True) else ()),
            *matrix("linear_1", inner, width, "copied", bias=bias),
            *matrix("linear_2", decoder.hidden_size, inner, "copied", bias=bias),
        ),
    )
    tower = replace(tower, encoder=replace(tower.encoder, tokens_per_output=factor * factor))
    return _with_tower(text, decoder, tower, joint, _NEW_NAMES)


def _phi3_v(keys: Keys) -> Whole:
    text, decoder = _text(keys, family=DENSE["Phi3ForCausalLM"])
    tower = towers.clip(
        Keys(
            {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 336,
                "patch_size": 14,
            }
        ),
        "model.vision_embed_tokens.img_processor.vision_model.",
        used=23,
    )
    hidden = decoder.hidden_size
    joint = prefixed(
        "model.vision_embed_tokens.",
        (
            small("glb_GN", 1, 1, 4096),
            small("sub_GN", 1, 1, 1, 4096),
            *matrix("img_projection.0", hidden, 4096, "copied", bias=True),
            *matrix("img_projection.2", hidden, hidden, "copied", bias=True),
        ),
    )
    joint = (*joint, embedding("model.vision_embed_tokens.wte", decoder.vocab_size, hidden))
    tower = replace(tower, encoder=replace(tower.encoder, max_item_tokens=None, tokens_per_output=4))
    return _with_tower(text, decoder, tower, joint, None)


def _qwen2_audio(keys: Keys) -> Whole:
    text, decoder = _text(keys, fallback="qwen2")
    audio = keys.nested("audio_config", defaults={})
    tower = towers.whisper(audio, "audio_tower.", split=False, tokens_per_output=2, max_item_tokens=750)
    joint = matrix("multi_modal_projector.linear", decoder.hidden_size, tower.encoder.hidden_size, "copied", bias=True)
    return _with_tower(text, decoder, tower, joint, Renaming())


def _ultravox(keys: Keys) -> Whole:
    text, decoder = _text(keys)
    audio = keys.nested("audio_config", defaults={})
    tower = towers.whisper(audio, "audio_tower.", split=True)
    stack = keys.size("stack_factor", default=8)
    width, inner = tower.encoder.hidden_size * stack, keys.size("hidden_size", default=4096)
    gated = keys.text("projector_act", default="swiglu") == "swiglu"
    half = inner // 2 if gated else inner
    if not half:
        raise keys.error("hidden_size", inner, "at least 2, of which swiglu keeps a half")
    middle = keys.flag("projector_ln_mid")
    joint = prefixed(
        "multi_modal_projector.",
        (
            *norm("ln_pre", width),
            *matrix("linear_1", inner, width, "copied"),
            *matrix("linear_2", decoder.hidden_size, half, "copied"),
            *(norm("ln_mid", half) if middle else norm("ln_post", decoder.hidden_size)),
        ),
    )
    tower = replace(tower, encoder=replace(tower.encoder, tokens_per_output=2 * stack))
    return _with_tower(text, decoder, tower, joint, Renaming())


def _qwen2_5_omni(keys: Keys) -> Whole:
    thinker = keys.nested("thinker_config")
    text, decoder = _text(thinker, fallback="qwen2", family=DENSE["Qwen2ForCausalLM"])
    audio = thinker.nested("audio_config", defaults={})
    sound = towers.whisper(
        audio, "thinker.audio_tower.", split=False, positions=False, last_norm="ln_post", tokens_per_output=2
    )
    width, out = sound.encoder.hidden_size, audio.size("output_dim", default=3584)
    joint = prefixed(
        "thinker.audio_tower.",
        (
            *matrix("proj", out, width, "copied", bias=True),
            small("audio_bos_eos_token.weight", 2, out),
        ),
    )
    seen = towers.qwen2_5_vl(_vision(thinker), "thinker.visual.")
    return _with_tower(
        text,
        decoder,
        seen,
        (*sound.parts, *joint),
        Renaming(root="thinker.model.", head="thinker."),
    )


def _mllama(keys: Keys) -> Whole:
    """Llama 3.2 Vision: some layers attend to the image only. Served up to 0.10.2."""
    nested = keys.raw("text_config")[1] is not None
    text = keys.nested("text_config") if nested else keys
    text = text.with_defaults({**_MLLAMA_TEXT, "num_key_value_heads": 8})
    base = Dense(windows=no_window)(text)
    hidden = base.hidden_size
    sizes = Heads(
        hidden_size=hidden, heads=base.num_attention_heads, kv_heads=base.num_kv_heads, head_size=base.head_size
    )
    cross_layers = frozenset(
        text.whole_numbers("cross_attention_layers") or keys.whole_numbers("cross_attention_layers") or ()
    )
    crossing = (
        *attention("cross_attn", sizes),
        *norm("cross_attn.q_norm", base.head_size),
        *norm("cross_attn.k_norm", base.head_size),
        small("cross_attn_attn_gate", 1),
        small("cross_attn_mlp_gate", 1),
    )
    layer = base.layer_parts[0]
    crossing = (*crossing, *(part for part in layer if not part.name.startswith("self_attn.")))
    crossed = (CrossAttention(num_kv_heads=base.num_kv_heads, head_size=base.head_size),)
    vision = _vision(keys).with_defaults(towers.MLLAMA)
    tower = towers.mllama(vision, "vision_model.")
    joint = matrix("multi_modal_projector", hidden, vision.size("vision_output_dim"), "column", bias=True)
    decoder = replace(
        base,
        layers=tuple(crossed if index in cross_layers else kept for index, kept in enumerate(base.layers)),
        layer_parts=tuple(crossing if index in cross_layers else layer for index in range(len(base.layers))),
        before=(embedding("model.embed_tokens", base.vocab_size + 8, hidden),),
        encoder_positions=tower.encoder.max_item_tokens,
    )
    return _with_tower(text, decoder, tower, joint, Renaming())


def _qwen3_omni(keys: Keys) -> Whole:
    thinker = keys.nested("thinker_config")
    text, decoder = _text(thinker, fallback="qwen3_moe", family=moe.qwen3_moe)
    audio = thinker.nested("audio_config", defaults={})
    seen = towers.qwen3_vl(_vision(thinker), "thinker.visual.", omni=True)
    sound = towers.qwen3_omni_audio(audio, "thinker.audio_tower.")
    return _with_tower(text, decoder, seen, sound.parts, Renaming(root="thinker.model.", head="thinker."))


def _whisper(keys: Keys) -> Whole:
    width, vocab = keys.size("d_model"), keys.size("vocab_size")
    heads, inner = keys.size("decoder_attention_heads"), keys.size("decoder_ffn_dim")
    layers = keys.layers("decoder_layers")
    head_size = divided(keys, width, "d_model", heads, "decoder_attention_heads")
    encoder = towers.whisper(keys, "model.encoder.", split=True)
    layer = towers.whisper_layer(width, inner, split=True, cross=True)
    kept = (
        FullAttention(num_kv_heads=heads, head_size=head_size, head_size_v=head_size),
        CrossAttention(num_kv_heads=heads, head_size=head_size),
    )
    tied = keys.flag("tie_word_embeddings", default=True)
    decoder = Decoder(
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_kv_heads=heads,
        head_size=head_size,
        vocab_size=vocab,
        layers=(kept,) * layers,
        layer_parts=(layer,) * layers,
        before=(
            Part("model.decoder.embed_tokens.weight", (vocab, width), "embedding", "copied"),
            Part(
                "model.decoder.embed_positions.weight",
                (keys.size("max_target_positions", default=448), width),
                "embedding",
                "copied",
            ),
        ),
        after=(
            *norm("model.decoder.layer_norm", width, bias=True),
            *(() if tied else lm_head("proj_out", vocab, width)),
        ),
        tied=tied,
        layer_prefix="model.decoder.layers.",
        gated_mlp=False,
        encoder=encoder.encoder,
        encoder_positions=keys.size("max_source_positions", default=1500),
    )
    return Whole(text=keys, decoder=decoder, towers=encoder.parts)


WRAPPERS: Mapping[str, Callable[[Keys], Whole]] = {
    "LlavaForConditionalGeneration": _llava,
    "LlavaNextForConditionalGeneration": _llava_next,
    "LlavaOnevisionForConditionalGeneration": _llava_onevision,
    "Qwen2VLForConditionalGeneration": _qwen2_vl,
    "Qwen2_5_VLForConditionalGeneration": _qwen2_5_vl,
    "Qwen3VLForConditionalGeneration": _qwen3_vl,
    "Qwen3VLMoeForConditionalGeneration": _qwen3_vl_moe,
    "Qwen3_5ForConditionalGeneration": _qwen3_5,
    "Qwen3_5MoeForConditionalGeneration": _qwen3_5_moe,
    "Glm4vForConditionalGeneration": _glm4v,
    "Glm4vMoeForConditionalGeneration": _glm4v_moe,
    "Gemma3ForConditionalGeneration": _gemma3,
    "Gemma3nForConditionalGeneration": _gemma3n,
    "Gemma4ForConditionalGeneration": _gemma4,
    "PaliGemmaForConditionalGeneration": _paligemma,
    "Mistral3ForConditionalGeneration": _mistral3,
    "InternVLChatModel": _internvl,
    "InternVLForConditionalGeneration": _internvl_transformers,
    "Llama4ForConditionalGeneration": _llama4,
    "KimiVLForConditionalGeneration": _kimi_vl,
    "KimiK25ForConditionalGeneration": _kimi_k25,
    "KimiK3ForConditionalGeneration": _kimi_k3,
    "Idefics3ForConditionalGeneration": _idefics3,
    "SmolVLMForConditionalGeneration": _idefics3,
    "Cohere2VisionForConditionalGeneration": _cohere2_vision,
    "DotsOCRForCausalLM": _dots_ocr,
    "Lfm2VlForConditionalGeneration": _lfm2_vl,
    "Phi3VForCausalLM": _phi3_v,
    "Qwen2AudioForConditionalGeneration": _qwen2_audio,
    "UltravoxModel": _ultravox,
    "Qwen2_5OmniModel": _qwen2_5_omni,
    "Qwen2_5OmniForConditionalGeneration": _qwen2_5_omni,
    "Qwen3OmniMoeForConditionalGeneration": _qwen3_omni,
    "MllamaForConditionalGeneration": _mllama,
    "WhisperForConditionalGeneration": _whisper,
}
"""Every wrapper, by the name in the config's ``architectures``."""

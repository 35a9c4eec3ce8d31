"""Text models served for embeddings or scores: no output head, and maybe a small one for classes.

Source: vLLM 0.32 ``model_executor/models/adapters.py``: such a model is its generating kin without ``lm_head``.
Bare models' checkpoints name their tensors without ``model.``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from advisor.model.dense import FAMILIES as DENSE
from advisor.model.gemma import FAMILIES as GEMMA
from advisor.model.keys import Keys
from advisor.model.tensors import Decoder, Part, matrix
from advisor.spec import DeclinedError

_KIN: Mapping[str, Callable[[Keys], Decoder]] = {
    "Llama": DENSE["LlamaForCausalLM"],
    "Mistral": DENSE["MistralForCausalLM"],
    "Qwen2": DENSE["Qwen2ForCausalLM"],
    "Qwen3": DENSE["Qwen3ForCausalLM"],
    "Gemma": DENSE["GemmaForCausalLM"],
    "Gemma2": GEMMA["Gemma2ForCausalLM"],
}


def _headless(decoder: Decoder) -> Decoder:
    return replace(decoder, after=tuple(part for part in decoder.after if part.role != "lm_head"))


def _bare(family: Callable[[Keys], Decoder]) -> Callable[[Keys], Decoder]:
    def read(keys: Keys) -> Decoder:
        decoder = _headless(family(keys))
        return replace(
            decoder,
            before=tuple(_unprefixed(part) for part in decoder.before),
            after=tuple(_unprefixed(part) for part in decoder.after),
            layer_prefix=decoder.layer_prefix.removeprefix("model."),
        )

    return read


def _unprefixed(part: Part) -> Part:
    return part._replace(name=part.name.removeprefix("model."))


def _classifying(family: Callable[[Keys], Decoder]) -> Callable[[Keys], Decoder]:
    def read(keys: Keys) -> Decoder:
        decoder = _headless(family(keys))
        labels = keys.raw("id2label")[1]
        count = len(labels) if isinstance(labels, Mapping) else keys.count("num_labels", default=2)
        if not count:
            raise DeclinedError("a classifier without labels is not described by these rules")
        return replace(decoder, after=(*decoder.after, *matrix("score", count, decoder.hidden_size, "copied")))

    return read


FAMILIES: Mapping[str, Callable[[Keys], Decoder]] = {
    **{f"{name}Model": _bare(family) for name, family in _KIN.items()},
    **{f"{name}ForSequenceClassification": _classifying(family) for name, family in _KIN.items()},
}
"""Every such architecture, by the name in the config's ``architectures``."""

"""Tensors and decoders put together of small parts: what the families are written in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from advisor.layers import DecoderLayer
from advisor.spec import Encoder, Experts, Parameter, Role, Sharding


class Part(NamedTuple):
    """A `Parameter` before it has a layer: its name is relative to the layer's."""

    name: str
    shape: tuple[int, ...]
    role: Role
    sharding: Sharding
    alike: int = 1
    kv_heads: int | None = None
    width_bytes: int | None = None


Parts = tuple[Part, ...]


def matrix(
    name: str,
    rows: int,
    columns: int,
    sharding: Sharding,
    *,
    bias: bool = False,
    role: Role = "linear",
    count: int = 1,
    kv_heads: int | None = None,
) -> Parts:
    """Return a linear layer's weight and, asked for, its bias (whole on every rank where the rows are not split)."""
    weight = Part(f"{name}.weight", (rows, columns), role, sharding, count, kv_heads)
    if not bias:
        return (weight,)
    shared: Sharding = "copied" if sharding == "row" else sharding
    return (weight, Part(f"{name}.bias", (rows,), "norm", shared, count, kv_heads))


def norm(name: str, size: int, *, bias: bool = False, sharding: Sharding = "copied") -> Parts:
    """Return a normalisation's weight and, asked for, its bias."""
    weight = Part(f"{name}.weight", (size,), "norm", sharding)
    return (weight, Part(f"{name}.bias", (size,), "norm", sharding)) if bias else (weight,)


def small(
    name: str,
    *shape: int,
    sharding: Sharding = "copied",
    kv_heads: int | None = None,
    width_bytes: int | None = None,
) -> Part:
    """Return a tensor that no quantisation touches, by its full name."""
    return Part(name, shape, "norm", sharding, 1, kv_heads, width_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """Sizes that every attention needs."""

    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int


def attention(
    module: str,
    sizes: Heads,
    *,
    value_size: int | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    query_factor: int = 1,
) -> Parts:
    """Return separate query, key, value and output projections under ``module``.

    ``query_factor`` is 2 where the query projection also makes an output gate.
    """
    query, key, value, output = names
    hidden_size, heads, kv_heads, head_size = sizes.hidden_size, sizes.heads, sizes.kv_heads, sizes.head_size
    values = head_size if value_size is None else value_size
    return (
        *matrix(f"{module}.{query}", query_factor * heads * head_size, hidden_size, "column", bias=qkv_bias),
        *matrix(f"{module}.{key}", kv_heads * head_size, hidden_size, "kv_heads", bias=qkv_bias, kv_heads=kv_heads),
        *matrix(f"{module}.{value}", kv_heads * values, hidden_size, "kv_heads", bias=qkv_bias, kv_heads=kv_heads),
        *matrix(f"{module}.{output}", hidden_size, heads * values, "row", bias=output_bias),
    )


def fused_qkv(name: str, sizes: Heads, *, bias: bool = False) -> Parts:
    """Return a fused query-key-value projection: one part where all heads are alike, else its two kinds of rows."""
    hidden_size, heads, kv_heads, head_size = sizes.hidden_size, sizes.heads, sizes.kv_heads, sizes.head_size
    if heads == kv_heads:
        return matrix(name, 3 * heads * head_size, hidden_size, "column", bias=bias)
    return (
        *matrix(name, heads * head_size, hidden_size, "column", bias=bias),
        *matrix(name, 2 * kv_heads * head_size, hidden_size, "kv_heads", bias=bias, kv_heads=kv_heads),
    )


def mlp(
    module: str,
    hidden_size: int,
    intermediate_size: int,
    *,
    bias: bool = False,
    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj"),
) -> Parts:
    """Return a feed-forward block: the last name is the way down, the others are ways up."""
    *ups, down = (f"{module}.{name}" if module else name for name in names)
    parts: list[Part] = []
    for up in ups:
        parts += matrix(up, intermediate_size, hidden_size, "column", bias=bias)
    return (*parts, *matrix(down, hidden_size, intermediate_size, "row", bias=bias))


def experts(
    module: str,
    count: int,
    hidden_size: int,
    intermediate_size: int,
    *,
    names: tuple[str, str, str] | tuple[str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> Parts:
    """Return the routed experts' matrices, one part a name; ``names`` end with the way down."""
    *ups, down = names
    return (
        *(Part(f"{module}.*.{up}.weight", (intermediate_size, hidden_size), "expert", "experts", count) for up in ups),
        Part(f"{module}.*.{down}.weight", (hidden_size, intermediate_size), "expert", "experts", count),
    )


def stacked_experts(up_name: str, down_name: str, count: int, hidden_size: int, intermediate_size: int) -> Parts:
    """Return gated experts that the checkpoint stacks into one tensor a projection."""
    return (
        Part(up_name, (2 * intermediate_size, hidden_size), "expert", "experts", count),
        Part(down_name, (hidden_size, intermediate_size), "expert", "experts", count),
    )


def router(name: str, count: int, hidden_size: int, *, bias: bool = False) -> Parts:
    """Return a router: every rank holds the whole of it."""
    return matrix(name, count, hidden_size, "copied", bias=bias)


def prefixed(prefix: str, parts: Iterable[Part]) -> Parts:
    """Return the parts under a module."""
    return tuple(part._replace(name=prefix + part.name) for part in parts)


def repeated(prefix: str, count: int, layer: Parts) -> Parts:
    """Return so many layers alike, numbered after ``prefix``."""
    return tuple(part for number in range(count) for part in prefixed(f"{prefix}{number}.", layer))


def four_kinds(
    first: tuple[Parts, Parts], second: tuple[Parts, Parts], rest: Parts = ()
) -> dict[tuple[bool, bool], Parts]:
    """Return every layer that one of each pair makes with ``rest``, by whether each is the second of its pair."""
    return {(a, b): (*first[a], *second[b], *rest) for a in (False, True) for b in (False, True)}


def embedding(name: str, rows: int, columns: int) -> Part:
    """Return a vocabulary embedding."""
    return Part(f"{name}.weight", (rows, columns), "embedding", "vocabulary")


def lm_head(name: str, rows: int, columns: int, *, bias: bool = False) -> Parts:
    """Return an output head."""
    weight = Part(f"{name}.weight", (rows, columns), "lm_head", "vocabulary")
    return (weight, Part(f"{name}.bias", (rows,), "norm", "vocabulary")) if bias else (weight,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """A text model in parts."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    layers: tuple[DecoderLayer, ...]
    layer_parts: Sequence[Parts]
    """One entry a layer, names relative to the layer."""
    before: Parts
    """What the first pipeline stage holds beside its layers, by full name."""
    after: Parts
    """What the last stage holds beside its layers, a tied head left out."""
    tied: bool
    layer_prefix: str = "model.layers."
    experts: Experts | None = None
    draft_layers: int = 0
    gated_mlp: bool = True
    residual_streams: int = 1
    encoder: Encoder | None = None
    encoder_positions: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """An encoder beside the decoder and what joins the two."""

    parts: Parts
    encoder: Encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Renaming:
    """Where a wrapper puts the text model's names."""

    root: str = "language_model.model."
    """Instead of ``model.``."""
    head: str = "language_model."
    """Before names without ``model.``, such as lm_head."""


def parameters(decoder: Decoder, towers: Parts = (), renaming: Renaming | None = None) -> tuple[Parameter, ...]:
    """Return every tensor by its full name, in the order of the forward pass."""
    made: list[Parameter] = []

    def add(prefix: str, parts: Iterable[Part], layer: int | None, *, last: bool = False) -> None:
        for name, shape, role, sharding, alike, kv_heads, width_bytes in parts:
            made.append(
                Parameter(
                    name=prefix + name,
                    shape=shape,
                    role=role,
                    sharding=sharding,
                    count=alike,
                    layer=layer,
                    last_stage=last,
                    kv_heads=kv_heads,
                    width_bytes=width_bytes,
                )
            )

    def renamed(name: str) -> str:
        if renaming is None:
            return name
        if name.startswith("model."):
            return renaming.root + name.removeprefix("model.")
        return renaming.head + name

    add("", towers, None)
    add("", (part._replace(name=renamed(part.name)) for part in decoder.before), None)
    prefix = renamed(decoder.layer_prefix)
    for layer, parts in enumerate(decoder.layer_parts):
        add(f"{prefix}{layer}.", parts, layer)
    add("", (part._replace(name=renamed(part.name)) for part in decoder.after), None, last=True)
    return tuple(made)

"""Model specs written by hand: what tests of weights start from, so that they need no config."""

from advisor.layers import FullAttention
from advisor.spec import Experts, ModelSpec, Parameter, RopeTable


def decoder(
    *,
    hidden_size,
    intermediate_size,
    num_layers,
    heads,
    kv_heads,
    vocab_size,
    head_size=None,
    positions=2048,
    tied=False,
    qkv_bias=False,
    qk_norm=False,
    experts=None,
    **more,
):
    """Return a Llama-like decoder; ``experts`` is (count, intermediate size) of routed experts instead of an MLP."""
    head_size = head_size or hidden_size // heads
    cache = FullAttention(num_kv_heads=kv_heads, head_size=head_size, head_size_v=head_size)
    parameters = [matrix("model.embed_tokens", vocab_size, hidden_size, "vocabulary", role="embedding")]
    for layer in range(num_layers):
        prefix = f"model.layers.{layer}"
        attention = f"{prefix}.self_attn"
        for name, rows, sharding in (
            ("q", heads * head_size, "column"),
            ("k", kv_heads * head_size, "kv_heads"),
            ("v", kv_heads * head_size, "kv_heads"),
        ):
            parameters.append(matrix(f"{attention}.{name}_proj", rows, hidden_size, sharding, layer=layer))
            if qkv_bias:
                parameters.append(vector(f"{attention}.{name}_proj.bias", rows, sharding, layer=layer))
        parameters.append(matrix(f"{attention}.o_proj", hidden_size, heads * head_size, "row", layer=layer))
        if qk_norm:
            parameters += [vector(f"{attention}.{name}_norm.weight", head_size, layer=layer) for name in "qk"]
        parameters += feed_forward(prefix, hidden_size, intermediate_size, experts, layer)
        norms = ("input_layernorm", "post_attention_layernorm")
        parameters += [vector(f"{prefix}.{name}.weight", hidden_size, layer=layer) for name in norms]
    parameters.append(vector("model.norm.weight", hidden_size, last_stage=True))
    if not tied:
        parameters.append(matrix("lm_head", vocab_size, hidden_size, "vocabulary", role="lm_head", last_stage=True))
    return ModelSpec(
        **{
            "architecture": "LlamaForCausalLM",
            "layers": ((cache,),) * num_layers,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_attention_heads": heads,
            "num_kv_heads": kv_heads,
            "head_size": head_size,
            "vocab_size": vocab_size,
            "dtype": "bfloat16",
            "quantization": None,
            "max_position_embeddings": positions,
            "tie_word_embeddings": tied,
            "parameters": tuple(parameters),
            "experts": experts and Experts(num_experts=experts[0], experts_per_token=2, intermediate_size=experts[1]),
            "rope_tables": (RopeTable(positions=positions, dims=head_size),),
            **more,
        }
    )


def feed_forward(prefix, hidden_size, intermediate_size, experts, layer):
    shapes = {"gate": (0, 1), "up": (0, 1), "down": (1, 0)}
    if experts is None:
        sizes = (intermediate_size, hidden_size)
        return [
            matrix(f"{prefix}.mlp.{name}_proj", sizes[row], sizes[column], "row" if row else "column", layer=layer)
            for name, (row, column) in shapes.items()
        ]
    count, size = experts
    sizes = (size, hidden_size)
    return [
        matrix(f"{prefix}.mlp.gate", count, hidden_size, "copied", layer=layer),
        *(
            matrix(
                f"{prefix}.mlp.experts.*.{name}_proj",
                sizes[row],
                sizes[column],
                "experts",
                role="expert",
                count=count,
                layer=layer,
            )
            for name, (row, column) in shapes.items()
        ),
    ]


def matrix(name, rows, columns, sharding, *, role="linear", count=1, layer=None, last_stage=False):
    return Parameter(
        name=f"{name}.weight",
        shape=(rows, columns),
        role=role,
        sharding=sharding,
        count=count,
        layer=layer,
        last_stage=last_stage,
    )


def vector(name, size, sharding="copied", *, layer=None, last_stage=False):
    return Parameter(name=name, shape=(size,), role="norm", sharding=sharding, layer=layer, last_stage=last_stage)

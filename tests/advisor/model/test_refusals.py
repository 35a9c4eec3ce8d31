import copy
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from advisor.model import parse_model
from advisor.spec import DeclinedError, ModelConfigError

GOOD = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 4096,
}
RECORDED = json.loads((Path(__file__).parents[2] / "captures/models/configs.json").read_text())
CONFIGS = [entry["config"] for entry in RECORDED.values()]


def refused(**changes):
    with pytest.raises(ModelConfigError) as refusal:
        parse_model({**GOOD, **changes})
    message = str(refusal.value)
    assert "\n" not in message
    return message


def without(key):
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"])
def test_a_missing_size_is_named(key):
    with pytest.raises(ModelConfigError, match=f"config.json: {key} is missing"):
        parse_model(without(key))


@pytest.mark.parametrize("value", [0, -1, 10**12, math.nan, math.inf, 2.5, "64", True, [64], {"a": 1}])
@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"])
def test_an_absurd_size_is_named_with_what_would_be_right(key, value):
    message = refused(**{key: value})

    assert message.startswith(f"config.json: {key} is ")
    assert "it must be" in message


def test_more_layers_than_any_model_has_are_refused():
    assert "num_hidden_layers is 1025; it must be from 1 to 1,024" in refused(num_hidden_layers=1025)


def test_heads_that_do_not_divide_the_width_are_refused():
    assert "hidden_size 64 is not a multiple of num_attention_heads 7" in refused(num_attention_heads=7)


def test_kv_heads_that_do_not_divide_the_heads_are_refused():
    assert "num_attention_heads 8 is not a multiple of num_key_value_heads 3" in refused(num_key_value_heads=3)


@pytest.mark.parametrize("value", [None, [], "LlamaForCausalLM", [None], [1], {}])
def test_architectures_that_name_none_are_refused(value):
    assert 'architectures must be a list such as ["LlamaForCausalLM"]' in refused(architectures=value)


def test_missing_architectures_are_refused():
    with pytest.raises(ModelConfigError, match="architectures must be a list"):
        parse_model(without("architectures"))


@pytest.mark.parametrize("config", [[], "text", None, 3])
def test_a_config_that_is_no_object_is_refused(config):
    with pytest.raises(ModelConfigError, match="it must be an object"):
        parse_model(config)


@pytest.mark.parametrize("name", ["MiniMaxM3ForCausalLM", "NeverHeardOfForCausalLM", "BertModel"])
def test_an_architecture_without_rules_is_declined_by_its_name(name):
    with pytest.raises(DeclinedError, match=name):
        parse_model({**GOOD, "architectures": [name]})


def test_an_unknown_text_model_in_a_wrapper_is_declined_by_its_name():
    config = {"architectures": ["LlavaForConditionalGeneration"], "text_config": {**GOOD, "architectures": ["OddLM"]}}

    with pytest.raises(DeclinedError, match="OddLM"):
        parse_model(config)


def test_a_text_config_that_holds_itself_ends():
    config = {**GOOD, "architectures": ["LlavaForConditionalGeneration"]}
    config["text_config"] = config

    with pytest.raises(DeclinedError, match="text model LlavaForConditionalGeneration inside a wrapper"):
        parse_model(config)


def test_a_list_shorter_than_the_layers_is_refused():
    assert "layer_types has 1 entries for 2 layers" in refused(layer_types=["full_attention"])


def test_a_long_value_is_cut_in_the_message():
    assert len(refused(hidden_size="9" * 10_000)) < 200


def test_an_unknown_quantisation_is_kept_for_others_to_judge():
    quantization = parse_model({**GOOD, "quantization_config": {"quant_method": "Novel_Q3", "bits": 3}}).quantization

    assert (quantization.method, quantization.config["bits"]) == ("novel_q3", 3)


def test_an_absurd_rope_scaling_is_refused():
    assert "rope_scaling factor" in refused(rope_scaling={"type": "linear", "factor": math.inf})
    assert "rope_scaling is 3" in refused(rope_scaling=3)


# Widths that only come out as none once they are worked out -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "value", "words"),
    [
        ("gemma3", ("rope_scaling", "factor"), math.inf, "rope_scaling factor is inf"),
        ("gemma3mm", ("text_config", "rope_scaling", "rope_type"), ["linear"], "text_config.rope_scaling rope_type"),
        ("gemma3n", ("intermediate_size",), [0] * 10, "intermediate_size is [0, 0"),
        ("decilm", ("block_configs", 0, "ffn", "ffn_mult"), 0.001, "block_configs[0].ffn.ffn_mult is 0.001"),
        ("qwen2vl", ("vision_config", "mlp_ratio"), -1, "vision_config.mlp_ratio is -1.0"),
        ("ultravox", ("hidden_size",), 1, "hidden_size is 1; it must be"),
        ("gemma4mm_audio", ("audio_config", "hidden_size"), 1, "audio_config.hidden_size 1 is not a multiple of"),
        ("gemma3nmm", ("audio_config", "hidden_size"), 3, "audio_config.hidden_size 3 is not a multiple of"),
        ("gemma3nmm", ("audio_config", "input_feat_size"), 3, "audio_config.input_feat_size is 3; it must be"),
        (
            "gemma4mm_audio",
            ("audio_config", "subsampling_conv_channels"),
            [3, 5],
            "subsampling_conv_channels is [3, 5]",
        ),
        ("gemma3nmm", ("audio_config", "sscp_conv_channel_size"), [0, 1], "sscp_conv_channel_size is [0, 1]"),
    ],
)
def test_a_number_from_which_nothing_follows_is_named(name, path, value, words):
    config = copy.deepcopy(RECORDED[name]["config"])
    holder = config
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value

    with pytest.raises(ModelConfigError) as refusal:
        parse_model(config)

    assert words in str(refusal.value)


# Mutations ------------------------------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 40),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.lists(st.one_of(st.integers(-3, 300), st.none(), st.text(max_size=3)), max_size=6),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def places(value, path=()):
    """Every path to a value inside nested objects."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    return found


def read_or_refused(config):
    """(what was read, None) or (None, the one line that says why not); nothing else may be raised."""
    try:
        return parse_model(config), None
    except (ModelConfigError, DeclinedError) as refusal:
        return None, str(refusal)


@pytest.mark.parametrize("value", [0, 1, -0.5, math.inf, "x", [0], {}], ids=repr)
def test_any_key_of_any_recorded_config_may_be_anything(value):
    for name, entry in RECORDED.items():
        for *parents, key in places(entry["config"]):
            config = copy.deepcopy(entry["config"])
            holder = config
            for parent in parents:
                holder = holder[parent]
            holder[key] = value

            spec, refusal = read_or_refused(config)

            where = (name, *parents, key)
            assert spec is not None or "\n" not in refusal, where
            assert spec is None or all(size > 0 for each in spec.parameters for size in each.shape), where


@settings(max_examples=1500)
@given(data=st.data())
def test_a_mutated_config_is_read_or_refused_in_one_line(data):
    config = copy.deepcopy(data.draw(st.sampled_from(CONFIGS)))
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, key = data.draw(st.sampled_from(places(config)))
        holder = config
        for parent in parents:
            holder = holder.get(parent, {}) if isinstance(holder, dict) else {}
        if not isinstance(holder, dict):
            continue
        if data.draw(st.booleans()):
            holder[key] = data.draw(JUNK)
        else:
            holder.pop(key, None)

    spec, refusal = read_or_refused(config)

    if spec is None:
        assert "\n" not in refusal
        return
    assert spec.layers
    assert spec.num_parameters > 0
    assert all(size > 0 for each in spec.parameters for size in each.shape)
    assert not any(re.search(r"\.\.|^\.|\.$", each.name) for each in spec.parameters)


@example(architecture="Qwen3MoeForCausalLM")
@given(architecture=st.sampled_from(sorted({each["architectures"][0] for each in CONFIGS})))
def test_a_config_of_nothing_but_its_architecture_is_refused_or_read(architecture):
    spec, refusal = read_or_refused({"architectures": [architecture]})

    assert spec is not None or "config.json: " in refusal or architecture in refusal

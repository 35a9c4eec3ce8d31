import json
import os
import re
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.weights import TensorInfo
from exporter.errors import SourceMalformed
from exporter.sources.model import (
    MOST_CONFIG_BYTES,
    MOST_HEADER_BYTES,
    ModelSource,
    read_model_files,
    read_tensor_index,
    safetensors_header,
    with_overrides,
)
from tests.advisor.examples import LLAMA_8B


def safetensors(path, tensors):
    """Write a file whose header lists these tensors, {name: bytes}; the data themselves are left out."""
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def model(tmp_path, config=None):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B if config is None else config))
    return tmp_path


def test_a_directory_gives_geometry_and_the_bytes_of_its_weights(tmp_path):
    safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a": 1000, "b": 24})
    safetensors(tmp_path / "model-00002-of-00002.safetensors", {"c": 500})
    files = read_model_files(model(tmp_path))
    assert files.spec.hidden_size == 4096
    assert (files.weights.total_bytes, files.weights.source) == (1524, "safetensors headers")


def test_the_second_copy_that_mistral_ships_is_not_counted(tmp_path):
    safetensors(tmp_path / "model.safetensors", {"a": 1000})
    safetensors(tmp_path / "consolidated.safetensors", {"a": 1000})
    assert read_tensor_index(tmp_path).total_bytes == 1000


def test_the_index_serves_where_the_shards_are_not_there(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 16060522496}}')
    assert read_tensor_index(tmp_path).total_bytes == 16060522496


def test_older_weights_are_measured_by_their_files(tmp_path):
    (tmp_path / "pytorch_model-00001-of-00001.bin").write_bytes(b"x" * 333)
    weights = read_tensor_index(tmp_path)
    assert (weights.total_bytes, weights.source) == (333, "file sizes")


def test_shards_that_the_index_does_not_name_are_left_alone(tmp_path):
    safetensors(tmp_path / "model-00001-of-00001.safetensors", {"a": 1000})
    safetensors(tmp_path / "adapter.safetensors", {"b": 10})
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"metadata": {"total_size": 1000}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}'
    )
    assert read_tensor_index(tmp_path).tensors == {"a": TensorInfo("BF16", (500,))}


def test_the_quantisation_that_stands_in_a_file_of_its_own_is_read(tmp_path):
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    assert "modelopt" in str(read_model_files(model(tmp_path)).spec.quantization)
    own = read_model_files(model(tmp_path, LLAMA_8B | {"quantization_config": {"quant_method": "fp8"}}))
    assert "modelopt" not in str(own.spec.quantization)


def test_a_directory_without_weights_has_none(tmp_path):
    assert read_model_files(model(tmp_path)).weights is None


def test_a_lone_config_is_enough_for_the_geometry(tmp_path):
    model(tmp_path)
    files = read_model_files(tmp_path / "config.json")
    assert files.spec is not None
    assert files.weights is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "config_not_json: .*config.json: Expecting"),
        ("[1]", "config_not_json: .*a JSON object is needed, this is list"),
        ('{"architectures": []}', 'architectures must be a list such as \\["LlamaForCausalLM"\\]'),
        ('{"architectures": ["Foo"]}', "architecture Foo is not described by these rules"),
        (json.dumps(LLAMA_8B | {"num_hidden_layers": 0}), "num_hidden_layers is 0; it must be from 1"),
        (json.dumps(LLAMA_8B | {"hidden_size": 1e99}), "hidden_size is 1e\\+99"),
        (json.dumps(LLAMA_8B | {"num_key_value_heads": 7}), "32 is not a multiple of num_key_value_heads 7"),
        (json.dumps({k: v for k, v in LLAMA_8B.items() if k != "vocab_size"}), "vocab_size is missing"),
        ("[" * 100_000, "config_not_json"),
    ],
)
def test_each_bad_config_is_declined_with_its_reason(tmp_path, text, reason):
    (tmp_path / "config.json").write_text(text)
    files = read_model_files(tmp_path)
    assert files.spec is None
    assert re.search(reason, files.declined), files.declined


def test_a_folder_that_cannot_be_read_says_so(tmp_path):
    assert "config_unreadable" in read_model_files(tmp_path / "nowhere").declined


@pytest.mark.parametrize(
    "content",
    [b"", b"1234", struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b'{"a": {}}'],
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(SourceMalformed):
        safetensors_header(tmp_path / "model.safetensors")
    assert read_tensor_index(tmp_path) is None


def _header(entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize("entry", [[5, 6], {"dtype": "F8", "shape": [1]}, "F8", 5, None])
def test_an_entry_that_is_no_tensor_is_refused(tmp_path, entry):
    (tmp_path / "model.safetensors").write_bytes(_header({"x": entry}))
    with pytest.raises(SourceMalformed):
        safetensors_header(tmp_path / "model.safetensors")


def test_tensors_alike_are_one_object_because_a_model_has_a_hundred_thousand(tmp_path):
    tensor = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(_header({"__metadata__": {"format": "pt"}, name: tensor}))
    index = read_tensor_index(tmp_path)
    assert (index.total_bytes, set(index.tensors)) == (24, {"a", "b"})
    assert index.tensors["a"] is index.tensors["b"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", _header({})),
        ("model.safetensors.index.json", b'{"metadata": {"total_size": 0}}'),
        ("pytorch_model.bin", b""),
    ],
)
def test_weights_that_hold_nothing_are_none_rather_than_of_no_size(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_tensor_index(tmp_path) is None


def test_a_model_whose_files_are_pipes_keeps_no_reader_waiting(tmp_path):
    model(tmp_path)
    os.mkfifo(tmp_path / "model.safetensors")
    assert read_model_files(tmp_path).weights is None
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    assert "not a regular file" in read_model_files(tmp_path).declined


def test_an_index_and_a_config_beyond_all_bounds_are_left_unread(tmp_path):
    model(tmp_path)
    with (tmp_path / "model.safetensors.index.json").open("wb") as index:
        index.truncate(2 * MOST_HEADER_BYTES)
    assert read_model_files(tmp_path).weights is None
    with (tmp_path / "config.json").open("wb") as config:
        config.truncate(2 * MOST_CONFIG_BYTES)
    assert f"over {MOST_CONFIG_BYTES} bytes" in read_model_files(tmp_path).declined


@given(content=st.binary(max_size=300))
def test_no_bytes_make_the_header_reader_fall_over(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    file.write_bytes(content)
    with suppress(SourceMalformed):
        safetensors_header(file)


def test_a_model_is_read_once_until_its_config_changes(tmp_path):
    source = ModelSource()
    source.want([(str(model(tmp_path)), "")])
    (first,) = source.read()
    (again,) = source.read()
    assert again is first
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B | {"vocab_size": 32000}))

    os.utime(tmp_path / "config.json", (1, 1))
    (changed,) = source.read()
    assert changed.spec.vocab_size == 32000


def test_two_servers_of_one_model_may_override_its_config_each_in_its_own_way(tmp_path):
    path = str(model(tmp_path))
    source = ModelSource()
    source.want([(path, ""), (path, '{"num_hidden_layers": 2}')])
    plain, short = source.read()
    assert (len(plain.spec.layers), len(short.spec.layers)) == (32, 2)
    assert (plain.overrides, short.overrides) == ("", '{"num_hidden_layers": 2}')


def test_overrides_change_a_config_inside_key_by_key_and_replace_any_other_object():
    config = {
        "architectures": ["A"],
        "text_config": {"hidden_size": 64, "vocab_size": 320},
        "rope_parameters": {"rope_type": "llama3", "factor": 8.0},
    }
    overrides = {"text_config": {"vocab_size": 640}, "rope_scaling": {"rope_type": "yarn"}, "extra": {"a": 1}}
    assert with_overrides(config, json.dumps(overrides)) == {
        "architectures": ["A"],
        "text_config": {"hidden_size": 64, "vocab_size": 640},
        "rope_scaling": {"rope_type": "yarn"},
        "extra": {"a": 1},
    }
    assert with_overrides(config, "") is config


def test_an_override_that_cannot_be_is_refused_like_a_config(tmp_path):
    files = read_model_files(model(tmp_path), '{"num_hidden_layers": "few"}')
    assert files.declined == "config.json: num_hidden_layers is 'few'; it must be a whole number"


def test_a_model_that_is_no_longer_served_is_shown_no_more(tmp_path):
    source = ModelSource()
    source.want([(str(model(tmp_path)), "")])
    source.read()
    source.want([])
    assert source.read() == ()


def test_a_server_that_is_restarted_finds_its_model_as_it_was_read(tmp_path):
    source = ModelSource()
    path = str(model(tmp_path))
    source.want([(path, "")])
    (before,) = source.read()
    source.want([])
    source.read()
    source.want([(path, "")])
    (after,) = source.read()
    assert after is before


def test_models_that_are_no_longer_served_do_not_add_up(tmp_path):
    source = ModelSource()
    for number in range(40):
        place = tmp_path / str(number)
        place.mkdir()
        source.want([(str(model(place)), "")])
        source.read()
    assert len(source._read) < 20

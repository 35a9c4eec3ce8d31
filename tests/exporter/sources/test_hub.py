import json
import os
import socket
import struct
import subprocess
import sys

import pytest

from advisor.weights import TensorInfo
from exporter.sources.hub import Hub, read_hub_model
from tests.advisor.examples import LLAMA_8B
from tests.exporter.sources.hub_standin import COMMIT, hub_standin, safetensors_file

CONFIG = json.dumps(LLAMA_8B).encode()
MODEL = "someone/a-model"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in hub, and how to reach it with a cache of its own."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # The client reads where its cache is when it is imported, and keeps an index there.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub_standin() as (endpoint, state):
        yield Hub(endpoint=endpoint, cache=tmp_path / "cache"), state


@pytest.fixture
def nowhere():
    """An address that nothing answers at: bound, never listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_one_file_is_read_by_its_header_alone(hub):
    where, state = hub
    weights = safetensors_file({"a": ("BF16", [500_000], 1_000_000), "b": ("F32", [2, 3], 24)})
    state.files[MODEL] = {"config.json": CONFIG, "model.safetensors": weights}
    model = read_hub_model(MODEL, hub=where)
    assert model.declined is None
    assert model.spec.hidden_size == 4096
    assert dict(model.weights.tensors) == {"a": TensorInfo("BF16", (500_000,)), "b": TensorInfo("F32", (2, 3))}
    assert (model.weights.total_bytes, model.weights.source) == (1_000_024, "safetensors headers")
    assert state.sent_bytes < 110_000 < len(weights)


def test_a_header_beyond_the_first_look_is_fetched_whole(hub):
    where, state = hub
    weights = safetensors_file({"a": ("F16", [4], 8)}, padding=150_000)
    state.files[MODEL] = {"config.json": CONFIG, "model.safetensors": weights}
    assert read_hub_model(MODEL, hub=where).weights.total_bytes == 8
    ranges = [wanted for _, path, wanted, _ in state.asked if path.endswith("model.safetensors") and wanted]
    assert ranges[0] == "bytes=0-100000"
    assert ranges[1].startswith("bytes=8-15")


def test_a_sharded_model_adds_up_over_its_shards(hub):
    where, state = hub
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"metadata": {"total_size": 12}, "weight_map": {"a": names[0], "b": names[1]}}
    state.files[MODEL] = {
        "config.json": CONFIG,
        "model.safetensors.index.json": json.dumps(index).encode(),
        names[0]: safetensors_file({"a": ("BF16", [2], 4)}),
        names[1]: safetensors_file({"b": ("F8_E4M3", [8], 8)}),
    }
    weights = read_hub_model(MODEL, hub=where).weights
    assert weights.total_bytes == 12
    assert weights.tensors["b"] == TensorInfo("F8_E4M3", (8,))


def test_older_weights_are_measured_by_their_listed_sizes(hub):
    where, state = hub
    state.files[MODEL] = {"config.json": CONFIG, "pytorch_model.bin": b"x" * 77, "training_args.bin": b"y"}
    weights = read_hub_model(MODEL, hub=where).weights
    assert (weights.total_bytes, weights.source) == (77, "file sizes")


def test_the_quantisation_that_stands_in_a_file_of_its_own_is_read(hub):
    where, state = hub
    modelopt = json.dumps({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}).encode()
    state.files[MODEL] = {"config.json": CONFIG, "hf_quant_config.json": modelopt}
    assert "modelopt" in str(read_hub_model(MODEL, hub=where).spec.quantization)


def test_a_model_without_weights_is_read_for_its_geometry(hub):
    where, state = hub
    state.files[MODEL] = {"config.json": CONFIG}
    model = read_hub_model(MODEL, hub=where)
    assert model.spec is not None and model.weights is None


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((403, "GatedRepo"), "gated: someone/a-model: accept its licence on the hub and set HF_TOKEN"),
        ((401, "GatedRepo"), "gated: someone/a-model: accept its licence"),
        ((404, "RepoNotFound"), "no_such_model: someone/a-model: the hub has none of this name, or it is private"),
        ((401, "RepoNotFound"), "no_such_model: someone/a-model"),
        ((500, None), "hub_refuses: someone/a-model: the hub answers with 500"),
    ],
)
def test_each_refusal_is_one_line_that_says_what_to_do(hub, refusal, words):
    where, state = hub
    state.refusals[MODEL] = refusal
    declined = read_hub_model(MODEL, hub=where).declined
    assert declined.startswith(words)
    assert "\n" not in declined


def test_a_repository_without_a_config_is_declined(hub):
    where, state = hub
    state.files[MODEL] = {"README.md": b"hello"}
    assert read_hub_model(MODEL, hub=where).declined == "no_config: someone/a-model: there is no config.json in it"


def test_a_revision_is_asked_for_by_its_name(hub):
    where, state = hub
    state.files[MODEL] = {"config.json": CONFIG}
    assert read_hub_model(MODEL, revision=COMMIT, hub=where).declined is None
    of_config = [path for _, path, _, _ in state.asked if "config.json" in path]
    assert of_config and all(f"/{COMMIT}/" in path for path in of_config)
    declined = read_hub_model(MODEL, revision="no-such-branch", hub=where).declined
    assert declined == "no_such_revision: someone/a-model has no revision no-such-branch"


def test_the_token_goes_with_every_question(hub):
    where, state = hub
    state.files[MODEL] = {"config.json": CONFIG, "model.safetensors": safetensors_file({"a": ("F16", [1], 2)})}
    read_hub_model(MODEL, hub=Hub(endpoint=where.endpoint, cache=where.cache, token="hf_secret"))
    assert {authorization for *_, authorization in state.asked} == {"Bearer hf_secret"}


def test_without_network_the_local_copy_serves(tmp_path, nowhere):
    cached = tmp_path / "models--someone--a-model"
    snapshot = cached / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_bytes(CONFIG)
    where = Hub(endpoint=nowhere, cache=tmp_path)
    model = read_hub_model(MODEL, hub=where)
    assert model.spec is not None and model.weights is None
    (snapshot / "model.safetensors").write_bytes(safetensors_file({"a": ("F16", [1], 2)}))
    assert read_hub_model(MODEL, hub=where).weights.total_bytes == 2
    assert read_hub_model(MODEL, revision="other", hub=where).declined.startswith("hub_unreachable")


def test_without_network_and_copy_it_says_so(tmp_path, nowhere):
    declined = read_hub_model(MODEL, hub=Hub(endpoint=nowhere, cache=tmp_path)).declined
    assert declined.startswith(
        "hub_unreachable: someone/a-model: no answer from the hub, and no copy in the local cache"
    )


def read_in_a_process(cache, **environment):
    """Return what a fresh process, whose environment alone says where the hub is, makes of the model."""
    code = f"from exporter.sources.hub import read_hub_model as r; m = r({MODEL!r}); print(m.declined or m.weights)"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "HF_HUB_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout


def test_the_environment_says_where_the_hub_is_and_who_asks(hub, tmp_path):
    where, state = hub
    state.files[MODEL] = {"config.json": CONFIG, "model.safetensors": safetensors_file({"a": ("F16", [1], 2)})}
    assert "total_bytes=2" in read_in_a_process(tmp_path, HF_ENDPOINT=where.endpoint, HF_TOKEN="hf_of_the_environment")
    about_the_model = {token for _, path, _, token in state.asked if MODEL in path}  # the client asks for its own, too
    assert about_the_model == {"Bearer hf_of_the_environment"}


def test_offline_mode_asks_nothing(hub, tmp_path):
    where, state = hub
    state.files[MODEL] = {"config.json": CONFIG}
    assert read_in_a_process(tmp_path, HF_ENDPOINT=where.endpoint, HF_HUB_OFFLINE="1").startswith("hub_unreachable")
    assert not state.asked


@pytest.mark.parametrize("name", ["/no/such/directory", "a/b/c", "-", "a--b..c"])
def test_what_is_no_id_is_declined_before_any_question(tmp_path, name):
    declined = read_hub_model(name, hub=Hub(endpoint="http://127.0.0.1:9", cache=tmp_path)).declined
    assert declined == f"not_a_model_id: {name!r} is neither a path here nor a hub id"


def weights_file(header):
    return struct.pack("<Q", len(header)) + header


def entry(dtype='"F16"', shape="[4]", data_offsets="[0, 8]"):
    return weights_file(f'{{"a": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {data_offsets}}}}}'.encode())


@pytest.mark.parametrize(
    "content",
    [
        b"<html>log in first</html>",
        b"\x05\0\0\0\0\0\0\0hello",
        weights_file(b"[1]"),
        weights_file(b"null"),
        weights_file(b"[" * 90_000),
        weights_file(b'{"a": "b"}'),
        entry(dtype="[1]"),
        entry(shape="null"),
        entry(shape='["a"]'),
        entry(shape="[-4]"),
        entry(shape=f"[{10**400}]"),
        entry(data_offsets="[0]"),
        entry(data_offsets="[8, 0]"),
        entry(data_offsets='["0", "8"]'),
        entry(data_offsets=f"[0, {'9' * 5000}]"),
    ],
)
def test_a_file_that_is_no_safetensors_is_declined(hub, content):
    where, state = hub
    state.files[MODEL] = {"config.json": CONFIG, "model.safetensors": content}
    assert read_hub_model(MODEL, hub=where).declined.startswith("not_safetensors: someone/a-model: a weights file's")


@pytest.mark.parametrize("content", [b"[]", b"<html>", b'{"weight_map": []}', b'{"weight_map": {"a": [1]}}', b"\xff{}"])
def test_an_index_of_another_shape_is_declined(hub, content):
    where, state = hub
    state.files[MODEL] = {"config.json": CONFIG, "model.safetensors.index.json": content}
    assert read_hub_model(MODEL, hub=where).declined.startswith("not_safetensors: someone/a-model: a weights file's")


def test_an_index_that_lists_what_is_not_there_is_declined(hub):
    where, state = hub
    index = b'{"weight_map": {"a": "gone.safetensors"}}'
    state.files[MODEL] = {"config.json": CONFIG, "model.safetensors.index.json": index}
    assert read_hub_model(MODEL, hub=where).declined.endswith("its index lists a weights file that is not there")


@pytest.mark.parametrize(
    "files",
    [
        {"model.safetensors": weights_file(b"{}")},
        {"model.safetensors.index.json": b"{}"},
        {"pytorch_model.bin": b""},
    ],
    ids=["no tensor", "no shard", "an empty file"],
)
def test_weights_that_hold_nothing_are_none_rather_than_of_no_size(hub, files):
    where, state = hub
    state.files[MODEL] = {"config.json": CONFIG, **files}
    model = read_hub_model(MODEL, hub=where)
    assert model.declined is None
    assert model.weights is None

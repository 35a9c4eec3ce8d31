from pathlib import Path

import pytest

from advisor.policy import Policy
from exporter.config import DEFAULT_PORT, load
from exporter.errors import UsageError


def problems(tmp_path, text):
    file = tmp_path / "headroom.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(file, {})
    return [line.removeprefix(f"{file}: ") for line in str(caught.value).splitlines()]


def test_no_file_at_all_is_a_good_configuration():
    config = load(None, {})
    assert config.engines == ()
    assert config.poll_interval == 5.0
    assert config.listen_address == f":{DEFAULT_PORT}"


def test_an_empty_file_is_the_same_as_none(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load(tmp_path / "empty.yaml", {}) == load(None, {})


def test_flags_win_over_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("poll_interval: 10\nlisten_address: ':1'\n")
    config = load(tmp_path / "c.yaml", {"poll_interval": 2.0})
    assert (config.poll_interval, config.listen_address) == (2.0, ":1")


def test_every_problem_is_told_at_once_with_its_path_and_what_would_be_right(tmp_path):
    found = problems(
        tmp_path,
        "poll_interval: fast\nengines:\n  - url: localhost:8000\n    apikey: hidden\n  - name: a b\n"
        "policy:\n  colour: 1\n  kv_full_ratio: 3\nlisten: 1\n",
    )
    assert found == [
        "engines[0].url: 'localhost:8000' is not an address such as http://127.0.0.1:8000",
        (
            "engines[0].apikey: unknown key; known here: api_key_env, api_key_file, ca_file, gpus, name, url "
            "(is api_key_env meant?)"
        ),
        "engines[1].url: is missing. Where its API listens.",
        (
            "engines[1].name: must match ^[A-Za-z0-9_.:-]{1,64}$ (given: 'a b'). "
            "Value of the engine label; host:port by default."
        ),
        "poll_interval: must be a number (given: 'fast'). Seconds between two readings.",
        (
            "listen: unknown key; known here: engines, listen_address, policy, poll_interval, prometheus, state_dir "
            "(is listen_address meant?)"
        ),
        f"policy.colour: unknown key; known here: {', '.join(sorted(Policy.__dataclass_fields__))}",
        "policy.kv_full_ratio: must lie in (0, 1] (given: 3)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n- b\n", "a mapping of keys is needed at the top, this is a list"),
        ("poll_interval: 0\n", "poll_interval: must be at least 0.2 (given: 0). Seconds between two readings."),
        ("poll_interval: .nan\n", "poll_interval: must be at most 300 (given: nan)"),
        ("state_dir: 3\n", "state_dir: must be a path in quotes (given: 3)"),
        ("engines: x\n", "engines: must be a list (given: 'x')"),
        ("engines: [3]\n", "engines[0]: must be a mapping of keys (given: 3)"),
        ("policy: [1]\n", "policy: must be a mapping of keys. Thresholds;"),
        ("listen_address: 3\n", "listen_address: must be text in quotes (given: 3). [host]:port to serve on."),
        ("engines: [{url: 'ftp://h'}]\n", "engines[0].url: 'ftp://h' is not an address such as http://127.0.0.1:8000"),
        ("engines: [{url: 'http://u:p@h:1'}]\n", "credentials do not belong in a URL"),
        ("engines: [{url: 'http://h h:1'}]\n", "engines[0].url: 'http://h h:1' is not an address such as"),
        ("engines: [{url: 'http://[h:1'}]\n", "engines[0].url: 'http://[h:1' is not an address such as"),
        ("prometheus: {url: 'http://h:99999'}\n", "prometheus.url: 'http://h:99999' is not an address such as"),
        ("engines: [{url: 'http://h:99999'}]\n", "'http://h:99999' is not an address"),
        (
            "engines: [{url: 'http://h:1'}, {url: 'http://h:1/'}]\n",
            "engines[1].url: http://h:1 is listed already as engines[0]",
        ),
        ("policy: {oom_horizon_seconds: .inf}\n", "policy.oom_horizon_seconds: must be finite (given: inf)"),
        ("policy: {capacity_gap_warning_ratio: .nan}\n", "policy.capacity_gap_warning_ratio: must be finite"),
        ("policy: {capacity_drop_warning_ratio: 5}\n", "must lie in (-1, 0) (given: 5)"),
        (
            "policy: {oom_risk_warning_ratio: 0.9}\n",
            "policy.oom_risk_critical_ratio: must not be below oom_risk_warning_ratio (0.7 < 0.9)",
        ),
        ("poll_interval: [\n", "not YAML"),
        (
            "poll_interval: 1\nengines: []\npoll_interval: 2\n",
            "not YAML: poll_interval is given twice (line 3, column 1)",
        ),
        ("engines: [{url: 'http://h:1', name: a, name: b}]\n", "name is given twice"),
        (
            "engines: [{url: 'http://h:1', name: a}, {url: 'http://h:2', name: a}]\n",
            "engines[1].name: a is engines[0] already: each needs a name of its own",
        ),
        (
            "engines: [{url: 'http://h:1', name: 'h:2'}, {url: 'http://h:2'}]\n",
            "engines[1].name: h:2 is engines[0] already",
        ),
        (
            "engines: [{url: 'http://proxy/a'}, {url: 'http://proxy/b'}]\n",
            "engines[1].name: proxy is engines[0] already",
        ),
        ("listen_address: here\n", "listen_address: 'here' is not [HOST]:PORT, such as :9738 or 127.0.0.1:9738"),
        ("listen_address: ':99999'\n", "listen_address: ':99999' is not [HOST]:PORT"),
        ("engines: [{url: 'http://h:1/#a'}]\n", "engines[0].url: 'http://h:1/#...' is not an address"),
        ("engines: [{url: 'http://h:1'}, {url: 'HTTP://H:1'}]\n", "HTTP://H:1 is listed already as engines[0]"),
        ("engines: [{url: 'http://localhost'}, {url: 'http://127.0.0.1:80'}]\n", "is listed already as engines[0]"),
        ("poll_interval: yes\n", "poll_interval: must be a number (given: True)"),
        ("policy: {kv_full_ratio: on}\n", "policy.kv_full_ratio: must be a number (given: True)"),
        (
            "poll_intervall: 2\n",
            "poll_intervall: unknown key; known here: engines, listen_address, policy, poll_interval,",
        ),
        ("poll_intervall: 2\n", "(is poll_interval meant?)"),
        ("policy: {kv_ful_ratio: 0.9}\n", "(is kv_full_ratio meant?)"),
    ],
)
def test_each_bad_file_gets_its_message(tmp_path, text, problem):
    assert any(problem in line for line in problems(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.yaml: No such file"):
        load(tmp_path / "nowhere.yaml", {})


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not YAML"):
        load(tmp_path / "c.yaml", {})


@pytest.mark.parametrize(
    "engine",
    [
        "url: 'http://h:1', api_key: s3cret",
        "url: 'http://h:1/?key=s3cret'",
        "url: 'ftp://h?s3cret'",
        "url: 'http://h:1/#s3cret'",
        "url: 'me:s3cret@h:1'",
        "url: 'http://h:1', api_key_env: sk-s3cret",
    ],
)
def test_a_problem_never_shows_credentials(tmp_path, engine):
    lines = problems(tmp_path, f"engines: [{{{engine}}}]\n")
    assert lines
    assert "s3cret" not in " ".join(lines)


def test_an_alias_names_its_node_once_however_often_it_stands(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "policy: &p {kv_full_ratio: 0.9}\nengines:\n  - &e {url: 'http://h:1', name: a}\n"
        "  - {<<: *e, url: 'http://h:2', name: b}\n"
    )
    assert [engine.label for engine in load(tmp_path / "c.yaml", {}).engines] == ["a", "b"]


def test_the_address_that_clients_of_the_api_use_is_understood(tmp_path):
    (tmp_path / "c.yaml").write_text("engines: [{url: 'http://h:1/v1/'}, {url: 'http://proxy/chat/v1'}]\n")
    assert [engine.url for engine in load(tmp_path / "c.yaml", {}).engines] == ["http://h:1", "http://proxy/chat"]


def test_gpus_of_an_engine_are_named_by_index_or_uuid(tmp_path):
    (tmp_path / "c.yaml").write_text("engines: [{url: 'http://h:1', gpus: [0, '1:2', GPU-5a]}]\n")
    assert load(tmp_path / "c.yaml", {}).engines[0].gpus == ("0", "1:2", "GPU-5a")
    (told,) = problems(tmp_path, "engines: [{url: 'http://h:1', gpus: [true]}]\n")
    assert told.startswith("engines[0].gpus[0]: must be text in quotes (given: True)")


def test_paths_of_the_file_are_relative_to_it_and_those_of_flags_to_the_shell(tmp_path):
    (tmp_path / "c.yaml").write_text("state_dir: kept\nengines: [{url: 'http://h:1', ca_file: ca.pem}]\n")
    config = load(tmp_path / "c.yaml", {})
    assert (config.state_dir, config.engines[0].ca_file) == (tmp_path / "kept", tmp_path / "ca.pem")
    assert load(tmp_path / "c.yaml", {"state_dir": Path("here")}).state_dir == Path("here")


def test_the_directory_of_a_config_is_no_config():
    with pytest.raises(UsageError, match="Is a directory"):
        load(Path("/"), {})

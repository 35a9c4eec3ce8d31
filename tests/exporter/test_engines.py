from dataclasses import replace

import pytest

from advisor.flags import parse_flags
from advisor.readings import EngineProcess, EngineReading
from exporter.config import EngineConfig
from exporter.engines import FORGET_AFTER_SECONDS, Engines, local_flags, open_connection, request_headers
from exporter.errors import UsageError


def process(port, *, model="/models/m", command="vllm serve /models/m", started=1.0, host="127.0.0.1"):
    return EngineProcess(
        host=host,
        port=port,
        secure=False,
        flags=parse_flags(command.split()),
        pids=frozenset({port}),
        started_at_seconds=started,
        model_path=model,
    )


@pytest.fixture
def engines():
    return Engines(configured=(), on_new=lambda watched: None, on_gone=lambda watched: None)


def named(engines):
    return sorted(engines.watched)


def test_servers_are_watched_as_they_come(engines):
    engines.discover([process(8000)], 0.0)
    engines.discover([process(8000), process(8001, model="/models/other")], 5.0)
    assert named(engines) == ["127.0.0.1:8000", "127.0.0.1:8001"]


def test_a_server_that_dies_stays_as_down_until_somebody_has_had_a_day_to_see_it(engines):
    engines.discover([process(8000)], 5.0)
    engines.discover([], 10.0)
    assert named(engines) == ["127.0.0.1:8000"]
    engines.discover([], 5.0 + FORGET_AFTER_SECONDS)
    assert named(engines) == ["127.0.0.1:8000"]
    engines.discover([], 6.0 + FORGET_AFTER_SECONDS)
    assert named(engines) == []


def test_a_server_that_comes_back_is_the_same_engine(engines):
    engines.discover([process(8000)], 5.0)
    engines.discover([], 10.0)
    engines.discover([process(8000, started=12.0)], 15.0)
    engines.discover([], 5.0 + FORGET_AFTER_SECONDS)
    assert named(engines) == ["127.0.0.1:8000"]


def test_a_server_that_moved_to_another_port_is_not_kept_as_down(engines):
    engines.discover([process(8000)], 5.0)
    engines.discover([process(8005, started=7.0)], 10.0)
    assert named(engines) == ["127.0.0.1:8005"]


def test_a_replica_that_dies_beside_another_of_the_same_model_is_kept_as_down(engines):
    engines.discover([process(8000), process(8005)], 5.0)
    engines.discover([process(8005)], 10.0)
    assert named(engines) == ["127.0.0.1:8000", "127.0.0.1:8005"]


def test_a_headless_node_has_no_api_to_watch(engines):
    engines.discover([process(8000, command="vllm serve /models/m --headless")], 0.0)
    assert named(engines) == []


def test_of_many_that_came_and_went_the_last_are_kept_and_those_that_run_all(engines):
    lasting = [process(port, model=f"/models/{port}") for port in range(9000, 9040)]
    for number in range(100):
        engines.discover([*lasting, process(8000 + number, model=f"/models/{number}")], float(number))
    engines.discover(lasting, 100.0)
    kept = [f"127.0.0.1:{8000 + number}" for number in range(68, 100)]
    assert named(engines) == sorted([*kept, *(each.address for each in lasting)])


def test_a_server_on_an_ipv6_address_is_asked_there(engines):
    engines.discover([replace(process(8000), host="::1")], 0.0)
    assert {each.engine: each.url for each in engines.watched.values()} == {"[::1]:8000": "http://[::1]:8000"}


@pytest.mark.parametrize(
    "host", ["a b", "user:s3cret@host", "host/path?x", "-", "[::1]", "fe80::1%eth0", "1:2:3", "\n", ""]
)
def test_a_command_line_whose_words_make_no_address_hides_no_server(engines, host):
    engines.discover([replace(process(8001), host=host), process(8000)], 0.0)
    engines.discover([process(99_999), process(-1), process(0), process(8000)], 1.0)
    assert named(engines) == ["127.0.0.1:8000"]


def test_a_server_on_a_unix_socket_is_not_looked_for_at_a_port(engines):
    engines.discover([process(8000, command="vllm serve /models/m --uds /run/vllm.sock")], 0.0)
    assert named(engines) == []


def test_named_servers_replace_discovery():
    seen = []
    engines = Engines(
        configured=(EngineConfig(url="http://gpu7:8000", name="chat"), EngineConfig(url="http://gpu8:8000")),
        on_new=lambda watched: seen.append(watched.engine),
        on_gone=lambda watched: None,
    )
    engines.start()
    engines.discover([process(8000)], 0.0)
    assert seen == ["chat", "gpu8:8000"]
    assert [target.engine for target in engines.targets(lambda engine: None)] == ["chat", "gpu8:8000"]


def test_the_names_of_what_answered_are_kept_for_when_it_does_not(engines):
    engines.discover([process(8000)], 0.0)
    for rank in ("0", "1"):
        engines.answered([EngineReading(engine="127.0.0.1:8000", url="u", model_name="m", dp_rank=rank)])
    (target,) = engines.targets(lambda engine: "timeout")
    assert target.ranks == (("m", "0"), ("m", "1"))
    assert target.failing == "timeout"


def test_a_server_that_returns_with_another_model_drops_the_old_name(engines):
    engines.discover([process(8000)], 0.0)
    for model in ("old", "new"):
        engines.answered([EngineReading(engine="127.0.0.1:8000", url="u", model_name=model, dp_rank="0")])
    (target,) = engines.targets(lambda engine: None)
    assert target.ranks == (("new", "0"),)


def test_a_key_is_read_from_its_file_and_sent_as_bearer(tmp_path):
    (tmp_path / "key").write_text("s3cret\n")
    headers = request_headers(EngineConfig(url="http://h:1", api_key_file=tmp_path / "key"))
    assert headers["Authorization"] == "Bearer s3cret"


def test_a_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("ENGINE_KEY", "s3cret")
    headers = request_headers(EngineConfig(url="http://h:1", api_key_env="ENGINE_KEY"))
    assert headers["Authorization"] == "Bearer s3cret"


def test_a_key_that_cannot_be_read_is_told_without_showing_any(tmp_path):
    with pytest.raises(UsageError, match=r"api_key_file of http://h:1: .*nokey cannot be read"):
        open_connection(EngineConfig(url="http://h:1", api_key_file=tmp_path / "nokey"))
    (tmp_path / "later").write_text("\n")
    with pytest.raises(UsageError, match=r"api_key_file of http://h:1: .*later is empty"):
        open_connection(EngineConfig(url="http://h:1", api_key_file=tmp_path / "later"))
    with pytest.raises(UsageError, match="api_key_env of http://h:1: NO_SUCH_KEY is not set"):
        open_connection(EngineConfig(url="http://h:1", api_key_env="NO_SUCH_KEY"))


def test_a_key_is_read_as_editors_leave_it(tmp_path):
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbfs3cret\r\n")
    headers = request_headers(EngineConfig(url="http://h:1", api_key_file=tmp_path / "key"))
    assert headers["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("key", ["s3\u2013cret", "s3cret\ns3cret2", "s3 cret", "s3\x00cret", "s3cr\u00e9t"])
def test_what_no_header_can_carry_is_told_before_anything_is_asked_and_not_shown(tmp_path, monkeypatch, key):
    (tmp_path / "key").write_text(key)
    told = []
    for config in (
        EngineConfig(url="http://h:1", api_key_file=tmp_path / "key"),
        *((EngineConfig(url="http://h:1", api_key_env="ENGINE_KEY"),) if "\0" not in key else ()),
    ):
        monkeypatch.setenv("ENGINE_KEY", key.replace("\0", ""))
        with pytest.raises(UsageError, match="holds what no key does") as caught:
            open_connection(config)
        told.append(str(caught.value))
    assert not any("s3" in each for each in told)


@pytest.mark.parametrize(
    ("content", "told"), [(None, "cannot be read"), ("no certificate\n", "is not PEM, or holds no certificate")]
)
def test_an_authority_that_cannot_be_used_is_told_before_anything_is_read(tmp_path, content, told):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=rf"ca_file of https://h:1: .*ca\.pem {told}"):
        open_connection(EngineConfig(url="https://h:1", ca_file=file))


class Table:
    """A process table with one server, as psutil shows it."""

    NoSuchProcess = AccessDenied = ZombieProcess = Error = LookupError

    def __init__(self, command):
        self._argv = command.split()

    def pids(self):
        return [7]

    def Process(self, pid):
        return self

    pid = 7

    def create_time(self):
        return 1.0

    def cmdline(self):
        return self._argv

    def cwd(self):
        return "/"

    def environ(self):
        return {}

    def ppid(self):
        return 1


def test_the_flags_behind_a_loopback_url_are_those_of_the_process_on_that_port():
    table = Table("vllm serve /models/m --port 8123 --max-num-seqs 48")
    assert local_flags("http://localhost:8123", table).max_num_seqs == 48
    assert local_flags("http://127.0.0.1:8000", table) is None


def test_the_flags_of_a_server_elsewhere_are_not_known_from_here():
    table = Table("vllm serve /models/m --port 8123 --max-num-seqs 48")
    assert local_flags("http://gpu-7:8123", table) is None

"""The source over the real process table: programs that look like vLLM's, started here and stopped by their pid."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from exporter.errors import SourceUnavailable
from exporter.sources.process import MOST_SERVERS, ProcessSource

WORKER_SECONDS = 0.5

_PROGRAM = """
import subprocess, sys, time
if "--with-worker" in sys.argv:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("ready", flush=True)
if "--with-worker-at" in sys.argv:
    time.sleep(float(sys.argv[-1]))
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    """Start ``vllm serve ...`` as a stand-in program; everything started is stopped at the end."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(_PROGRAM)
    started = []

    def start(*arguments, cwd=tmp_path, environment=None):
        process = subprocess.Popen(
            [sys.executable, str(program), "serve", *arguments],
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            child.kill()
        process.kill()
        process.communicate()


def found(source, process):
    return next((server for server in source.read() if process.pid in server.pids), None)


def test_a_server_is_found_with_its_flags_and_its_workers(start):
    process = start("some/model", "--port", "8123", "-tp", "2", "--with-worker")
    server = found(ProcessSource(psutil), process)
    assert (server.host, server.port, server.secure) == ("127.0.0.1", 8123, False)
    assert server.flags.tensor_parallel_size == 2
    children = {child.pid for child in psutil.Process(process.pid).children()}
    assert server.pids == {process.pid, *children}
    assert len(server.pids) == 2


def test_a_server_that_ends_is_gone_at_the_next_look(start):
    source = ProcessSource(psutil)
    process = start("m")
    assert found(source, process)
    process.kill()
    process.wait()
    assert found(source, process) is None


def test_a_worker_that_starts_later_belongs_to_its_server_at_once(start):
    table = Counting()
    source = ProcessSource(table, steady=lambda: 0.0)
    process = start("m", "--with-worker-at", str(WORKER_SECONDS))
    assert found(source, process).pids == {process.pid}
    time.sleep(2 * WORKER_SECONDS)
    table.asked.clear()
    (child,) = psutil.Process(process.pid).children()
    assert found(source, process).pids == {process.pid, child.pid}
    assert os.getpid() not in table.asked, "a process that is known is not asked again"


def test_the_default_port_is_vllms(start):
    assert found(ProcessSource(psutil), start("m")).port == 8000


def test_a_server_bound_to_one_address_is_reached_there_and_one_with_a_certificate_by_https(start):
    server = found(ProcessSource(psutil), start("m", "--host", "10.1.2.3", "--ssl-certfile", "c.pem"))
    assert (server.host, server.secure) == ("10.1.2.3", True)


def test_flags_of_the_config_file_count(start, tmp_path):
    (tmp_path / "vllm.yaml").write_text("port: 8124\nmax-num-seqs: 12\nno-such-flag: 1\n")
    server = found(ProcessSource(psutil), start("m", "--config", "vllm.yaml"))
    assert (server.port, server.flags.max_num_seqs, server.flags.problems) == (8124, 12, ())


def test_a_config_file_that_cannot_be_read_is_told(start):
    server = found(ProcessSource(psutil), start("m", "--config", "gone.yaml", "--port", "8125"))
    assert server.port == 8125
    assert server.flags.problems == ("--config: gone.yaml cannot be read, so flags set there are not known",)


def endless(file):
    file.touch()
    os.truncate(file, 10**9)


@pytest.mark.parametrize("make", [os.mkfifo, endless])
def test_a_config_file_that_is_a_pipe_or_without_end_hides_no_server(start, tmp_path, make):
    make(tmp_path / "vllm.yaml")
    server = found(ProcessSource(psutil), start("m", "--config", "vllm.yaml", "--port", "8126"))
    assert server.flags.problems == ("--config: vllm.yaml cannot be read, so flags set there are not known",)


def test_the_environment_is_read_for_known_names_only(start):
    process = start("m", environment={"VLLM_USE_V1": "0", "VLLM_API_KEY": "s3cret", "HF_TOKEN": "s3cret"})
    server = found(ProcessSource(psutil), process)
    assert server.flags.environment["VLLM_USE_V1"] == "0"
    assert "s3cret" not in repr(server)


def test_a_model_named_by_a_relative_path_is_found_from_the_servers_directory(start, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    server = found(ProcessSource(psutil), start("tiny", cwd=tmp_path))
    assert server.model_path == str(tmp_path / "tiny")


def test_a_hub_id_is_found_in_the_local_cache(start, tmp_path):
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    server = found(ProcessSource(psutil), start("org/name", environment={"HF_HUB_CACHE": str(tmp_path / "hub")}))
    assert server.model_path == str(snapshot)


def test_a_hub_id_is_found_in_the_home_of_whoever_runs_the_server(start, tmp_path):
    snapshot = tmp_path / ".cache" / "huggingface" / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    server = found(ProcessSource(psutil), start("org/name", environment={"HOME": str(tmp_path)}))
    assert server.model_path == str(snapshot)


def test_a_user_without_a_home_can_look_too(start, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert found(ProcessSource(psutil), start("org/nowhere", environment={"HOME": "/"})).model_path is None


def test_a_hub_id_that_is_not_in_the_cache_has_no_path(start):
    assert found(ProcessSource(psutil), start("org/nowhere")).model_path is None


def test_a_server_started_by_another_is_one_server(start, tmp_path):
    wrapper = tmp_path / "wrapper" / "vllm"
    wrapper.parent.mkdir()
    wrapper.write_text("import subprocess, sys\nsubprocess.run([sys.executable, sys.argv[-1], 'serve', 'm'])\n")
    inner = tmp_path / "bin" / "vllm"
    outer = subprocess.Popen([sys.executable, str(wrapper), "serve", "m", str(inner)], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not psutil.Process(outer.pid).children() and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.2)
        servers = [server for server in ProcessSource(psutil).read() if outer.pid in server.pids]
        assert len(servers) == 1
        assert len(servers[0].pids) == 2
    finally:
        for child in psutil.Process(outer.pid).children(recursive=True):
            child.kill()
        outer.kill()
        outer.wait()


def test_servers_started_from_one_terminal_multiplexer_are_each_its_own(tmp_path):
    """The multiplexer keeps the command line of its first window and is the parent of all."""
    program = tmp_path / "vllm"
    program.write_text("import time; time.sleep(60)")
    windows = "".join(
        f"{sys.executable} {program} serve {model} --port {port} & " for model, port in (("a", 1), ("b", 2))
    )
    shell = ["tmux", "-c", f"{windows} wait", "vllm", "serve", "a", "--port", "1"]
    multiplexer = subprocess.Popen(shell, executable="/bin/sh")
    try:
        end = time.monotonic() + 10
        ports = set()
        while ports != {1, 2} and time.monotonic() < end:
            time.sleep(0.05)
            mine = {child.pid for child in psutil.Process(multiplexer.pid).children()}
            ports = {server.port for server in ProcessSource(psutil).read() if server.pids & mine}
        assert ports == {1, 2}
    finally:
        for child in psutil.Process(multiplexer.pid).children(recursive=True):
            child.kill()
        multiplexer.kill()
        multiplexer.wait()


def test_a_start_script_that_becomes_vllm_by_exec_is_noticed(tmp_path):
    program = tmp_path / "vllm"
    program.write_text("import time; time.sleep(60)")
    script = f"sleep 0.5; exec {sys.executable} {program} serve m"
    process = subprocess.Popen(["bash", "-c", script])
    seconds = 0.0
    source = ProcessSource(psutil, steady=lambda: seconds)
    try:
        assert found(source, process) is None
        time.sleep(1.0)
        seconds = 31.0
        assert found(source, process)
    finally:
        process.kill()
        process.wait()


class Counting:
    """psutil, noting which processes it was asked about."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        return getattr(psutil, name)

    def Process(self, pid):
        self.asked.append(pid)
        return psutil.Process(pid)


class Refusing:
    """A process table whose every process belongs to somebody else."""

    Error, NoSuchProcess, AccessDenied, ZombieProcess = (
        psutil.Error,
        psutil.NoSuchProcess,
        psutil.AccessDenied,
        psutil.ZombieProcess,
    )

    def pids(self):
        return [1, 2]

    def Process(self, pid):
        def refuse(*_, **__):
            raise psutil.AccessDenied(pid)

        return SimpleNamespace(pid=pid, create_time=lambda: 0.0, cmdline=refuse)


def test_processes_that_may_not_be_looked_at_are_passed_over():
    assert ProcessSource(Refusing()).read() == ()


def test_of_a_thousand_that_look_like_servers_the_oldest_are_watched(caplog):
    class Crowd(Refusing):
        def pids(self):
            return list(range(1, 1_001))

        def Process(self, pid):
            return SimpleNamespace(
                pid=pid,
                create_time=lambda: float(-pid),
                cmdline=lambda: ["vllm", "serve", "m", "--port", str(pid)],
                cwd=lambda: "/",
                environ=dict,
                ppid=lambda: 0,
            )

    source = ProcessSource(Crowd(), root=Path("/nonexistent"))
    for _ in range(2):
        assert {server.port for server in source.read()} == set(range(1_001 - MOST_SERVERS, 1_001))
    (told,) = caplog.messages
    assert told == f"1000 processes look like vLLM servers: the {MOST_SERVERS} oldest are watched"


def test_a_process_table_that_cannot_be_read_is_a_failure():
    def refuse():
        raise PermissionError("/proc")

    table = Refusing()
    table.pids = refuse
    with pytest.raises(SourceUnavailable, match="no_process_table"):
        ProcessSource(table).read()


def test_a_server_whose_environment_and_directory_are_hidden_is_still_found():
    class Hidden(Refusing):
        def Process(self, pid):
            def refuse():
                raise psutil.AccessDenied(pid)

            return SimpleNamespace(
                pid=pid,
                create_time=lambda: 0.0,
                cmdline=lambda: ["vllm", "serve", "m", "--port", "8126"] if pid == 1 else ["sh"],
                cwd=refuse,
                environ=refuse,
                ppid=lambda: 0,
            )

    (server,) = ProcessSource(Hidden()).read()
    assert server.port == 8126


_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
Local:
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
     +-- {net}.0/24 2 0 2
           |-- {net}.0
              /24 link UNICAST
           |-- {address}
              /32 host LOCAL
           |-- {net}.255
              /32 link BROADCAST
"""


@pytest.mark.parametrize(
    ("its", "flags", "host"),
    [
        ("10.0.0.5", (), "127.0.0.1"),
        ("172.17.0.2", (), "172.17.0.2"),
        ("172.17.0.2", ("--host", "0.0.0.0"), "172.17.0.2"),
        ("172.17.0.2", ("--host", "172.17.0.2"), "172.17.0.2"),
        (None, (), "127.0.0.1"),
    ],
    ids=["same network", "container", "container on all addresses", "named", "not readable"],
)
def test_a_server_in_a_container_with_its_own_network_is_reached_at_its_own_address(start, tmp_path, its, flags, host):
    process = start("m", *flags)
    for name, address in (("self", "10.0.0.5"), (str(process.pid), its)):
        table = tmp_path / "proc" / name / "net" / "fib_trie"
        table.parent.mkdir(parents=True)
        if address:
            table.write_text(_TRIE.format(net=address.rpartition(".")[0], address=address))
    assert found(ProcessSource(psutil, root=tmp_path), process).host == host


def test_what_the_last_look_saw_is_known(start):
    source = ProcessSource(psutil)
    assert source.visible_pids is None
    process = start("m")
    source.read()
    assert {process.pid, os.getpid()} <= source.visible_pids

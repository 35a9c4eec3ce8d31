import os
import subprocess
import sys
import time

import pytest

from advisor.flags import parse_flags
from advisor.readings import EngineProcess
from advisor.units import GIB
from exporter.errors import SourceUnavailable, UsageError
from exporter.sources import start_log
from exporter.sources.start_log import StartLogSource, read_start_log, run_bounded, service_of

LINE = "(Worker_TP0 pid=7) INFO 11-20 23:09:25 [gpu_worker.py:298] Available KV cache memory: {size} GiB\n"
CONTAINER = "0123456789abcdef" * 4


def server(*pids):
    return EngineProcess(
        host="127.0.0.1",
        port=8000,
        secure=False,
        flags=parse_flags(["vllm", "serve", "m"]),
        pids=frozenset(pids),
        started_at_seconds=1_000_000.5,
    )


class Journal:
    """Stands in for running journalctl: remembers the call, answers with a text."""

    def __init__(self, text="", *, missing=False):
        self.text, self.missing, self.calls = text, missing, []

    def __call__(self, argv, deadline_seconds, most_bytes):
        self.calls.append(list(argv))
        if self.missing:
            raise SourceUnavailable("not_run", "journalctl: No such file or directory")
        return self.text.encode()


def process(root, pid, *, group="", stdout=None):
    folder = root / "proc" / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "cgroup").write_text(f"0::{group}\n")
    if stdout is not None:
        (folder / "fd" / "1").symlink_to(stdout)


def looked(root, *pids, journal=None):
    source = StartLogSource(root=root, run=journal or Journal(missing=True))
    source.want([server(*pids)])
    (found,) = source.read()
    source.close()
    assert (found.host, found.port) == ("127.0.0.1", 8000)
    return found


def kv_gib(found):
    return found.log.kv_cache_bytes / GIB


def test_output_that_goes_to_a_file_is_read_there(tmp_path):
    written = tmp_path / "vllm.log"
    written.write_text(LINE.format(size=4.0))
    process(tmp_path, 10, stdout="/dev/null")
    process(tmp_path, 11, stdout=written)
    found = looked(tmp_path, 10, 11)
    assert (kv_gib(found), found.found) == (4.0, "the file that its output goes to")


def test_a_real_process_that_writes_to_a_file_is_read_through_proc(tmp_path):
    written = tmp_path / "vllm.log"
    with written.open("w") as output:
        writer = subprocess.Popen(
            [sys.executable, "-c", f"print({LINE.format(size=2.0)!r}, flush=True); import time; time.sleep(60)"],
            stdout=output,
        )
    try:
        end = time.monotonic() + 10
        while not written.stat().st_size and time.monotonic() < end:
            time.sleep(0.01)
        written.unlink()  # rotated away: the process still holds it
        source = StartLogSource(run=Journal(missing=True))
        source.want([server(writer.pid)])
        assert kv_gib(source.read()[0]) == 2.0
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.parametrize(
    ("group", "match"),
    [
        ("/system.slice/vllm.service", "_SYSTEMD_UNIT=vllm.service"),
        ("/system.slice/system-vllm.slice/vllm@a.service/workers", "_SYSTEMD_UNIT=vllm@a.service"),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/vllm.service",
            "_SYSTEMD_USER_UNIT=vllm.service",
        ),
    ],
)
def test_a_service_is_asked_of_the_journal_by_its_unit_and_only_around_its_start(tmp_path, group, match):
    process(tmp_path, 10, group=group)
    journal = Journal(LINE.format(size=8.0))
    found = looked(tmp_path, 10, journal=journal)
    assert (kv_gib(found), found.found) == (8.0, f"the journal of {match.partition('=')[2]}")
    assert journal.calls == [
        [
            *("journalctl", "--no-pager", "--quiet", "--output", "cat"),
            *("--since", "@999940", "--until", "@1003600", match),
        ]
    ]


@pytest.mark.parametrize(
    ("group", "service"),
    [
        ("/system.slice/vllm.service", ("vllm.service", False)),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/vllm.service", ("vllm.service", True)),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/tmux-1.scope", None),
        ("/system.slice/docker.service", None),
    ],
)
def test_a_process_belongs_to_a_service_of_the_system_or_of_a_user(tmp_path, group, service):
    process(tmp_path, 10, group=group)
    assert service_of([10], tmp_path) == service


def test_what_is_no_service_is_asked_of_the_journal_by_its_processes(tmp_path):
    process(tmp_path, 10, group="/user.slice/user-1000.slice/session-4.scope")
    journal = Journal(LINE.format(size=8.0))
    assert kv_gib(looked(tmp_path, 11, 10, journal=journal)) == 8.0
    assert journal.calls[0][-2:] == ["_PID=10", "_PID=11"]


def test_a_containers_log_is_read_where_docker_or_kubernetes_keeps_it(tmp_path):
    process(tmp_path, 10, group=f"/system.slice/docker-{CONTAINER}.scope")
    docker = tmp_path / "var/lib/docker/containers" / CONTAINER
    docker.mkdir(parents=True)
    text = LINE.format(size=3.0).replace("\n", "\\n")
    (docker / f"{CONTAINER}-json.log").write_text(f'{{"log":"{text}","stream":"stdout","time":"t"}}\n')
    assert (kv_gib(looked(tmp_path, 10)), looked(tmp_path, 10).found) == (3.0, "its container's log")
    (docker / f"{CONTAINER}-json.log").unlink()
    pods = tmp_path / "var/log/containers"
    pods.mkdir(parents=True)
    (pods / f"vllm-0_ns_vllm-{CONTAINER}.log").write_text(f"2026-11-20T23:09:25.1Z stdout F {LINE.format(size=5.0)}")
    assert kv_gib(looked(tmp_path, 10)) == 5.0


def test_a_file_without_a_start_is_passed_over_for_the_journal(tmp_path):
    (tmp_path / "rotated.log").write_text("INFO:     127.0.0.1:1 - GET /metrics\n")
    process(tmp_path, 10, group="/system.slice/vllm.service", stdout=tmp_path / "rotated.log")
    assert kv_gib(looked(tmp_path, 10, journal=Journal(LINE.format(size=8.0)))) == 8.0


@pytest.mark.parametrize("journal", [Journal(missing=True), Journal("-- No entries --\n")])
def test_no_readable_log_is_a_normal_state_with_a_reason(tmp_path, journal):
    process(tmp_path, 10, group="/system.slice/vllm.service")
    found = looked(tmp_path, 10, 99, journal=journal)
    assert found.log is None
    assert found.found == "no start-up log is readable: no vLLM start in the journal of vllm.service"


def test_a_log_named_by_hand_tells_of_every_server(tmp_path):
    file = tmp_path / "vllm.log"
    file.write_bytes(b"\xff\xfe\n" + LINE.format(size=6.0).encode())
    given = read_start_log(file)
    assert (kv_gib(given), given.host, given.found) == (6.0, None, str(file))
    source = StartLogSource(given=given, root=tmp_path, run=Journal(missing=True))
    source.want([server(10)])
    assert source.read() == (given,)


def test_a_log_named_by_hand_that_cannot_be_read_is_a_wrong_use(tmp_path):
    for file in (tmp_path / "none.log", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            read_start_log(file)
    (tmp_path / "empty.log").touch()
    assert read_start_log(tmp_path / "empty.log").found == f"no vLLM start in {tmp_path / 'empty.log'}"


def test_of_a_huge_log_both_ends_are_read(tmp_path):
    file = tmp_path / "vllm.log"
    with file.open("wb") as output:
        output.write(LINE.format(size=1.0).encode())
        output.truncate(start_log.MOST_BYTES * 2)
        output.seek(0, os.SEEK_END)
        output.write(b"\n" + LINE.format(size=0.5).encode())
    assert kv_gib(read_start_log(file)) == 0.5


def stand_in(tmp_path, script):
    program = tmp_path / "journalctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_a_program_is_read_up_to_a_time(tmp_path):
    began = time.monotonic()
    assert run_bounded([stand_in(tmp_path, "echo first; exec sleep 60")], 0.3, 1000) == b"first\n"
    assert time.monotonic() - began < 30


def test_a_program_is_read_up_to_a_size(tmp_path):
    assert run_bounded([stand_in(tmp_path, "exec yes")], 30.0, 100_001) == b"y\n" * 50_000 + b"y"


def test_a_program_that_is_not_there_is_a_source_that_is_not_there(tmp_path):
    with pytest.raises(SourceUnavailable, match="No such file"):
        run_bounded([str(tmp_path / "journalctl")], 1.0, 100)


def test_the_journal_is_asked_through_the_program_on_the_path(tmp_path, monkeypatch):
    process(tmp_path, 10, group="/system.slice/vllm.service")
    stand_in(tmp_path, f'echo "$@" > {tmp_path}/asked; cat {tmp_path}/kept')
    (tmp_path / "kept").write_text(LINE.format(size=7.0))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    source = StartLogSource(root=tmp_path)
    source.want([server(10)])
    assert kv_gib(source.read()[0]) == 7.0
    assert (tmp_path / "asked").read_text().endswith("_SYSTEMD_UNIT=vllm.service\n")

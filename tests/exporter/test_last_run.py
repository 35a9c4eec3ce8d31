import signal
import subprocess
import sys

import pytest

from exporter.last_run import KEPT_FILE, MARK_FILE, marked, parse_mark

PROGRAM = """
import ctypes, os, signal, sys, time
from pathlib import Path
from exporter.last_run import marked

def nvmlDeviceGetTemperature():
    {end}

with marked(Path(sys.argv[1])):
    nvmlDeviceGetTemperature()
"""


def run(directory, end):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end), str(directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_run_that_ends_in_order_leaves_nothing_to_say(tmp_path, caplog):
    assert run(tmp_path / "new", "pass").returncode == 0
    with marked(tmp_path / "new"):
        assert (tmp_path / "new" / MARK_FILE).read_text().startswith("began 20")
    assert (tmp_path / "new" / MARK_FILE).read_text() == ""
    assert caplog.text == ""


def test_a_crash_is_told_with_the_call_that_was_under_way(tmp_path, caplog):
    assert run(tmp_path, "ctypes.string_at(0)").returncode == -signal.SIGSEGV
    with marked(tmp_path):
        pass
    (record,) = caplog.records
    assert "ended by: Segmentation fault in string_at (__init__.py)" in record.getMessage()
    assert "nvmlDeviceGetTemperature" in (tmp_path / KEPT_FILE).read_text()


def test_an_abort_is_told(tmp_path, caplog):
    assert run(tmp_path, "os.abort()").returncode == -signal.SIGABRT
    with marked(tmp_path):
        pass
    assert "ended by: Aborted in nvmlDeviceGetTemperature" in caplog.text


def test_a_kill_is_told_as_an_end_without_a_word(tmp_path, caplog):
    assert run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)").returncode == -signal.SIGKILL
    with marked(tmp_path):
        pass
    with marked(tmp_path):
        pass
    (record,) = caplog.records
    assert "left no word" in record.getMessage()


def test_an_exception_is_an_end_in_order(tmp_path, caplog):
    assert run(tmp_path, "raise ValueError").returncode == 1
    with marked(tmp_path):
        pass
    assert caplog.text == ""


def test_what_hung_in_another_thread_is_told_beside_an_abort():
    end = parse_mark(
        "began 2026-11-21T10:00:00+00:00 as process 7\n"
        "Fatal Python error: Aborted\n\n"
        "Thread 0x00007f01 (most recent call first):\n"
        '  File "/lib/pynvml.py", line 10 in nvmlDeviceGetTemperature\n'
        '  File "/app/exporter/sources/nvml.py", line 20 in _optional\n\n'
        "Thread 0x00007f02 (most recent call first):\n"
        '  File "/lib/selectors.py", line 5 in select\n\n'
        "Current thread 0x00007f03 (most recent call first):\n"
        '  File "/app/exporter/cli/serve.py", line 170 in _wait\n\n'
        "Extension modules: yaml._yaml (total: 1)\n"
    )
    assert str(end) == (
        "the run that began 2026-11-21T10:00:00+00:00 ended by: Aborted in _wait (serve.py); "
        "reads under way: nvmlDeviceGetTemperature (pynvml.py)"
    )


@pytest.mark.parametrize("text", ["", "\0\0\0", "Fatal Python error: x", "began\n", "[" * 1000])
def test_a_mark_that_makes_no_sense_says_nothing(text):
    assert parse_mark(text) is None


def test_a_second_daemon_on_the_same_directory_is_told(tmp_path, caplog):
    with marked(tmp_path), marked(tmp_path):
        assert "held by another process" in caplog.text
    assert (tmp_path / MARK_FILE).read_text() == ""


def test_without_a_directory_that_can_be_written_nothing_stops(tmp_path, caplog):
    with marked(None):
        pass
    (tmp_path / "file").write_text("")
    with marked(tmp_path / "file" / "state"):
        pass
    assert "standard error only" in caplog.text

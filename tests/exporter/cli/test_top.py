"""The live view in a real terminal of 80x24, and what it prints into a pipe."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import psutil
import pytest

from exporter.cli.top_view import SORTS, Canvas, View, draw
from tests.exporter.daemon import FakeServer
from tests.exporter.typed import typed
from tests.exporter.web import statuses
from tests.nvml_standin.standin import GIB, Process, State, environment

ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


@pytest.fixture
def server():
    fake = FakeServer()
    show(fake, statuses.bad())
    yield fake
    fake.close()


def show(server, status):
    server.answers["/api/v1/status"] = (200, {"Content-Type": "application/json"}, json.dumps(status).encode())


class Terminal:
    """A pseudo-terminal of 80x24 with ``top`` in it."""

    def __init__(self, *arguments):
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self.output = ""
        variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "exporter", "top", *arguments],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            env=variables | {"TERM": "xterm-256color"},
        )

    def press(self, keys):
        os.write(self.ours, keys.encode())

    def read(self, seconds=0.1):
        while select.select([self.ours], [], [], seconds)[0]:
            self.output += os.read(self.ours, 65536).decode(errors="replace")
        return self.output

    def wait_for(self, text, *, since=0, seconds=15.0):
        """Wait until the text is printed, colours aside."""
        end = time.monotonic() + seconds
        while text not in plain(self.read()[since:]):
            assert time.monotonic() < end, f"{text!r} not within {seconds} s: {plain(self.output[since:])}"
        return len(self.output)

    def ended(self):
        """Return the exit status once it has ended; the terminal must be as it was."""
        end = time.monotonic() + 15
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < end
        self.read()
        assert termios.tcgetattr(self.theirs) == self.before
        assert self.output.count(ENTER) == self.output.count(LEAVE)
        assert self.output.rindex(SHOW_CURSOR) > self.output.rindex("\x1b[?25l")
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture
def terminal(server):
    running = Terminal("--url", server.url, "--interval", "0.2")
    yield running
    running.close()


def test_it_shows_what_is_wrong_first_follows_it_and_quits_by_key(terminal, server):
    terminal.wait_for("limited by KV cache")
    first = plain(terminal.output)
    assert first.index("Look at GPU 1") < first.index("GPU 1  Demo") < first.index("GPU 0  Demo")
    mark = len(terminal.output)
    show(server, statuses.good())
    terminal.wait_for("All is well: 2 GPUs, 1 engine.", since=mark)
    terminal.press("q")
    assert terminal.ended() == 0
    assert "Traceback" not in terminal.output


def test_pause_holds_the_picture_and_sort_changes_the_order(terminal, server):
    terminal.wait_for("every 0.2 s")
    mark = len(terminal.output)
    terminal.press("p")
    terminal.wait_for("paused", since=mark)
    show(server, statuses.good())
    asked = len(server.requests)
    while len(server.requests) < asked + 5:
        terminal.read()
    assert "All is well" not in plain(terminal.output)
    mark = len(terminal.output)
    terminal.press("s")
    terminal.wait_for("sorted by name", since=mark)
    shown = plain(terminal.output[mark:])
    assert shown.index("GPU 0  Demo") < shown.index("GPU 1  Demo")
    terminal.press("p")
    terminal.wait_for("All is well", since=mark)
    terminal.press("\x03")
    assert terminal.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_with_the_terminal_put_back(terminal, number):
    terminal.wait_for("every 0.2 s")
    terminal.process.send_signal(number)
    assert terminal.ended() == 128 + number
    assert "Traceback" not in terminal.output


def test_suspended_it_gives_the_terminal_back_and_comes_again(terminal):
    terminal.wait_for("every 0.2 s")
    terminal.press("\x1a")
    end = time.monotonic() + 10
    while psutil.Process(terminal.process.pid).status() != psutil.STATUS_STOPPED:
        terminal.read()
        assert time.monotonic() < end
    assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert terminal.read().count(LEAVE) == 1
    mark = len(terminal.output)
    terminal.process.send_signal(signal.SIGCONT)
    terminal.wait_for("every 0.2 s", since=mark)
    terminal.press("q")
    assert terminal.ended() == 0


def test_a_daemon_that_goes_away_is_told_and_what_it_said_last_is_called_old(terminal, server):
    terminal.wait_for("every 0.2 s")
    mark = len(terminal.output)
    server.answers.clear()
    terminal.wait_for("answers 404; what stands below is old", since=mark)
    terminal.press("q")
    assert terminal.ended() == 0


def test_an_answer_that_breaks_off_is_told_and_the_daemon_is_asked_again(terminal, server):
    terminal.wait_for("every 0.2 s")
    mark = len(terminal.output)
    server.answers["/api/v1/status"] = (200, {"Content-Length": "9999"}, b"{")
    terminal.wait_for("its answer is broken", since=mark)
    mark = len(terminal.output)
    show(server, statuses.bad())
    terminal.wait_for("every 0.2 s", since=mark)
    terminal.press("q")
    assert terminal.ended() == 0


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b"{}", b"1" * 5000, b'{"gpus": [1]}', b"\xff\xfe", b"null", b"[" * 100_000]
)
def test_an_answer_that_is_no_status_ends_nothing(answer):
    server = FakeServer()
    server.answers["/api/v1/status"] = (200, {}, answer)
    running = Terminal("--url", server.url, "--interval", "0.2")
    running.wait_for("/api/v1/status")
    running.press("q")
    assert running.ended() == 0
    assert "Traceback" not in running.output
    running.close()
    server.close()


def piped(*arguments, **more):
    result = typed("top", *arguments, **more)
    assert max(map(len, result.stdout.splitlines()), default=0) <= 80
    assert "\x1b" not in result.stdout
    return result


def test_into_a_pipe_it_prints_once_and_its_status_says_whether_something_is_wrong(server):
    result = piped("--url", server.url)
    assert result.returncode == 1
    assert "Look at GPU 1" in result.stdout
    assert "To do: find the process" in result.stdout
    assert "q quit" not in result.stdout
    show(server, statuses.good())
    result = piped("--url", server.url)
    assert (result.returncode, "All is well" in result.stdout) == (0, True)


def test_where_the_terminal_lacks_a_sign_there_is_a_question_mark(server):
    """GBK has no check mark, Latin-1 no triangle; ASCII has neither."""
    show(server, statuses.good())
    result = piped("--url", server.url, variables={"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, "? All is well" in result.stdout) == (0, True)


@pytest.mark.needs_cc
def test_without_a_daemon_it_reads_this_host_itself(tmp_path, nvml_library):
    state = State(tmp_path / "nvml.state")
    gpu = state.add_gpu()
    gpu.set_memory(total=80 * GIB, used=60 * GIB, reserved=GIB // 2)
    gpu.set_processes(Process(pid=1, memory=60 * GIB))
    result = piped(variables=environment(nvml_library, state))
    assert "GPU 0" in result.stdout
    assert " others 60.0 " in result.stdout
    assert "really in use 60.5 GiB of 80.0 GiB, slack 19.50 GiB" in result.stdout


def test_nothing_to_talk_to_is_told_in_a_line():
    result = piped("--url", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert "http://127.0.0.1:1/api/v1/status cannot be read (no connection)" in result.stdout


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("gpu-server:9738", "is not an address such as http://gpu-server:9738"),
        ("http://user:secret@host:1", "credentials do not belong in a URL"),
        ("http://gpu-server:port", "is not an address such as http://gpu-server:9738"),
        ("http://[", "is not an address such as http://gpu-server:9738"),
    ],
)
def test_a_wrong_address_is_a_wrong_use(url, told):
    result = piped("--url", url)
    assert result.returncode == 2
    assert told in result.stderr
    assert "secret" not in result.stderr


def drawn(status, *, width=80, height=24, colour=False, **view):
    lines = draw(
        status, View(source="host", interval_seconds=2.0, **view), Canvas(width=width, height=height, colour=colour)
    )
    assert height is None or len(lines) == height
    assert max(line.cell_len for line in lines) <= width
    return "\n".join(line.plain for line in lines)


def test_eight_gpus_and_eight_engines_fit_a_small_terminal_a_line_each():
    text = drawn(statuses.many())
    assert all(f"GPU {index} " in text for index in range(8))
    assert text.count("fit    2 run   28 wait   64 limited by KV cache ▲") == 7


def test_what_does_not_fit_is_counted_and_comes_by_scrolling():
    # 18 lines less 3 of heading, 1 finding, 1 of keys and this line itself: 12 of 16 are shown.
    assert "… 4 more, scroll with ↓" in drawn(statuses.many(), height=18)
    assert "inference-7" in drawn(statuses.many(), height=18, offset=8)


@pytest.mark.parametrize(("width", "height"), [(20, 5), (40, 10), (80, 24), (120, 50), (250, 80)])
@pytest.mark.parametrize("moment", [statuses.good, statuses.bad, statuses.many])
def test_no_terminal_is_overflowed(moment, width, height):
    for sort in range(len(SORTS)):
        drawn(moment(), width=width, height=height, sort=sort, trouble="no connection", paused=True)


def test_where_there_is_room_advice_and_the_reason_of_a_risk_are_shown():
    status = statuses.bad()
    status["engines"][0] |= statuses.advised()
    text = drawn(status, height=50)
    assert "Advice: --max-num-seqs 24 (now 64; 20 to 28 would do)" in text
    assert "It would not start again with its flags: 2.00 GiB are missing." in text
    assert "99% trend: memory use grows by 207.76 GiB an hour" in text


def test_when_memory_ends_is_told_with_how_long_it_has_grown():
    assert "OOM in 3 min if the growth of the last 2 min goes on" in " ".join(drawn(statuses.many(), height=90).split())


def test_what_a_server_says_cannot_steer_the_terminal():
    status = statuses.bad()
    status["engines"][0] |= {"engine": "a\x1b[2Jb", "model_name": "\x1b]0;x\x07\n\r\t"}
    status["gpus"][0]["name"] = "\x9b31m"
    status["findings"][0]["summary"] = "\x1b[31m[bold]red[/bold]"
    text = drawn(status, height=50)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert "[bold]red[/bold]" in text


def test_without_colour_each_part_of_a_bar_has_its_own_filling():
    bar = next(line for line in drawn(statuses.bad()).splitlines() if line.startswith(" weights"))
    assert bar.startswith(" weights 15.0 ###")
    assert " KV 4.1 ===" in bar
    assert len(bar) == 80


def test_an_empty_host_says_why_nothing_is_there():
    status = statuses.good() | {
        "gpus": [],
        "engines": [],
        "collectors": [{"collector": "nvml", "success": 0, "failing": {"no_driver_library": 1}}],
    }
    text = drawn(status)
    assert "No GPU is readable here: no NVIDIA driver is installed here" in text
    assert "No vLLM server has been found." in text
    assert "Blind: there is no fresh reading" in drawn(status | {"time_seconds": None})

"""What the daemon tells systemd, heard on a real socket."""

import os
import re
import signal
import socket
import time

import pytest

from exporter.notify import Notifier
from tests.exporter.daemon import daemon
from tests.nvml_standin.standin import GIB, State, environment

FAST = ("--poll-interval", "0.25")


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, path):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path.replace("@", "\0", 1))

    def hear(self, seconds=10.0):
        self._socket.settimeout(seconds)
        try:
            return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())
        except TimeoutError:
            return None

    def hear_until(self, key):
        end = time.monotonic() + 15
        while time.monotonic() < end:
            heard = self.hear()
            if heard and key in heard:
                return heard
        raise AssertionError(f"{key} was never said")

    def close(self):
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    manager = Manager(f"@headroom-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "n"))
    yield manager
    manager.close()


def supervised(manager, seconds=4.0):
    return {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": str(int(seconds * 1e6))}


def test_it_is_ready_after_the_first_judgement_and_beats_and_ends_in_order(manager):
    with daemon(*FAST, environment=supervised(manager)) as running:
        ready = manager.hear()
        assert ready["READY"] == "1"
        assert running.get("/-/ready") == "ready\n"
        status = manager.hear_until("WATCHDOG")["STATUS"]
        assert re.fullmatch(r"GPUs: 0; engines up: \d+ of \d+; findings: \d+; nvml: no_driver_library.*", status)
        began = time.monotonic()
        for _ in range(3):
            manager.hear_until("WATCHDOG")
        assert time.monotonic() - began < 4.0, "at least twice as often as asked for"
        running.process.send_signal(signal.SIGHUP)
        assert int(manager.hear_until("RELOADING")["MONOTONIC_USEC"]) > 0
        manager.hear_until("READY")
        running.process.send_signal(signal.SIGTERM)
        assert manager.hear_until("STOPPING") == {"STOPPING": "1"}


def test_a_stopped_process_is_silent(tmp_path):
    manager = Manager(str(tmp_path / "n"))
    with daemon(*FAST, environment=supervised(manager, 1.0)) as running:
        manager.hear_until("WATCHDOG")
        running.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        while manager.hear(0.01):
            pass
        assert manager.hear(1.0) is None
        running.process.send_signal(signal.SIGCONT)
        manager.hear_until("WATCHDOG")
    manager.close()


@pytest.mark.needs_cc
def test_a_hung_driver_is_no_reason_for_a_restart(tmp_path, nvml_library):
    state = State(tmp_path / "nvml.state")
    state.add_gpu().set_memory(total=80 * GIB, used=GIB)
    state.delay("nvmlDeviceGetTemperature*", None)
    manager = Manager(str(tmp_path / "n"))
    with daemon(*FAST, environment={**environment(nvml_library, state), **supervised(manager, 1.0)}) as running:
        running.wait_for(lambda: running.value("headroom_collector_failing", collector="nvml", reason="hung") == 1.0)
        while manager.hear(0.01):
            pass
        assert "nvml: hung" in manager.hear_until("WATCHDOG")["STATUS"]
    manager.close()


@pytest.mark.needs_cc
def test_a_driver_replaced_under_it_ends_it_with_the_status_that_asks_for_a_fresh_process(tmp_path, nvml_library):
    state = State(tmp_path / "nvml.state")
    state.add_gpu().set_memory(total=80 * GIB, used=GIB)
    with daemon(*FAST, environment=environment(nvml_library, state)) as running:
        running.wait_for(lambda: running.value("headroom_gpu_memory_total_bytes") == 80 * GIB)
        state.fail("*", "LIB_RM_VERSION_MISMATCH")
        assert running.process.wait(10) == 75
        running.close()
        assert "ending with status 75" in " ".join(running.log)


@pytest.mark.needs_cc
def test_a_library_that_never_matched_is_waited_for_as_a_restart_would_not_help(tmp_path, nvml_library):
    state = State(tmp_path / "nvml.state")
    state.add_gpu().set_memory(total=80 * GIB, used=GIB)
    state.fail("nvmlInit*", "LIB_RM_VERSION_MISMATCH")
    with daemon(*FAST, environment=environment(nvml_library, state)) as running:
        running.wait_for(lambda: running.value("headroom_collector_failing", reason="driver_library_mismatch") == 1.0)
        time.sleep(3)
        assert running.process.poll() is None
        state.heal()
        running.wait_for(lambda: running.value("headroom_gpu_memory_total_bytes") == 80 * GIB)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "1000000"}, None),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000"}, 3.0),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "4194305"}, None),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_only_fed_where_one_is_set_for_this_process(environment, seconds):
    assert Notifier(environment).watchdog_seconds == seconds


def test_a_manager_that_is_gone_is_no_failure(tmp_path):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("fine")

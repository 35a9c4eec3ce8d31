"""What ends the process, or meets it at its start: one declaration each, with what the daemon is to do about it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.endurance.faults import hold_connections, let_connections_go
from tests.endurance.machine import VllmProcess
from tests.exporter.daemon import daemon

_SECONDS = 2.0
"""How long a daemon that is asked to stop may take."""


@dataclass(frozen=True, kw_only=True)
class End:
    """One thing, and what the daemon did, in words; ``try_it`` raises AssertionError where it did not."""

    name: str
    try_it: Callable


ENDS = []


def end(name):
    def declared(function):
        ENDS.append(End(name=name, try_it=function))
        return function

    return declared


def _started_again(scene):
    """Start another daemon on the same state and return what it says of the one before."""
    with scene.daemon() as running:
        scene.wait_until_whole()
        said = [line for line in running.log if "the run that began" in line]
        assert running.stop()[0] == 0
    return said


def _crashed(scene, *, segfault, status, wanted):
    with scene.daemon() as running:
        scene.wait_until_whole()
        scene.state.crash("nvmlDeviceGetTemperature*", segfault=segfault)
        assert running.process.wait(20) == status
    scene.state.heal()
    (said,) = _started_again(scene)
    for words in wanted:
        assert words in said, said
    assert _started_again(scene) == [], "told once"
    return f"ends; the next start says: {' '.join(wanted)}"


@end("the driver's library crashes (SIGSEGV)")
def crash(scene):
    wanted = ("Segmentation fault", "nvmlDeviceGetTemperature", "pynvml.py")
    return _crashed(scene, segfault=True, status=-signal.SIGSEGV, wanted=wanted)


@end("a watchdog ends it (SIGABRT) while the driver hangs")
def watchdog(scene):
    with scene.daemon() as running:
        scene.wait_until_whole()
        scene.state.delay("nvmlDeviceGetTemperature*", None)
        running.wait_for(lambda: running.value("headroom_collector_failing", collector="nvml", reason="hung") == 1.0)
        running.process.send_signal(signal.SIGABRT)
        status = running.process.wait(20)
    scene.state.heal()
    (said,) = _started_again(scene)
    assert "Aborted" in said, said
    if status == -signal.SIGSEGV:
        # Python writes down what threads do while they do it, and seldom crashes over it (python/cpython issue 116008).
        return "ends; the next start says: Aborted; Python's list of calls broke off"
    assert status == -signal.SIGABRT, status
    assert "nvmlDeviceGetTemperature" in said, said
    return "ends; the next start says: Aborted, and which driver call was under way"


@end("it is killed (SIGKILL)")
def killed(scene):
    with scene.daemon() as running:
        scene.wait_until_whole()
        running.process.kill()
        running.process.wait()
    (said,) = _started_again(scene)
    assert "left no word" in said, said
    return "the next start says: did not end in order and left no word"


def _stop(running):
    status, seconds = running.stop()
    assert status == 0, (status, running.log)
    assert seconds < _SECONDS, f"{seconds} s"


def _stops(name, prepare, *, wait=True):
    @end(f"SIGTERM {name}")
    def try_it(scene):
        with scene.daemon() as running:
            if wait:
                scene.wait_until_whole()
            prepare(scene, running)
            _stop(running)
        scene.state.heal()
        return "ends with status 0 within two seconds"


_stops("right after it listens", lambda scene, running: None, wait=False)
_stops("while all is well", lambda scene, running: None)


def _driver_hangs(scene, running):
    scene.state.delay("nvmlDeviceGetTemperature*", None)
    running.wait_for(lambda: running.value("headroom_collector_failing", collector="nvml", reason="hung") == 1.0)


def _locked(scene, running):
    scene.state.delay("nvmlDeviceGetPower*", None, locked=True)
    running.wait_for(lambda: running.value("headroom_collector_failing", collector="nvml", reason="hung") == 1.0)


def _server_hangs(scene, running):
    scene.break_server(lambda server: server.answers.update({"/metrics": (None, {}, lambda _: time.sleep(20))}))
    running.wait_for(lambda: running.value("headroom_engine_up", engine=scene.server.engine) == 0.0)


def _stopped_for_a_while(scene, running):
    running.process.send_signal(signal.SIGSTOP)
    time.sleep(3 * scene.interval_seconds)
    running.process.send_signal(signal.SIGCONT)


_stops("while the driver hangs", _driver_hangs)
_stops("while the driver hangs and holds its lock", _locked)
_stops("while a server hangs", _server_hangs)
_stops("right after SIGSTOP and SIGCONT", _stopped_for_a_while)
_stops("right after SIGHUP", lambda scene, running: running.process.send_signal(signal.SIGHUP))


@end("SIGHUP while it starts")
def hung_up_early(scene):
    return _starts(scene, program="tests.exporter.hung_up")


@end("SIGSTOP for five intervals while it starts")
def stopped_early(scene):
    pause = f'(sleep 0.3; kill -STOP $$; sleep {5 * scene.interval_seconds}; kill -CONT $$) & exec "$@"'
    return _starts(scene, prefix=("sh", "-c", pause, "sh"))


def _starts(scene, **more):
    with scene.daemon(**more) as running:
        scene.wait_until_whole()
        _stop(running)
    return "everything shows, and it ends with status 0 when it is asked to"


@end("state files cut short")
def cut_short(scene):
    with scene.daemon() as running:
        scene.wait_until_whole()
        assert running.stop()[0] == 0
    files = sorted(scene.kept.glob("*.json"))
    assert len(files) >= 4
    for file in files:
        os.truncate(file, file.stat().st_size // 2)
    with scene.daemon() as running:
        scene.wait_until_whole()
        told = {file.name for file in files if any(f"{file.name}:" in line for line in running.log)}
        assert told == {file.name for file in files}
        assert running.stop()[0] == 0
    assert {file.with_suffix(".unreadable").exists() for file in files} == {True}
    return "each is named in the log and kept under another name; everything shows"


def _not_written(scene, **more):
    """Run a daemon that cannot write; everything but its state goes on, and the old state stays."""
    kept = {file: file.read_bytes() for file in scene.kept.glob("*.json")}
    with scene.daemon(**more) as running:
        scene.wait_until_whole()
        running.wait_for(
            lambda: running.value("headroom_collector_failing", collector="state", reason="state_not_written") == 1.0
        )
        scene.tell()
        scene.wait_until_whole()
        assert running.stop()[0] == 0
    assert kept == {file: file.read_bytes() for file in kept}, "the old files are whole"
    return 'told as `headroom_collector_failing{collector="state",reason="state_not_written"}`; everything else shows'


@end("no file may grow (as on a full disk)")
def no_growth(scene):
    with scene.daemon() as running:
        scene.wait_until_whole()
        assert running.stop()[0] == 0
    return _not_written(scene, prefix=("prlimit", "--fsize=0"))


@contextmanager
def _mounted(directory, options):
    directory.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, f"needs the right to mount a file system: {mounted.stderr}"
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@end("the state's disk is full")
def full_disk(scene):
    with _mounted(scene.kept, "size=64k"):
        (scene.kept / "filler").write_bytes(b"x" * 60_000)
        with Path(scene.kept, "rest").open("wb", buffering=0) as rest:
            try:
                while True:
                    rest.write(b"x" * 512)
            except OSError:
                pass
        return _not_written(scene)


@end("the state's disk is read-only")
def read_only(scene):
    with _mounted(scene.kept, "size=1m,ro"):
        return _not_written(scene)


@end("a server is killed and comes back on another port")
def moved(scene):
    server = VllmProcess(scene.directory, "moving")
    server.start()
    scene.environment["ONLY_CHILDREN_OF"] = str(os.getpid())
    flags = ("--poll-interval", str(scene.interval_seconds))
    try:
        with daemon(*flags, environment=scene.environment, program="tests.endurance.only") as running:

            def ups():
                return {
                    dict(labels)["engine"]: value
                    for (name, labels), value in running.metrics().items()
                    if name == "headroom_engine_up"
                }

            running.wait_for(lambda: ups() == {server.engine: 1.0})
            for _ in range(3):
                server.stop()
                server.start()
                running.wait_for(lambda: ups() == {server.engine: 1.0})
            server.stop()
            running.wait_for(lambda: ups() == {server.engine: 0.0})
            assert running.value("headroom_engine_failing", reason="connection_refused") == 1.0
    finally:
        server.close()
    return "followed to the new port, and nothing is said of the old one"


@end("a server is stopped in its tracks (SIGSTOP) and goes on")
def frozen(scene):
    server = VllmProcess(scene.directory, "frozen")
    server.start()
    scene.environment["ONLY_CHILDREN_OF"] = str(os.getpid())
    try:
        flags = ("--poll-interval", str(scene.interval_seconds))
        with daemon(*flags, environment=scene.environment, program="tests.endurance.only") as running:
            running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
            server.stop(signal.SIGSTOP)
            running.wait_for(lambda: running.value("headroom_engine_up") == 0.0)
            assert running.value("headroom_engine_requests_running") is None
            reasons = {
                dict(labels)["reason"] for name, labels in running.metrics() if name == "headroom_engine_failing"
            }
            assert reasons <= {"hung", "timeout"}, reasons
            server.process.send_signal(signal.SIGCONT)
            running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
    finally:
        server.close()
    return "down with the reason `hung` or `timeout`, and up again when it goes on"


@end("300 clients and a limit of 64 file descriptors")
def few_descriptors(scene):
    with scene.daemon(prefix=("prlimit", "--nofile=64")) as running:
        scene.wait_until_whole()
        hold_connections(scene)
        let_connections_go(scene)
        scene.tell()
        scene.wait_until_whole()
        assert running.stop()[0] == 0
    return "everything shows again once the clients are gone"

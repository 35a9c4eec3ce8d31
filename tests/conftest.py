import ctypes
import os
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path

import pynvml
import pytest
from hypothesis import HealthCheck, settings

from tests.namespaces import unshare
from tests.nvml_standin.standin import State, build

# Nothing here is judged by how long it takes, which on a busy machine is anything.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def programs(*wanted, package):
    """Return a function that says which of these programs the PATH lacks, if any; of "a|b" either will do."""

    def lacking():
        missing = [each.replace("|", " or ") for each in wanted if not any(map(shutil.which, each.split("|")))]
        return f"{', '.join(missing)} on the PATH (Debian: apt install {package})" if missing else None

    return lacking


def a_real_vllm():
    if not os.environ.get("VLLM_HEADROOM_TEST_VLLM"):
        return "a real vLLM: VLLM_HEADROOM_TEST_VLLM names its executable (tests/install_vllm.sh gets one)"
    return None


def a_checkout():
    return None if Path(__file__).parents[1].joinpath(".git").exists() else "a git checkout"


@cache
def namespaces(*kinds):
    if problem := programs("unshare", package="util-linux")():
        return problem
    made = subprocess.run([*unshare(*kinds), "true"], capture_output=True, check=False)
    return f"to be allowed to make namespaces (unshare: {', '.join(kinds)})" if made.returncode else None


# What a plain machine may lack: each marker (pyproject.toml says what for) with what says that it is not here.
NEEDS = {
    "needs_alertmanager": programs("prometheus-alertmanager|alertmanager", "amtool", package="prometheus-alertmanager"),
    "needs_cc": programs("cc", package="gcc libc6-dev"),
    "needs_checkout": a_checkout,
    "needs_chromium": programs("chromium|chromium-browser", package="chromium"),
    "needs_ip": programs("ip", package="iproute2"),
    "needs_namespaces": namespaces,
    "needs_prometheus": programs("prometheus", "promtool", package="prometheus"),
    "needs_promtool": programs("promtool", package="prometheus"),
    "needs_systemd": programs("systemd-analyze", package="systemd"),
    "needs_victoria_metrics": programs("victoria-metrics", package="victoria-metrics"),
    "needs_vllm": a_real_vllm,
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip, before any fixture is made, what needs something that is not here."""
    for marker in item.iter_markers():
        if marker.name.startswith("needs_") and (lacking := NEEDS[marker.name](*marker.args)):
            pytest.skip(f"needs {lacking}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where the variable says that everything is here, as in CI, a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("VLLM_HEADROOM_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr[-1]}"
    return report


def pytest_configure(config):
    """Undo what a shell does to the jobs in its background: they, and all they start, would be deaf to Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory):
    """The stand-in libnvidia-ml.so.1, compiled once a run."""
    return build(tmp_path_factory.getbasetemp() / "nvml")


@pytest.fixture
def nvml(nvml_library, tmp_path, monkeypatch):
    """The real nvidia-ml-py over the stand-in library, and the state that drives it, with no GPU yet."""
    state = State(tmp_path / "nvml.state")
    monkeypatch.setenv("NVML_STANDIN_STATE", str(state.path))
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(nvml_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    yield state
    while True:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            break

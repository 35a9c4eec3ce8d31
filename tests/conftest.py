import ctypes
import os
import signal

import pynvml
import pytest

from tests.nvml_standin.standin import State, build, has_compiler


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory):
    """The stand-in libnvidia-ml.so.1, compiled once a run."""
    if not has_compiler():
        pytest.skip("needs a C compiler: no cc on the PATH")
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


def pytest_configure(config):
    """Undo what a shell does to the jobs in its background: they, and all they start, would be deaf to Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Say once, at the end, what a plain machine leaves out; CI sets the variable under which nothing may be."""
    if not os.environ.get("VLLM_HEADROOM_TEST_VLLM"):
        reason = "needs a real vLLM: VLLM_HEADROOM_TEST_VLLM names its executable (tests/install_vllm.sh gets one)"
        for item in items:
            if item.get_closest_marker("needs_vllm"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and os.environ.get("VLLM_HEADROOM_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr[-1]}"
    return report

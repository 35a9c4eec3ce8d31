import pytest

from tests.nvml_standin.standin import GIB, State, environment


@pytest.fixture
def card(tmp_path, nvml_library):
    """One GPU of 80 GiB, 34 of them used, and the environment that shows it to a command."""
    state = State(tmp_path / "nvml.state")
    gpu = state.add_gpu()
    gpu.set_memory(total=80 * GIB, used=34 * GIB, reserved=GIB // 2)
    return gpu, environment(nvml_library, state)

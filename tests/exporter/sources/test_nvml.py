"""The source over the real nvidia-ml-py, which calls the stand-in library through ctypes."""

import threading
import time
from dataclasses import replace

import pynvml
import pytest

from exporter.errors import RestartNeeded, SourceUnavailable
from exporter.sources.nvml import NvmlSource
from tests.nvml_standin.standin import GIB, Process

pytestmark = pytest.mark.needs_cc


@pytest.fixture
def source(nvml):
    source = NvmlSource(pynvml)
    yield source
    nvml.heal()
    source.close()


def failed(source):
    with pytest.raises(SourceUnavailable) as caught:
        source.read()
    return caught.value.reason


def test_every_figure_of_a_healthy_gpu_is_read(nvml, source):
    card = nvml.add_gpu()
    card.set_memory(total=80 * GIB, used=60 * GIB, reserved=GIB // 2)
    card.set("power", 350_000)
    card.set("temperature", 61)
    card.set("utilization.gpu", 87)
    card.set("clocks.reasons", 0x4 | 0x1)
    card.set("ecc.uncorrected.aggregate", 3)
    card.set("rows.pending", 1)
    (gpu,) = source.read().gpus
    assert (gpu.gpu, gpu.uuid) == ("0", card.uuid)
    assert gpu.memory_total_bytes == 80 * GIB
    assert gpu.memory_used_bytes == 60 * GIB
    assert gpu.memory_reserved_bytes == GIB // 2
    assert gpu.memory_free_bytes == 80 * GIB - 60 * GIB - GIB // 2
    assert (gpu.power_watts, gpu.temperature_celsius, gpu.utilization_ratio) == (350.0, 61, 0.87)
    assert {reason for reason, on in gpu.throttled.items() if on} == {"sw_power_cap"}
    assert (gpu.ecc_uncorrected_errors_total, gpu.row_remap_pending, gpu.row_remap_failed) == (3, 1, 0)
    assert gpu.xid_errors_total == {}
    assert gpu.compute_capability == "9.0"
    assert gpu.driver_version
    assert gpu.cuda_version == "12.8"


@pytest.mark.parametrize(
    ("reason", "bit"),
    [
        ("sw_power_cap", pynvml.nvmlClocksEventReasonSwPowerCap),
        ("hw_slowdown", pynvml.nvmlClocksThrottleReasonHwSlowdown),
        ("sync_boost", pynvml.nvmlClocksEventReasonSyncBoost),
        ("sw_thermal_slowdown", pynvml.nvmlClocksEventReasonSwThermalSlowdown),
        ("hw_thermal_slowdown", pynvml.nvmlClocksThrottleReasonHwThermalSlowdown),
        ("hw_power_brake", pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown),
    ],
)
def test_each_reason_to_throttle_is_the_drivers_own(nvml, source, reason, bit):
    nvml.add_gpu().set("clocks.reasons", bit)
    (gpu,) = source.read().gpus
    assert {each for each, on in gpu.throttled.items() if on} == {reason}


def test_what_a_board_does_not_support_is_absent_and_no_failure(nvml, source):
    card = nvml.add_gpu()
    for name in ("power", "temperature", "ecc.uncorrected.aggregate", "ecc.uncorrected.volatile", "rows.pending"):
        card.set(name, None)
    reading = source.read()
    (gpu,) = reading.gpus
    assert reading.failure is None
    assert (gpu.power_watts, gpu.temperature_celsius) == (None, None)
    assert (gpu.ecc_uncorrected_errors_total, gpu.row_remap_pending) == (None, None)


HARDWARE = {
    "nvmlDeviceGetPowerUsage": {"power_watts"},
    "nvmlDeviceGetTemperature*": {"temperature_celsius"},
    "nvmlDeviceGetUtilizationRates": {"utilization_ratio"},
    "nvmlDeviceGetCurrentClocks*Reasons": {"throttled"},
    "nvmlDeviceGetTotalEccErrors": {"ecc_uncorrected_errors_total"},
    "nvmlDeviceGetRemappedRows": {"row_remap_pending", "row_remap_failed"},
}


@pytest.mark.parametrize("error", ["UNKNOWN", "TIMEOUT", "CORRUPTED_INFOROM"])
@pytest.mark.parametrize("function", HARDWARE)
def test_a_figure_of_the_hardware_that_gives_an_error_is_missing_from_a_gpu_that_is_shown(
    nvml, source, function, error
):
    card = nvml.add_gpu()
    card.set_memory(total=80 * GIB, used=60 * GIB)
    card.set_processes(Process(pid=11, memory=60 * GIB))
    (whole,) = source.read().gpus
    card.fail(function, error)
    for _ in range(2):
        reading = source.read()
        (gpu,) = reading.gpus
        assert gpu == replace(whole, **dict.fromkeys(HARDWARE[function]))
        assert [process.pid for process in reading.processes] == [11]
        assert reading.failure.reason == ("driver_timeout" if error == "TIMEOUT" else "nvml_error")
        assert reading.failure.detail.startswith("GPU 0: ")
    card.heal()
    healed = source.read()
    assert (healed.gpus, healed.failure) == ((whole,), None)


def test_a_figure_that_gives_an_error_does_not_open_the_driver_anew_each_time(nvml, source, tmp_path, monkeypatch):
    nvml.add_gpu().fail("nvmlDeviceGetPowerUsage", "UNKNOWN")
    monkeypatch.setenv("NVML_STANDIN_LOG", str(tmp_path / "calls"))
    for _ in range(5):
        assert source.read().failure.reason == "nvml_error"
    assert (tmp_path / "calls").read_text().count(" nvmlInit") == 1


@pytest.mark.parametrize("error", ["UNKNOWN", "TIMEOUT"])
def test_a_gpu_whose_memory_gives_an_error_is_not_shown(nvml, source, error):
    nvml.add_gpu()
    nvml.add_gpu().fail("nvmlDeviceGetMemoryInfo*", error)
    reading = source.read()
    assert [gpu.gpu for gpu in reading.gpus] == ["0"]
    assert "GPU 1" in str(reading.failure)


@pytest.mark.parametrize(("error", "reason"), [("GPU_IS_LOST", "gpu_lost"), ("RESET_REQUIRED", "gpu_reset_required")])
def test_a_gpu_that_is_lost_between_two_of_its_figures_is_not_shown(nvml, source, error, reason):
    nvml.add_gpu()
    nvml.add_gpu().fail("nvmlDeviceGetPowerUsage", error)
    reading = source.read()
    assert ([gpu.gpu for gpu in reading.gpus], reading.failure.reason) == (["0"], reason)


def test_an_old_driver_without_memory_v2_still_tells_total_used_and_free(nvml, source):
    nvml.add_gpu().set_memory(total=24 * GIB, used=10 * GIB, reserved=0)
    nvml.fail("nvmlDeviceGetMemoryInfo_v2", "FUNCTION_NOT_FOUND")
    (gpu,) = source.read().gpus
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.memory_reserved_bytes) == (24 * GIB, 10 * GIB, None)


def test_processes_come_with_their_memory_and_a_process_that_also_draws_counts_once(nvml, source):
    card = nvml.add_gpu()
    card.set_processes(
        Process(pid=11, memory=20 * GIB),
        Process(pid=11, memory=20 * GIB, kind="graphics"),
        Process(pid=12, memory=None),
        Process(pid=13, memory=GIB, kind="mps"),
    )
    found = {process.pid: process.used_bytes for process in source.read().processes}
    assert found == {11: 20 * GIB, 12: None, 13: GIB}


def test_an_old_driver_without_process_v3_is_asked_for_v2(nvml, source):
    nvml.add_gpu().set_processes(Process(pid=11, memory=GIB))
    nvml.fail("nvmlDeviceGet*RunningProcesses_v3", "FUNCTION_NOT_FOUND")
    assert [process.pid for process in source.read().processes] == [11]


def test_a_machine_without_a_driver_says_so_and_is_asked_again(nvml, source):
    nvml.add_gpu()
    nvml.unload_driver()
    assert failed(source) == "driver_not_loaded"
    nvml.load_driver()
    assert len(source.read().gpus) == 1


def test_a_driver_reload_is_survived(nvml, source):
    nvml.add_gpu()
    source.read()
    nvml.unload_driver()
    assert failed(source) in ("driver_unloaded", "driver_not_loaded")
    nvml.load_driver(version="580.1")
    (gpu,) = source.read().gpus
    assert gpu.driver_version == "580.1"


def test_a_lost_gpu_is_a_failure_beside_which_the_others_are_read(nvml, source):
    nvml.add_gpu()
    lost = nvml.add_gpu()
    source.read()
    lost.fail("*", "GPU_IS_LOST")
    for _ in range(3):  # from the second on the driver is opened anew, with the GPU lost
        reading = source.read()
        assert [gpu.gpu for gpu in reading.gpus] == ["0"]
        assert reading.failure.reason == "gpu_lost"
        assert "GPU 1" in str(reading.failure)


def test_a_gpu_that_is_lost_when_the_driver_is_first_opened_hides_no_other(nvml, source):
    nvml.add_gpu().fail("*", "GPU_IS_LOST")
    nvml.add_gpu()
    reading = source.read()
    assert ([gpu.gpu for gpu in reading.gpus], reading.failure.reason) == (["1"], "gpu_lost")


def test_the_only_gpu_lost_is_a_failure_for_as_long_as_it_is(nvml, source):
    card = nvml.add_gpu()
    card.fail("*", "GPU_IS_LOST")
    assert [failed(source), failed(source)] == ["gpu_lost", "gpu_lost"]
    card.heal()
    assert len(source.read().gpus) == 1


def test_a_gpu_that_comes_back_is_read_again(nvml, source):
    nvml.add_gpu()
    lost = nvml.add_gpu()
    source.read()
    lost.fail("nvmlDeviceGetMemoryInfo*", "GPU_IS_LOST")
    assert source.read().failure is not None
    lost.heal()
    reading = source.read()
    assert (len(reading.gpus), reading.failure) == (2, None)


def test_a_gpu_that_the_driver_no_longer_lists_is_missed_by_name(nvml, source):
    nvml.add_gpu()
    nvml.add_gpu()
    source.read()
    nvml.remove_gpu(1)
    assert source.read().failure.reason == "gpu_lost"
    reading = source.read()
    assert reading.failure.reason == "gpu_missing"
    assert "GPU 1" in str(reading.failure)


def test_no_gpu_where_there_were_some_is_a_failure(nvml, source):
    nvml.add_gpu()
    source.read()
    nvml.remove_gpu(0)
    assert failed(source) == "gpu_lost"
    assert failed(source) == "no_gpu"


def test_no_gpu_from_the_start_is_a_normal_state(nvml, source):
    reading = source.read()
    assert (reading.gpus, reading.failure) == ((), None)


def test_identity_is_the_uuid_so_a_reordered_gpu_keeps_its_history(nvml, source):
    first = nvml.add_gpu(number=0)
    second = nvml.add_gpu(number=1)
    assert [gpu.uuid for gpu in source.read().gpus] == [first.uuid, second.uuid]


def test_each_xid_is_counted_once_over_many_reads(nvml, source):
    card = nvml.add_gpu()
    source.read()
    card.add_xid(79)
    card.add_xid(48)
    card.add_xid(79)
    for _ in range(3):
        (gpu,) = source.read().gpus
    assert gpu.xid_errors_total == {79: 2, 48: 1}


def test_xid_counts_outlive_a_driver_reload(nvml, source):
    card = nvml.add_gpu()
    source.read()
    card.add_xid(63)
    source.read()
    nvml.unload_driver()
    failed(source)
    nvml.load_driver()
    assert source.read().gpus[0].xid_errors_total == {63: 1}


def test_without_event_support_there_is_no_xid_series(nvml, source):
    nvml.add_gpu()
    nvml.fail("nvmlEventSetCreate", "NOT_SUPPORTED")
    assert source.read().gpus[0].xid_errors_total is None


def test_a_gpu_split_by_mig_shows_hardware_itself_and_memory_on_its_instances(nvml, source):
    card = nvml.add_gpu()
    first = card.add_mig(0, memory=10 * GIB)
    second = card.add_mig(2, memory=20 * GIB, profile="2g.20gb")
    first.set_memory(used=4 * GIB)
    second.set_processes(Process(pid=77, memory=GIB))
    reading = source.read()
    by_name = {gpu.gpu: gpu for gpu in reading.gpus}
    assert list(by_name) == ["0", "0:0", "0:2"]
    assert by_name["0"].mig == "parent"
    assert by_name["0"].memory_total_bytes is None
    assert by_name["0"].power_watts is not None
    assert by_name["0:0"].memory_used_bytes == 4 * GIB
    assert by_name["0:0"].power_watts is None
    assert by_name["0:2"].mig == "2g.20gb"
    assert [(process.uuid, process.pid) for process in reading.processes] == [(second.uuid, 77)]


def test_destroyed_and_new_mig_instances_are_noticed(nvml, source):
    card = nvml.add_gpu()
    card.add_mig(0, memory=10 * GIB)
    source.read()
    card.remove_mig(0)
    fresh = card.add_mig(1, memory=20 * GIB)
    source.read()
    assert fresh.uuid in {gpu.uuid for gpu in source.read().gpus}


def test_a_hung_call_hangs_only_its_own_reader(nvml, source):
    nvml.add_gpu()
    nvml.delay("nvmlDeviceGetPowerUsage", None)
    reader = threading.Thread(target=source.read, daemon=True)
    reader.start()
    time.sleep(0.2)
    assert reader.is_alive()
    nvml.heal()
    reader.join(5)
    assert not reader.is_alive()


@pytest.mark.parametrize("error", ["UNKNOWN", "TIMEOUT", "NO_PERMISSION", "LIB_RM_VERSION_MISMATCH"])
def test_any_error_of_initialisation_is_a_named_failure(nvml, source, error):
    nvml.add_gpu()
    nvml.fail("nvmlInit*", error)
    assert failed(source) in ("nvml_error", "driver_timeout", "no_permission", "driver_library_mismatch")
    nvml.heal()
    assert len(source.read().gpus) == 1


def test_reading_again_and_again_opens_the_driver_once(nvml, source, tmp_path, monkeypatch):
    nvml.add_gpu()
    monkeypatch.setenv("NVML_STANDIN_LOG", str(tmp_path / "calls"))
    for _ in range(5):
        source.read()
    calls = (tmp_path / "calls").read_text()
    assert calls.count(" nvmlInit") == 1


def test_a_library_that_was_replaced_on_disk_needs_a_fresh_process(nvml, tmp_path):
    nvml.add_gpu()
    nvml.fail("nvmlInit*", "LIB_RM_VERSION_MISMATCH")
    memory_map = tmp_path / "maps"
    for mapped, expected in (
        ("7f00-7f01 r-xp 0 fe:00 1 /usr/lib/libnvidia-ml.so.550.54.15\n", SourceUnavailable),
        ("7f00-7f01 r-xp 0 fe:00 1 /usr/lib/libnvidia-ml.so.550.54.15 (deleted)\n", RestartNeeded),
    ):
        memory_map.write_text(mapped)
        with pytest.raises(SourceUnavailable) as caught:
            NvmlSource(pynvml, memory_map=memory_map).read()
        assert type(caught.value) is expected

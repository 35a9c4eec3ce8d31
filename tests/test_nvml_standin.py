"""The stand-in NVML library, seen by nvidia-ml-py as an exporter sees it: through ctypes, in a process of its own."""

import json
import select
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from tests.nvml_standin.standin import GIB, MIB, BuildError, Process, State, build, environment

needs_cc = pytest.mark.needs_cc

# Runs what it reads, one JSON string a line, and answers each with one line: the value of an expression, or the error.
_CALLER = """
import ctypes, json, sys, threading, time
import pynvml
from pynvml import *

def plain(value):
    if hasattr(value, "_fields_"):
        return {field[0]: getattr(value, field[0]) for field in value._fields_}
    return list(value) if isinstance(value, ctypes.Array) else vars(value)

def timed(call, *arguments):
    start = time.monotonic()
    try:
        return call(*arguments), time.monotonic() - start
    except NVMLError as error:
        return type(error).__name__.removeprefix("NVMLError_"), time.monotonic() - start

scope = dict(globals())
for line in sys.stdin:
    code, value = json.loads(line), None
    try:
        try:
            compiled = compile(code, "asked", "eval")
        except SyntaxError:
            exec(code, scope)
        else:
            value = eval(compiled, scope)
        answer = {"value": value}
    except NVMLError as error:
        answer = {"value": type(error).__name__.removeprefix("NVMLError_")}
    print(json.dumps(answer, default=plain), flush=True)
"""


class Caller:
    """A process that uses the library."""

    def __init__(self, variables, stderr):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CALLER],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def __call__(self, code: str) -> Any:
        """Return an expression's value, or the end of the NVMLError's name; statements return None."""
        self.process.stdin.write(json.dumps(textwrap.dedent(code)) + "\n")
        self.process.stdin.flush()
        readable, _, _ = select.select([self.process.stdout], [], [], 10)
        assert readable, f"no answer within 10 s to {code}"
        line = self.process.stdout.readline()
        return json.loads(line)["value"] if line else None

    def close(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def state(tmp_path):
    return State(tmp_path / "state")


@pytest.fixture
def stderr(tmp_path):
    return tmp_path / "stderr"


@pytest.fixture
def start(nvml_library, state, tmp_path, stderr):
    """Start a process that uses the library, by default with nvmlInit called."""
    callers = []

    def starter(*, initialized=True):
        with stderr.open("a") as errors:
            callers.append(Caller(environment(nvml_library, state, log=tmp_path / "log"), errors))
        if initialized:
            assert callers[-1]("nvmlInit()") is None
        return callers[-1]

    yield starter
    for caller in callers:
        caller.close()


@pytest.fixture
def gpu(state):
    return state.add_gpu({"memory.total": 80 * GIB, "memory.reserved": GIB})


@pytest.fixture
def ask(start, gpu):
    """A process that has the handle of the one GPU as ``gpu``."""
    caller = start()
    caller("gpu = nvmlDeviceGetHandleByIndex(0)")
    return caller


def test_a_machine_without_a_compiler_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="no 'cc' on the PATH"):
        build(tmp_path)


@needs_cc
def test_the_library_is_built_once_for_the_same_sources(nvml_library):
    built = nvml_library.stat().st_mtime_ns
    assert build(nvml_library.parent.parent) == nvml_library
    assert nvml_library.stat().st_mtime_ns == built


@needs_cc
def test_every_function_that_nvidia_ml_py_looks_up_by_name_is_found(ask):
    ask("""
        import inspect, re
        asked_for = re.findall(r'_nvmlGetFunctionPointer\\("(\\w+)"\\)', inspect.getsource(pynvml))
        missing = [name for name in asked_for if not hasattr(pynvml.nvmlLib, name)]
    """)
    assert ask("len(asked_for)") > 300
    assert ask("missing") == []


@needs_cc
def test_settings_are_what_nvml_says(ask, state, gpu):
    with state.together():
        gpu.set_memory(used=30 * GIB)
        for name, value in {"utilization.gpu": 97, "utilization.memory": 41, "power": 512_345}.items():
            gpu.set(name, value)
        gpu.set("clocks.reasons", 0x24)
        gpu.set("ecc.uncorrected.aggregate", 3)
        gpu.set("rows.pending", 1)
        gpu.set("retired.double_bit", "0x1000@1700000000 0x2000")
        gpu.set("field.138.2", 123_456_789_012)
        gpu.set("field.203", 1.5)
    assert ask("nvmlSystemGetDriverVersion()") == "570.86.15"
    assert ask("nvmlSystemGetNVMLVersion()") == "12.570.86.15"
    assert ask("nvmlSystemGetCudaDriverVersion()") == 12080
    assert ask("nvmlDeviceGetCount()") == 1
    assert ask("nvmlDeviceGetName(gpu)") == "NVIDIA H100 80GB HBM3"
    assert ask("nvmlDeviceGetUUID(gpu)") == gpu.uuid
    assert ask("nvmlDeviceGetPciInfo(gpu)")["busId"] == "00000000:01:00.0"
    assert ask("nvmlDeviceGetCudaComputeCapability(gpu)") == [9, 0]
    assert ask("nvmlDeviceGetUtilizationRates(gpu)") == {"gpu": 97, "memory": 41}
    assert ask("nvmlDeviceGetPowerUsage(gpu)") == 512_345
    assert ask("nvmlDeviceGetTemperature(gpu, NVML_TEMPERATURE_GPU)") == 31
    assert ask("nvmlDeviceGetTemperatureV(gpu, NVML_TEMPERATURE_GPU)") == 31
    assert ask("nvmlDeviceGetClockInfo(gpu, NVML_CLOCK_MEM)") == 2619
    assert ask("nvmlDeviceGetCurrentClocksThrottleReasons(gpu)") == 0x24
    assert ask("nvmlDeviceGetCurrentClocksEventReasons(gpu)") == 0x24
    assert ask("nvmlDeviceGetTotalEccErrors(gpu, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_AGGREGATE_ECC)") == 3
    assert ask("nvmlDeviceGetEccMode(gpu)") == [1, 1]
    assert ask("nvmlDeviceGetRemappedRows(gpu)") == [0, 0, 1, 0]
    assert ask("nvmlDeviceGetRetiredPages(gpu, 1)") == [0x1000, 0x2000]
    assert ask("nvmlDeviceGetRetiredPages_v2(gpu, 1)")[0] == {"address": 0x1000, "timestamp": 1_700_000_000}
    assert ask("nvmlDeviceGetFieldValues(gpu, [(138, 2)])[0].value.ullVal") == 123_456_789_012
    assert ask("nvmlDeviceGetFieldValues(gpu, [203])[0].value.dVal") == 1.5
    assert ask("nvmlDeviceGetFieldValues(gpu, [7])[0].nvmlReturn") == ask("NVML_ERROR_NOT_SUPPORTED")


@needs_cc
def test_only_the_first_version_of_memory_counts_what_is_reserved_as_used(ask, gpu):
    gpu.set_memory(used=30 * GIB)
    second = ask("nvmlDeviceGetMemoryInfo(gpu, nvmlMemory_v2)")
    first = ask("nvmlDeviceGetMemoryInfo(gpu)")
    assert [second[name] // GIB for name in ("total", "used", "reserved", "free")] == [80, 30, 1, 49]
    assert [first[name] // GIB for name in ("total", "used", "free")] == [80, 31, 49]
    assert ask("nvmlDeviceGetMemoryInfo(gpu, 0x03000028)") == "ArgumentVersionMismatch"


@needs_cc
def test_a_change_shows_in_the_next_call(ask, gpu):
    for celsius in (40, 75, 40):
        gpu.set("temperature", celsius)
        assert ask("nvmlDeviceGetTemperature(gpu, 0)") == celsius


@needs_cc
def test_what_is_not_available_is_not_supported(ask, gpu):
    gpu.set("power", None)
    assert ask("nvmlDeviceGetPowerUsage(gpu)") == "NotSupported"
    assert ask("nvmlDeviceGetFanSpeed(gpu)") == "NotSupported"
    assert ask("nvmlDeviceGetAccountingMode(gpu)") == "NotSupported"
    gpu.set("processes", None)
    assert ask("nvmlDeviceGetComputeRunningProcesses(gpu)") == "NotSupported"


@needs_cc
def test_a_gpu_is_found_by_uuid_serial_and_pci_address(ask, gpu, state):
    state.add_gpu({"serial": "77"})
    ask("nvmlShutdown(); nvmlInit()")
    assert ask(f"nvmlDeviceGetIndex(nvmlDeviceGetHandleByUUID('{gpu.uuid}'))") == 0
    assert ask("nvmlDeviceGetIndex(nvmlDeviceGetHandleBySerial('77'))") == 1
    assert ask("nvmlDeviceGetIndex(nvmlDeviceGetHandleByPciBusId('0000:02:00.0'))") == 1
    assert ask("nvmlDeviceGetHandleByUUID('GPU-none')") == "NotFound"
    assert ask("nvmlDeviceGetHandleByIndex(2)") == "InvalidArgument"


@needs_cc
def test_processes_are_listed_by_kind_with_memory_where_it_is_known(ask, gpu):
    gpu.set_processes(
        Process(pid=11, memory=20 * GIB, utilization=(90, 30, 0, 0)),
        Process(pid=12, memory=None),
        Process(pid=13, memory=5 * MIB, kind="graphics"),
        Process(pid=14, memory=6 * MIB, kind="mps"),
    )
    for version in ("", "_v2", "_v3"):
        listed = ask(f"nvmlDeviceGetComputeRunningProcesses{version}(gpu)")
        assert [(one["pid"], one["usedGpuMemory"]) for one in listed] == [(11, 20 * GIB), (12, None)]
        assert listed[0]["gpuInstanceId"] == 0xFFFFFFFF
    assert [one["pid"] for one in ask("nvmlDeviceGetGraphicsRunningProcesses(gpu)")] == [13]
    assert [one["pid"] for one in ask("nvmlDeviceGetMPSComputeRunningProcesses(gpu)")] == [14]
    assert [(one["pid"], one["smUtil"]) for one in ask("nvmlDeviceGetProcessUtilization(gpu, 0)")] == [(11, 90)]
    gpu.set_processes()
    assert ask("nvmlDeviceGetComputeRunningProcesses(gpu)") == []


@needs_cc
def test_a_process_list_that_outgrows_the_room_made_for_it_says_how_much_it_needs(ask, gpu):
    gpu.set_processes(Process(pid=1, memory=MIB), Process(pid=2, memory=MIB))
    ask("""
        count = c_uint(0)
        function = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetComputeRunningProcesses_v3")
        def call(room):
            count.value = room
            array = (c_nvmlProcessInfo_v3_t * room)() if room else None
            return [function(gpu, byref(count), array), count.value, [one.pid for one in array or ()]]
    """)
    too_small = ask("NVML_ERROR_INSUFFICIENT_SIZE")
    assert ask("call(0)") == [too_small, 2, []]
    gpu.set_processes(*(Process(pid=pid, memory=MIB) for pid in range(1, 31)))
    assert ask("call(2 * 2 + 5)") == [too_small, 30, [0] * 9]
    assert ask("call(30)") == [0, 30, list(range(1, 31))]
    assert len(ask("nvmlDeviceGetComputeRunningProcesses(gpu)")) == 30


@needs_cc
def test_a_lost_gpu_fails_only_its_own_calls(start, state, gpu):
    lost = state.add_gpu()
    ask = start()
    ask("gpus = [nvmlDeviceGetHandleByIndex(index) for index in range(2)]")
    lost.fail("*", "GPU_IS_LOST")
    assert ask("nvmlDeviceGetName(gpus[1])") == "GpuIsLost"
    assert ask("nvmlDeviceGetHandleByIndex(1)") == "GpuIsLost"
    assert ask("nvmlDeviceGetAccountingMode(gpus[1])") == "GpuIsLost"
    assert ask("nvmlDeviceGetName(gpus[0])").startswith("NVIDIA")
    assert ask("nvmlDeviceGetCount()") == 2
    lost.heal()
    assert ask("nvmlDeviceGetName(gpus[1])").startswith("NVIDIA")


@needs_cc
def test_a_gpu_taken_out_is_lost_until_the_list_is_made_again(start, state, gpu):
    state.add_gpu()
    ask = start()
    ask("gpus = [nvmlDeviceGetHandleByIndex(index) for index in range(2)]")
    state.remove_gpu(0)
    assert ask("nvmlDeviceGetPowerUsage(gpus[0])") == "GpuIsLost"
    assert ask("nvmlDeviceGetCount()") == 2
    ask("nvmlShutdown(); nvmlInit()")
    assert ask("nvmlDeviceGetCount()") == 1
    assert ask("nvmlDeviceGetMinorNumber(nvmlDeviceGetHandleByIndex(0))") == 1


@needs_cc
def test_a_later_rule_is_an_exception_to_an_earlier_one(ask, gpu):
    gpu.fail("nvmlDeviceGet*", "UNKNOWN")
    gpu.fail("nvmlDeviceGetPowerUsage", "SUCCESS")
    assert ask("nvmlDeviceGetTemperature(gpu, 0)") == "Unknown"
    assert ask("nvmlDeviceGetPowerUsage(gpu)") == 71_000
    gpu.heal("nvmlDeviceGet*")
    assert ask("nvmlDeviceGetTemperature(gpu, 0)") == 31


@needs_cc
def test_initialisation_fails_until_it_is_healed(start, state, gpu):
    ask = start(initialized=False)
    state.fail("nvmlInit*", "LIB_RM_VERSION_MISMATCH")
    assert ask("nvmlInit()") == "LibRmVersionMismatch"
    state.heal()
    assert ask("nvmlInit()") is None
    assert ask("nvmlDeviceGetCount()") == 1


@needs_cc
def test_initialisations_are_counted(start, gpu):
    ask = start()
    ask("nvmlInit(); nvmlShutdown()")
    assert ask("nvmlDeviceGetCount()") == 1
    ask("nvmlShutdown()")
    assert ask("nvmlDeviceGetCount()") == "Uninitialized"
    assert ask("nvmlShutdown()") == "Uninitialized"


@needs_cc
def test_an_unloaded_driver_needs_another_initialisation(ask, state):
    state.unload_driver()
    assert ask("nvmlDeviceGetName(gpu)") == "DriverNotLoaded"
    assert ask("nvmlInit()") == "DriverNotLoaded"
    state.load_driver(version="580.1")
    assert ask("nvmlDeviceGetName(gpu)") == "Uninitialized"
    ask("nvmlInit()")
    assert ask("nvmlSystemGetDriverVersion()") == "580.1"


@needs_cc
def test_a_driver_reloaded_between_two_calls_needs_another_initialisation(ask, state):
    state.load_driver()
    assert ask("nvmlDeviceGetName(gpu)") == "Uninitialized"


@needs_cc
@pytest.mark.parametrize("locked", [False, True])
def test_a_hung_call_holds_up_the_others_only_where_the_driver_is_locked(ask, gpu, locked):
    ask("""
        def in_thread(call, *arguments):
            thread = threading.Thread(target=call, args=arguments, daemon=True)
            thread.start()
            thread.join(0.2)
            return thread
    """)
    gpu.delay("nvmlDeviceGetTemperature", None, locked=locked)
    ask("hung = in_thread(nvmlDeviceGetTemperature, gpu, 0)")
    ask("other = in_thread(nvmlDeviceGetPowerUsage, gpu)")
    assert ask("[hung.is_alive(), other.is_alive()]") == [True, locked]
    gpu.heal()
    assert ask("[(thread.join(5), thread.is_alive()) for thread in (hung, other)]") == [[None, False]] * 2


@needs_cc
def test_a_delayed_call_answers_after_its_delay(ask, gpu):
    gpu.delay("nvmlDeviceGetPower*", 150)
    milliwatts, seconds = ask("timed(nvmlDeviceGetPowerUsage, gpu)")
    assert milliwatts == 71_000 and 0.15 <= seconds < 1


@needs_cc
def test_each_event_set_is_given_each_event_once(ask, gpu):
    gpu.add_xid(13)  # before the registration: never delivered
    ask("""
        sets = [nvmlEventSetCreate(), nvmlEventSetCreate()]
        for each in sets:
            nvmlDeviceRegisterEvents(gpu, nvmlEventTypeXidCriticalError, each)
    """)
    gpu.add_xid(79)
    gpu.add_event(0x1, 0)  # a type that nobody registered
    gpu.add_xid(48)
    for each in (0, 1):
        events = [ask(f"nvmlEventSetWait(sets[{each}], 1000)") for _ in range(2)]
        assert [(event["eventType"], event["eventData"]) for event in events] == [(8, 79), (8, 48)]
        assert ask(f"nvmlEventSetWait(sets[{each}], 0)") == "Timeout"
    ask("nvmlEventSetFree(sets[0])")
    assert ask("nvmlEventSetWait(sets[0], 0)") == "InvalidArgument"


@needs_cc
def test_a_wait_for_events_lasts_until_one_comes_or_the_time_is_over(ask, gpu):
    ask("""
        each = nvmlEventSetCreate()
        nvmlDeviceRegisterEvents(gpu, nvmlEventTypeXidCriticalError, each)
        def wait_for_gpu():
            event = nvmlEventSetWait(each, 10_000)
            return nvmlDeviceGetUUID(event.device), event.eventData
        came = []
    """)
    outcome, seconds = ask("timed(nvmlEventSetWait, each, 120)")
    assert outcome == "Timeout" and 0.12 <= seconds < 1
    ask("thread = threading.Thread(target=lambda: came.append(wait_for_gpu()), daemon=True); thread.start()")
    gpu.add_xid(94)
    assert ask("thread.join(5) or came") == [[gpu.uuid, 94]]


@needs_cc
def test_mig_instances_have_their_own_identity_memory_and_processes(ask, gpu):
    gpu.set_processes(Process(pid=1, memory=MIB))
    first, third = gpu.add_mig(0, memory=10 * GIB), gpu.add_mig(2, memory=20 * GIB, profile="2g.20gb", slices=2)
    third.set_memory(used=7 * GIB)
    third.set_processes(Process(pid=33, memory=7 * GIB))
    ask("mig = nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)")
    assert ask("nvmlDeviceGetMigMode(gpu)") == [1, 1]
    assert ask("nvmlDeviceGetMaxMigDeviceCount(gpu)") == 7
    assert ask("nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1)") == "NotFound"
    assert ask("nvmlDeviceGetName(mig)") == "NVIDIA H100 80GB HBM3 MIG 2g.20gb"
    assert ask("nvmlDeviceGetMemoryInfo(mig)") == {"total": 20 * GIB, "free": 13 * GIB, "used": 7 * GIB}
    assert ask("[nvmlDeviceGetGpuInstanceId(mig), nvmlDeviceGetComputeInstanceId(mig)]") == [9, 0]
    assert ask("nvmlDeviceGetAttributes(mig)")["gpuInstanceSliceCount"] == 2
    assert ask("nvmlDeviceIsMigDeviceHandle(mig).value") == 1
    assert ask("nvmlDeviceGetUUID(nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig))") == gpu.uuid
    assert ask(f"nvmlDeviceGetUUID(nvmlDeviceGetHandleByUUID('{first.uuid}'))") == first.uuid
    assert [one["pid"] for one in ask("nvmlDeviceGetComputeRunningProcesses(mig)")] == [33]
    listed = ask("nvmlDeviceGetComputeRunningProcesses(gpu)")
    assert [(one["pid"], one["gpuInstanceId"]) for one in listed] == [(1, 0xFFFFFFFF), (33, 9)]
    gpu.remove_mig(2)
    assert ask("nvmlDeviceGetMemoryInfo(mig)") == "InvalidArgument"


@needs_cc
@pytest.mark.parametrize(("segfault", "expected"), [(False, signal.SIGABRT), (True, signal.SIGSEGV)])
def test_a_crash_takes_down_only_the_process_that_called(start, gpu, segfault, expected):
    victim, bystander = start(), start()
    gpu.crash("nvmlDeviceGetName", segfault=segfault)
    victim("nvmlDeviceGetName(nvmlDeviceGetHandleByIndex(0))")
    assert victim.process.wait(10) == -expected
    gpu.heal()
    assert bystander("nvmlDeviceGetName(nvmlDeviceGetHandleByIndex(0))").startswith("NVIDIA")


@needs_cc
def test_a_line_that_makes_no_sense_is_skipped_with_one_word(start, state, gpu, stderr):
    state.extra_lines += [
        "gpu 0 powr = 5",
        "gpu 0 power = much",
        "gpu 0 power = -1",
        "gpu 99 power = 5",
        "fail nvmlInit* NO_SUCH_ERROR",
        "gpu 0 process compute many 5",
        "gpu 0 event 1 xid",
        "nonsense",
    ]
    gpu.set("temperature", 55)
    ask = start()
    assert ask("nvmlDeviceGetTemperature(nvmlDeviceGetHandleByIndex(0), 0)") == 55
    assert ask("nvmlDeviceGetPowerUsage(nvmlDeviceGetHandleByIndex(0))") == 71_000
    words = stderr.read_text().splitlines()
    assert len(words) == len(state.extra_lines)
    assert all("ignored" in word and str(state.path) in word for word in words)


@needs_cc
def test_without_a_state_file_the_driver_is_not_loaded(start, state, gpu):
    state.path.unlink()
    ask = start(initialized=False)
    assert ask("nvmlInit()") == "DriverNotLoaded"
    gpu.set("power", 1)  # writes the file
    assert ask("nvmlInit()") is None


@needs_cc
def test_the_log_has_a_line_for_each_call(ask, gpu, tmp_path):
    gpu.fail("nvmlDeviceGetPowerUsage", "NO_PERMISSION")
    ask("nvmlDeviceGetPowerUsage(gpu)")
    calls = [line.split()[2:] for line in (tmp_path / "log").read_text().splitlines()]
    assert calls == [
        ["nvmlInitWithFlags", "-", "SUCCESS"],
        ["nvmlDeviceGetHandleByIndex_v2", "0", "SUCCESS"],
        ["nvmlDeviceGetPowerUsage", "0", "NO_PERMISSION"],
    ]


@needs_cc
def test_threads_that_call_while_the_state_is_replaced_see_no_mixture(ask, state, gpu):
    """Every state has used == reserved == total / 100 and as many processes as its remainder says."""
    gpu.set_memory(total=100 * MIB, used=MIB, reserved=MIB)
    ask("""
        calls, wrong, stop = [0] * 8, [], threading.Event()
        def hammer(number):
            while not stop.is_set():
                try:
                    memory = nvmlDeviceGetMemoryInfo(gpu, nvmlMemory_v2)
                    listed = nvmlDeviceGetComputeRunningProcesses(gpu)
                except Exception as error:
                    wrong.append(repr(error))
                    return
                if not memory.total == 100 * memory.used == 100 * memory.reserved == memory.free * 100 // 98:
                    wrong.append(str(memory))
                if len({one.usedGpuMemory for one in listed}) > 1 or len(listed) > 5:
                    wrong.append(str([vars(one) for one in listed]))
                calls[number] += 1
        threads = [threading.Thread(target=hammer, args=(number,), daemon=True) for number in range(8)]
        for thread in threads:
            thread.start()
    """)
    for step in range(1, 301):
        with state.together():
            gpu.set_memory(total=100 * step * MIB, used=step * MIB, reserved=step * MIB)
            gpu.set_processes(*(Process(pid=pid, memory=step * MIB) for pid in range(1, 1 + step % 6)))
        time.sleep(0.002)
    assert ask("nvmlDeviceGetMemoryInfo(gpu, nvmlMemory_v2).used") == 300 * MIB
    ask("stop.set(); [thread.join(5) for thread in threads]")
    assert ask("wrong") == []
    assert all(count > 50 for count in ask("calls"))

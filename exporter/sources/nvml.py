"""GPUs and their processes, through nvidia-ml-py.

The library is an argument, so a demo or a test can stand in for it. "Not supported" is absence of one figure; a lost
GPU, a missing driver or a vanished device is a failure of the source, beside which the healthy GPUs are still read. So
is an error of one figure of the hardware, such as power: the GPU is shown without it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advisor.readings import Gpu, GpuProcess
from exporter.errors import RestartNeeded, SourceError, SourceUnavailable

# Reasons that hold clocks down; an idle GPU and a user's own clock settings are no throttling.
_THROTTLE_REASONS: Mapping[str, int] = {
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake": 0x80,
}
_EVENT_XID = 0x8
_MOST_EVENTS_A_READ = 1_000  # a board in an error storm must not keep the reader here for ever
_OF_ONE_FIGURE = ("nvml_error", "driver_timeout")
"""Reasons that, told of one figure, say nothing of the rest: a board whose power sensor fails computes all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuReadings:
    """One reading of all GPUs."""

    gpus: tuple[Gpu, ...]
    processes: tuple[GpuProcess, ...]
    failure: SourceError | None
    """What failed beside what is listed; None when every GPU answered in full."""


@dataclass(kw_only=True, slots=True)
class _Device:
    """A GPU or MIG instance as opened; what cannot change while the driver is loaded is read once."""

    handle: Any
    gpu: str
    uuid: str
    name: str | None
    compute_capability: str | None
    mig: str | None = None
    memory_is_elsewhere: bool = False
    """True for a GPU split by MIG: its instances show the memory."""
    hardware_is_elsewhere: bool = False
    """True for a MIG instance: its GPU shows power, temperature and errors."""
    unread: SourceError | None = None
    """Why the latest reading lacks a figure of its hardware; None when it lacks none that the board has."""


@dataclass(kw_only=True, slots=True)
class _Session:
    """What is valid between nvmlInit and nvmlShutdown."""

    devices: list[_Device] = field(default_factory=list)
    events: Any = None
    driver_version: str | None = None
    cuda_version: str | None = None
    failure: SourceError | None = None
    """Why a GPU could not be opened; None when all were."""


class NvmlSource:
    """Reads every GPU that NVML lists, keyed by UUID."""

    name = "nvml"

    def __init__(self, nvml: Any, *, memory_map: Path = Path("/proc/self/maps")) -> None:
        """Take the library to read through, the ``pynvml`` module or a stand-in, and where loaded libraries stand."""
        self._nvml = nvml
        self._memory_map = memory_map
        self._session: _Session | None = None
        self._known_gpus: dict[str, str] = {}
        self._xids: dict[str, Counter[int]] = {}

    def read(self) -> GpuReadings:
        """Read all GPUs once, opening the driver first where that is needed.

        Raises:
            SourceUnavailable: No driver, no library, no GPU where there were some, or none of them answers.
        """
        session = self._open()
        gpus: list[Gpu] = []
        processes: list[GpuProcess] = []
        failure, unread = session.failure, None
        self._drain_events(session)
        for device in session.devices:
            try:
                gpus.append(self._read_gpu(session, device))
                processes.extend(self._read_processes(device))
            except self._nvml.NVMLError as error:
                failure = self._translate(error, f"GPU {device.gpu}")
            unread = unread or device.unread
        missing = self._known_gpus.keys() - {device.uuid for device in session.devices}
        if missing and failure is None:
            names = ", ".join(sorted(self._known_gpus[uuid] for uuid in missing))
            failure = SourceUnavailable("gpu_missing", f"{names} no longer listed by the driver")
        if failure:
            self._close()  # a lost GPU, a reloaded driver and a GPU that came back all need a fresh nvmlInit
        if failure and not gpus:
            raise failure
        return GpuReadings(gpus=tuple(gpus), processes=tuple(processes), failure=failure or unread)

    def close(self) -> None:
        """Let go of the driver."""
        self._close()

    def _open(self) -> _Session:
        if self._session is not None:
            return self._session
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise self._translate(error) from error
        session = _Session()
        self._session = session
        try:
            session.driver_version = self._text(nvml.nvmlSystemGetDriverVersion)
            cuda = self._optional(nvml.nvmlSystemGetCudaDriverVersion)
            session.cuda_version = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self._close()
            raise self._translate(error) from error
        for index in range(count):
            try:
                session.devices.extend(self._open_gpu(index))
            except nvml.NVMLError as error:  # a lost GPU fails already here once the driver is opened anew
                session.failure = self._translate(error, f"GPU {index}")
        if not session.devices and self._known_gpus and not session.failure:
            self._close()
            raise SourceUnavailable("no_gpu", f"the driver lists no GPU; there were {len(self._known_gpus)}")
        self._known_gpus |= {each.uuid: f"GPU {each.gpu}" for each in session.devices if ":" not in each.gpu}
        self._register_events(session)
        return session

    def _open_gpu(self, index: int) -> list[_Device]:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        capability = self._optional(nvml.nvmlDeviceGetCudaComputeCapability, handle)
        gpu = _Device(
            handle=handle,
            gpu=str(index),
            uuid=_decoded(nvml.nvmlDeviceGetUUID(handle)),
            name=self._text(nvml.nvmlDeviceGetName, handle),
            compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        )
        mode = self._optional(nvml.nvmlDeviceGetMigMode, handle)
        if not mode or not mode[0]:
            return [gpu]
        gpu.mig = "parent"
        gpu.memory_is_elsewhere = True
        return [gpu, *self._open_mig_instances(gpu)]

    def _open_mig_instances(self, gpu: _Device) -> list[_Device]:
        nvml = self._nvml
        instances = []
        for position in range(self._optional(nvml.nvmlDeviceGetMaxMigDeviceCount, gpu.handle) or 0):
            try:
                handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, position)
            except (nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
                continue  # a gap: instances keep their position when an earlier one is destroyed
            name = self._text(nvml.nvmlDeviceGetName, handle)
            instances.append(
                _Device(
                    handle=handle,
                    gpu=f"{gpu.gpu}:{position}",
                    uuid=_decoded(nvml.nvmlDeviceGetUUID(handle)),
                    name=name or gpu.name,
                    compute_capability=gpu.compute_capability,
                    mig=name.rpartition("MIG ")[2] if name and "MIG " in name else "instance",
                    hardware_is_elsewhere=True,
                )
            )
        return instances

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        self._free_events(session)
        with suppress(self._nvml.NVMLError):  # after a lost GPU or a reload there is nothing left to undo
            self._nvml.nvmlShutdown()

    def _read_gpu(self, session: _Session, device: _Device) -> Gpu:
        memory = None if device.memory_is_elsewhere else self._memory(device.handle)
        facts: dict[str, Any] = {}
        if memory is not None:
            facts["memory_total_bytes"] = memory.total
            facts["memory_used_bytes"] = memory.used
            facts["memory_free_bytes"] = memory.free
            facts["memory_reserved_bytes"] = getattr(memory, "reserved", None)
        if not device.hardware_is_elsewhere:
            device.unread = None
            for name, read in (
                ("utilization_ratio", self._utilization),
                ("power_watts", self._power),
                ("temperature_celsius", self._temperature),
                ("throttled", self._throttled),
                ("ecc_uncorrected_errors_total", self._uncorrected_ecc),
            ):
                facts[name] = self._figure(device, name, read)
            remapped = self._figure(device, "row_remap", self._remapped_rows)
            facts["row_remap_pending"], facts["row_remap_failed"] = remapped or (None, None)
            if session.events is not None:
                facts["xid_errors_total"] = dict(self._xids.get(device.uuid, {}))
        return Gpu(
            gpu=device.gpu,
            uuid=device.uuid,
            name=device.name,
            driver_version=session.driver_version,
            cuda_version=session.cuda_version,
            compute_capability=device.compute_capability,
            mig=device.mig,
            **facts,
        )

    def _memory(self, handle: Any) -> Any:
        """Memory v2 tells used and reserved apart; drivers before 510 know only v1, whose used holds both."""
        nvml = self._nvml
        try:
            return nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
        except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            return self._optional(nvml.nvmlDeviceGetMemoryInfo, handle)

    def _figure(self, device: _Device, name: str, read: Callable[[Any], Any]) -> Any:
        """Return a figure of the hardware, None where the board has none or where it alone gives an error."""
        try:
            return read(device.handle)
        except self._nvml.NVMLError as error:
            failure = self._translate(error, f"GPU {device.gpu}: {name}")
            if failure.reason not in _OF_ONE_FIGURE:
                raise
            device.unread = failure
            return None

    def _power(self, handle: Any) -> float | None:
        milliwatts = self._optional(self._nvml.nvmlDeviceGetPowerUsage, handle)
        return None if milliwatts is None else milliwatts / 1000

    def _temperature(self, handle: Any) -> Any:
        return self._optional(self._nvml.nvmlDeviceGetTemperature, handle, self._nvml.NVML_TEMPERATURE_GPU)

    def _remapped_rows(self, handle: Any) -> tuple[int, int] | None:
        """Whether rows wait to be remapped, and whether a remapping has failed."""
        remapped = self._optional(self._nvml.nvmlDeviceGetRemappedRows, handle)
        return None if remapped is None else (int(remapped[2]), int(remapped[3]))

    def _utilization(self, handle: Any) -> float | None:
        rates = self._optional(self._nvml.nvmlDeviceGetUtilizationRates, handle)
        return None if rates is None else rates.gpu / 100

    def _throttled(self, handle: Any) -> dict[str, int] | None:
        mask = self._optional(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        if mask is None:
            return None
        return {reason: int(bool(mask & bit)) for reason, bit in _THROTTLE_REASONS.items()}

    def _uncorrected_ecc(self, handle: Any) -> int | None:
        nvml = self._nvml
        for counter in (nvml.NVML_AGGREGATE_ECC, nvml.NVML_VOLATILE_ECC):
            count = self._optional(
                nvml.nvmlDeviceGetTotalEccErrors, handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, counter
            )
            if count is not None:
                return int(count)
        return None

    def _read_processes(self, device: _Device) -> list[GpuProcess]:
        if device.memory_is_elsewhere:
            return []
        nvml = self._nvml
        largest: dict[int, int | None] = {}
        for newest, older in (
            # Not the unversioned names: those turn "function not found" into an exception of another family.
            (nvml.nvmlDeviceGetComputeRunningProcesses_v3, nvml.nvmlDeviceGetComputeRunningProcesses_v2),
            (nvml.nvmlDeviceGetGraphicsRunningProcesses_v3, nvml.nvmlDeviceGetGraphicsRunningProcesses_v2),
            (nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3, nvml.nvmlDeviceGetMPSComputeRunningProcesses_v2),
        ):
            try:
                running = newest(device.handle)
            except nvml.NVMLError_FunctionNotFound:
                running = self._optional(older, device.handle)
            except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
                running = None
            for process in running or ():
                # A process that computes and draws, or computes through MPS, is listed twice: count it once.
                before = largest.get(process.pid)
                largest[process.pid] = (
                    before if process.usedGpuMemory is None else max(process.usedGpuMemory, before or 0)
                )
        return [GpuProcess(uuid=device.uuid, pid=pid, used_bytes=used_bytes) for pid, used_bytes in largest.items()]

    def _register_events(self, session: _Session) -> None:
        """Ask for Xid events; where a driver has none (WSL, vGPU guests), there is no Xid series."""
        nvml = self._nvml
        try:
            session.events = nvml.nvmlEventSetCreate()
            for device in session.devices:
                if not device.hardware_is_elsewhere:
                    nvml.nvmlDeviceRegisterEvents(device.handle, _EVENT_XID, session.events)
        except nvml.NVMLError:
            self._free_events(session)

    def _free_events(self, session: _Session) -> None:
        events, session.events = session.events, None
        if events is not None:
            with suppress(self._nvml.NVMLError):  # as after a lost GPU
                self._nvml.nvmlEventSetFree(events)

    def _drain_events(self, session: _Session) -> None:
        if session.events is None:
            return
        nvml = self._nvml
        for _ in range(_MOST_EVENTS_A_READ):
            try:
                event = nvml.nvmlEventSetWait(session.events, 0)
            except nvml.NVMLError:
                return  # NVML_ERROR_TIMEOUT: no more; anything else shows in the device calls that follow
            if event.eventType == _EVENT_XID:
                uuid = self._optional(nvml.nvmlDeviceGetUUID, event.device)
                if uuid is not None:
                    self._xids.setdefault(_decoded(uuid), Counter())[int(event.eventData)] += 1

    def _optional(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the call says, None where this board or driver does not support the question."""
        nvml = self._nvml
        try:
            return call(*arguments)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NoPermission):
            return None

    def _text(self, call: Callable[..., Any], *arguments: Any) -> str | None:
        value = self._optional(call, *arguments)
        return None if value is None else _decoded(value)

    def _translate(self, error: Exception, gpu: str = "") -> SourceError:
        """Turn an NVML error, of a GPU or of the driver, into one of ours; its reason is NVML's own name for it."""
        nvml = self._nvml
        reasons = {
            nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no_driver_library",
            nvml.NVML_ERROR_DRIVER_NOT_LOADED: "driver_not_loaded",
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "driver_library_mismatch",
            nvml.NVML_ERROR_UNINITIALIZED: "driver_unloaded",
            nvml.NVML_ERROR_GPU_IS_LOST: "gpu_lost",
            nvml.NVML_ERROR_RESET_REQUIRED: "gpu_reset_required",
            nvml.NVML_ERROR_NO_PERMISSION: "no_permission",
            nvml.NVML_ERROR_TIMEOUT: "driver_timeout",
        }
        reason = reasons.get(getattr(error, "value", None), "nvml_error")
        where = f"{gpu}: " if gpu else ""
        if reason == "driver_library_mismatch" and (self._known_gpus or self._library_was_replaced()):
            return RestartNeeded(reason, f"{where}{error}")
        return SourceUnavailable(reason, f"{where}{error}")

    def _library_was_replaced(self) -> bool:
        """Whether the library in this process is no longer the one on disk.

        Only then, or after it has worked, does a fresh process help against a mismatch: a new library over a kernel
        module that is still the old one waits for the module to be loaded anew, and restarting would be for nothing.
        """
        try:
            lines = self._memory_map.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return False
        return any("libnvidia-ml.so" in line and line.endswith("(deleted)") for line in lines)


def _decoded(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text

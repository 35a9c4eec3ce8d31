"""Builds the stand-in for libnvidia-ml.so.1 and writes the file it answers from.

A test gives the library and the file to the process that is to see the GPUs:

    library = build(cache)
    state = State(tmp_path / "state")
    gpu = state.add_gpu({"name": "NVIDIA A100-SXM4-80GB", "cuda.capability": "8.0"})
    gpu.set_processes(Process(pid=4242, memory=20 * GIB))
    subprocess.run(command, env=environment(library, state))

Every change is in the file when the method returns, and the library looks at each call. The C source, nvml_standin.c,
lists the settings and says what each instruction does.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

Value = int | float | str | None
"""What a setting can be; None is "na", for which NVML answers that it is not supported."""

_LIBRARY = "libnvidia-ml.so.1"
_FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", f"-Wl,-soname,{_LIBRARY}")
_HERE = Path(__file__).parent

_H100: Mapping[str, Value] = {
    "name": "NVIDIA H100 80GB HBM3",
    "serial": "1650000000000",
    "vbios": "96.00.89.00.01",
    "board.part": "692-2G520-0200-000",
    "brand": 14,
    "architecture": 9,
    "cores": 16896,
    "cuda.capability": "9.0",
    "compute.mode": 0,
    "persistence": 1,
    "display.mode": 1,
    "display.active": 0,
    "memory.total": 85_520_809_984,
    "memory.used": 0,
    "memory.reserved": 512 * MIB,
    "memory.bus_width": 5120,
    "bar1.total": 128 * GIB,
    "bar1.used": MIB,
    "utilization.gpu": 0,
    "utilization.memory": 0,
    "utilization.encoder": 0,
    "utilization.decoder": 0,
    "utilization.jpeg": 0,
    "utilization.ofa": 0,
    "power": 71_000,
    "power.limit": 700_000,
    "power.limit.default": 700_000,
    "power.limit.min": 200_000,
    "power.limit.max": 700_000,
    "energy": 1_000_000,
    "temperature": 31,
    "temperature.shutdown": 92,
    "temperature.slowdown": 89,
    "temperature.memory_max": 95,
    "temperature.gpu_max": 87,
    "fan": None,
    "pstate": 0,
    "clock.graphics": 1980,
    "clock.graphics.max": 1980,
    "clock.sm": 1980,
    "clock.sm.max": 1980,
    "clock.memory": 2619,
    "clock.memory.max": 2619,
    "clock.video": 1545,
    "clock.video.max": 1545,
    "clocks.reasons": 0x1,
    "clocks.reasons.supported": 0x1FF,
    "ecc.mode": 1,
    "ecc.corrected.volatile": 0,
    "ecc.corrected.aggregate": 0,
    "ecc.uncorrected.volatile": 0,
    "ecc.uncorrected.aggregate": 0,
    "retired.single_bit": None,  # since Ampere the rows are remapped instead
    "retired.double_bit": None,
    "retired.pending": None,
    "rows.corrected": 0,
    "rows.uncorrected": 0,
    "rows.pending": 0,
    "rows.failure": 0,
    "mig.mode": 0,
    "pcie.tx": 0,
    "pcie.rx": 0,
    "pcie.generation": 5,
    "pcie.generation.max": 5,
    "pcie.width": 16,
    "pcie.width.max": 16,
    "pcie.replays": 0,
    "nvlink.links": 18,
    "nvlink.version": 7,
    "field.91": 18,  # NVML_FI_DEV_NVLINK_LINK_COUNT
    "field.138": 0,  # NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, KiB
    "field.139": 0,  # NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, KiB
}


class BuildError(RuntimeError):
    """The stand-in could not be compiled; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process as the GPU lists it."""

    pid: int
    memory: int | None
    """Bytes; None where the driver cannot say."""
    kind: str = "compute"
    """``compute``, ``graphics`` or ``mps``."""
    utilization: tuple[int, int, int, int] | None = None
    """SM, memory, encoder and decoder in percent; None leaves the process out of the utilisation samples."""


def build(directory: Path) -> Path:
    """Compile the stand-in below ``directory``, unless it is there for the same sources, and return the library.

    Raises:
        BuildError: There is no C compiler, or it refuses the sources.
    """
    sources = sorted(_HERE.glob("*.c"))
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in sorted(_HERE.glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    library = directory / digest.hexdigest()[:16] / _LIBRARY
    if library.exists():
        return library
    compiler = shutil.which("cc")
    if compiler is None:
        raise BuildError("the NVML stand-in needs a C compiler: there is no 'cc' on the PATH")
    library.parent.mkdir(parents=True, exist_ok=True)
    # Compiled aside and renamed: another test process that builds at the same time sees all of it or nothing.
    with tempfile.TemporaryDirectory(dir=library.parent) as aside:
        unfinished = Path(aside, _LIBRARY)
        command = [compiler, *_FLAGS, "-o", str(unfinished), *map(str, sources)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildError(f"{' '.join(command)}\n{result.stderr}")
        unfinished.replace(library)
    return library


def environment(library: Path, state: "State", *, log: Path | None = None) -> dict[str, str]:
    """Return this process's environment, changed so that a program started in it finds the stand-in as NVML."""
    found = dict(os.environ)
    search = [str(library.parent), *filter(None, [found.get("LD_LIBRARY_PATH")])]
    found["LD_LIBRARY_PATH"] = os.pathsep.join(search)
    found["NVML_STANDIN_STATE"] = str(state.path)
    found.pop("NVML_STANDIN_LOG", None)
    if log is not None:
        found["NVML_STANDIN_LOG"] = str(log)
    return found


class _Scope:
    """What lines can be written about: everything, one GPU or one MIG instance."""

    def __init__(self, state: "State", prefix: str) -> None:
        self._state = state
        self._prefix = prefix
        self._settings: dict[str, Value] = {}
        self._rules: list[tuple[str, str]] = []

    def set(self, name: str, value: Value) -> None:
        """Give a setting a value; None is "not supported"."""
        with self._state.together():
            self._settings[name] = value

    def fail(self, functions: str, error: str) -> None:
        """Make the C functions that match the pattern answer ``NVML_ERROR_<error>``."""
        self._add_rule(functions, f"fail {functions} {error}")

    def delay(self, functions: str, milliseconds: int | None, *, locked: bool = False) -> None:
        """Make the functions wait first, for ever if None; ``locked`` makes every other call wait with them."""
        length = "forever" if milliseconds is None else milliseconds
        self._add_rule(functions, f"delay {functions} {length}{' locked' if locked else ''}")

    def crash(self, functions: str, *, segfault: bool = False) -> None:
        """Make the functions kill the process that calls them."""
        self._add_rule(functions, f"crash {functions}{' segfault' if segfault else ''}")

    def heal(self, functions: str | None = None) -> None:
        """Take back what ``fail``, ``delay`` and ``crash`` were told here: for this very pattern, or all of it."""
        with self._state.together():
            self._rules = [rule for rule in self._rules if functions not in (None, rule[0])]

    def _add_rule(self, functions: str, line: str) -> None:
        with self._state.together():
            self._rules.append((functions, line))

    def _lines(self) -> Iterator[str]:
        for name, value in self._settings.items():
            yield f"{self._prefix}{name} = {'na' if value is None else value}"
        for _, line in self._rules:
            yield f"{self._prefix}{line}"


class Device(_Scope):
    """A GPU or a MIG instance."""

    def __init__(self, state: "State", prefix: str) -> None:
        """Begin with nothing set."""
        super().__init__(state, prefix)
        self._processes: list[Process] = []
        self._events: list[str] = []

    @property
    def uuid(self) -> str:
        """The device's UUID."""
        return str(self._settings["uuid"])

    def set_memory(self, *, used: int | None = None, total: int | None = None, reserved: int | None = None) -> None:
        """Change the figures given, in bytes; what is free follows from them."""
        with self._state.together():
            for name, value in (("used", used), ("total", total), ("reserved", reserved)):
                if value is not None:
                    self.set(f"memory.{name}", value)

    def set_processes(self, *processes: Process) -> None:
        """Replace the processes on the device."""
        with self._state.together():
            self._processes = list(processes)

    def add_event(self, kind: int, data: int) -> None:
        """Let an event happen, of an ``nvmlEventType`` and with its data, for the event sets registered by now."""
        with self._state.together():
            self._events.append(f"{self._prefix}event {self._state.next_sequence()} {kind} {data}")

    def add_xid(self, code: int) -> None:
        """Let a critical Xid error happen."""
        self.add_event(0x8, code)

    def _lines(self) -> Iterator[str]:
        yield from super()._lines()
        for process in self._processes:
            memory = "na" if process.memory is None else process.memory
            samples = "".join(f" {percent}" for percent in process.utilization or ())
            yield f"{self._prefix}process {process.kind} {process.pid} {memory}{samples}"
        yield from self._events


class Gpu(Device):
    """A GPU, which may be split into MIG instances."""

    def __init__(self, state: "State", number: int) -> None:
        """Begin with nothing set."""
        super().__init__(state, f"gpu {number} ")
        self.number = number
        self._instances: dict[int, Device] = {}

    def add_mig(self, place: int, *, memory: int, profile: str = "1g.10gb", slices: int = 1) -> Device:
        """Turn MIG on and put an instance at a place from 0 to 6; its utilisation, as the GPU's, is not known."""
        instance = Device(self._state, f"{self._prefix}mig {place} ")
        settings: Mapping[str, Value] = {
            "uuid": f"MIG-{self.number:08x}-0000-4000-8000-{place + 1:012x}",
            "name": f"{self._settings['name']} MIG {profile}",
            "memory.total": memory,
            "memory.used": 0,
            "bar1.total": 16 * GIB,
            "bar1.used": MIB,
            "gi": place + 7,
            "ci": 0,
            "slices.gpu": slices,
            "slices.compute": slices,
            "multiprocessors": 16 * slices,
        }
        with self._state.together():
            self.set("mig.mode", 1)
            self.set("utilization.gpu", None)
            self.set("utilization.memory", None)
            self._instances[place] = instance
            for name, value in settings.items():
                instance.set(name, value)
        return instance

    def remove_mig(self, place: int) -> None:
        """Destroy an instance; the others stay where they are."""
        with self._state.together():
            del self._instances[place]

    def _lines(self) -> Iterator[str]:
        yield from super()._lines()
        for instance in self._instances.values():
            yield from instance._lines()


class State(_Scope):
    """A machine with its driver and GPUs, kept in the file that the library reads.

    Its own ``fail``, ``delay`` and ``crash`` hold for calls about no GPU and about every GPU.
    """

    def __init__(self, path: Path) -> None:
        """Write the file for a machine with the driver and no GPU."""
        super().__init__(self, "")
        self.path = path
        self.extra_lines: list[str] = []
        """Written as they are with the next change, at the end."""
        self._gpus: dict[int, Gpu] = {}
        self._driver_is_loaded = True
        self._sequence = 0
        self._lock = threading.RLock()
        self._depth = 0
        self._written_ns = 0
        with self.together():
            self.set("driver.version", "570.86.15")
            self.set("nvml.version", "12.570.86.15")
            self.set("cuda.version", "12.8")
            self.set("driver.generation", 1)

    def add_gpu(self, settings: Mapping[str, Value] | None = None, *, number: int | None = None) -> Gpu:
        """Put in a GPU, an idle H100 but for the settings given, after the others unless its number is given.

        A process that called nvmlInit before does not see it until it calls it again, as with the driver.
        """
        number = max(self._gpus, default=-1) + 1 if number is None else number
        gpu = Gpu(self, number)
        identity: Mapping[str, Value] = {
            "uuid": f"GPU-{number:08x}-0000-4000-8000-000000000000",
            "minor": number,
            "pci": f"00000000:{number + 1:02X}:00.0",
            "board.id": (number + 1) << 8,
        }
        with self.together():
            self._gpus[number] = gpu
            for name, value in {**_H100, **identity, **(settings or {})}.items():
                gpu.set(name, value)
        return gpu

    def remove_gpu(self, number: int) -> None:
        """Take a GPU off the bus: to a process that called nvmlInit before, it is lost."""
        with self.together():
            del self._gpus[number]

    def unload_driver(self) -> None:
        """Make every call answer that the driver is not loaded."""
        with self.together():
            self._driver_is_loaded = False

    def load_driver(self, *, version: str | None = None) -> None:
        """Load the driver, anew if it was loaded: what was initialised before is not any more."""
        with self.together():
            self._driver_is_loaded = True
            self.set("driver.generation", int(self._settings["driver.generation"] or 0) + 1)
            if version is not None:
                self.set("driver.version", version)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let the changes made inside appear at once, at the end."""
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            if self._depth == 0:
                self._write()

    def next_sequence(self) -> int:
        """Return a number above all that were returned."""
        with self._lock:
            self._sequence += 1
            return self._sequence

    def _lines(self) -> Iterator[str]:
        yield f"driver {'on' if self._driver_is_loaded else 'off'}"
        yield from super()._lines()
        for gpu in self._gpus.values():
            yield from gpu._lines()
        yield from self.extra_lines

    def _write(self) -> None:
        unfinished = self.path.with_name(f"{self.path.name}.unfinished")
        unfinished.write_text("".join(f"{line}\n" for line in self._lines()), encoding="utf-8")
        # The file system's clock ticks every few milliseconds, within which a third file can get the first one's
        # inode and size: the library would take it for the first. A time of its own tells each file apart.
        self._written_ns = max(self._written_ns + 1, time.time_ns())
        os.utime(unfinished, ns=(self._written_ns, self._written_ns))
        unfinished.replace(self.path)

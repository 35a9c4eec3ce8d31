"""The least that reading costs in Python: NVML calls, page requests and wanted lines, with nothing made of them.

``python -m bench.performance.floor SECONDS [URL ...]`` in an environment that shows the GPUs reads them and the pages
at this interval until killed, as a daemon would: a loop without pauses would have its caches warm.
"""

import re
import socket
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pynvml

from exporter.sources.vllm_names import BY_SPELLING

_WANTED = re.compile(
    r"^vllm:(?:" + "|".join(map(re.escape, BY_SPELLING)) + r")(?:_bucket|_sum|_count)?\{(.*)\} (\S+)$", re.MULTILINE
)


def main() -> None:
    """Read until killed."""
    interval = float(sys.argv[1])
    poll_gpus = gpu_poller()
    pages = [_Page(url) for url in sys.argv[2:]]
    while True:
        poll_gpus()
        for page in pages:
            values_of(page.get())
        time.sleep(interval)


def gpu_poller() -> Callable[[], None]:
    """Return what reads of every GPU what an exporter shows of it at the least."""
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]

    def poll() -> None:
        for handle in handles:
            pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
            pynvml.nvmlDeviceGetUtilizationRates(handle)
            pynvml.nvmlDeviceGetPowerUsage(handle)
            pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
            pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            pynvml.nvmlDeviceGetRemappedRows(handle)
            pynvml.nvmlDeviceGetTotalEccErrors(
                handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_AGGREGATE_ECC
            )
            pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
            pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)
            pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(handle)

    return poll


def values_of(text: str) -> list[tuple[str, float]]:
    """Return the labels, as they stand, and values of the wanted lines."""
    return [(labels, float(value)) for labels, value in _WANTED.findall(text)]


class _Page:
    """A page asked for over one open socket, without an HTTP library."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((str(parts.hostname), parts.port or 80))
        self._request = f"GET /metrics HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()

    def get(self) -> str:
        self._socket.sendall(self._request)
        answer = bytearray()
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._socket.recv(65_536)
        length = int(re.search(rb"(?i)content-length: (\d+)", answer)[1])  # type: ignore[index]
        while len(answer) < end + 4 + length:
            answer += self._socket.recv(65_536)
        return answer[end + 4 :].decode()


if __name__ == "__main__":
    main()

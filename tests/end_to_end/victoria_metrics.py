"""A real VictoriaMetrics, single node."""

import subprocess
import time
from contextlib import contextmanager
from urllib.request import Request, urlopen

from tests.end_to_end.prometheus import Prometheus
from tests.end_to_end.real_vllm import free_port


class VictoriaMetrics(Prometheus):
    def fill(self, lines):
        """Take samples in Prometheus' text format with milliseconds, and let queries see them."""
        with urlopen(Request(f"{self.url}/api/v1/import/prometheus", data="".join(lines).encode()), timeout=60):
            pass
        with urlopen(f"{self.url}/internal/force_flush", timeout=60):
            pass


@contextmanager
def victoria_metrics(directory):
    """Start with no data."""
    port = free_port()
    process = subprocess.Popen(
        [
            "victoria-metrics",
            f"-storageDataPath={directory / 'data'}",
            f"-httpListenAddr=127.0.0.1:{port}",
            "-retentionPeriod=1y",
            "-loggerLevel=ERROR",
            "-memory.allowedBytes=256MB",
        ]
    )
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                with urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.1)
        yield VictoriaMetrics(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)

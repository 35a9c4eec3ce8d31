"""A real VictoriaMetrics, single node."""

import shutil
import subprocess
import time
from contextlib import contextmanager
from urllib.request import Request, urlopen

from tests.end_to_end.prometheus import Prometheus
from tests.end_to_end.real_vllm import free_port


class VictoriaMetrics(Prometheus):
    def fill(self, lines, **labels):
        """Take samples in Prometheus' text format with milliseconds, with these labels on each."""
        extra = "&".join(f"extra_label={name}={value}" for name, value in labels.items())
        request = Request(f"{self.url}/api/v1/import/prometheus?{extra}", data="".join(lines).encode())
        with urlopen(request, timeout=30):
            pass

    def settle(self):
        """Let what was taken in be seen by queries."""
        with urlopen(f"{self.url}/internal/force_flush", timeout=30):
            pass


@contextmanager
def victoria_metrics(directory, *targets):
    """Start with no data, and scrape these host:port targets every second."""
    scrapes = directory / "scrapes.yml"
    listed = ", ".join(f'"{target}"' for target in targets)
    scrapes.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: vllm, static_configs: [{{targets: [{listed}]}}]}}]\n"
    )
    port = free_port()
    process = subprocess.Popen(
        [
            shutil.which("victoria-metrics"),
            f"-storageDataPath={directory / 'data'}",
            f"-httpListenAddr=127.0.0.1:{port}",
            "-retentionPeriod=1y",
            "-loggerLevel=ERROR",
            "-memory.allowedBytes=256MB",
            *([f"-promscrape.config={scrapes}"] if targets else []),
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

"""A real Prometheus server that scrapes loopback."""

import json
import subprocess
import time
from contextlib import contextmanager
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.end_to_end.real_vllm import free_port
from tests.exporter.pasts import openmetrics


class Prometheus:
    def __init__(self, url):
        self.url = url

    def query(self, expression):
        """Return [(labels, value)] of an instant query."""
        with urlopen(f"{self.url}/api/v1/query?{urlencode({'query': expression})}", timeout=10) as answer:
            result = json.load(answer)
        assert result["status"] == "success", result
        return [(series["metric"], float(series["value"][1])) for series in result["data"]["result"]]

    def value(self, expression):
        """Return the value of the one series that the expression yields, None without one."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None


def filled(directory, lines):
    """Lay down the past for a Prometheus that is started in this directory: OpenMetrics, by promtool."""
    (directory / "past.txt").write_text(openmetrics(lines))
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "past.txt", "data"]
    made = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]


@contextmanager
def prometheus(directory, *targets, rules=()):
    """Scrape these host:port targets every second."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rule) for rule in rules],
        "scrape_configs": [{"job_name": "headroom", "static_configs": [{"targets": list(targets)}]}],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                with urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=2):
                    break
            except OSError:
                time.sleep(0.1)
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)

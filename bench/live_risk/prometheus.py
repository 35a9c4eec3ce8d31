"""A real Prometheus that scrapes and evaluates as often as the daemon's clock asks for."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from bench.live_risk.rules import spelled
from bench.ports import free_port

_READY_WITHIN_SECONDS = 30.0
_LOOKBACK_SECONDS = 300.0
Series = tuple[Mapping[str, str], tuple[tuple[float, float], ...]]
"""Labels, and (Unix time, value) of each sample."""


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        """Take where it listens."""
        self._url = url

    def samples(self, selector: str, over_seconds: float) -> list[Series]:
        """Return every sample of the series that match, of so many seconds until now."""
        query = urlencode({"query": f"{selector}[{spelled(over_seconds)}]"})
        with urlopen(f"{self._url}/api/v1/query?{query}", timeout=30) as answer:  # noqa: S310 - loopback
            result: dict[str, Any] = json.load(answer)
        return [
            (series["metric"], tuple((float(at), float(value)) for at, value in series["values"]))
            for series in result["data"]["result"]
        ]


@contextlib.contextmanager
def prometheus(
    directory: Path, target: str, rules: Mapping[str, Any], *, interval_seconds: float, speed: float
) -> Iterator[Prometheus]:
    """Scrape one host:port and evaluate the rules, both at this interval, while the context lasts.

    Raises:
        RuntimeError: It does not start.
    """
    every = spelled(interval_seconds)
    (directory / "rules.yml").write_text(yaml.safe_dump(dict(rules)), encoding="utf-8")
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(directory / "rules.yml")],
        "scrape_configs": [{"job_name": "headroom", "static_configs": [{"targets": [target]}]}],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    program, port = shutil.which("prometheus"), free_port()
    if program is None:
        raise RuntimeError("there is no prometheus on the PATH")
    process = subprocess.Popen(  # noqa: S603 - Debian's prometheus with our own files
        [
            program,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--query.lookback-delta={spelled(max(1.0, _LOOKBACK_SECONDS / speed))}",
            "--log.level=error",
        ]
    )
    url = f"http://127.0.0.1:{port}"
    try:
        server = Prometheus(url)
        _wait_for_first_scrape(process, server)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _wait_for_first_scrape(process: subprocess.Popen[bytes], server: Prometheus) -> None:
    """Wait until a target is up: it is looked for seconds after the server calls itself ready."""
    end = time.monotonic() + _READY_WITHIN_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError("prometheus ended at its start")
        with contextlib.suppress(OSError):
            if any(value == 1.0 for _, samples in server.samples("up", 1.0) for _, value in samples):
                return
        time.sleep(0.1)
    raise RuntimeError("prometheus did not scrape in time")

"""The programs of an alert's way: the demo, Prometheus, Alertmanager; each on loopback while its context lasts."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from bench.ports import free_port

_STARTS_WITHIN_SECONDS = 30.0


@contextmanager
def demo(directory: Path) -> Iterator[str]:
    """Run `vllm-headroom demo`; yield its URL as soon as it answers, within a second of the beginning of its day."""
    port = free_port()
    argv = [sys.executable, "-m", "exporter", "demo", "--web.listen-address", f"127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}"
    with _running(argv, ready=f"{url}/-/healthy", log=directory / "demo.log"):
        yield url


@contextmanager
def prometheus(directory: Path, *, targets: Sequence[str], rules: Sequence[Path], alertmanager: str) -> Iterator[str]:
    """Scrape host:port targets and judge rules every second; yield the URL."""
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    _configure(
        directory / "prometheus.yml",
        {
            "global": every,
            "rule_files": [str(rule) for rule in rules],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}]},
            "scrape_configs": [{"job_name": "headroom", "static_configs": [{"targets": list(targets)}]}],
        },
    )
    port = free_port()
    argv = [
        _found("prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        # Alerts are sent again while they fire; the default of a minute would blur when they end.
        "--rules.alert.resend-delay=5s",
    ]
    url = f"http://127.0.0.1:{port}"
    with _running(argv, ready=f"{url}/-/ready", log=directory / "prometheus.log"):
        yield url


@contextmanager
def alertmanager(directory: Path, *, inhibition: Path, webhook: str | None = None) -> Iterator[str]:
    """Run Alertmanager with our snippet, one notification an alert, sent to the webhook at once; yield the URL."""
    receiver: dict[str, Any] = {"name": "operator"}
    if webhook is not None:
        receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True}]
    route = {
        "receiver": "operator",
        "group_by": ["..."],
        "group_wait": "1s",
        "group_interval": "1s",
        "repeat_interval": "4h",
    }
    snippet = yaml.safe_load(inhibition.read_text(encoding="utf-8"))
    _configure(directory / "alertmanager.yml", {"route": route, "receivers": [receiver], **snippet})
    port = free_port()
    argv = [
        _found("prometheus-alertmanager", "alertmanager"),
        f"--config.file={directory / 'alertmanager.yml'}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        # Empty: no gossip, no second port.
        "--cluster.listen-address=",
    ]
    url = f"http://127.0.0.1:{port}"
    with _running(argv, ready=f"{url}/-/ready", log=directory / "alertmanager.log"):
        yield url


def _found(*names: str) -> str:
    """Return the first of these programs that is there; Debian and upstream name some differently."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise RuntimeError(f"not on the PATH: {names[0]}")


def _configure(file: Path, content: dict[str, Any]) -> None:
    # JSON is YAML.
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


@contextmanager
def _running(argv: Sequence[str], *, ready: str, log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)  # noqa: S603 - programs named above
    try:
        end = time.monotonic() + _STARTS_WITHIN_SECONDS
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{argv[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):  # noqa: S310 - loopback
            return True
    except OSError:
        return False

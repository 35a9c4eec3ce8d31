"""Sees what Alertmanager tells and what it holds back, and asks Prometheus afterwards."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen


class Webhook:
    """Receives notifications on loopback; remembers when each firing alert came, in seconds of the wall clock."""

    def __init__(self) -> None:
        """Listen on a free port."""
        self.told: list[tuple[float, Mapping[str, str]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _receiver(self.told))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="webhook", daemon=True).start()

    @property
    def url(self) -> str:
        """Where to send."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def _receiver(told: list[tuple[float, Mapping[str, str]]]) -> type[BaseHTTPRequestHandler]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            now = time.time()
            told.extend((now, alert["labels"]) for alert in body["alerts"] if alert["status"] == "firing")
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Receiver


def held_back(alertmanager: str) -> list[tuple[Mapping[str, str], str]]:
    """Return (labels, name of the alert that inhibits it) of every alert that is inhibited now."""
    alerts = fetched(f"{alertmanager}/api/v2/alerts")
    names = {alert["fingerprint"]: alert["labels"]["alertname"] for alert in alerts}
    return [
        (alert["labels"], names.get(alert["status"]["inhibitedBy"][0], "another"))
        for alert in alerts
        if alert["status"]["inhibitedBy"]
    ]


def over_time(prometheus: str, expr: str, begin: float, end: float) -> list[tuple[Mapping[str, str], list[float]]]:
    """Return the labels of each series and the times, in seconds since ``begin``, at which it was there."""
    question = urlencode({"query": expr, "start": begin, "end": end, "step": "1"})
    found = fetched(f"{prometheus}/api/v1/query_range?{question}")["data"]["result"]
    return [(series["metric"], [float(at) - begin for at, _ in series["values"]]) for series in found]


def fetched(url: str) -> Any:
    """Return the JSON at a URL of loopback."""
    with urlopen(url, timeout=30) as answer:  # noqa: S310 - loopback
        return json.load(answer)


def every_second(seconds: float, look: Callable[[], None]) -> None:
    """Look once a second for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        look()
        time.sleep(1.0)

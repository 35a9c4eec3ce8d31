"""A process that is to the daemon a running vLLM server: its command line, its page, and no model behind it."""

import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE, LOADS = "LIVE_RISK_PAGE", "LIVE_RISK_LOADS_SECONDS"
"""Environment variables: the directory of what it answers, and how long it loads before it does."""
TOKENS_PER_SECOND = 1000.0


def serve(port: int) -> None:
    """Answer on loopback until killed."""
    time.sleep(float(os.environ[LOADS]))
    pages = Path(os.environ[PAGE])
    answers = {
        "/metrics": (pages / "metrics").read_text(encoding="utf-8"),
        "/version": (pages / "version").read_text(encoding="utf-8"),
        "/v1/models": (pages / "models").read_text(encoding="utf-8"),
    }
    began = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            text = answers.get(self.path, "")
            body = text.replace("{tokens}", f"{TOKENS_PER_SECOND * (time.monotonic() - began):.0f}").encode()
            self.send_response(200 if self.path in answers else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: the daemon polls many times a second."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Say nothing: on a busy machine the daemon gives up waiting, as it should."""

    Server(("127.0.0.1", port), Handler).serve_forever()

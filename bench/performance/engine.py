"""A vLLM server as the daemon sees one: a command line in the process table and the pages of a recorded server.

``PAGE=FILE VERSION=0.32.0 python .../vllm serve MODEL --port PORT ...``: run through a link named ``vllm``. The page is
the recorded one with its counters and histograms a little further at every look, as a busy server's are.
"""

import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_GROWING = re.compile(r"^(vllm:\w+?(?:_total|_bucket|_sum|_count)\{.*\}) (\S+)$", re.MULTILINE)
_GROWTH_PER_LOOK = 1e-3


class Page:
    """A recorded page that moves on."""

    def __init__(self, text: str) -> None:
        """Take the page as recorded."""
        self._between = _GROWING.split(text)
        self._looks = 0

    def next(self) -> bytes:
        """Return the page of one look later."""
        self._looks += 1
        factor = 1 + _GROWTH_PER_LOOK * self._looks
        parts = self._between.copy()
        for place in range(1, len(parts), 3):
            parts[place + 1] = f" {float(round(float(parts[place + 1]) * factor))}"
        return "".join(parts).encode()


def main() -> None:
    """Serve until killed."""
    page = Page(Path(os.environ["PAGE"]).read_text(encoding="utf-8"))
    model, port = sys.argv[2], int(sys.argv[sys.argv.index("--port") + 1])
    fixed = {
        "/version": json.dumps({"version": os.environ["VERSION"]}).encode(),
        "/v1/models": json.dumps({"data": [{"id": "tiny", "root": model, "max_model_len": 2048}]}).encode(),
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # vLLM's uvicorn keeps connections open too
        disable_nagle_algorithm = True  # asyncio's; else the body waits 40 ms for the head's acknowledgement

        def do_GET(self) -> None:
            body = page.next() if self.path == "/metrics" else fixed.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            """Say nothing: every request would be a line."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()

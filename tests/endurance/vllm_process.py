"""A process with vLLM's command line and vLLM's page: ``python .../vllm serve MODEL --port PORT``.

`tests.endurance.machine` puts a copy of this file under the name ``vllm``, which is how the daemon knows a server. The
page is one recorded from vLLM 0.32; what a load moves is moved from one answer to the next.
"""

import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn

_MOVING = re.compile(
    r"^(vllm:(?:num_requests_running|num_requests_waiting|kv_cache_usage_perc|generation_tokens_total"
    r"|prompt_tokens_total|request_success_total)\{.*\}) \S+$",
    re.MULTILINE,
)
_STARTED = re.compile(r"^process_start_time_seconds .*$", re.MULTILINE)


def page_at(text, polls):
    """Return the page as the poll of this number finds it: a load that comes and goes every minute or so."""
    busy = polls % 300 < 200
    levels = {
        "num_requests_running": 3 + polls % 5 if busy else 0,
        "num_requests_waiting": polls % 2 if busy else 0,
        "kv_cache_usage_perc": (10 + polls % 7) / 100 if busy else 0,
    }
    step = polls - polls // 300 * 100  # stands still while idle

    def moved(line):
        name = line[1].partition("{")[0].removeprefix("vllm:")
        return f"{line[1]} {levels.get(name, 100 * step)}"

    return _MOVING.sub(moved, text)


def main():
    model, port = sys.argv[2], int(sys.argv[sys.argv.index("--port") + 1])
    recorded = Path(os.environ["RECORDED_PAGE"]).read_text(encoding="utf-8")
    served = re.search(r'model_name="([^"]*)"', recorded)[1]
    stat = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    boot = int(re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(encoding="ascii"), re.MULTILINE)[1])
    started = boot + int(stat[19]) / os.sysconf("SC_CLK_TCK")
    text = _STARTED.sub(f"process_start_time_seconds {started}", recorded)
    text = text.replace(f'model_name="{served}"', f'model_name="{Path(model).name}"')
    polls = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            nonlocal polls
            if self.path == "/metrics":
                polls += 1
                body = page_at(text, polls)
            elif self.path == "/version":
                body = json.dumps({"version": "0.32.0"})
            elif self.path == "/v1/models":
                body = json.dumps({"data": [{"id": Path(model).name, "root": model, "max_model_len": 4096}]})
            else:
                body = json.dumps({"polls": polls})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    class Server(ThreadingMixIn, HTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            """A client that went away in the middle is nothing to print."""

    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()

"""A real vLLM server on this machine's CPU, real requests to it, and a proxy that remembers its pages."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

STARTS_WITHIN_SECONDS = 300


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RealVllm:
    """One server process, listening on loopback."""

    def __init__(self, executable, model, *flags, port=None, log):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        environment = {
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
        argv = [
            *(str(executable), "serve", str(model), "--load-format", "dummy", "--dtype", "bfloat16"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", "tiny", *flags),
        ]
        with Path(log).open("ab") as output:
            self.process = subprocess.Popen(argv, stdout=output, stderr=output, env=environment, start_new_session=True)

    def wait_until_up(self):
        end = time.monotonic() + STARTS_WITHIN_SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the server ended: {Path(self.log).read_text()[-2000:]}"
            try:
                with urlopen(f"{self.url}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"not up within {STARTS_WITHIN_SECONDS} s")

    def metrics(self):
        with urlopen(f"{self.url}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def stop(self, number=signal.SIGTERM):
        """Stop the server and all that it started: its own process group, nothing else."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)


class Load:
    """So many clients that each send one request after another until told to stop; bounded in count and time."""

    def __init__(self, port, *, clients, prompt_tokens, output_tokens, most_requests=2_000, seed=1):
        self._stop = threading.Event()
        self._left = most_requests
        self._lock = threading.Lock()
        self.finished = 0
        self._threads = [
            threading.Thread(
                target=self._client, args=(port, prompt_tokens, output_tokens, random.Random(seed * 1000 + n))
            )
            for n in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _client(self, port, prompt_tokens, output_tokens, chance):
        while not self._stop.is_set():
            with self._lock:
                self._left -= 1
                if self._left < 0:
                    return
            body = {
                "model": "tiny",
                "prompt": [chance.randrange(5, 900) for _ in range(chance.randint(prompt_tokens // 2, prompt_tokens))],
                "max_tokens": chance.randint(output_tokens // 2, output_tokens),
                "ignore_eos": True,
            }
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            try:
                connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
                if connection.getresponse().read() and not self._stop.is_set():
                    self.finished += 1
            except OSError:
                time.sleep(0.2)
            finally:
                connection.close()


@contextmanager
def remembering_proxy(port):
    """Pass requests on to a server and keep every /metrics page that went through: yields (url, pages)."""
    pages = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                with urlopen(f"http://127.0.0.1:{port}{self.path}", timeout=10) as answer:
                    body = answer.read()
            except OSError:
                self.send_error(502)
                return
            if self.path == "/metrics":
                pages.append(body.decode())
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", pages
    server.shutdown()
    server.server_close()

"""The real program in a process of its own, and a vLLM-shaped server that can misbehave."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import Request, urlopen

_PATIENCE_SECONDS = 60.0
"""With a start, which took more than 20 s at a load of 30."""
_ADDRESS = re.compile(r"https?://(?:localhost|127\.0\.0\.1):(\d+)/")


class Daemon:
    """``vllm-headroom serve`` (or another command) listening on a free port of loopback."""

    def __init__(self, *arguments, environment=None, command="serve", bare=False, program="exporter", prefix=()):
        program = "tests.exporter.bare" if bare else program
        argv = [*prefix, sys.executable, "-m", program, command, "--web.listen-address", "127.0.0.1:0", *arguments]
        self.process = subprocess.Popen(
            argv, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        self.log = []
        self.scheme, self.tls, self.headers = "http", None, {}
        self.port = None
        self._listening = threading.Event()
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()
        assert self._listening.wait(_PATIENCE_SECONDS), f"did not start: {self.log}"

    def _follow(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            found = _ADDRESS.search(line)
            if found and "serving" in line:
                self.port = int(found[1])
                self._listening.set()

    def get(self, path, **headers):
        request = Request(f"{self.scheme}://127.0.0.1:{self.port}{path}", headers={**self.headers, **headers})
        with urlopen(request, timeout=10, context=self.tls) as answer:
            return answer.read().decode()

    def refusal(self, path, **headers):
        """Return status and headers of an answer that is an error."""
        try:
            self.get(path, **headers)
        except HTTPError as error:
            with error:
                return error.code, error.headers
        raise AssertionError(f"{path} was answered")

    def metrics(self):
        """Return {(name, frozenset of label pairs): value} of the page as it is now."""
        samples = {}
        for line in self.get("/metrics").splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and not line.startswith("#"):
                labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
                samples[found[1], labels] = float(found[3])
        return samples

    def value(self, name, **labels):
        """Return the value of the one series of this name with at least these labels, None without one."""
        found = [
            value
            for (each, pairs), value in self.metrics().items()
            if each == name and frozenset(labels.items()) <= pairs
        ]
        assert len(found) <= 1, f"{len(found)} series of {name} with {labels}"
        return found[0] if found else None

    def wait_for(self, condition, seconds=15.0):
        """Wait until a condition on this daemon holds, and return what it returned."""
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, f"not within {seconds} s; log: {self.log[-20:]}"
            time.sleep(0.05)
        return result

    def stop(self, number=signal.SIGTERM):
        """Ask it to stop; return its exit status and how long it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            status = self.process.wait(10)
        finally:
            seconds = time.monotonic() - began
            self.close()
        return status, seconds

    def close(self):
        """Make sure that it is gone and that its log is read to the end."""
        self.process.kill()
        self.process.wait()
        self._follower.join(5)
        self.process.stderr.close()


@contextmanager
def daemon(*arguments, **more):
    running = Daemon(*arguments, **more)
    try:
        yield running
    finally:
        running.close()


class FakeServer:
    """Answers on loopback whatever it is told to: {path: (status, headers, body)}; a callable body writes itself.

    With no status the body is the whole answer, HTTP or not.
    """

    def __init__(self, *, certificate=None):
        self.answers = {}
        self.requests = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                fake.requests.append((self.path, dict(self.headers)))
                asked = self.path if self.path in fake.answers else self.path.partition("?")[0]
                status, headers, body = fake.answers.get(asked, (404, {}, b""))
                try:
                    if status is not None:
                        self.send_response(status)
                        for name, value in headers.items():
                            self.send_header(name, value)
                        self.end_headers()
                    if callable(body):
                        body(self.wfile)
                    else:
                        self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self):
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    @property
    def engine(self):
        return f"127.0.0.1:{self._server.server_address[1]}"

    def page(self, text, *, version="0.32.0", model="m", max_model_len=8192):
        """Answer as a vLLM server with this metrics page would."""
        self.answers = {
            "/metrics": (200, {}, text.encode()),
            "/version": (200, {}, json.dumps({"version": version}).encode()),
            "/v1/models": (
                200,
                {},
                json.dumps({"data": [{"id": model, "root": "/models/m", "max_model_len": max_model_len}]}).encode(),
            ),
        }

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def vllm_page(*, running=3, waiting=0, usage=0.25, tokens=100_000, generated=1_000, preempted=0, started=1.7e9):
    """Return a small page in vLLM 0.32's names."""
    same = 'engine="0",model_name="m"'
    return f"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{same}}} {running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{same}}} {waiting}
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{same}}} {usage}
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{{same}}} {generated}
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{{{same}}} {preempted}
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="16",engine="0",kv_cache_max_concurrency="12.2",kv_cache_size_tokens="{tokens}",\
num_gpu_blocks="{tokens // 16}"}} 1.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started}
"""

"""A stand-in for vLLM's API on loopback: streams as many tokens as are asked for, as told to misbehave."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "stand-in"


@dataclass
class ServerState:
    """How the server answers, and what it was asked."""

    max_model_len: int = 4096
    pause_seconds: float = 0.0
    """Before each piece of a stream."""
    tokens_a_piece: int = 1
    usage: str = "each"
    """``each`` piece counts, only the ``last`` event does, or ``none``."""
    status: int = 200
    cut_after: int | None = None
    """Pieces after which the connection is closed."""
    error_after: int | None = None
    """Pieces after which the stream tells of an error."""
    hang: threading.Event | None = None
    """Set: streams wait for it before their second piece."""
    metrics: bool = True
    metrics_page: str | None = None
    """A page to show instead of its own."""
    metrics_until: int | None = None
    """Completions after which the page does not come any more before ``hang`` is set."""
    fail_every: int | None = None
    """Every so many-th completion is refused with 503."""
    asked: list = field(default_factory=list)
    keys: list = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    """Somebody waits for a page that does not come."""
    running: int = 0
    peak: int = 0
    finished: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def page(self):
        labels = f'{{engine="0",model_name="{MODEL}"}}'
        tokens = sum(each["max_tokens"] for each in self.asked)
        steps = len(self.asked) * 10
        return (
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{labels} {self.running}\n"
            "# TYPE vllm:num_requests_waiting gauge\n"
            f"vllm:num_requests_waiting{labels} 0\n"
            "# TYPE vllm:kv_cache_usage_perc gauge\n"
            f"vllm:kv_cache_usage_perc{labels} {min(1.0, self.running / 10)}\n"
            "# TYPE vllm:num_preemptions_total counter\n"
            f"vllm:num_preemptions_total{labels} {len(self.asked) // 10}\n"
            "# TYPE vllm:generation_tokens_total counter\n"
            f"vllm:generation_tokens_total{labels} {tokens}\n"
            "# TYPE vllm:iteration_tokens_total histogram\n"
            f'vllm:iteration_tokens_total_bucket{{engine="0",le="+Inf",model_name="{MODEL}"}} {steps}\n'
            f"vllm:iteration_tokens_total_sum{labels} {tokens}\n"
            f"vllm:iteration_tokens_total_count{labels} {steps}\n"
            "# TYPE vllm:cache_config_info gauge\n"
            'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="101",enable_prefix_caching="True"} 1\n'
        )


@contextmanager
def server_standin(**how):
    """Yield (url, state) while the stand-in serves."""
    state = ServerState(**how)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/metrics" and state.metrics:
                if state.metrics_until is not None and state.finished >= state.metrics_until:
                    state.silent.set()
                    state.hang.wait(30)
                self.reply(200, (state.metrics_page or state.page()).encode(), "text/plain")
            elif self.path == "/version":
                self.reply(200, b'{"version":"0.32.0"}')
            elif self.path == "/v1/models":
                entry = {"id": MODEL, "object": "model", "root": "/models/x", "max_model_len": state.max_model_len}
                self.reply(200, json.dumps({"object": "list", "data": [entry]}).encode())
            else:
                self.reply(404, b"{}")

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.asked.append(body)
                state.keys.append(self.headers.get("Authorization"))
                number = len(state.asked)
                state.running += 1
                state.peak = max(state.peak, state.running)
            try:
                failing = state.fail_every and number % state.fail_every == 0
                if state.status != 200 or failing:
                    self.reply(503 if failing else state.status, b'{"error":{"message":"no"}}')
                else:
                    self.stream(body)
            except OSError:
                self.close_connection = True
            finally:
                with state.lock:
                    state.running -= 1
                    state.finished += 1

        def stream(self, body):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            sent = pieces = 0
            while sent < body["max_tokens"]:
                if pieces == state.cut_after:
                    self.close_connection = True
                    return
                if pieces == state.error_after:
                    self.event({"error": {"message": "engine died"}})
                    break
                time.sleep(state.pause_seconds)
                if state.hang and state.metrics_until is None and pieces == 1:
                    state.hang.wait(30)
                new = min(state.tokens_a_piece, body["max_tokens"] - sent)
                sent, pieces = sent + new, pieces + 1
                usage = {"completion_tokens": sent} if state.usage == "each" else None
                self.event({"choices": [{"index": 0, "text": "x" * new}], "usage": usage})
            if state.usage != "none":
                self.event({"choices": [], "usage": {"completion_tokens": sent}})
            self.chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

        def event(self, content):
            self.chunk(b"data: " + json.dumps(content).encode() + b"\n\n")

        def chunk(self, data):
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def reply(self, status, body, content_type="application/json"):
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.request_queue_size = 128
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", state
    finally:
        if state.hang:
            state.hang.set()
        server.shutdown()
        server.server_close()

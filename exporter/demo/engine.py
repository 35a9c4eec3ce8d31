"""A server with vLLM's page and vLLM's scheduler, and no model behind it."""

import json
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from advisor.simulate import Request, Scheduler, SchedulerConfig, StepResult
from exporter.clock import Clock

MODEL_NAME = "demo"
VLLM_VERSION = "0.32.0"
_LABELS = ("model_name", "engine")
_TOKENS = tuple(digit * 10**power for power in range(5) for digit in (1, 2, 5))
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240)


class _Page:
    """The figures that vLLM shows, under the names that 0.32 gives them."""

    def __init__(self, cache_config: dict[str, str]) -> None:
        self.registry = CollectorRegistry()

        def labelled(kind: Any, name: str, **more: Any) -> Any:
            metric = kind(f"vllm:{name}", name.replace("_", " "), _LABELS, registry=self.registry, **more)
            return metric.labels(model_name=MODEL_NAME, engine="0")

        self.running = labelled(Gauge, "num_requests_running")
        self.waiting = labelled(Gauge, "num_requests_waiting")
        self.usage = labelled(Gauge, "kv_cache_usage_perc")
        self.preemptions = labelled(Counter, "num_preemptions")
        self.prompt_tokens = labelled(Counter, "prompt_tokens")
        self.generation_tokens = labelled(Counter, "generation_tokens")
        self.prefix_queries = labelled(Counter, "prefix_cache_queries")
        self.prefix_hits = labelled(Counter, "prefix_cache_hits")
        self.prompt_length = labelled(Histogram, "request_prompt_tokens", buckets=_TOKENS)
        self.output_length = labelled(Histogram, "request_generation_tokens", buckets=_TOKENS)
        self.queue = labelled(Histogram, "request_queue_time_seconds", buckets=_SECONDS)
        self.first_token = labelled(Histogram, "time_to_first_token_seconds", buckets=_SECONDS)
        self.inter_token = labelled(Histogram, "inter_token_latency_seconds", buckets=_SECONDS)
        self.end_to_end = labelled(Histogram, "e2e_request_latency_seconds", buckets=_SECONDS)
        by_reason = Gauge(
            "vllm:num_requests_waiting_by_reason",
            "waiting by reason",
            (*_LABELS, "reason"),
            registry=self.registry,
        )
        self.waiting_for_capacity = by_reason.labels(model_name=MODEL_NAME, engine="0", reason="capacity")
        by_reason.labels(model_name=MODEL_NAME, engine="0", reason="deferred")
        information = {"engine": "0", **cache_config}
        Gauge("vllm:cache_config_info", "cache config", tuple(information), registry=self.registry).labels(
            **information
        ).set(1)


class DemoEngine:
    """Runs the scheduler over made-up requests in real time and serves the page on loopback."""

    def __init__(
        self,
        config: SchedulerConfig,
        *,
        cache_config: dict[str, str],
        model_path: str,
        arrivals_per_second: Callable[[], float],
        clock: Clock,
    ) -> None:
        """Take the scheduler's configuration and what the page says of the cache."""
        self._scheduler = Scheduler(config)
        self._config = config
        self._arrivals_per_second = arrivals_per_second
        self._clock = clock
        self._random = random.Random(20)  # noqa: S311 - a story, not a secret
        self._page = _Page(cache_config)
        self._model_path = model_path
        self._arrived: dict[str, tuple[float, Request]] = {}
        self._last_token: dict[str, float] = {}
        self._next_arrival = 0.0
        self._requests = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        """Port on loopback."""
        return int(self._server.server_address[1])

    @property
    def num_running(self) -> int:
        """Requests running now."""
        return self._scheduler.num_running

    def start(self) -> None:
        """Serve and run until stopped."""
        threading.Thread(target=self._server.serve_forever, name="demo http", daemon=True).start()
        threading.Thread(target=self._run, name="demo engine", daemon=True).start()

    def stop(self) -> None:
        """Stop both."""
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Return (content type, body) of one of vLLM's endpoints, None for any other path."""
        if path == "/metrics":
            with self._lock:
                return "text/plain; version=0.0.4", generate_latest(self._page.registry)
        if path == "/version":
            return "application/json", json.dumps({"version": VLLM_VERSION}).encode()
        if path == "/v1/models":
            model = {"id": MODEL_NAME, "object": "model", "root": self._model_path, "parent": None}
            listed = {"object": "list", "data": [{**model, "max_model_len": self._config.max_model_len}]}
            return "application/json", json.dumps(listed).encode()
        return None

    def _run(self) -> None:
        while not self._stop.is_set():
            began = self._clock.steady()
            with self._lock:
                duration = self.iterate(began)
            self._stop.wait(max(0.0, duration - (self._clock.steady() - began)))

    def iterate(self, now_seconds: float) -> float:
        """Let requests arrive, run one step, show it. Return how long the step would take, in seconds."""
        self._let_arrive(now_seconds)
        if not self._scheduler.has_work:
            return 0.05
        result = self._scheduler.step()
        prefill = result.batch.prefill_tokens if result.batch else 0
        context = result.batch.context_tokens if result.batch else 0
        duration = 0.028 + prefill * 9e-5 + context * 2.5e-7
        self._show(result, now_seconds + duration)
        return duration

    def _let_arrive(self, now_seconds: float) -> None:
        if self._next_arrival == 0.0:
            self._next_arrival = now_seconds
        while self._next_arrival <= now_seconds:
            self._requests += 1
            prompt = min(6_000, int(self._random.lognormvariate(6.6, 0.8)) + 1)
            output = min(2_000, int(self._random.lognormvariate(5.3, 0.7)) + 1)
            shared = 256 if prompt > 300 and self._random.random() < 0.3 else 0
            request = Request(
                request_id=str(self._requests),
                prompt_tokens=prompt,
                max_tokens=output,
                prefix_group="system prompt" if shared else None,
                shared_prefix_tokens=shared,
            )
            self._scheduler.add(request)
            self._arrived[request.request_id] = (self._next_arrival, request)
            self._next_arrival += self._random.expovariate(self._arrivals_per_second())

    def _show(self, result: StepResult, now_seconds: float) -> None:
        page = self._page
        for request_id in result.batch.admitted if result.batch else ():
            if request_id not in self._last_token:
                page.queue.observe(max(0.0, now_seconds - self._arrived[request_id][0]))
                self._last_token[request_id] = 0.0
        output = result.output
        if output is None:
            return
        for request_id in output.emitted:
            arrived, request = self._arrived[request_id]
            before = self._last_token.get(request_id, 0.0)
            if before == 0.0:
                page.first_token.observe(now_seconds - arrived)
                page.prompt_tokens.inc(request.prompt_tokens)
            else:
                page.inter_token.observe(now_seconds - before)
            self._last_token[request_id] = now_seconds
        page.generation_tokens.inc(len(output.emitted))
        for request_id in output.finished:
            arrived, request = self._arrived.pop(request_id)
            self._last_token.pop(request_id, None)
            page.prompt_length.observe(request.prompt_tokens)
            page.output_length.observe(request.max_tokens)
            page.end_to_end.observe(now_seconds - arrived)
        page.preemptions.inc(len(output.preempt_events))
        page.prefix_queries.inc(output.stats.prefix_cache_queries)
        page.prefix_hits.inc(output.stats.prefix_cache_hits)
        page.running.set(output.stats.num_running_reqs)
        page.waiting.set(output.stats.num_waiting_reqs)
        page.waiting_for_capacity.set(output.stats.num_waiting_reqs)
        page.usage.set(output.stats.kv_cache_usage)


def _handler(engine: DemoEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = engine.answer(self.path)
            content_type, body = answer or ("text/plain", b"not found\n")
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: the daemon polls every second."""

    return Handler

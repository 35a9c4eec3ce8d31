"""One streamed completion, timed as it arrives.

Prompts are token ids, so that their length is exact whatever the tokenizer; ``ignore_eos`` makes the output's length
exact, and usage statistics in every piece of the stream (``stream_options``, vLLM 0.5.5+) say how many tokens it
holds, because a busy server sends several at once. A server that knows none of these still is measured: then the
pieces are counted, and the result says so.
"""

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from advisor.loadtest import End, Sample
from exporter.connection import Connection

_READ_BYTES = 65_536
_MOST_EVENT_BYTES = 1024**2
_MOST_TOKENS = 10**9
"""Of one answer; a count that is larger, or falls, is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A request to send."""

    prompt: tuple[int, ...]
    """Token ids."""
    output_tokens: int
    """As many are asked for, and no fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where requests go."""

    url: str
    """Of the server, without path."""
    model: str
    api_key: str | None = None
    context: ssl.SSLContext | None = None
    timeout_seconds: float = 120.0
    """For one request, from sending it to its end."""


def events(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the data of each server-sent event, however the stream is cut; comments and other fields are left out.

    Raises:
        ValueError: An event does not end within a megabyte.
    """
    rest = b""
    data: list[bytes] = []
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r")
            if text.startswith(b"data:"):
                data.append(text[5:].removeprefix(b" "))
            elif not text and data:
                yield b"\n".join(data)
                data = []
        if len(rest) + sum(map(len, data)) > _MOST_EVENT_BYTES:
            raise ValueError("an event does not end")


@dataclass
class Progress:
    """One answer while it is being read."""

    arrivals: list[tuple[float, int]] = field(default_factory=list)
    counted: int | None = None
    """Output tokens by the server's own count."""
    done: bool = False
    error: str | None = None

    def take(self, data: bytes, now: float) -> None:
        """Read one event that arrived at this moment."""
        if data == b"[DONE]":
            self.done = True
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            self.error = "not_json"
            return
        if not isinstance(event, dict) or "error" in event:
            self.error = "error_in_stream"
            return
        usage = event.get("usage")
        total = usage.get("completion_tokens") if isinstance(usage, dict) else None
        choices = event.get("choices")
        # A token that is half a character has no text of its own yet, so an empty piece is output as well.
        choice = choices[0] if isinstance(choices, list) and choices else None
        has_output = isinstance(choice, dict)
        before = len(self.arrivals) if self.counted is None else self.counted  # not counted, each piece is one token
        if isinstance(total, int) and not isinstance(total, bool) and before <= total <= _MOST_TOKENS:
            new = total - before
            self.counted = total
            if has_output and new > 0:
                self.arrivals.append((now, new))
        elif has_output and self.counted is None and _has_text(choice):
            self.arrivals.append((now, 1))

    @property
    def output_tokens(self) -> int:
        """The server's count, else the pieces that came."""
        return sum(tokens for _, tokens in self.arrivals) if self.counted is None else self.counted

    def placed(self) -> tuple[tuple[float, int], ...]:
        """Return what arrived when; tokens that the server counted and no piece held came with the last one."""
        if not self.arrivals:
            return ()
        missing = self.output_tokens - sum(tokens for _, tokens in self.arrivals)
        moment, tokens = self.arrivals[-1]
        return (*self.arrivals[:-1], (moment, tokens + missing))


def _has_text(choice: Any) -> bool:
    return isinstance(choice, dict) and bool(choice.get("text"))


class Client:
    """One connection to the server, kept open between requests; used by one thread at a time."""

    def __init__(self, target: Target, *, clock: Callable[[], float]) -> None:
        """Take the target and the clock that all moments are read from."""
        self._target = target
        self._clock = clock
        self._path = urlsplit(target.url).path.rstrip("/") + "/v1/completions"
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "User-Agent": "vllm-headroom"}
        if target.api_key:
            headers["Authorization"] = f"Bearer {target.api_key}"
        self._connection = Connection(
            target.url, headers=headers, trust=lambda: target.context or ssl.create_default_context()
        )
        self._stopping = threading.Event()

    def complete(self, planned: Planned) -> Sample:
        """Send a request and read its answer to the end; failures are in the sample."""
        sent = self._clock()
        progress = Progress()
        try:
            reason = self._exchange(planned, progress, until=sent + self._target.timeout_seconds)
        except TimeoutError:
            reason = "timeout"
        except ConnectionRefusedError:
            reason = "refused"
        except (OSError, http.client.HTTPException):
            reason = "connection_lost"
        except ValueError:
            reason = "not_understood"
        if reason is not None:
            self._connection.close()
        end = End.OK if reason is None else End.CUT_OFF if self._stopping.is_set() else End.FAILED
        return Sample(
            sent_seconds=sent,
            ended_seconds=self._clock(),
            end=end,
            reason=reason if end is End.FAILED else None,
            prompt_tokens=len(planned.prompt),
            output_tokens=progress.output_tokens,
            counted_by_server=progress.counted is not None,
            arrivals=progress.placed(),
        )

    def _exchange(self, planned: Planned, progress: Progress, *, until: float) -> str | None:
        """Return why the request failed, None if it did not."""
        body = {
            "model": self._target.model,
            "prompt": list(planned.prompt),
            "max_tokens": planned.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        with self._send(json.dumps(body)) as response:
            if response.status != http.client.OK:
                response.read(_READ_BYTES)
                return f"http_{response.status}"
            for data in events(self._pieces(response, until)):
                progress.take(data, self._clock())
                if progress.error:
                    return progress.error
                if progress.done:
                    break
            while progress.done and response.read1(_READ_BYTES):
                pass  # the end of the body frees the connection for the next request
        if not progress.done:
            return "cut_short"
        return None if progress.arrivals else "no_output"

    def _send(self, body: str) -> http.client.HTTPResponse:
        seconds = self._target.timeout_seconds
        return self._connection.request("POST", self._path, body=body, connect_seconds=seconds, read_seconds=seconds)

    def _pieces(self, response: http.client.HTTPResponse, until: float) -> Iterator[bytes]:
        while piece := response.read1(_READ_BYTES):
            yield piece
            if self._clock() > until:
                raise TimeoutError

    def stop(self) -> None:
        """Let a request under way end now, from another thread."""
        self._stopping.set()
        self._connection.cut()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

"""The HTTP server: its sockets, one thread of its own, bounds on what a client may hold, stopped within a second.

uvicorn speaks HTTP on each connection. Accepting is done here, because what must be bounded begins before HTTP does:
open connections (a TLS handshake alone holds a quarter of a mebibyte), the time that a handshake takes, the time
until a request's head is complete, the time in which an answer is taken.
"""

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from exporter.config import split_listen_address
from exporter.errors import UsageError
from exporter.web.guard import Guard, set_headers

if TYPE_CHECKING:
    from exporter.web.config import WebConfig
    from exporter.web.live import LiveWebConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a client may hold, and for how long."""

    connections: int = 256
    requests_at_once: int = 40
    """The default of node_exporter's --web.max-requests; more are refused with 503."""
    handshake_seconds: float = 5.0
    head_seconds: float = 10.0
    """From a connection's first moment until its request is complete to the empty line."""
    answer_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    """From an answer to the next complete request: above the usual scrape intervals, so one connection serves all."""


_GRACE_SECONDS = 0.7
"""For answers under way when the end comes."""
_STOP_SECONDS = 1.0
_BACKLOG = 512
"""A burst of scrapers waits to be accepted rather than for the second after which TCP tries again."""
_FIRST_PASSED_SOCKET = 3
"""SD_LISTEN_FDS_START: where systemd leaves the sockets it listens on for a service."""


def listen(text: str) -> socket.socket:
    """Return a listening socket.

    Raises:
        UsageError: The address cannot be bound.
        ValueError: It is not one.
    """
    host, port = split_listen_address(text)
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # Python adds the address, which is told already
        raise UsageError(f"--web.listen-address: cannot listen on {text}: {reason}") from error


def passed_sockets() -> tuple[socket.socket, ...]:
    """Return the sockets that systemd listens on for this process (sd_listen_fds(3)).

    Raises:
        UsageError: There is none, or one that no client can connect to.
    """
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal() or int(count) == 0:
        raise UsageError("--web.systemd-socket: systemd passed no socket: is vllm-headroom.socket enabled and started?")
    found = []
    for number in range(_FIRST_PASSED_SOCKET, _FIRST_PASSED_SOCKET + int(count)):
        os.set_inheritable(number, False)
        passed = socket.socket(fileno=number)
        if passed.type != socket.SOCK_STREAM or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise UsageError("--web.systemd-socket: a socket that systemd passed is no listening stream socket")
        found.append(passed)
    return tuple(found)


def shown_url(listening: socket.socket, *, secure: bool = False) -> str:
    """Return an address that a person on this machine can open."""
    scheme = "https" if secure else "http"
    if listening.family == socket.AF_UNIX:
        return f"{scheme}+unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    if host in ("::", "0.0.0.0"):  # noqa: S104 - compared with, not bound to
        host = "localhost"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


class HttpServer:
    """Serves an application until stopped."""

    def __init__(
        self,
        app: ASGIApp,
        listening: Sequence[socket.socket],
        *,
        web: "LiveWebConfig | None" = None,
        limits: Limits = Limits(),
    ) -> None:
        """Take what to serve, the sockets to serve it on, how it is protected, and what a client may hold."""
        self.limits = limits
        self._sockets = tuple(listening)
        self._web = web
        self._config = uvicorn.Config(
            Guard(app, web, most_at_once=limits.requests_at_once),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=16 * 1024,
        )
        self._config.load()
        self._state = ServerState()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: dict[Any, Callable[[], object]] = {}
        """How to end each connection on which no request is in progress, the longest idle first."""
        self._busy: set[_Connection] = set()
        self._echoed = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="http", daemon=True)

    def start(self) -> None:
        """Begin serving; returns once requests are answered."""
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        """Stop serving; connections that do not finish in time are cut."""
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_SECONDS)
        for listening in self._sockets:
            listening.close()

    def is_answering(self) -> bool:
        """Tell whether the server's loop has turned since this was asked last."""
        echoed, self._echoed = self._echoed, False
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._echo)
        return echoed and self._thread.is_alive()

    def _echo(self) -> None:
        self._echoed = True

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        accepting = [asyncio.create_task(self._accept(listening)) for listening in self._sockets]
        self._started.set()
        await self._stopping.wait()
        ending = (*accepting, *self._tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_GRACE_SECONDS)
        for cut in (*self._idle.values(), *(connection.cut for connection in self._busy)):
            cut()
        await asyncio.sleep(0)  # lets what was cut close its socket

    async def _accept(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError:  # out of file descriptors, or the client has gone again
                await asyncio.sleep(0.1)
                continue
            if len(self._idle) + len(self._busy) >= self.limits.connections and not self._end_longest_idle():
                connection.close()
                continue
            if connection.family != socket.AF_UNIX:
                # An answer is several writes: none of them is to wait for the client's delayed acknowledgement.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._open(connection))
            self._tasks.add(task)
            self._idle[task] = task.cancel
            task.add_done_callback(functools.partial(self._opened, connection))

    def _opened(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._idle.pop(task, None)
        if task.cancelled():
            connection.close()

    def _end_longest_idle(self) -> bool:
        """Make room for a new connection, so that many silent ones cannot shut a scraper out."""
        if not self._idle:
            return False
        longest = next(iter(self._idle))
        self._idle.pop(longest)()
        return True

    async def _open(self, connection: socket.socket) -> None:
        if self._web is not None:
            self._web.refresh()
        context = self._web.context if self._web else None
        times = {"ssl_handshake_timeout": self.limits.handshake_seconds, "ssl_shutdown_timeout": 1.0} if context else {}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection, ssl=context, **times)
        except (OSError, ssl.SSLError):  # no handshake, or none in time: a stranger's business, not worth a line
            connection.close()

    def _protocol(self) -> "_Connection":
        return _Connection(self, self._config, self._state)

    def began_waiting(self, connection: "_Connection") -> None:
        """Note that no request is in progress on a connection."""
        self._busy.discard(connection)
        self._idle[connection] = connection.cut

    def began_answering(self, connection: "_Connection") -> None:
        """Note that a request is in progress on a connection."""
        self._idle.pop(connection, None)
        self._busy.add(connection)

    def ended(self, connection: Any) -> None:
        """Note that a connection, or its opening, is over."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    @property
    def web_config(self) -> "WebConfig | None":
        """How it is protected now."""
        return self._web.config if self._web else None

    def lets_in(self, transport: asyncio.BaseTransport) -> bool:
        """Tell whether the names in the client's certificate are among those that the configuration allows."""
        tls = self.web_config.tls_server_config if self.web_config else None
        if tls is None or not tls.client_allowed_sans:
            return True
        from exporter.web.tls import is_allowed

        return is_allowed(transport.get_extra_info("peercert"), tls.client_allowed_sans)


class _Connection(H11Protocol):
    """uvicorn's connection with a deadline for whatever the client has to do next."""

    def __init__(self, server: HttpServer, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._server = server
        self._opening = asyncio.current_task()
        self._guarded_app = self.app
        self.app = self._answer
        self._deadline: asyncio.TimerHandle | None = None
        self.timeout_keep_alive = int(server.limits.keep_alive_seconds) + 60  # the deadline here comes first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._server.ended(self._opening)  # one connection counts once
        if not self._server.lets_in(transport):
            self.cut()
            return
        self._server.began_waiting(self)
        self._allow(self._server.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.ended(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def cut(self) -> None:
        """End the connection at once, whatever is under way."""
        self.transport.abort()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._server.began_answering(self)
        self._allow(self._server.limits.answer_seconds)
        try:
            await self._guarded_app(scope, receive, send)
        finally:
            if not self.transport.is_closing():
                self._server.began_waiting(self)
                self._allow(self._server.limits.keep_alive_seconds)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP with the headers of every answer; it never gets to the guard."""
        body = f"{msg}\n".encode()
        headers = MutableHeaders(
            {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close"}
        )
        set_headers(headers, self._server.web_config)
        lines = (b"HTTP/1.1 400 Bad Request", *(b": ".join(pair) for pair in headers.raw), b"", body)
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()

    def _allow(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.cut)

"""The HTTP server: one socket, one thread of its own, stopped within a second."""

import socket
import threading
import time

import uvicorn
from starlette.types import ASGIApp

from exporter.errors import UsageError

_STOP_SECONDS = 1.0


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of ``[host]:port``; an empty host means all interfaces.

    Raises:
        UsageError: It is not such an address.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--web.listen-address: {text!r} is not [HOST]:PORT, such as :9738 or 127.0.0.1:9738")
    return host.strip("[]"), int(port)


def listen(text: str) -> socket.socket:
    """Return a listening socket.

    Raises:
        UsageError: The address is not one, or cannot be bound.
    """
    host, port = parse_address(text)
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # Python adds the address, which is told already
        raise UsageError(f"--web.listen-address: cannot listen on {text}: {reason}") from error


def shown_url(listening: socket.socket) -> str:
    """Return an address that a person on this machine can open."""
    host, port = listening.getsockname()[:2]
    if host in ("::", "0.0.0.0"):  # noqa: S104 - compared with, not bound to
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


class HttpServer:
    """Serves an application until stopped."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        """Take what to serve and the socket to serve it on."""
        self._socket = listening
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                h11_max_incomplete_event_size=16 * 1024,
            )
        )
        # Outside the main thread uvicorn leaves signals alone: the command handles them.
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="http", daemon=True
        )

    def start(self) -> None:
        """Begin serving; returns once requests are answered."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop serving; connections that do not finish in time are cut."""
        self._server.should_exit = True
        self._thread.join(_STOP_SECONDS)
        self._socket.close()

"""One connection to one HTTP server: kept from request to request, and cut by another thread where it must end.

A timeout of a socket is one of silence: a peer that sends a byte of its headers now and then is never silent, and would
keep its reader for days. `http.client` speaks HTTP. requests takes as long again for its pools, cookies, redirects and
proxies, and of a page that is read every second none of them is wanted.
"""

import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import urlsplit


class Connection:
    """Opened by the first request; used by one thread at a time, but for `cut`."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        trust: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        """Take the server's address, of which the path does not count, and what goes with every request.

        ``trust`` tells at each opening whose certificates are good, as files change.
        """
        parts = urlsplit(url)
        self._is_secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_secure else 80)
        self._headers = headers
        self._trust = trust
        self._open: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._answer: http.client.HTTPResponse | None = None
        self.was_cut = False
        """Whether the latest request was, so that what its end looks like is not the server's doing."""

    def request(
        self,
        method: str,
        path: str,
        *,
        body: str | None = None,
        connect_seconds: float,
        read_seconds: float,
    ) -> http.client.HTTPResponse:
        """Return the answer once its head is there. Read its body to the end and close it, or close the connection.

        A connection that lay idle may be gone: then the request is sent once more, on another.

        Raises:
            OSError: Nothing listens there (ConnectionError and others), nothing comes in time (TimeoutError), nobody is
                to be trusted (ssl.SSLError).
            http.client.HTTPException: What answers does not speak HTTP.
        """
        self.was_cut = False
        lay_idle = self._open is not None and self._open.sock is not None
        try:
            return self._exchange(method, path, body, connect_seconds, read_seconds)
        except OSError as error:
            if not lay_idle or self.was_cut or isinstance(error, TimeoutError):
                raise
        return self._exchange(method, path, body, connect_seconds, read_seconds)

    def cut(self) -> None:
        """End what is under way, from another thread: whoever reads finds the peer gone."""
        self.was_cut = True
        if (under_way := self._socket) is not None:
            with suppress(OSError):  # it has ended by itself
                socket.socket.shutdown(under_way, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        for each in (self._answer, self._open, self._socket):
            if each is not None:
                each.close()
        self._answer = self._open = self._socket = None

    def _exchange(
        self,
        method: str,
        path: str,
        body: str | None,
        connect_seconds: float,
        read_seconds: float,
    ) -> http.client.HTTPResponse:
        try:
            if self._open is None or self._open.sock is None:
                self._open = self._opened(connect_seconds)
            self._open.sock.settimeout(read_seconds)
            self._open.request(method, path, body, self._headers)
            answer = self._answer = self._open.getresponse()
        except BaseException:
            self.close()
            raise
        return answer

    def _opened(self, seconds: float) -> http.client.HTTPConnection:
        """Return a new connection, its handshake done: that, too, is under way where `cut` finds it."""
        try:
            context = self._trust() if self._is_secure else None
        except OSError as error:
            raise ssl.SSLError(f"nobody is trusted: {error}") from error
        self._socket = socket.create_connection((self._host, self._port), seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            opened = http.client.HTTPConnection(self._host, self._port)
        else:
            secure = context.wrap_socket(self._socket, server_hostname=self._host, do_handshake_on_connect=False)
            self._socket = secure
            secure.do_handshake()
            opened = http.client.HTTPSConnection(self._host, self._port, context=context)
        opened.sock = self._socket
        return opened

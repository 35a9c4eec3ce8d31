"""An HTTP adapter whose connections can be cut from another thread.

A timeout of ``requests`` is one of silence: a peer that sends a byte of its headers now and then is never silent, and
would keep its reader for days.
"""

import socket
import weakref
from contextlib import suppress
from typing import Any

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class CuttableAdapter(HTTPAdapter):
    """Speaks HTTP as ``requests`` does, with servers that no proxy stands before."""

    def __init__(self) -> None:
        """Start with no connection."""
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._pools: dict[Any, Any] = {}
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        """Make the pools, of connections that are known here."""
        super().init_poolmanager(*arguments, **more)
        known = self._connections

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                known.add(self)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                known.add(self)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Return what holds the connections to a server, looked up once: that is dear beside a short request."""
        key = (request.url, verify, cert)
        if key not in self._pools:
            self._pools[key] = super().get_connection_with_tls_context(request, verify, proxies, cert)
        return self._pools[key]

    def request_url(self, request: PreparedRequest, _proxies: Any) -> str:
        """Return what stands in the request's first line; only for a proxy is it more than the path."""
        return str(request.path_url)

    def cut(self) -> None:
        """End what is under way on every connection: its reader finds the peer gone."""
        for connection in tuple(self._connections):
            sock = connection.sock
            if sock is not None:
                with suppress(OSError):  # it has ended by itself
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

"""Connections that can be cut from another thread.

A timeout of urllib3 is one of silence: a peer that sends a byte of its headers now and then is never silent, and would
keep its reader for days.
"""

import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from urllib3.connectionpool import HTTPConnectionPool


def make_cuttable(pool: HTTPConnectionPool) -> Callable[[], None]:
    """Return what ends all that is under way on the connections that this pool makes from now on.

    Their reader finds the peer gone.
    """
    connections: weakref.WeakSet[Any] = weakref.WeakSet()
    made_by_pool: Any = pool.ConnectionCls

    class Known(made_by_pool):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            connections.add(self)

    pool.ConnectionCls = Known

    def cut() -> None:
        for connection in tuple(connections):
            if connection.sock is not None:
                with suppress(OSError):  # it has ended by itself
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    return cut

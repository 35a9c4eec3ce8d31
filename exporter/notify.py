"""What a service tells systemd, over the datagram socket that it names (sd_notify(3)). Without one nothing is sent."""

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)


class Notifier:
    """Tells the service manager how it goes."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Take the environment that names the socket and the watchdog's interval."""
        self._address = environment.get("NOTIFY_SOCKET", "")
        microseconds = environment.get("WATCHDOG_USEC", "")
        is_meant = bool(self._address) and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        is_set = is_meant and microseconds.isdecimal() and int(microseconds) > 0
        self.watchdog_seconds: float | None = int(microseconds) / 1e6 if is_set else None
        """The manager restarts a service from which it hears nothing for this long; None: it does not."""

    def ready(self, status: str) -> None:
        """The first reading is finished, or a reload is."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self, status: str) -> None:
        """Everything turns."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the null byte of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a manager that does not read must not hold up the loop
                sender.sendto(text.encode(), address)
        except OSError as error:
            log.debug("the service manager was not told: %s", error)

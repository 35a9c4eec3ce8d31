"""Who sends when: clients that wait for each answer, or requests with times of their own."""

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from advisor.loadtest import End, Sample
from exporter.bench.client import Client, Planned

MOST_USERS = 256
MOST_IN_FLIGHT = 512
"""Requests with times of their own that are under way at once; one more waits for its turn, which is counted."""
_GIVE_UP_AFTER = 10
"""Failures in a row, from the first request on, after which there is no sense in more."""
_STOP_SECONDS = 10.0
"""For all connections to end after a stop; a server that does not let go of one is left behind."""


@dataclass
class Drive:
    """A load under way. Samples are added as requests end, from many threads."""

    new_client: Callable[[], Client]
    clock: Callable[[], float]
    """Seconds since the test began."""
    most_in_flight: int = MOST_IN_FLIGHT
    samples: list[Sample] = field(default_factory=list)
    steady_until_seconds: float | None = None
    """When the first client ran out of requests."""
    held_back: int = 0
    """Requests that were due while as many as allowed were under way."""
    in_flight: int = 0
    gave_up: bool = False
    """Whether it ended early because nothing but failures came back."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _clients: list[Client] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def closed(self, planned: Iterable[Planned], *, users: int, until_seconds: float) -> None:
        """Let so many users take requests one after another until none is left or time is up."""
        left = iter(planned)

        def take() -> Planned | None:
            with self._lock:
                due = None if self._stop.is_set() or self.clock() >= until_seconds else next(left, None)
                if due is None and self.steady_until_seconds is None:
                    self.steady_until_seconds = self.clock()
                return due

        def user(client: Client) -> None:
            while (due := take()) is not None:
                self._complete(client, due)

        for _ in range(users):
            self._start(user, self._client())
        self._wait()

    def open(self, planned: Iterable[tuple[float, Planned]], *, until_seconds: float) -> None:
        """Send every request when it is due, in order of time, whatever has been answered by then."""
        idle: queue.SimpleQueue[Client] = queue.SimpleQueue()
        begin = self.clock()

        def send(client: Client, due: Planned) -> None:
            self._complete(client, due)
            idle.put(client)

        for seconds, due in planned:
            if seconds > until_seconds or self._stop.wait(max(0.0, begin + seconds - self.clock())):
                break
            try:
                client = idle.get_nowait()
            except queue.Empty:
                if len(self._clients) < self.most_in_flight:
                    client = self._client()
                else:
                    self.held_back += 1
                    client = idle.get()
            if self._stop.is_set():
                break
            self._start(send, client, due)
        self._wait()

    def stop(self) -> None:
        """End every request under way; what it brought until now is kept."""
        self._stop.set()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.stop()
        until = self.clock() + _STOP_SECONDS
        for thread in list(self._threads):
            thread.join(max(0.0, until - self.clock()))

    def _client(self) -> Client:
        client = self.new_client()
        with self._lock:
            self._clients.append(client)
        return client

    def _complete(self, client: Client, due: Planned) -> None:
        with self._lock:
            if self._stop.is_set():
                return
            self.in_flight += 1
        sample = client.complete(due)
        with self._lock:
            self.in_flight -= 1
            self.samples.append(sample)
            if len(self.samples) == _GIVE_UP_AFTER and all(each.end is End.FAILED for each in self.samples):
                self.gave_up = True
                self._stop.set()

    def _start(self, run: Callable[..., None], *args: object) -> None:
        # Daemons: a server that hangs must not keep the program from ending.
        thread = threading.Thread(target=run, args=args, daemon=True)
        if len(self._threads) >= 2 * self.most_in_flight:
            self._threads[:] = [each for each in self._threads if each.is_alive()]
        thread.start()
        # Only now: an interrupt in between must not leave one behind that cannot be waited for.
        self._threads.append(thread)

    def _wait(self) -> None:
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()

"""APScheduler, set up so that a read which never returns holds up nothing but itself."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from queue import SimpleQueue
from typing import Any

from apscheduler.executors.debug import DebugExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler

log = logging.getLogger(__name__)

Call = Callable[[], None]
_HEAD_START_SECONDS = 0.02
"""What a call has to itself before the next one of its beat begins: most reads are over by then, one after the other in
one thread. All at once they would fight for the interpreter, and keep a stack and a heap each."""
_MOST_OF_INTERVAL = 0.25
"""The share of an interval that all of that may take: where many hang, what is read last is not late for what follows
half an interval later."""


class _Batch:
    """Calls to make one after the other, by the thread that holds the batch."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.waiting = deque(calls)
        self._holder: _Inbox | None = None
        self._began_seconds: float | None = None
        """When the call under way began; None until the holder has begun its first."""
        self._over = threading.Event()

    def hand_to(self, thread: "_Inbox") -> None:
        """Let a thread hold the batch; one that did before finds its place taken once its call is over."""
        self._holder, self._began_seconds = thread, None
        thread.put(self)

    def next_for(self, thread: "_Inbox") -> Call | None:
        """Return what a thread is to call next; None after the last call, and for one whose place is taken."""
        if self._holder is not thread:
            return None
        try:
            call = self.waiting.popleft()
        except IndexError:
            return None
        self._began_seconds = time.monotonic()
        return call

    def left_by(self, thread: "_Inbox") -> None:
        """Note that a thread makes no more of these calls: they are over if it still held them."""
        if self._holder is thread:
            self._over.set()

    def wait(self, head_start_seconds: float) -> None:
        """Wait until all is over, or the call under way has gone on for this long.

        A holder that has not begun is waited for: nothing hangs, the processor is taken.
        """
        left = head_start_seconds
        while left > 0 and not self._over.wait(left):
            if self._began_seconds is not None:
                left = self._began_seconds + head_start_seconds - time.monotonic()


_Inbox = SimpleQueue[_Batch | None]


class _Workers:
    """Daemon threads that make calls: one is kept for the next batch, others come and go while calls take long.

    No pool: its threads are joined at exit, so one driver call that hangs would hang the exit; and it can be full of
    hung reads, which would stall every other source.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: _Inbox | None = None
        """The inbox of the thread that waits for a batch, while one does."""
        self._is_over = False

    def run(self, calls: Iterable[Call], *, head_start_seconds: float) -> None:
        """Let calls be made in turn; return when each is over, or has gone on for this long.

        After one that goes on for longer another thread makes the rest.

        Raises:
            RuntimeError: No more threads may be made; calls that have not begun are not made.
        """
        batch = _Batch(calls)
        while batch.waiting:
            with self._lock:
                inbox, self._spare = self._spare, None
            if inbox is None:
                inbox = SimpleQueue()
                try:
                    threading.Thread(target=self._serve, args=(inbox,), daemon=True).start()
                except RuntimeError:
                    batch.waiting.clear()
                    raise
            batch.hand_to(inbox)
            batch.wait(head_start_seconds)

    def stop(self) -> None:
        with self._lock:
            self._is_over = True
            inbox, self._spare = self._spare, None
        if inbox is not None:
            inbox.put(None)

    def _serve(self, inbox: _Inbox) -> None:
        while (batch := inbox.get()) is not None:
            while (call := batch.next_for(inbox)) is not None:
                call()
            with self._lock:
                is_kept = self._spare is None and not self._is_over
                if is_kept:
                    self._spare = inbox
            batch.left_by(inbox)
            del batch  # nothing of it is held on to while waiting
            if not is_kept:
                return


class _Jobs(MemoryJobStore):  # type: ignore[misc]
    """Calls that are due at the latest within their own interval, whatever happens to the clock.

    APScheduler knows due times by the wall clock, which people and NTP set: back by an hour would mean an hour without
    a reading, and forward by years (a board that starts in 1970) a list of every call that was missed meanwhile. All
    due times are moved then, as they are where the process stood still, by as much as makes the next one now. Moved one
    by one they would keep no distance, and a judgement that comes with the reads is of the readings before.
    """

    shortest_seconds = math.inf
    """The shortest interval of those that were looked at last."""

    def get_due_jobs(self, now: datetime) -> list[Any]:
        jobs = self.get_all_jobs()
        self.shortest_seconds = min((job.trigger.interval.total_seconds() for job in jobs), default=math.inf)
        if any(abs(job.next_run_time - now) > job.trigger.interval for job in jobs):
            lost = now - min(job.next_run_time for job in jobs)
            for job in jobs:
                job.modify(next_run_time=job.next_run_time + lost)
        due: list[Any] = super().get_due_jobs(now)
        return due


class _Scheduler(BackgroundScheduler):  # type: ignore[misc]
    """Sleeps no longer than an interval: a clock that is set back while calls are handed out makes them due in an hour.

    The jobs are looked at before that and the length of the sleep is worked out after it, so `_Jobs` cannot see it.
    """

    def __init__(self, jobs: _Jobs, **more: Any) -> None:
        self._own_jobs = jobs
        super().__init__(jobstores={"default": jobs}, **more)

    def _process_jobs(self) -> float | None:
        seconds: float | None = super()._process_jobs()
        return None if seconds is None else min(seconds, self._own_jobs.shortest_seconds)


@dataclass(kw_only=True, slots=True)
class _Beat:
    """Calls that are due at the same moments: one job of APScheduler, whose upkeep costs as much as a short read."""

    calls: Mapping[str, Call]
    """By key. Replaced, never changed: the scheduler's thread goes through it while others add to it."""
    seconds: float
    """Of real time, from one to the next."""
    job: Any = None


class Schedule:
    """Calls functions at even intervals, each at most once at a time."""

    def __init__(self, on_overrun: Callable[[str], None], *, speed: float = 1.0) -> None:
        """Take whom to tell that a call was due while the one before it is still under way.

        Its seconds are those of a clock that runs ``speed`` times as fast as real time.
        """
        self._on_overrun = on_overrun
        self._speed = speed
        self._workers = _Workers()
        self._beats: dict[tuple[float, float], _Beat] = {}
        self._changing = threading.RLock()
        """Held while beats are made and ended; never by the scheduler's own thread, which holds a lock of its own."""
        self._under_way: dict[str, bool] = {}
        """By key, whether the call that was handed out has begun: on a host without a processor to spare it waits."""
        self._scheduler = _Scheduler(
            _Jobs(),
            executors={"default": DebugExecutor()},  # in its own thread: a beat only hands out calls
            job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
            timezone=UTC,
        )

    def start(self) -> None:
        """Begin calling."""
        self._scheduler.start()

    @property
    def is_running(self) -> bool:
        """Whether calls are made."""
        return bool(self._scheduler.running)

    def every(self, seconds: float, key: str, call: Call, *, after_seconds: float = 0.0) -> None:
        """Call from now (or ``after_seconds``, less than ``seconds``) on; the same key replaces what was there.

        What joins calls of the same two times that are made already is called with them from their next time on.
        """
        with self._changing:
            self.cancel(key)
            beat = self._beats.get((seconds, after_seconds))
            if beat is not None:
                beat.calls = {**beat.calls, key: call}
                return
            beat = self._beats[seconds, after_seconds] = _Beat(calls={key: call}, seconds=seconds / self._speed)
            first = datetime.now(UTC) + timedelta(seconds=after_seconds / self._speed)
            beat.job = self._scheduler.add_job(
                self._hand_out,
                "interval",
                args=(beat,),
                seconds=beat.seconds,
                start_date=first,
                next_run_time=first,
            )

    def cancel(self, key: str) -> None:
        """Stop calling what is scheduled under this key, if anything is."""
        with self._changing:
            for times, beat in tuple(self._beats.items()):
                if key not in beat.calls:
                    continue
                beat.calls = {each: call for each, call in beat.calls.items() if each != key}
                if not beat.calls:
                    del self._beats[times]
                    beat.job.remove()

    def stop(self) -> None:
        """Stop calling, if that has begun; calls under way are not waited for."""
        if self.is_running:
            self._scheduler.shutdown(wait=False)
        self._workers.stop()

    def _hand_out(self, beat: _Beat) -> None:
        calls = beat.calls
        if not calls:
            return  # the last was cancelled at this moment
        head_start_seconds = min(_HEAD_START_SECONDS, _MOST_OF_INTERVAL * beat.seconds / len(calls))
        due = []
        for key, call in calls.items():
            if (has_begun := self._under_way.get(key)) is None:
                self._under_way[key] = False
                due.append(partial(self._call, key, call))
            elif has_begun:
                self._on_overrun(key)
        try:
            self._workers.run(due, head_start_seconds=head_start_seconds)
        except RuntimeError:  # no more threads may be made: perhaps next time
            dropped = [key for key in calls if self._under_way.get(key) is False]
            for key in dropped:
                self._under_way.pop(key, None)
            log.exception("not called: %s", ", ".join(dropped))

    def _call(self, key: str, call: Call) -> None:
        threading.current_thread().name = key
        self._under_way[key] = True
        try:
            call()
        except BaseException:
            log.exception("%s ended in an unforeseen way", key)
        finally:
            self._under_way.pop(key, None)

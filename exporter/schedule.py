"""APScheduler, set up so that a read which never returns holds up nothing but itself."""

import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler


class _DaemonThreads(BaseExecutor):  # type: ignore[misc]
    """Runs each job in a thread of its own that does not keep the program from ending.

    A pool's threads are joined at exit: one driver call that hangs would hang the exit. And a pool can be full of
    hung reads, which would stall every other source.
    """

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        threading.Thread(target=self._run, args=(job, run_times), name=job.id, daemon=True).start()

    def _run(self, job: Any, run_times: list[datetime]) -> None:
        try:
            events = run_job(job, job._jobstore_alias, run_times, self._logger.name)  # noqa: SLF001
        except BaseException:  # noqa: BLE001 - a job that ends its thread must still be accounted for as finished
            self._run_job_error(job.id, *sys.exc_info()[1:])
        else:
            self._run_job_success(job.id, events)


class _Jobs(MemoryJobStore):  # type: ignore[misc]
    """Calls that are due at the latest within their own interval, whatever happens to the clock.

    APScheduler knows due times by the wall clock, which people and NTP set: back by an hour would mean an hour without
    a reading, and forward by years (a board that starts in 1970) a list of every call that was missed meanwhile.
    """

    def get_due_jobs(self, now: datetime) -> list[Any]:
        for job in self.get_all_jobs():
            if abs(job.next_run_time - now) > job.trigger.interval:
                job.modify(next_run_time=now)
        due: list[Any] = super().get_due_jobs(now)
        return due


class Schedule:
    """Calls functions at even intervals, each at most once at a time."""

    def __init__(self, on_overrun: Callable[[str], None], *, speed: float = 1.0) -> None:
        """Take whom to tell that a call was due while the one before it is still under way.

        Its seconds are those of a clock that runs ``speed`` times as fast as real time.
        """
        self._speed = speed
        self._scheduler = BackgroundScheduler(
            executors={"default": _DaemonThreads()},
            jobstores={"default": _Jobs()},
            job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
            timezone=UTC,
        )
        self._scheduler.add_listener(lambda event: on_overrun(event.job_id), EVENT_JOB_MAX_INSTANCES)

    def start(self) -> None:
        """Begin calling."""
        self._scheduler.start()

    @property
    def is_running(self) -> bool:
        """Whether calls are made."""
        return bool(self._scheduler.running)

    def every(self, seconds: float, key: str, call: Callable[[], None], *, after_seconds: float = 0.0) -> None:
        """Call from now (or ``after_seconds``, less than ``seconds``) on; the same key replaces what was there."""
        first = datetime.now(UTC) + timedelta(seconds=after_seconds / self._speed)
        self._scheduler.add_job(
            call,
            "interval",
            seconds=seconds / self._speed,
            id=key,
            start_date=first,
            next_run_time=first,
            replace_existing=True,
        )

    def cancel(self, key: str) -> None:
        """Stop calling what is scheduled under this key, if anything is."""
        try:
            self._scheduler.remove_job(key)
        except JobLookupError:
            return

    def stop(self) -> None:
        """Stop calling, if that has begun; calls under way are not waited for."""
        if self.is_running:
            self._scheduler.shutdown(wait=False)

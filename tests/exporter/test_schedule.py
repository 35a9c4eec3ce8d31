import threading
import time
from datetime import timedelta

from exporter.schedule import Schedule, _Workers


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_call_that_hangs_is_told_and_holds_up_no_other():
    overruns, calls, release = [], [], threading.Event()
    schedule = Schedule(overruns.append)
    schedule.every(0.05, "stuck", release.wait)
    schedule.every(0.05, "fine", lambda: calls.append(1))
    schedule.start()
    try:
        assert wait_for(lambda: len(overruns) >= 2 and len(calls) >= 5)
        assert set(overruns) == {"stuck"}
    finally:
        release.set()
        schedule.stop()


def test_a_call_that_ends_its_own_thread_is_called_again():
    calls = []

    def leave():
        calls.append(1)
        raise SystemExit

    schedule = Schedule(lambda key: None)
    schedule.every(0.02, "leaving", leave)
    schedule.start()
    try:
        assert wait_for(lambda: len(calls) >= 3)
    finally:
        schedule.stop()


def test_what_is_cancelled_is_called_no_more():
    calls = []
    schedule = Schedule(lambda key: None)
    schedule.every(0.02, "x", lambda: calls.append(1))
    schedule.start()
    try:
        assert wait_for(lambda: calls)
        schedule.cancel("x")
        time.sleep(0.05)
        before = len(calls)
        time.sleep(0.1)
        assert len(calls) == before
        schedule.cancel("never scheduled")
    finally:
        schedule.stop()


def test_stopping_does_not_wait_for_a_call_that_hangs():
    release = threading.Event()
    schedule = Schedule(lambda key: None)
    stuck = threading.Event()
    schedule.every(0.02, "stuck", lambda: stuck.set() or release.wait())
    schedule.start()
    assert stuck.wait(5.0)
    began = time.monotonic()
    schedule.stop()
    assert time.monotonic() - began < 1.0
    release.set()


def test_a_clock_that_was_set_holds_up_no_call_and_brings_no_flood():
    for jump in (timedelta(hours=-1), timedelta(days=-20_000), timedelta(days=20_000), timedelta(seconds=90)):
        calls = []
        schedule = Schedule(lambda key: None)
        schedule.every(0.05, "x", lambda calls=calls: calls.append(1))
        schedule.start()
        try:
            assert wait_for(lambda calls=calls: calls)
            (job,) = schedule._scheduler.get_jobs()
            job.modify(next_run_time=job.next_run_time - jump)  # to the job it is as if the clock had jumped
            before = len(calls)
            assert wait_for(lambda calls=calls, before=before: len(calls) >= before + 3)
            assert len(calls) < before + 20
        finally:
            schedule.stop()


def test_what_joins_calls_of_the_same_times_is_called_with_them_and_leaves_them_alone_when_it_goes():
    calls = []
    schedule = Schedule(lambda key: None)
    schedule.every(0.02, "first", lambda: calls.append("first"))
    schedule.start()
    try:
        assert wait_for(lambda: "first" in calls)
        schedule.every(0.02, "second", lambda: calls.append("second"))
        (_,) = schedule._scheduler.get_jobs()
        assert wait_for(lambda: "second" in calls)
        schedule.cancel("first")
        time.sleep(0.05)
        before = calls.count("first")
        seen = calls.count("second")
        assert wait_for(lambda: calls.count("second") >= seen + 3)
        assert calls.count("first") == before
        schedule.cancel("second")
        assert schedule._scheduler.get_jobs() == []
    finally:
        schedule.stop()


def test_a_key_that_is_scheduled_again_has_only_its_new_call_and_times():
    calls = []
    schedule = Schedule(lambda key: None)
    schedule.every(60.0, "x", lambda: calls.append("old"), after_seconds=30.0)
    schedule.every(0.02, "x", lambda: calls.append("new"))
    (_,) = schedule._scheduler.get_jobs()
    schedule.start()
    try:
        assert wait_for(lambda: len(calls) >= 2)
        assert set(calls) == {"new"}
    finally:
        schedule.stop()


def test_a_thread_whose_call_is_over_takes_the_next_and_one_whose_call_hangs_keeps_nobody_waiting():
    ran_in, release = {}, threading.Event()

    def noting(name):
        return lambda: ran_in.__setitem__(name, threading.get_ident())

    workers = _Workers()
    try:
        workers.run(noting("first"), head_start_seconds=10.0)
        workers.run(noting("second"), head_start_seconds=10.0)
        assert ran_in["first"] == ran_in["second"]
        workers.run(release.wait, head_start_seconds=0.0)
        workers.run(noting("beside"), head_start_seconds=10.0)
        assert ran_in["beside"] != ran_in["first"]
    finally:
        release.set()
        workers.stop()


def test_a_clock_that_is_set_back_while_calls_are_handed_out_is_slept_through_for_no_more_than_an_interval():
    calls = []
    schedule = Schedule(lambda key: None)
    schedule.every(0.05, "x", lambda: calls.append(1))
    jobs = schedule._scheduler._own_jobs
    due = jobs.get_next_run_time
    # What it reads as by a clock that is now an hour behind.
    jobs.get_next_run_time = lambda: (when := due()) and when + timedelta(hours=1)
    schedule.start()
    try:
        assert wait_for(lambda: len(calls) >= 3)
    finally:
        schedule.stop()

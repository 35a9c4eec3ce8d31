import threading
import time
from datetime import timedelta
from itertools import pairwise
from statistics import median

import pytest

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


@pytest.mark.parametrize("lost_seconds", [0.5, 0.7, 3600.0, -3600.0])
def test_what_follows_other_calls_follows_them_after_the_process_stood_still_or_the_clock_was_set(lost_seconds):
    calls = []
    schedule = Schedule(lambda key: None)
    beats = 5  # two would be in order by chance
    for beat in range(beats):
        schedule.every(
            0.4, str(beat), lambda beat=beat: calls.append((beat, time.monotonic())), after_seconds=0.06 * beat
        )
    schedule.start()
    try:
        assert wait_for(lambda: len(calls) >= beats)
        with schedule._scheduler._jobstores_lock:
            for job in schedule._scheduler.get_jobs():
                job.modify(next_run_time=job.next_run_time - timedelta(seconds=lost_seconds))
            before = len(calls)
        assert wait_for(lambda: len(calls) >= before + 3 * beats)
        last = calls[-2 * beats :]
        assert [beat for beat, _ in last] == [(last[0][0] + step) % beats for step in range(2 * beats)]
        assert median(later - earlier for (_, earlier), (beat, later) in pairwise(last) if beat) > 0.02
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


def test_calls_are_made_in_one_thread_and_after_one_that_hangs_another_makes_the_rest():
    ran_in, release = {}, threading.Event()

    def noting(name, then=lambda: None):
        def call():
            ran_in[name] = threading.get_ident()
            then()

        return call

    workers = _Workers()
    try:
        workers.run([noting("first"), noting("second")], head_start_seconds=10.0)
        workers.run([noting("later")], head_start_seconds=10.0)
        assert ran_in["first"] == ran_in["second"] == ran_in["later"]
        workers.run([noting("hung", release.wait), noting("beside"), noting("last")], head_start_seconds=0.05)
        assert ran_in["hung"] == ran_in["first"]
        assert ran_in["beside"] == ran_in["last"] != ran_in["hung"]
    finally:
        release.set()
        workers.stop()


def test_each_of_several_calls_that_hang_has_its_head_start_and_none_is_made_twice():
    began, release = [], threading.Event()

    def hang():
        began.append(time.monotonic())
        release.wait()

    workers = _Workers()
    try:
        workers.run([hang, hang, hang], head_start_seconds=0.1)
        waited = [late - early for early, late in pairwise([*began, time.monotonic()])]
        assert len(waited) == 3
        assert min(waited) > 0.05
        made = threading.active_count()
        release.set()
        assert wait_for(lambda: threading.active_count() <= made - 2), "one of the three is kept"
        assert len(began) == 3
    finally:
        release.set()
        workers.stop()


def test_where_no_thread_can_be_made_what_has_not_begun_is_called_at_the_next_beat(monkeypatch):
    calls, release = [], threading.Event()
    schedule = Schedule(lambda key: None)
    schedule.every(0.1, "stuck", release.wait)
    schedule.every(0.1, "fine", lambda: calls.append(1))
    (beat,) = schedule._beats.values()
    start, made = threading.Thread.start, []

    def start_the_first(thread):
        if made:
            raise RuntimeError("can't start new thread")
        made.append(thread)
        start(thread)

    try:
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", start_the_first)
            schedule._hand_out(beat)
            assert calls == []
            assert schedule._under_way == {"stuck": True}
        schedule._hand_out(beat)
        assert calls == [1]
    finally:
        release.set()
        schedule.stop()


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

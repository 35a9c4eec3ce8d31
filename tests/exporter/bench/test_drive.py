"""Who sends when."""

import threading
import time
from itertools import cycle

import pytest

from advisor.loadtest import End
from exporter.bench.client import Client, Planned, Target
from exporter.bench.drive import Drive
from tests.exporter.bench.server_standin import MODEL, server_standin


def drive_at(url, *, timeout_seconds=30.0, **more):
    begin = time.monotonic()

    def clock():
        return time.monotonic() - begin

    target = Target(url=url, model=MODEL, timeout_seconds=timeout_seconds)
    return Drive(new_client=lambda: Client(target, clock=clock), clock=clock, **more)


def requests(count, output_tokens=3):
    return [Planned(prompt=(5, number + 6), output_tokens=output_tokens) for number in range(count)]


def test_users_take_requests_one_after_another_until_none_is_left():
    with server_standin(pause_seconds=0.01) as (url, state):
        drive = drive_at(url)
        drive.closed(requests(20), users=4, until_seconds=60)
    assert [each.end for each in drive.samples] == [End.OK] * 20
    assert sorted(each["prompt"][1] for each in state.asked) == [number + 6 for number in range(20)]
    assert 1 < state.peak <= 4
    assert drive.in_flight == 0
    last_sent = max(each.sent_seconds for each in drive.samples)
    assert last_sent <= drive.steady_until_seconds <= max(each.ended_seconds for each in drive.samples)


def test_users_stop_when_time_is_up_and_what_is_under_way_ends():
    with server_standin(pause_seconds=0.02) as (url, _):
        drive = drive_at(url)
        until = drive.clock() + 0.5
        drive.closed(cycle(requests(1)), users=2, until_seconds=until)
    assert drive.samples and all(each.end is End.OK for each in drive.samples)
    # A client looks at the clock, then sends: on a busy machine the two can lie apart.
    assert all(each.sent_seconds < until + 5 for each in drive.samples)


def test_requests_with_times_of_their_own_do_not_wait_for_answers():
    hang = threading.Event()
    with server_standin(hang=hang) as (url, state):
        drive = drive_at(url)
        sending = threading.Thread(
            target=drive.open, args=([(0.0, each) for each in requests(12)],), kwargs={"until_seconds": 60}
        )
        sending.start()
        while state.running < 12:
            time.sleep(0.01)
        hang.set()
        sending.join(30)
    assert [each.end for each in drive.samples] == [End.OK] * 12
    assert (state.peak, drive.held_back) == (12, 0)


def test_requests_are_sent_when_they_are_due_and_none_after_the_end():
    with server_standin() as (url, _):
        drive = drive_at(url)
        due = zip((0.0, 0.2, 0.4, 5.0), requests(4), strict=True)
        drive.open(due, until_seconds=1.0)
    sent = sorted(each.sent_seconds for each in drive.samples)
    assert len(sent) == 3
    assert all(moment >= wanted for moment, wanted in zip(sent, (0.0, 0.2, 0.4), strict=True))


def test_more_than_may_be_under_way_is_held_back_and_counted():
    hang = threading.Event()
    with server_standin(hang=hang) as (url, state):
        drive = drive_at(url, most_in_flight=3)
        sending = threading.Thread(
            target=drive.open, args=([(0.0, each) for each in requests(9)],), kwargs={"until_seconds": 60}
        )
        sending.start()
        while drive.held_back == 0:
            time.sleep(0.01)
        time.sleep(0.1)
        assert (state.running, drive.held_back) == (3, 1)
        hang.set()
        sending.join(30)
    assert (len(drive.samples), state.peak) == (9, 3)


def test_a_server_that_only_fails_is_left_alone_after_ten():
    with server_standin(status=500) as (url, state):
        drive = drive_at(url)
        drive.closed(requests(1000), users=1, until_seconds=60)
    assert drive.gave_up
    assert (len(drive.samples), len(state.asked)) == (10, 10)


def test_failures_among_successes_do_not_end_the_test():
    with server_standin(fail_every=2) as (url, _):
        drive = drive_at(url)
        drive.closed(requests(40), users=2, until_seconds=60)
    assert not drive.gave_up
    assert sum(each.end is End.FAILED for each in drive.samples) == 20


def test_stopping_ends_what_is_under_way_and_keeps_what_came():
    with server_standin(hang=threading.Event()) as (url, state):
        drive = drive_at(url)
        running = threading.Thread(target=drive.closed, args=(requests(50),), kwargs={"users": 5, "until_seconds": 60})
        running.start()
        while state.running < 5:
            time.sleep(0.01)
        time.sleep(0.2)
        drive.stop()
        running.join(20)
    assert not running.is_alive()
    assert [each.end for each in drive.samples] == [End.CUT_OFF] * 5
    assert [each.output_tokens for each in drive.samples] == [1] * 5


def test_an_interrupt_while_users_are_still_coming_ends_those_who_came():
    with server_standin(hang=threading.Event()) as (url, state):
        drive = drive_at(url)
        clients = [drive.new_client() for _ in range(3)]

        def next_client():
            if len(clients) == 1:
                raise KeyboardInterrupt
            return clients.pop()

        drive.new_client = next_client
        with pytest.raises(KeyboardInterrupt):
            drive.closed(requests(50), users=5, until_seconds=60)
        while state.running < 2:
            time.sleep(0.01)
        drive.stop()
    assert [each.end for each in drive.samples] == [End.CUT_OFF] * 2

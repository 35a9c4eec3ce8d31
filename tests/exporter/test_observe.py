from exporter.board import Board
from exporter.clock import Clock, sped_up
from exporter.errors import SourceUnavailable
from exporter.observe import FailureLog, never_returned, observe


class Stopwatch:
    """A clock that moves only when told to."""

    def __init__(self):
        self.now = 100.0

    @property
    def clock(self):
        return Clock(wall=lambda: 1e9 + self.now, steady=lambda: self.now)


class Thing:
    name = "thing"

    def __init__(self, answer):
        self.answer = answer

    def read(self):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def look(answer, watch=None):
    return observe("thing", Thing(answer), (watch or Stopwatch()).clock)


def test_what_a_source_says_is_a_reading_without_failure():
    reading = look(("fact",))
    assert (reading.facts, reading.failure, reading.taken_at_seconds) == (("fact",), None, 100.0)


def test_a_source_that_fails_yields_its_reason_and_no_facts():
    reading = look(SourceUnavailable("timeout", "after 2 s"))
    assert reading.facts is None
    assert reading.failure.reason == "timeout"


def test_an_unforeseen_exception_is_a_reading_too_and_its_traceback_is_logged_once(caplog):
    failures = FailureLog()
    for _ in range(3):
        reading = look(ZeroDivisionError("x"))
        assert reading.failure.reason == "internal_error"
        failures.note(reading)
    (record,) = caplog.records
    assert record.getMessage() == "thing: internal_error: ZeroDivisionError: x"
    assert record.exc_info[0] is ZeroDivisionError


def test_a_failure_is_logged_when_it_begins_changes_and_ends_and_not_in_between():
    lines = []
    failures = FailureLog(lambda text, *args: lines.append(text % args))
    for answer in (
        SourceUnavailable("timeout"),
        SourceUnavailable("timeout"),
        SourceUnavailable("http_500", "http://h"),
        ("fact",),
        ("fact",),
    ):
        failures.note(look(answer))
    assert lines == ["thing: timeout", "thing: http_500: http://h", "thing: recovered from http_500"]


def test_a_source_that_takes_too_long_is_logged_once_however_it_is_called_in_turn():
    lines = []
    failures = FailureLog(lambda text, *args: lines.append(text % args))
    for answer in ("hung", "timeout", "hung", "timeout"):
        failures.note(look(SourceUnavailable(answer)))
    failures.note(look(("fact",)))
    assert lines == ["thing: hung", "thing: recovered from timeout"]


def test_only_fresh_facts_are_handed_out():
    board, watch = Board(), Stopwatch()
    board.put(look("fact", watch))
    assert board.fresh("thing", 110.0, 10.0)["thing"].facts == "fact"
    assert board.fresh("thing", 110.1, 10.0) == {}


def test_after_a_failure_the_last_good_value_is_gone():
    board = Board()
    board.put(look("fact"))
    board.put(look(SourceUnavailable("timeout")))
    assert board.fresh("thing", 100.0, 10.0) == {}


def test_health_tells_success_duration_and_when_it_last_succeeded():
    board, watch = Board(), Stopwatch()
    board.put(look("fact", watch))
    (health,) = board.health()
    assert (health.success, health.failing, health.last_success_timestamp_seconds) == (1, None, 1e9 + 100)
    watch.now = 150.0
    board.put(look(SourceUnavailable("timeout"), watch))
    (health,) = board.health()
    assert (health.success, health.failing) == (0, {"timeout": 1})
    assert health.last_success_timestamp_seconds == 1e9 + 100


def test_of_several_engines_the_worst_decides_the_collectors_health():
    board, watch = Board(), Stopwatch()
    board.put(observe("thing a", Thing("fact"), watch.clock))
    board.put(observe("thing b", Thing(SourceUnavailable("timeout")), watch.clock))
    (health,) = board.health()
    assert (health.collector, health.success, health.last_success_timestamp_seconds) == ("thing", 0, None)


def test_of_several_engines_the_one_that_succeeded_longest_ago_is_told():
    board, watch = Board(), Stopwatch()
    board.put(observe("thing a", Thing("fact"), watch.clock))
    watch.now = 130.0
    board.put(observe("thing b", Thing("fact"), watch.clock))
    (health,) = board.health()
    assert health.last_success_timestamp_seconds == 1e9 + 100


def test_a_read_that_never_returned_is_a_failure_that_says_since_when():
    watch = Stopwatch()
    reading = never_returned("nvml", "nvml", 88.0, watch.clock)
    assert reading.failure.reason == "hung"
    assert "12 s ago" in str(reading.failure)
    assert reading.facts is None


def test_a_clock_can_be_sped_up():
    watch = Stopwatch()
    fast = sped_up(60.0, watch.clock)
    watch.now += 2.0
    assert fast.steady() == 100.0 + 120.0
    assert fast.wall() == 1e9 + 100.0 + 120.0

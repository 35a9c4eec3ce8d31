from bench.alerts.chronicle import Event, courses, report

RISK = {"alertname": "HeadroomGpuOomRisk", "severity": "critical", "gpu": "1", "instance": "h:1"}


def seen(state, *stretches, labels=RISK):
    return labels | {"alertstate": state}, [float(at) for begin, end in stretches for at in range(begin, end + 1)]


def only(samples, *, told=(), held_back=()):
    (course,) = courses(samples, told=told, held_back=held_back, end_seconds=480)
    return course


def test_an_alert_waits_fires_and_ends():
    course = only([seen("pending", (10, 69)), seen("firing", (70, 90), (300, 310))])
    assert (course.pending_seconds, course.firing_seconds, course.ended_seconds) == (10, 70, 90)


def test_of_several_waits_the_one_that_led_to_it_counts():
    course = only([seen("pending", (10, 20), (40, 99)), seen("firing", (100, 120))])
    assert course.pending_seconds == 40


def test_a_wait_for_the_second_time_is_not_that_of_the_first():
    course = only([seen("pending", (40, 99), (400, 450)), seen("firing", (100, 120))])
    assert course.pending_seconds == 40


def test_an_alert_that_still_fires_when_the_run_ends_has_no_end():
    assert only([seen("firing", (100, 480))]).ended_seconds is None


def test_the_first_message_counts_and_only_that_of_the_same_severity():
    told = [(75.0, RISK), (71.0, RISK), (60.0, RISK | {"severity": "warning"})]
    assert only([seen("firing", (70, 90))], told=told).told_seconds == 71.0


def test_what_is_held_back_when_it_fires_again_was_told_the_first_time():
    fired = seen("firing", (70, 90), (300, 310))
    assert only([fired], held_back=[(301.0, RISK, "HeadroomGpuMemoryEnds")]).held_back_by == ""
    assert only([fired], held_back=[(71.0, RISK, "HeadroomGpuMemoryEnds")]).held_back_by == "HeadroomGpuMemoryEnds"


def test_the_chronicle_is_in_the_order_of_time_and_says_what_was_held_back():
    warning = RISK | {"severity": "warning"}
    samples = [
        seen("pending", (10, 69)),
        seen("firing", (70, 90)),
        seen("firing", (72, 90), labels=warning),
        seen("pending", (5, 7), labels={"alertname": "HeadroomEngineDown", "severity": "critical", "engine": "e:1"}),
    ]
    found = courses(samples, told=[(71.0, RISK)], held_back=[(72.5, warning, "HeadroomGpuOomRisk")], end_seconds=480)
    page = report(found, [Event(at_seconds=60.0, what="it begins")], minutes=5, programs="P 1")
    assert page.splitlines()[5:] == [
        "| 1:00 | *it begins* |  |  |  |",
        "| 1:10 | **HeadroomGpuOomRisk** (critical), GPU 1 | 0:10 | 1:11 | 1:30 |",
        "| 1:12 | **HeadroomGpuOomRisk** (warning), GPU 1 |  | held back by HeadroomGpuOomRisk | 1:30 |",
        "",
        "Pending and never long enough to fire: HeadroomEngineDown (critical).",
    ]

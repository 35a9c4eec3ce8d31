"""One streamed completion, counted exactly."""

import json
import socket
import threading
import time
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.loadtest import End
from exporter.bench.client import Client, Planned, Progress, Target, events
from tests.exporter.bench.server_standin import MODEL, server_standin


def client(url, **more):
    return Client(Target(url=url, model=MODEL, **more), clock=time.monotonic)


def complete(url, what, **more):
    with closing(client(url, **more)) as one:
        return one.complete(what)


def planned(output_tokens=5, prompt=(5, 6, 7)):
    return Planned(prompt=tuple(prompt), output_tokens=output_tokens)


def test_the_request_asks_for_exact_lengths_and_exact_counts():
    with server_standin() as (url, state):
        complete(url, planned(), api_key="secret")
    (asked,) = state.asked
    assert (asked["model"], asked["prompt"], asked["max_tokens"]) == (MODEL, [5, 6, 7], 5)
    assert (asked["ignore_eos"], asked["stream"]) == (True, True)
    assert asked["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert state.keys == ["Bearer secret"]


def test_without_a_key_none_is_sent():
    with server_standin() as (url, state):
        complete(url, planned())
    assert state.keys == [None]


def test_every_token_is_counted_and_placed():
    with server_standin() as (url, _):
        sample = complete(url, planned(5))
    assert (sample.end, sample.output_tokens, sample.prompt_tokens) == (End.OK, 5, 3)
    assert [tokens for _, tokens in sample.arrivals] == [1] * 5
    assert sample.counted_by_server
    moments = [moment for moment, _ in sample.arrivals]
    assert sample.sent_seconds <= moments[0] and moments == sorted(moments) and moments[-1] <= sample.ended_seconds


def test_several_tokens_in_one_piece_are_several_tokens():
    with server_standin(tokens_a_piece=3) as (url, _):
        sample = complete(url, planned(7))
    assert [tokens for _, tokens in sample.arrivals] == [3, 3, 1]
    assert sample.output_tokens == 7


def test_a_count_at_the_end_alone_is_exact_and_the_rest_is_placed_at_the_last_piece():
    with server_standin(usage="last", tokens_a_piece=3) as (url, _):
        sample = complete(url, planned(7))
    assert (sample.output_tokens, sample.counted_by_server) == (7, True)
    assert [tokens for _, tokens in sample.arrivals] == [1, 1, 5]


def test_without_any_count_the_pieces_are_counted_and_the_sample_says_so():
    with server_standin(usage="none", tokens_a_piece=3) as (url, _):
        sample = complete(url, planned(7))
    assert (sample.end, sample.output_tokens, sample.counted_by_server) == (End.OK, 3, False)


def streamed(*pieces_and_counts):
    progress = Progress()
    for moment, (text, count) in enumerate(pieces_and_counts):
        choices = [] if text is None else [{"text": text}]
        progress.take(json.dumps({"choices": choices, "usage": {"completion_tokens": count}}).encode(), float(moment))
    return progress


def test_a_count_beside_the_last_piece_counts_no_token_twice():
    progress = streamed(("a", None), ("b", None), ("c", 7))
    assert (progress.output_tokens, progress.placed()) == (7, ((0.0, 1), (1.0, 1), (2.0, 5)))


@pytest.mark.parametrize("count", [1, -1, True, 10**30, "7"])
def test_a_count_that_cannot_be_is_none(count):
    progress = streamed(("a", None), ("b", None), (None, count))
    assert (progress.output_tokens, progress.counted) == (2, None)


def test_an_event_nested_too_deep_is_no_json():
    progress = Progress()
    progress.take(b"[" * 100_000, 0.0)
    assert progress.error == "not_json"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"status": 500}, "http_500"),
        ({"cut_after": 2}, "connection_lost"),
        ({"error_after": 2}, "error_in_stream"),
    ],
)
def test_a_failure_is_named(how, reason):
    with server_standin(**how) as (url, _):
        sample = complete(url, planned())
    assert (sample.end, sample.reason) == (End.FAILED, reason)


def test_what_came_before_a_failure_is_kept():
    with server_standin(cut_after=2) as (url, _):
        sample = complete(url, planned())
    assert (sample.output_tokens, len(sample.arrivals)) == (2, 2)


def test_nobody_there_is_refused():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert complete(f"http://127.0.0.1:{port}", planned()).reason == "refused"


def test_a_server_that_goes_silent_times_out():
    with server_standin(hang=threading.Event()) as (url, _):
        sample = complete(url, planned(), timeout_seconds=0.3)
    assert (sample.end, sample.reason) == (End.FAILED, "timeout")


def test_a_request_under_way_can_be_stopped_and_is_no_failure():
    with server_standin(hang=threading.Event()) as (url, state):
        one = client(url)
        samples = []
        thread = threading.Thread(target=lambda: samples.append(one.complete(planned())))
        thread.start()
        while not state.running:
            time.sleep(0.01)
        time.sleep(0.1)
        one.stop()
        thread.join(10)
        one.close()
    assert [each.end for each in samples] == [End.CUT_OFF]


@given(st.data())
def test_events_are_the_same_however_the_stream_is_cut(data):
    stream = b': ping\n\ndata: {"a": 1}\r\n\r\nevent: x\ndata: first\ndata:second\n\n\ndata: [DONE]\n\n'
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert list(events(iter(pieces))) == [b'{"a": 1}', b"first\nsecond", b"[DONE]"]


def test_an_event_without_end_is_refused():
    with pytest.raises(ValueError, match="does not end"):
        list(events(iter([b"data: " + b"x" * 2**21])))

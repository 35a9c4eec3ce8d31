"""Traces as they are published."""

import json
import os

import pytest

from advisor.whatif import TracedRequest
from exporter.errors import UsageError
from exporter.sources.trace import MOST_BYTES, read_trace


@pytest.fixture
def written(tmp_path):
    def write(text, name="trace.csv"):
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


def lengths(trace):
    return [(each.prompt_tokens, each.output_tokens) for each in trace]


def test_azures_columns_and_their_seven_digit_seconds(written):
    trace = read_trace(
        written(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n"
            "2023-11-16 18:15:46.6805900,374,44\n"
            "2023-11-16 18:15:50.9951690,396,109\n"
        )
    )
    assert lengths(trace) == [(374, 44), (396, 109)]
    assert trace[1].seconds - trace[0].seconds == pytest.approx(4.314579, abs=1e-5)


def test_azures_later_traces_name_the_zone(written):
    trace = read_trace(written("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"))
    assert trace[0].seconds == pytest.approx(1715299200.00993)


def test_burstgpts_columns_and_a_request_that_got_nothing(written):
    trace = read_trace(
        written(
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
            "5,ChatGPT,472,18,490,Conversation log\n"
            "45,ChatGPT,1087,0,1087,Conversation log\n"
        )
    )
    assert trace == (
        TracedRequest(seconds=5.0, prompt_tokens=472, output_tokens=18),
        TracedRequest(seconds=45.0, prompt_tokens=1087, output_tokens=1),
    )


def test_mooncakes_lines_count_in_milliseconds(written):
    rows = [
        {"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1]},
        {"timestamp": 3000, "input_length": 12, "output_length": 3, "hash_ids": [0]},
    ]
    trace = read_trace(written("\n".join(map(json.dumps, rows)) + "\n\n", "trace.jsonl"))
    assert [each.seconds for each in trace] == [0.0, 3.0]
    assert lengths(trace) == [(6755, 500), (12, 3)]


def test_only_the_first_so_many_are_read(written):
    text = "seconds,prompt_tokens,output_tokens\n" + "".join(f"{n},1,1\n" for n in range(9))
    assert len(read_trace(written(text), limit=4)) == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no requests in it"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no requests in it"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "no column for the output tokens.*there are TIMESTAMP, ContextTokens"),
        ("seconds,prompt,output\nsoon,1,1\n", "line 2: seconds is 'soon', seconds or a date"),
        ("seconds,prompt,output\n1,many,1\n", "line 2: prompt is 'many', a number of tokens"),
        ("seconds,prompt,output\n1,1.5,1\n", "line 2: prompt is '1.5', a whole number"),
        ("seconds,prompt,output\n1,-3,1\n", "line 2: -3 prompt tokens"),
        ("seconds,prompt,output\n1,1,99999999999\n", "line 2: 99999999999 output tokens: a request has from 1 to"),
        ("seconds,prompt,output\nnan,1,1\n", "line 2: an arrival at nan is no moment"),
        ("seconds,prompt,output\n1,inf,1\n", "line 2: prompt is 'inf'"),
        ('{"seconds": 1, "prompt": 1, "output": 1}\n{"seco', "line 2: not JSON"),
        ('{"seconds": 1, "prompt": 1, "output": 1}\n[1]\n', "line 2: an object is needed, this is list"),
        ('{"seconds": 1, "prompt": [1], "output": 1}\n', "line 1: prompt is"),
        ('{"seconds": 1, "prompt": 1' + "0" * 400 + ', "output": 1}\n', r"line 1: prompt is '10+\.\.\.', a number"),
        ('{"seconds": 1' + "0" * 400 + ', "prompt": 1, "output": 1}\n', "line 1: seconds is"),
        ('{"seconds": ' + "[" * 100_000, "line 1: not JSON"),
        ("seconds,prompt,output\n1,\0,1\n", "NUL|prompt is"),
        ("seconds,prompt,output\n1," + "9" * 200_000 + ",1\n", "not CSV: field larger"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(written, text, problem):
    file = written(text)
    with pytest.raises(UsageError, match=problem) as refused:
        read_trace(file)
    assert str(refused.value).startswith(f"{file}")


def test_at_most_ten_lines_are_complained_about(written):
    with pytest.raises(UsageError) as caught:
        read_trace(written("seconds,prompt,output\n" + "x,1,1\n" * 500))
    assert len(str(caught.value).splitlines()) == 10


def test_too_many_requests_are_refused_unless_the_first_are_asked_for(written):
    file = written("seconds,prompt,output\n" + "1,1,1\n" * 6)
    with pytest.raises(UsageError, match="more than 5 requests: take the first N with --requests N"):
        read_trace(file, most_requests=5)
    assert len(read_trace(file, limit=5, most_requests=5)) == 5


def test_a_file_too_large_for_a_trace_is_refused(written):
    file = written("seconds,prompt,output\n1,1,1\n")
    os.truncate(file, MOST_BYTES + 1)
    with pytest.raises(UsageError, match="are no trace"):
        read_trace(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_trace(tmp_path / "nothing.csv")
    with pytest.raises(UsageError, match="directory"):
        read_trace(tmp_path)
    binary = tmp_path / "x.csv"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match="not text in UTF-8"):
        read_trace(binary)

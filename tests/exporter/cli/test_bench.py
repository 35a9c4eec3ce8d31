"""``vllm-headroom bench`` as it is typed, against a server that counts what it is asked."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from exporter.cli.bench import command
from exporter.errors import UsageError
from tests.exporter.bench.server_standin import MODEL, server_standin
from tests.exporter.typed import typed


def run(*words):
    result = CliRunner().invoke(command, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def measured(url, *words):
    result = run("--url", url, "--json", *words)
    return json.loads(result.stdout), result


def test_the_json_holds_what_scripts_rely_on():
    with server_standin(tokens_a_piece=2) as (url, state):
        found, result = measured(
            url, "--users", "2", "--requests", "6", "--prompt-tokens", "20", "--output-tokens", "5"
        )
    assert result.exit_code == 0
    assert [len(each["prompt"]) for each in state.asked] == [20] * 6
    assert len({tuple(each["prompt"]) for each in state.asked}) == 6
    assert found["server"]["model"] == MODEL
    assert found["server"]["vllm_version"] == "0.32.0"
    (level,) = found["levels"]
    assert (level["users"], level["requests"], level["completed"], level["failed"]) == (2, 6, 6, 0)
    assert (level["success_ratio"], level["output_tokens"], level["prompt_tokens"]) == (1.0, 30, 120)
    assert level["exact_tokens"] is True
    for name in ("time_to_first_token_seconds", "end_to_end_seconds", "output_tokens_per_second_per_user"):
        assert set(level[name]) == {"count", "mean", "p50", "p90", "p95", "p99", "max"}
        assert level[name]["count"] == 6
    assert level["inter_token_seconds"]["count"] == 6 * 2
    assert level["seen"]["steps"] == 60
    assert level["seen"]["preemptions"] == 0
    assert (found["interrupted"], found["knee"], found["notes"]) == (False, None, [])


def test_a_ramp_has_a_level_for_each_number_and_says_where_the_knee_is():
    with server_standin(pause_seconds=0.005) as (url, state):
        found, result = measured(url, "--users", "1,2,4", "--requests", "8", "--output-tokens", "3")
    assert result.exit_code == 0
    assert [(each["users"], each["completed"]) for each in found["levels"]] == [(1, 8), (2, 8), (4, 8)]
    assert len(state.asked) == 24
    assert set(found["knee"]) == {"users", "limited_by", "sentence"}


def test_before_it_sends_anything_it_says_what_and_where():
    with server_standin() as (url, _):
        _, result = measured(url, "--users", "3", "--requests", "7", "--prompt-tokens", "10", "--output-tokens", "2")
    said = " ".join(result.stderr.split())
    assert f"Sends up to 7 requests (70 prompt and 14 output tokens) to {MODEL} at {url}, by 3 users" in said


def test_a_trace_gives_times_and_lengths(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,prompt,output\n0,40,8\n10,80,4\n20,8000,4\n")
    with server_standin() as (url, state):
        found, result = measured(url, "--trace", str(trace), "--speed", "100", "--scale-lengths", "0.5")
        assert [(len(each["prompt"]), each["max_tokens"]) for each in state.asked] == [(20, 4), (40, 2), (4000, 2)]
        assert result.exit_code == 0 and found["levels"][0]["users"] is None
        state.asked.clear()
        found, _ = measured(url, "--trace", str(trace), "--speed", "100")
    assert sorted(len(each["prompt"]) for each in state.asked) == [40, 80]
    assert found["notes"] == ["1 requests were not sent: their prompts leave no room within max-model-len (4,096)."]


def test_users_take_a_traces_lengths_again_from_the_start(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,prompt,output\n0,40,8\n10,80,4\n")
    with server_standin() as (url, state):
        measured(url, "--users", "1", "--requests", "3", "--trace", str(trace))
    assert [len(each["prompt"]) for each in state.asked] == [40, 80, 40]


def test_a_rate_sends_as_many_as_asked():
    with server_standin() as (url, state):
        found, _ = measured(url, "--rate", "200", "--requests", "15", "--output-tokens", "2")
    assert (len(state.asked), found["levels"][0]["completed"]) == (15, 15)


def test_prompts_begin_alike_when_asked_to():
    with server_standin() as (url, state):
        measured(url, "--users", "1", "--requests", "3", "--prompt-tokens", "30", "--shared-prefix-tokens", "20")
    assert len({tuple(each["prompt"][:20]) for each in state.asked}) == 1
    assert len({tuple(each["prompt"][20:]) for each in state.asked}) == 3


def test_failures_make_the_exit_status_and_are_named():
    with server_standin(fail_every=4) as (url, _):
        found, result = measured(url, "--users", "2", "--requests", "8", "--output-tokens", "2")
    assert result.exit_code == 1
    (level,) = found["levels"]
    assert (level["success_ratio"], level["failures"]) == (0.75, {"http_503": 2})


def test_a_server_that_fails_every_request_is_left_alone():
    with server_standin(status=500) as (url, state):
        result = run("--url", url, "--users", "1,2,4", "--requests", "500")
    assert result.exit_code == 1
    assert len(state.asked) == 10
    assert "Ended early: the first requests all failed (http_500)." in " ".join(result.stdout.split())


def test_a_key_is_sent_and_shown_nowhere(tmp_path):
    key = tmp_path / "key"
    key.write_text("hush-hush\n")
    with server_standin() as (url, state):
        found, result = measured(url, "--users", "1", "--requests", "2", "--api-key-file", str(key))
    assert set(state.keys) == {"Bearer hush-hush"}
    assert "hush" not in result.output and "hush" not in json.dumps(found)


def test_without_metrics_the_clients_side_is_still_told():
    with server_standin(metrics=False) as (url, _):
        found, result = measured(url, "--model", "some", "--users", "1", "--requests", "2")
    assert result.exit_code == 0
    assert found["levels"][0]["seen"] is None
    assert found["notes"] == ["The server's metrics could not be read (http_404)."]


@pytest.mark.parametrize("users", ["3", "1,2,4,8"])
def test_the_tables_fit_eighty_columns(users):
    with server_standin(pause_seconds=0.002) as (url, _):
        shown = run("--url", url, "--users", users, "--requests", "8", "--output-tokens", "3")
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "tok" in shown.stdout and "…" not in shown.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "--users, --rate or --trace is needed"),
        (("--users", "4", "--rate", "2"), "have no rate of their own"),
        (("--users", "4,many"), "'many' is not a whole number"),
        (("--users", "1000"), "from 1 to 256"),
        (("--users", "4", "--speed", "2"), "--speed: it is the pace of a --trace"),
        (("--users", "4", "--url", "localhost"), "--url: .* is not an address"),
        (("--users", "4", "--url", "http://me:secret@127.0.0.1:1"), "credentials do not belong"),
        (("--users", "4", "--url", "http://127.0.0.1:1"), "no vLLM server answers there"),
        (("--users", "4", "--api-key-file", "/nothing"), "cannot be read"),
    ],
)
def test_wrong_use_says_what_would_be_right(words, problem):
    with pytest.raises(UsageError, match=problem):
        run(*words)


def test_a_prompt_longer_than_the_context_is_refused_before_anything_is_sent():
    with server_standin(max_model_len=100) as (url, state), pytest.raises(UsageError, match="every prompt is longer"):
        run("--url", url, "--users", "2", "--prompt-tokens", "100")
    assert state.asked == []


def test_more_than_can_be_kept_is_refused_before_anything_is_sent():
    with server_standin() as (url, state), pytest.raises(UsageError, match="6,000,000 output tokens are more than"):
        run("--url", url, "--users", "2", "--requests", "6000", "--output-tokens", "1000")
    assert state.asked == []


def interrupted(url, is_time, *arguments, number=signal.SIGINT):
    """Run the command until it is time for a signal; return what it then prints as JSON."""
    argv = [sys.executable, "-m", "exporter", "bench", "--url", url, *arguments, "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not is_time() and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "Traceback" not in err
    found = json.loads(out)
    assert found["interrupted"] is True
    assert "Interrupted: this is the report so far." in found["notes"]
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_whoever_ends_it_politely_get_the_report_so_far(number):
    with server_standin(hang=threading.Event()) as (url, state):
        found = interrupted(url, lambda: state.running == 3, "--users", "3", "--requests", "50", number=number)
    (level,) = found["levels"]
    assert (level["requests"], level["completed"], level["failed"], level["cut_off"]) == (3, 0, 0, 3)


def test_ctrl_c_between_two_levels_loses_none_that_is_complete():
    with server_standin(hang=threading.Event(), metrics_until=4) as (url, state):
        found = interrupted(url, state.silent.is_set, "--users", "1,2", "--requests", "4")
    (level,) = found["levels"]
    assert (level["users"], level["completed"]) == (1, 4)


@pytest.mark.parametrize(
    "words",
    [("--rate", "nan"), ("--duration", "nan"), ("--timeout", "inf"), ("--duration", "1e300"), ("--speed", "inf")],
)
def test_what_is_no_amount_is_wrong_use_before_anything_is_asked(words):
    result = typed("bench", "--url", "http://127.0.0.1:1", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"Invalid value for '{words[0]}'" in result.stderr

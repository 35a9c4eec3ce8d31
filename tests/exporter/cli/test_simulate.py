"""``vllm-headroom simulate`` as it is typed."""

import json
import math
import subprocess
import sys

import pytest
from click.testing import CliRunner

from advisor.load import EngineLoad, Lengths, Sums, to_json
from exporter.cli import plan
from exporter.cli.simulate import command
from exporter.errors import UsageError
from exporter.state import LOAD_FILE, State
from tests.advisor.test_plan import LLAMA_3_1_8B
from tests.advisor.test_scenario import script
from tests.exporter.bench.server_standin import server_standin
from tests.exporter.sources.test_vllm import CAPTURES
from tests.exporter.typed import typed


def run(*words):
    result = CliRunner().invoke(command, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def simulated(*words):
    return json.loads(run("--json", *words).stdout)


@pytest.fixture
def trace(tmp_path):
    """Sixty requests, two a second, that fill some 4,000 tokens of cache."""
    file = tmp_path / "trace.csv"
    rows = [f"{number / 2},{100 + 37 * number % 200},{20 + 13 * number % 60}" for number in range(60)]
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    return str(file)


SETTING = ("--kv-tokens", "4000", "--max-model-len", "512")


# --- settings ---


def test_the_json_holds_what_scripts_rely_on(trace):
    found = simulated("--trace", trace, *SETTING, "--speed", "20", "--max-num-seqs", "4,16,64")
    assert [each["max_num_seqs"] for each in found["settings"]] == [4, 16, 64]
    for each in found["settings"]:
        assert (each["kv_tokens"], each["requests"], each["max_num_batched_tokens"]) == (4000, 60, 2048)
        assert set(each["end_to_end_seconds"]) == {"count", "mean", "p50", "p90", "p95", "p99", "max"}
        assert {"preemptions", "recomputed_tokens", "steps", "longest_stall_seconds", "queue_seconds"} <= set(each)
    four, sixteen, _ = found["settings"]
    assert four["steps"] > sixteen["steps"]
    assert found["max_model_len"] == 512
    assert found["step_times"].startswith("a default of no particular GPU")
    assert set(found["step_time_model"]) == {
        *("base_seconds", "per_prefill_token_seconds", "per_decode_request_seconds", "per_context_token_seconds"),
    }


def test_every_combination_of_ranges_is_tried(trace):
    found = simulated(
        *("--trace", trace, "--max-model-len", "512", "--kv-tokens", "1024,4096"),
        *("--max-num-seqs", "2,8", "--max-num-batched-tokens", "256,1024"),
    )
    tried = [(each["kv_tokens"], each["max_num_batched_tokens"], each["max_num_seqs"]) for each in found["settings"]]
    assert tried == [(kv, tokens, seqs) for kv in (1024, 4096) for tokens in (256, 1024) for seqs in (2, 8)]


def test_the_tables_fit_eighty_columns(trace):
    shown = run(
        *("--trace", trace, "--max-model-len", "512", "--kv-tokens", "1024,4096"),
        *("--max-num-seqs", "2,64", "--max-num-batched-tokens", "256,1024", "--speed", "50"),
    )
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "…" not in shown.stdout
    for word in ("preempt", "again", "TTFT", "stall", "step times"):
        assert word in shown.stdout


def test_step_times_given_are_those_used(trace):
    found = simulated(
        *("--trace", trace, *SETTING, "--requests", "1", "--step-base-ms", "10", "--step-prefill-us", "100"),
    )
    assert found["step_time_model"]["base_seconds"] == 0.01
    (setting,) = found["settings"]
    # 100 prompt tokens at 100 us each and 10 ms for the step, then 19 steps of 10 ms.
    assert setting["time_to_first_token_seconds"]["p50"] == pytest.approx(0.02)
    assert setting["end_to_end_seconds"]["p50"] == pytest.approx(0.21)


def test_step_times_come_from_the_json_of_a_load_test(trace, tmp_path):
    parts = {
        "base_seconds": 0.5,
        "per_prefill_token_seconds": 0.0,
        "per_decode_request_seconds": 0.0,
        "per_context_token_seconds": 0.0,
    }
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"step_times": {"model": parts, "stretches": 9, "error_ratio": 0.1}}))
    found = simulated("--trace", trace, *SETTING, "--step-times", str(file))
    assert found["step_time_model"] == parts
    file.write_text(json.dumps({"step_times": None}))
    with pytest.raises(UsageError, match="no result of bench --json with step times"):
        run("--trace", trace, *SETTING, "--step-times", str(file))


def test_a_made_up_load_needs_no_trace():
    found = simulated("--rate", "5", "--requests", "30", "--kv-tokens", "8000", "--prompt-tokens", "100")
    assert found["settings"][0]["requests"] == 30
    assert found["load"] == "30 requests of 100 + 128 tokens, 5 a second"


def test_capacity_and_flags_come_from_a_plan(trace, tmp_path):
    model = tmp_path / "config.json"
    model.write_text(json.dumps(LLAMA_3_1_8B))
    wanted = ("--gpu", "H100 SXM", "--vllm-version", "0.19.0", "--", "serve", str(model))
    flags = ("--max-model-len", "8192", "--max-num-seqs", "48")
    found = simulated("--trace", trace, "--requests", "5", *wanted, *flags)
    planned = json.loads(CliRunner().invoke(plan.command, ["--json", *wanted, *flags]).stdout)
    (setting,) = found["settings"]
    assert setting["max_num_seqs"] == 48
    assert setting["kv_tokens"] == pytest.approx(planned["kv"]["capacity_tokens"]["expected"], abs=16)
    assert found["max_model_len"] == 8192
    assert "H100" in found["engine"]


def test_an_option_of_simulate_after_the_dashes_is_refused_unless_vllm_has_it_too():
    words = ("--rate", "5", "--gpu", "L4", "--", "serve", "org/model", "--max-num-seqs", "8", "--seed", "3")
    with pytest.raises(UsageError, match="--json, --requests: an option of simulate, not of vLLM"):
        run(*words, "--json", "--requests=40")


def test_capacity_comes_from_a_running_server_and_what_it_cannot_tell_is_said(trace):
    with server_standin() as (url, _):
        found = simulated("--trace", trace, "--engine", url, "--watch", "0", "--max-model-len", "512")
    assert found["settings"][0]["kv_tokens"] == 1600
    assert found["step_times"].startswith("a default")


def test_the_load_comes_from_a_running_server_too():
    page = (CAPTURES / "0.32.0" / "single_after_load.metrics").read_text()
    with server_standin(metrics_page=page) as (url, _):
        found = simulated("--engine", url, "--watch", "0", "--rate", "2", "--requests", "40", "--max-num-seqs", "8")
    (setting,) = found["settings"]
    assert setting["requests"] == 40
    assert found["load"].startswith("40 requests with the lengths of ")
    assert found["step_times"].startswith("every step as long as ")


def test_a_server_that_does_not_say_when_it_began_is_asked_for_no_rate():
    page = (CAPTURES / "0.32.0" / "single_after_load.metrics").read_text()
    untimed = "\n".join(line for line in page.splitlines() if "process_start_time_seconds" not in line) + "\n"
    with server_standin(metrics_page=untimed) as (url, _), pytest.raises(UsageError, match="give --rate too"):
        run("--engine", url, "--watch", "0", "--max-num-seqs", "8")


def test_a_server_that_finished_nothing_offers_no_load():
    with server_standin() as (url, _), pytest.raises(UsageError, match="has finished no requests"):
        run("--engine", url, "--watch", "0", "--rate", "2")


def remembered(directory, *engines, finished=500.0):
    """Keep what a daemon has seen of some engines: prompts of 200 tokens, answers of 40, one every two seconds."""
    load = EngineLoad(
        model_name="m",
        slow=Sums(seconds=1000.0, busy_seconds=400.0, finished=finished),
        prompt_tokens=Lengths(bounds=(400.0, math.inf), counts=(finished, 0.0), sum=200 * finished),
        generation_tokens=Lengths(bounds=(80.0, math.inf), counts=(finished, 0.0), sum=40 * finished),
    )
    State(directory, LOAD_FILE).save(to_json({(engine, "0"): load for engine in engines}))
    return directory


def test_the_load_comes_from_what_a_daemon_has_seen(tmp_path):
    directory = str(remembered(tmp_path, "127.0.0.1:8000"))
    found = simulated("--state-dir", directory, "--requests", "200", "--kv-tokens", "16000", "--max-num-seqs", "4,8")
    assert found["load"] == (
        "200 requests with the lengths of m at 127.0.0.1:8000, 0.5 a second (its mean, idle times with it: requests "
        "ran in 40% of the time)"
    )
    assert [each["requests"] for each in found["settings"]] == [200, 200]
    assert found["settings"][0]["output_tokens"] == pytest.approx(200 * 40, rel=0.01)


def test_of_several_engines_that_a_daemon_has_seen_the_one_asked_for_is_taken(tmp_path):
    with server_standin() as (url, _):
        name = url.removeprefix("http://")
        remembered(tmp_path, "127.0.0.1:1", name)
        words = ("--state-dir", str(tmp_path), "--requests", "5", "--rate", "2", "--max-model-len", "512")
        assert f"m at {name}, 2 a second (as asked)" in simulated(*words, "--engine", url, "--watch", "0")["load"]
        with pytest.raises(UsageError, match="choose one with --engine URL"):
            run(*words, "--kv-tokens", "9999")


def test_an_engine_that_was_seen_to_finish_nothing_offers_no_load(tmp_path):
    with pytest.raises(UsageError, match="was seen to finish no requests"):
        run("--state-dir", str(remembered(tmp_path, "e", finished=0.0)), "--kv-tokens", "9999")


def test_a_misspelled_option_is_wrong_use():
    result = run("--rate", "1", "--kv-tokens", "9999", "--max-num-seq", "4")
    assert result.exit_code == 2


def test_prompts_that_vllm_would_refuse_are_left_out_and_counted(trace):
    found = simulated("--trace", trace, "--kv-tokens", "4000", "--max-model-len", "200")
    assert found["settings"][0]["requests"] < 60
    assert "requests are left out" in found["notes"][0]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_is_drawn(trace, tmp_path, suffix):
    file = tmp_path / f"x.{suffix}"
    run("--trace", trace, *SETTING, "--max-num-seqs", "2,4,8", "--picture", str(file))
    assert file.stat().st_size > 2000


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "--trace, --state-dir, --rate or --engine is needed"),
        (("--rate", "1"), "--kv-tokens is needed"),
        (("--rate", "1", "--kv-tokens", "none"), "--kv-tokens: 'none' is not a whole number"),
        (("--rate", "1", "--kv-tokens", "9999", "--max-num-seqs", ""), "--max-num-seqs: '' is not a whole number"),
        (("--rate", "1", "--kv-tokens", "100"), "do not hold one request of max-model-len"),
        (("--rate", "1", "--kv-tokens", "9999", "--prompt-tokens", "600", "--max-model-len", "600"), "every prompt"),
        (
            ("--rate", "1", "--kv-tokens", "9999", "--max-num-seqs", "9000", "--max-num-batched-tokens", "16"),
            "at least",
        ),
        (("--rate", "1", "--kv-tokens", "9999", "--max-num-seqs", ",".join(map(str, range(1, 70)))), "are too many"),
        (("--rate", "1", "--kv-tokens", "9999", "--vllm-version", "new"), "'new' is not a release"),
        (("--rate", "1", "--kv-tokens", "9999", "--vllm-version", "0.8.5"), "0.10.2 or newer, not 0.8.5"),
        (("--rate", "1", "--kv-tokens", "9999", "--picture", "x.gif"), "must end in .svg or .png"),
        (("--rate", "1", "--kv-tokens", "9999", "--picture", "/nothing/x.svg"), "there is no directory /nothing"),
        (("--rate", "1", "--kv-tokens", "9999", "--step-base-ms", "0"), "steps that take no time"),
        (("--rate", "1", "--kv-tokens", "9999", "--requests", "9999999"), "more than this simulates at a time"),
        (("--rate", "1", "--kv-tokens", "999999999999", "--block-size", "1"), "blocks are more than this simulates"),
        (("--rate", "1", "--engine", "http://127.0.0.1:1"), "does not answer as a vLLM server"),
        (("--trace", "/nothing.csv", "--kv-tokens", "9999"), "No such file"),
        (("--trace", "/nothing.csv", "--state-dir", "/nothing"), "both say which requests"),
        (("--state-dir", "/nothing", "--kv-tokens", "9999"), "/nothing holds no load"),
        (("--scenario", "/nothing.json"), "No such file"),
    ],
)
def test_wrong_use_says_what_would_be_right(words, problem):
    with pytest.raises(UsageError, match=problem):
        run(*words)


@pytest.mark.parametrize("words", [("--rate", "nan"), ("--watch", "nan"), ("--step-base-ms", "inf")])
def test_what_is_no_amount_is_wrong_use(words):
    result = typed("simulate", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"Invalid value for '{words[0]}'" in result.stderr


def test_wrong_use_exits_with_2_and_without_a_traceback():
    argv = [sys.executable, "-m", "exporter", "simulate", "--rate", "1"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("vllm-headroom: --kv-tokens is needed")


# --- scripted runs ---


def test_a_scenario_is_answered_with_a_line_that_holds_every_step(tmp_path):
    file = tmp_path / "scenarios.json"
    file.write_text(json.dumps([script(name="one"), script(name="two", **{"async": True})]))
    lines = [json.loads(line) for line in run("--scenario", str(file), "--json").stdout.splitlines()]
    assert [line["name"] for line in lines] == ["one", "two"]
    assert set(lines[0]) == {"name", "scenario", "num_steps", "finished", "total_preemptions", "steps"}
    assert lines[0]["finished"] == {"a": 1, "b": 1}
    assert lines[0]["steps"][0]["scheduled"] == {"a": 3}


@pytest.mark.parametrize("spelled", ["one object", "a line each"])
def test_one_scenario_or_one_a_line_do_as_well_as_a_list(tmp_path, spelled):
    file = tmp_path / "x.json"
    text = json.dumps(script())
    file.write_text(text if spelled == "one object" else f"{text}\n{text}\n")
    assert len(run("--scenario", str(file), "--json").stdout.splitlines()) == (1 if spelled == "one object" else 2)


def test_scenarios_as_a_table_are_one_line_each(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps([script(name="[/one:key:]")]))
    head, line = run("--scenario", str(file)).stdout.splitlines()
    assert head.split()[0] == "scenario"
    assert line.split() == ["[/one:key:]", "2", "2", "3", "0", "0", "20%"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("nonsense", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no scenario in it"),
        ("[1]", r"x.json\[0\]: an object is needed"),
        (json.dumps([script(block_size=0)]), "two: block_size must be at least 1, not 0"),
        (json.dumps([script(num_blocks=3, requests=[{"prompt": 4, "max_tokens": 30}])]), "more than the 2 there are"),
    ],
)
def test_what_is_no_scenario_is_refused(tmp_path, content, problem):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=problem):
        run("--scenario", str(file))

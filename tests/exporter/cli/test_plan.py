"""``vllm-headroom plan`` as it is typed."""

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from exporter.cli.plan import command
from exporter.errors import UsageError
from exporter.planning import Asked
from tests.advisor.test_plan import LLAMA_3_1_8B
from tests.exporter.cli.test_advise import seen_in_a_terminal


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_3_1_8B))
    return str(file)


def run(*words):
    result = CliRunner().invoke(command, words, catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_wrong(*words):
    with pytest.raises(UsageError) as caught:
        run(*words)
    return str(caught.value)


def planned(*words):
    return json.loads(run(*words).output)


ON_AN_H100 = ("--gpu", "H100 SXM", "--vllm-version", "0.19.0")


def test_the_json_holds_what_scripts_rely_on(model):
    result = planned(*ON_AN_H100, "--json", "--", "serve", model, "--max-model-len", "8192")
    assert result["verdict"] == "fits"
    assert result["vllm_error"] is None
    assert set(result["per_gpu"]) >= {
        *("total_bytes", "budget_bytes", "weights_bytes", "activation_peak_bytes", "non_torch_bytes"),
        *("cuda_graph_bytes", "kv_cache_bytes", "startup_peak_bytes"),
    }
    assert set(result["per_gpu"]["kv_cache_bytes"]) >= {"lower", "expected", "upper"}
    kv = result["kv"]
    assert set(kv["capacity_tokens"]) >= {"lower", "expected", "upper"}
    assert (kv["bytes_per_token_per_gpu"], kv["block_size"]) == (131_072, 16)
    assert kv["num_gpu_blocks"] * 16 == pytest.approx(kv["capacity_tokens"]["expected"], abs=16)
    assert kv["groups"][0]["layers"] == 32
    flags = result["flags"]
    assert flags["max_model_len"] == {"value": 8192, "origin": "given"}
    assert flags["max_num_seqs"] == {"value": 1024, "origin": "default"}
    assert flags["gpu_memory_utilization"] == {"value": 0.9, "origin": "default"}


def test_what_may_take_a_while_is_said_to_a_terminal_and_not_in_the_result(model):
    shown, result = seen_in_a_terminal("plan", "--json", *ON_AN_H100, "--", "serve", model)
    assert "reading the model" in shown
    assert json.loads(result)["verdict"] == "fits"


def test_the_table_fits_eighty_columns_and_says_the_verdict(model):
    shown = run(*ON_AN_H100, "--typical-tokens", "900", "--suggest", "--", "serve", model, "--max-model-len", "8192")
    assert shown.exit_code == 0
    assert max(len(line) for line in shown.output.splitlines()) <= 80
    for word in ("weights", "activation peak", "KV cache", "start-up peak", "fits", "to spare", "requests of 900"):
        assert word in shown.output


def test_figures_of_millions_stay_whole_in_eighty_columns(model):
    on_eight = ("--gpu", "H200 SXM", "--gpu-count", "8", "--vllm-version", "0.33.0", "--suggest")
    flags = ("--", "serve", model, "--tensor-parallel-size", "8", "--max-model-len", "8192")
    gained = [f"{each['tokens_gained']:+,}" for each in planned(*on_eight, "--json", *flags)["suggestions"]]
    shown = run(*on_eight, *flags).output
    assert max(map(len, gained)) > len("+999,999")
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert [each for each in gained if each not in shown.split()] == []


def test_what_follows_from_an_uncertain_total_has_bounds_too(model):
    a_board_with_bounds = ("--gpu", "RTX 3060 12GB", "--vllm-version", "0.19.0")
    flags = ("--", "serve", model, "--max-model-len", "2048", "--quantization", "bitsandbytes")
    bounds = planned(*a_board_with_bounds, "--json", *flags)["per_gpu"]["bounds"]
    for name in ("total_bytes", "budget_bytes"):
        assert bounds[name]["lower"] < bounds[name]["expected"] < bounds[name]["upper"]
    table = run(*a_board_with_bounds, *flags).output
    (concurrency,) = [line for line in table.splitlines() if line.startswith("requests of 2,048 tokens at once")]
    assert " to " in concurrency


def test_why_a_change_does_what_it_does_stands_once_for_each_flag(model):
    shown = run(*ON_AN_H100, "--suggest", "--", "serve", model, "--max-model-len", "8192").output.splitlines()
    assert sum(line.startswith("max-num-seqs  ") for line in shown) > 2
    assert sum(line.startswith("max-num-seqs: ") for line in shown) == 1


def test_a_card_that_is_too_small_exits_with_one_and_vllms_reason(model):
    shown = run("--gpu-memory-gib", "24", "--", "serve", model)
    assert shown.exit_code == 1
    assert "does not fit" in shown.output
    assert "vLLM would say:" in shown.output


def test_what_is_missing_is_told_with_its_bounds_in_the_same_direction(model):
    shown = run("--gpu-memory-gib", "12", "--", "serve", model).output
    told = re.search(r"does not fit, ([\d.]+) GiB short \(([\d.]+) to ([\d.]+)\)", shown)
    assert told, shown
    expected, least, most = map(float, told.groups())
    assert 0 < least < expected < most


def test_a_pasted_command_with_dashes_needs_no_quoting(model):
    result = planned(
        *("--gpu", "RTX 4090", "--gpu-count", "8", "--vllm-version", "0.8.5", "--json", "--", "serve", model),
        *("--tensor-parallel-size", "8", "--gpu-memory-utilization", "0.75", "--dtype", "float16"),
    )
    assert result["gpu"]["count"] == 8
    assert result["flags"]["tensor_parallel_size"]["value"] == 8


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "nothing to plan"),
        (("--", "serve", "{model}"), "--gpu or --gpu-memory-gib is needed"),
        (("--gpu", "Voodoo 2", "--", "serve", "{model}"), "no GPU is known as 'Voodoo 2'"),
        (("--gpu", "A100", "--", "serve", "{model}"), "more than one GPU"),
        (("--gpu-memory-gib", "-3", "--", "serve", "{model}"), "--gpu-memory-gib: -3.0 is not the GiB of one GPU"),
        (("--gpu", "L4", "--vllm-version", "latest", "--", "serve", "{model}"), "'latest' is not a release"),
        (("--gpu", "L4", "--", "serve", "/no/such/model"), "/no/such/model: no such directory or file"),
        (("--gpu", "L4", "--", "serve", f"/{'a' * 300}"), f"/{'a' * 300}: File name too long"),
        (("--gpu", "L4", "--", "serve", "{model}", "--max-num-seqs", "many"), "--max-num-seqs: 'many' is not"),
        (("--gpu", "L4", "--", "serve", "{model}", "-tp", "3"), "tensor-parallel-size"),
        (("--gpu", "L4", "--gpu-count", "1", "--", "serve", "{model}", "-tp", "2"), "2 GPUs are needed"),
        (("--gpu", "L4", "--", "serve"), "no model"),
        (("--batch", "-", "--", "serve", "{model}"), "none may follow"),
    ],
)
def test_wrong_use_says_what_would_be_right(model, words, problem):
    with pytest.raises(UsageError) as caught:
        run(*(word.replace("{model}", model) for word in words))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{", "config.json"),
        ('{"architectures": ["NobodyKnowsForCausalLM"]}', "NobodyKnowsForCausalLM"),
        (json.dumps({k: v for k, v in LLAMA_3_1_8B.items() if k != "num_attention_heads"}), "num_attention_heads"),
        (json.dumps(LLAMA_3_1_8B | {"num_hidden_layers": 0}), "num_hidden_layers"),
        (json.dumps(LLAMA_3_1_8B | {"quantization_config": {"quant_method": "dreamt_up"}}), "dreamt_up"),
    ],
)
def test_a_nonsense_config_gets_one_clear_line(tmp_path, config, problem):
    file = tmp_path / "config.json"
    file.write_text(config)
    with pytest.raises(UsageError) as caught:
        run("--gpu", "L4", "--", "serve", str(file))
    message = str(caught.value)
    assert problem in message
    assert "\n" not in message


YARN = '{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 131072}'


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "{model}", "--rope-scaling", YARN),
        ("serve", "{model}", "--hf-overrides", json.dumps({"rope_scaling": json.loads(YARN)})),
        ("VLLM_ALLOW_LONG_MAX_MODEL_LEN=1", "vllm", "serve", "{model}"),
    ],
)
def test_a_context_beyond_the_models_own_is_taken_where_the_command_line_allows_it(model, words):
    words = [word.replace("{model}", model) for word in words]
    asked = ("--gpu", "H100 SXM", "--vllm-version", "0.9.2", "--json", "--")
    assert "max_model_len (262144)" in planned(*asked, "serve", model, "--max-model-len", "262144")["vllm_error"]

    result = planned(*asked, *words, "--max-model-len", "262144")

    assert (result["verdict"], result["vllm_error"]) == ("fits", None)


def test_what_is_wrong_in_a_config_of_any_name_is_told_with_its_name(tmp_path):
    file = tmp_path / "downloaded.json"
    for config, problem in (
        ({"architectures": ["NobodyKnowsForCausalLM"]}, "architecture NobodyKnowsForCausalLM is not described"),
        ({"architectures": ["LlamaForCausalLM"]}, "config.json: hidden_size is missing"),
    ):
        file.write_text(json.dumps(config))
        assert run_wrong("--gpu", "L4", "--", "serve", str(file)).startswith(f"{file}: {problem}")


def test_a_batch_answers_line_for_line_and_a_bad_line_stops_nothing(model, tmp_path):
    rows = [
        {
            "id": "good",
            "gpu": "H100 SXM",
            "vllm_version": "0.19.0",
            "model": model,
            "args": ["--max-model-len", "8192"],
        },
        {"id": "small", "gpu_memory_gib": 16, "model": model, "args": []},
        {"id": "odd", "gpu": "L4", "model": model, "args": [], "colour": "red"},
        {"id": "lost", "gpu": "L4"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n\n" + "[" * 9999)
    shown = run("--batch", str(file))
    results = [json.loads(line) for line in shown.output.splitlines()]
    assert [result["id"] for result in results] == ["good", "small", "odd", "lost", None, None]
    assert [result["verdict"] for result in results] == ["fits", "does_not_fit", None, None, None, None]
    assert "unknown key 'colour'" in results[2]["error"]
    assert "model must be" in results[3]["error"]
    assert "line 5: not JSON" in results[4]["error"]
    assert "line 7: not JSON" in results[5]["error"], "nested too deep"
    assert shown.exit_code == 1


def test_suggestions_are_whole_plans_with_one_change(model):
    result = planned(*ON_AN_H100, "--suggest", "--json", "--", "serve", model, "--max-model-len", "8192")
    by_flag = {}
    for each in result["suggestions"]:
        by_flag.setdefault(each["flag"], []).append(each)
    fewer = next(each for each in by_flag["max_num_seqs"] if each["suggested"] == 256)
    assert fewer["tokens_gained"] > 0, "the sampler's memory comes out of the KV cache"
    (half,) = by_flag["kv_cache_dtype"]
    assert half["capacity_tokens"] == pytest.approx(2 * result["kv"]["capacity_tokens"]["expected"], rel=0.01)
    (smaller,) = by_flag["gpu"]
    assert smaller["verdict"] == "fits"


def test_a_row_of_the_batch_is_checked_key_by_key():
    with pytest.raises(UsageError) as caught:
        Asked.from_row({"model": 3, "args": "x", "gpu_count": "two"}, "line 1")
    assert str(caught.value).splitlines() == [
        "line 1: model must be a directory, a config.json or a hub id",
        "line 1: args must be a list of words such as ['--max-model-len', '8192']",
        "line 1: gpu_count must be a whole number",
    ]


def test_the_whole_program_answers_and_exits(model):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "exporter",
            "plan",
            "--gpu-memory-gib",
            "80",
            "--",
            "serve",
            model,
            "--max-model-len=4096",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "fits" in done.stdout


def test_a_misspelled_option_of_plan_is_refused_rather_than_taken_for_vllms(model):
    refused = run("--jsn", *ON_AN_H100, "--", "serve", model)
    assert (refused.exit_code, "--json" in refused.stderr) == (2, True)


def test_a_command_line_is_read_without_the_dashes_before_it_too(model):
    words = (*ON_AN_H100, "--json", "serve", model, "--max-model-len", "8192")
    assert json.loads(run(*words).stdout)["flags"]["max_model_len"]["value"] == 8192


def test_a_misspelled_flag_of_vllm_is_told_with_the_one_that_was_meant(model):
    result = planned(*ON_AN_H100, "--json", "--", "serve", model, "--max-modle-len", "8192")
    assert result["notes"][0] == (
        "--max-modle-len is not known here and left out of account: is --max-model-len meant?"
    )


def test_an_option_of_plan_after_the_dashes_is_refused_rather_than_dropped(model):
    refused = run_wrong(*ON_AN_H100, "--", "serve", model, "--typical-tokens", "900", "--json")
    assert refused == (
        "--json, --typical-tokens: an option of plan, not of vLLM: it belongs before the --, vLLM's flags after it"
    )
    assert run_wrong(*ON_AN_H100, "--", "serve", model, "--batch=9").startswith("--batch: an option of plan, not of")


def test_options_of_plan_stand_before_and_after_the_model(model):
    ours, vllms = (*ON_AN_H100, "--json"), ("--", "--max-model-len", "8192")
    before = run(*ours, "--", "serve", model, "--max-model-len", "8192").stdout
    for words in (
        (model, *ours, *vllms),
        ("serve", model, *ours, *vllms),
        ("--json", "serve", model, *ON_AN_H100, *vllms),
        (*ours, model, *vllms),
    ):
        assert run(*words).stdout == before
    assert run(model, *ours).stdout == run(*ours, "--", "serve", model).stdout


def test_without_the_dashes_vllms_flags_end_what_plan_takes(model):
    refused = run_wrong(model, "--max-model-len", "8192", *ON_AN_H100)
    assert refused.startswith("--gpu, --vllm-version: an option of plan, not of vLLM: it belongs before the --")


def test_what_stands_after_the_dashes_is_vllms_even_where_plan_would_know_a_like_name(model):
    words = ("--", "serve", model, "--max-model-len", "8192", "-tp", "2", "--gpu-memory-utilization", "0.8")
    flags = planned(*ON_AN_H100, "--json", *words)["flags"]
    assert (flags["tensor_parallel_size"]["value"], flags["gpu_memory_utilization"]["value"]) == (2, 0.8)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.flags import FlagError, config_path, is_server_command, misspelled, parse_flags, require_valid


def test_a_pasted_command_line_is_read_as_it_is():
    flags = parse_flags(
        "python3 /usr/local/bin/vllm serve /models/Qwen3-32B --tensor-parallel-size 8 "
        "--gpu-memory-utilization 0.75 --dtype float16 --max-model-len 8192".split()
    )
    assert flags.given() == {
        "model": "/models/Qwen3-32B",
        "tensor_parallel_size": 8,
        "gpu_memory_utilization": 0.75,
        "dtype": "float16",
        "max_model_len": 8192,
    }


def test_the_module_form_names_its_model_by_flag():
    flags = parse_flags(["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "m", "--port", "8001"])
    assert (flags.model, flags.port) == ("m", 8001)


def test_dashes_and_underscores_are_the_same():
    assert parse_flags(["serve", "m", "--max_num_seqs", "7"]).max_num_seqs == 7
    assert parse_flags(["serve", "m", "--max-num_seqs=7"]).max_num_seqs == 7


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("-tp 4", "tensor_parallel_size", 4),
        ("-pp 2", "pipeline_parallel_size", 2),
        ("-dp=3", "data_parallel_size", 3),
        ("-q awq", "quantization", "awq"),
        ("-ep", "enable_expert_parallel", True),
        ("-O3", "compilation_config", {"level": 3}),
        ("--kv-cache-memory 5g", "kv_cache_memory_bytes", 5_000_000_000),
    ],
)
def test_short_forms_and_aliases_are_known(words, field, value):
    assert getattr(parse_flags(["serve", "m", *words.split()]), field) == value


def test_an_unambiguous_beginning_of_an_option_is_enough_as_for_argparse():
    assert parse_flags(["serve", "m", "--tensor-parallel", "2"]).tensor_parallel_size == 2


def test_an_ambiguous_beginning_sets_nothing():
    assert parse_flags(["serve", "m", "--max-num", "2"]).given() == {"model": "m"}


@pytest.mark.parametrize(
    ("text", "value"), [("8k", 8_000), ("8K", 8_192), ("25.6k", 25_600), ("1m", 1_000_000), ("4096", 4096)]
)
def test_human_readable_numbers_mean_what_vllm_means(text, value):
    assert parse_flags(["serve", "m", "--max-model-len", text]).max_model_len == value


def test_max_model_len_auto_is_minus_one():
    assert parse_flags(["serve", "m", "--max-model-len", "auto"]).max_model_len == -1
    assert parse_flags(["serve", "m", "--max-model-len", "-1"]).max_model_len == -1


def test_a_boolean_has_two_forms():
    assert parse_flags(["serve", "m", "--enable-prefix-caching"]).enable_prefix_caching is True
    assert parse_flags(["serve", "m", "--no-enable-prefix-caching"]).enable_prefix_caching is False


def test_an_unknown_flag_with_a_value_does_not_swallow_the_model():
    flags = parse_flags("serve --trust-remote-code m --tool-call-parser hermes --enable-auto-tool-choice".split())
    assert flags.given() == {"model": "m"}


def test_json_and_dotted_json_arguments_mean_the_same():
    as_json = parse_flags(["serve", "m", "--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}'])
    dotted = parse_flags(
        ["serve", "m", "--speculative-config.method", "ngram", "--speculative-config.num_speculative_tokens", "3"]
    )
    assert as_json.speculative_config == dotted.speculative_config == {"method": "ngram", "num_speculative_tokens": 3}


def test_what_vllm_would_refuse_is_a_problem_that_names_flag_value_and_remedy():
    flags = parse_flags(["serve", "m", "--max-model-len", "abc", "--gpu-memory-utilization"])
    assert flags.max_model_len is None
    assert flags.problems == (
        "--max-model-len: 'abc' is not a whole number such as 8192, 8k or 8K, or auto",
        "--gpu-memory-utilization: no value given; it takes a number such as 0.9",
    )
    with pytest.raises(FlagError, match="--max-model-len"):
        require_valid(flags)


@pytest.mark.parametrize(
    ("flag", "text", "problem"),
    [
        (
            "--compilation-config",
            '{"cudagraph_capture_sizes": "all", "level": 3}',
            "--compilation-config.cudagraph_capture_sizes: 'all' is not a list of whole numbers above zero",
        ),
        (
            "--compilation-config",
            '{"cudagraph_capture_sizes": ["x"], "level": 3}',
            "--compilation-config.cudagraph_capture_sizes: ['x'] is not a list of whole numbers above zero",
        ),
        (
            "--compilation-config",
            '{"cudagraph_capture_sizes": 5}',
            "--compilation-config.cudagraph_capture_sizes: 5 is not a list of whole numbers above zero",
        ),
        (
            "--compilation-config.max_cudagraph_capture_size",
            "large",
            "--compilation-config.max_cudagraph_capture_size: 'large' is not a whole number above zero",
        ),
        (
            "--speculative-config",
            '{"num_speculative_tokens": [3]}',
            "--speculative-config.num_speculative_tokens: [3] is not a whole number above zero",
        ),
    ],
)
def test_a_part_of_an_object_that_vllm_would_refuse_is_a_problem_too(flag, text, problem):
    flags = parse_flags(["serve", "m", flag, text])

    assert flags.problems == (problem,)
    assert flags.compilation_config in (None, {}, {"level": 3})
    assert flags.speculative_config in (None, {})
    with pytest.raises(FlagError, match=flag):
        require_valid(flags)


def test_what_is_no_number_is_no_utilization():
    assert parse_flags(["serve", "m", "--gpu-memory-utilization", "nan"]).problems == (
        "--gpu-memory-utilization: 'nan' is not a number such as 0.9",
    )


def test_a_number_beyond_all_numbers_is_a_problem_like_any_other():
    (problem,) = parse_flags(["serve", "m", "--max-model-len", "9" * 400 + "k"]).problems
    assert problem.startswith("--max-model-len: '999")


def test_the_command_line_wins_over_the_config_file():
    config = {"max-num-seqs": 8, "tensor_parallel_size": 2, "enforce-eager": True, "served-model-name": ["a", "b"]}
    flags = parse_flags(["serve", "m", "--max-num-seqs", "16"], config=config)
    assert flags.max_num_seqs == 16
    assert flags.tensor_parallel_size == 2
    assert flags.enforce_eager is True
    assert flags.served_model_name == ("a", "b")


def test_the_config_file_is_found_in_both_spellings():
    assert config_path(["serve", "--config", "a.yaml"]) == "a.yaml"
    assert config_path(["serve", "--config=b.yaml"]) == "b.yaml"
    assert config_path(["serve", "m"]) is None


def test_no_environment_variable_is_kept_that_was_not_asked_for():
    flags = parse_flags(
        ["VLLM_USE_V1=0", "VLLM_API_KEY=secret", "vllm", "serve", "m", "--api-key", "secret2"],
        environment={"HF_TOKEN": "secret3", "VLLM_CPU_KVCACHE_SPACE": "4"},
    )
    assert flags.environment == {"VLLM_USE_V1": "0", "VLLM_CPU_KVCACHE_SPACE": "4"}
    assert "secret" not in repr(flags)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/opt/venv/bin/python3 /opt/venv/bin/vllm serve m --port 1", True),
        ("vllm serve m", True),
        ("python -m vllm.entrypoints.openai.api_server --model m", True),
        ("python3 -m vllm.entrypoints.cli.main serve m", True),
        ("/usr/bin/python3.12 -X dev -u -O -W ignore /opt/venv/bin/vllm serve m", True),
        ("/usr/libexec/platform-python /opt/venv/bin/vllm serve m", True),
        ("bash -c vllm serve m", False),
        ("tmux new-session -d vllm serve m", False),
        ("SCREEN -dmS chat vllm serve m", False),
        ("docker run image vllm serve m", False),
        ("ssh gpu-7 vllm serve m", False),
        ("uv run vllm serve m", False),
        ("tail -f vllm serve", False),
        ("python3 -c text vllm serve m", False),
        ("grep -r vllm.entrypoints.openai.api_server", False),
        ("vllm bench serve", False),
        ("python train.py serve", False),
        ("", False),
    ],
)
def test_a_server_is_told_from_other_commands(command, expected):
    assert is_server_command(command.split()) is expected


def test_options_of_the_interpreter_are_none_of_vllms():
    flags = parse_flags("/usr/bin/python3.12 -X dev -u -O -W ignore /opt/venv/bin/vllm serve m --port 8001".split())
    assert (flags.model, flags.port) == ("m", 8001)


@given(st.lists(st.text(max_size=20), max_size=12))
def test_no_command_line_raises(argv):
    parse_flags(argv)
    is_server_command(argv)
    config_path(argv)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("--max-model-lenn", "--max-model-len"),
        ("--max-modle-len", "--max-model-len"),
        ("--gpu-memory-utilisation", "--gpu-memory-utilization"),
        ("--tensor-paralel-size", "--tensor-parallel-size"),
    ],
)
def test_a_slip_of_the_pen_is_told_by_the_flag_that_was_meant(slip, meant):
    assert misspelled(["vllm", "serve", "m", slip, "2"]) == ((slip, meant),)


@pytest.mark.parametrize(
    "words", ["--max-num-seq 4", "-tp 2", "--max_model_len 8k", "--dbo-prefill-token-threshold 8", "--ssl-keyfile k"]
)
def test_an_abbreviation_or_another_flag_of_vllm_is_no_slip(words):
    assert misspelled(["serve", "m", *words.split()]) == ()

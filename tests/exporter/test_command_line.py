from types import SimpleNamespace

import psutil
import pytest

from exporter.command_line import server_argv, with_flags


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        ("vllm serve m", {"max-num-seqs": "16"}, "vllm serve m --max-num-seqs 16"),
        ("vllm serve m --max-num-seqs 64 --port 1", {"max-num-seqs": "16"}, "vllm serve m --max-num-seqs 16 --port 1"),
        ("vllm serve m --max_num_seqs=64", {"max-num-seqs": "16"}, "vllm serve m --max_num_seqs=16"),
        ("vllm serve m -tp 2", {"tensor-parallel-size": "4"}, "vllm serve m -tp 4"),
        ("vllm serve m --max-num-seqs 8 --max-num-seqs 64", {"max-num-seqs": "16"}, "vllm serve m --max-num-seqs 16"),
        ("vllm serve m --swap-space 4 --port 1", {"swap-space": None}, "vllm serve m --port 1"),
        ("vllm serve --use-v2-block-manager m", {"use-v2-block-manager": None}, "vllm serve m"),
        (
            "vllm serve m --max-num-seqs-other 4",
            {"max-num-seqs": "1"},
            "vllm serve m --max-num-seqs-other 4 --max-num-seqs 1",
        ),
    ],
)
def test_a_flag_is_set_where_it_stands(before, changes, after):
    assert with_flags(before.split(), changes) == after.split()


@pytest.mark.parametrize("key", ["--api-key s3cret", "--api-key=s3cret", "--api-key s3cret other-s3cret"])
def test_keys_are_never_shown(key):
    shown = with_flags(["vllm", "serve", "m", *key.split(), "--port", "1"], {"max-num-seqs": "16"})
    assert "s3cret" not in " ".join(shown)
    assert shown[-4:] == ["--port", "1", "--max-num-seqs", "16"]


def test_the_server_among_its_processes_is_found():
    argvs = {1: ["VLLM::EngineCore"], 2: ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "m"]}
    table = SimpleNamespace(
        NoSuchProcess=psutil.NoSuchProcess,
        AccessDenied=psutil.AccessDenied,
        ZombieProcess=psutil.ZombieProcess,
        Process=lambda pid: SimpleNamespace(cmdline=lambda: argvs[pid]),
    )
    assert server_argv(table, frozenset(argvs)) == argvs[2]
    assert server_argv(table, frozenset({1})) is None


def test_a_process_that_is_gone_is_no_server():
    assert server_argv(psutil, frozenset({2**22 + 5})) is None

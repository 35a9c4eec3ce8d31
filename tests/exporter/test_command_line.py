import os
import subprocess
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.cli.advise import pasted
from exporter.command_line import server_argv, shell_word, systemd_word, with_flags


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


@pytest.mark.parametrize("key", ["--api_key s3cret", "--api_key=s3cret", "--api-k s3cret", "--hf_token=s3cret"])
def test_keys_are_not_shown_under_the_other_spellings_that_vllm_takes(key):
    assert "s3cret" not in " ".join(with_flags(["vllm", "serve", "m", *key.split()], {}))


def test_a_flag_that_only_begins_like_a_key_is_shown():
    shown = with_flags(["vllm", "serve", "m", "--api-server-count", "2", "--hf-config-path", "p"], {})
    assert shown == ["vllm", "serve", "m", "--api-server-count", "2", "--hf-config-path", "p"]


def read_by_systemd(line):
    """Split a command line as systemd.syntax(7) and systemd.service(5) say: quotes, C escapes, %% and $$."""
    words, position = [], 0
    while position < len(line):
        if line[position].isspace():
            position += 1
            continue
        word, quote = b"", None
        while position < len(line) and (quote or not line[position].isspace()):
            each = line[position]
            if each == "\\":
                escape = line[position + 1]
                if escape == "x":
                    word += bytes([int(line[position + 2 : position + 4], 16)])
                    position += 4
                else:
                    word += {"n": "\n", "t": "\t"}.get(escape, escape).encode()
                    position += 2
                continue
            position += 1
            if quote and each == quote:
                quote = None
            elif not quote and each in "\"'":
                quote = each
            else:
                word += each.encode()
        words.append(os.fsdecode(word).replace("%%", "%").replace("$$", "$"))
    return words


words_of_a_process = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        st.binary().filter(lambda raw: 0 not in raw).map(os.fsdecode),
        st.sampled_from(
            [":key:", "a\tb", "[bold]", "it's", "$HOME", "`id`", "\x1b[31m", "\x9b1m", "two\nlines", "100%"]
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(words_of_a_process)
def test_what_stands_in_a_unit_is_read_back_as_the_words_that_went_in(words):
    written = " ".join(map(systemd_word, words))
    assert written.isprintable()
    assert read_by_systemd(written) == words


@given(words_of_a_process)
@settings(max_examples=25)
@example([":key:", "a\tb", "\x1b[31m", "\udcff", "it's", "\n", ""])
def test_what_is_shown_to_paste_is_read_by_a_shell_as_the_words_that_went_in(words):
    lines = pasted(["printf", "'%s\\0'", *map(shell_word, words)])
    assert all(line.isprintable() for line in lines)
    read = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, check=True).stdout
    assert [os.fsdecode(word) for word in read.split(b"\0")[:-1]] == words


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("--max-num-seqs", "--max-num-seqs"),
        ("/models/m", "/models/m"),
        ("100%", "100%%"),
        ("$HOME", "$$HOME"),
        ('{"a": 1}', '"{\\"a\\": 1}"'),
        (";", "\\;"),
        ("", '""'),
        ("it's", '"it\'s"'),
        ("two\nlines", '"two\\x0alines"'),
    ],
)
def test_a_word_is_quoted_only_where_systemd_would_read_it_otherwise(word, written):
    assert systemd_word(word) == written

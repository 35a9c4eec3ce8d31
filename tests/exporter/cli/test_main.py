"""What holds for every command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.advisor.test_plan import LLAMA_3_1_8B
from tests.exporter.typed import typed


@pytest.mark.parametrize(
    "words",
    [("--help",), ("plan", "--gpu", "H100 SXM", "--json", "--", "serve", "{model}"), ("advise",), ("explain",)],
    ids=lambda words: words[0],
)
def test_output_that_nobody_can_keep_is_told_in_a_line_and_is_no_judgement(words, tmp_path):
    """Exit status 1 is a judgement: a script would read "does not fit" where the disk is full."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    with Path("/dev/full").open("w") as output:
        result = subprocess.run(
            [sys.executable, "-m", "exporter", *(word.format(model=tmp_path) for word in words)],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert result.stderr == "vllm-headroom: standard output: No space left on device\n"
    assert result.returncode == 2


def test_a_misspelled_command_is_told_with_the_one_that_is_near():
    result = typed("exlpain")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("Error: No such command 'exlpain'. Did you mean 'explain'?\n")

"""What happens to a test that needs what this machine has not, or more time than another took."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent


def test_a_property_is_judged_by_what_holds_and_not_by_how_long_it_takes():
    assert settings().deadline is None


@pytest.fixture
def ended(tmp_path):
    """Run the tests that ask for systemd-analyze where nothing is on the PATH."""

    def run(**variables):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-m",
            "needs_systemd",
            "tests/test_systemd.py",
        ]
        plain = {name: value for name, value in os.environ.items() if name != "VLLM_HEADROOM_NO_SKIPS"}
        environment = {**plain, "PATH": str(tmp_path), **variables}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run


def test_it_is_skipped_and_says_what_brings_it(ended):
    run = ended()
    assert run.returncode == 0, run.stdout
    assert "needs systemd-analyze on the PATH (Debian: apt install systemd)" in run.stdout
    assert " 3 skipped" in run.stdout


def test_it_fails_where_nothing_may_be_skipped(ended):
    run = ended(VLLM_HEADROOM_NO_SKIPS="1")
    assert run.returncode == 1, run.stdout
    assert "skipped where nothing may be: Skipped: needs systemd-analyze on the PATH" in run.stdout
    assert "skipped" not in run.stdout.splitlines()[-1]

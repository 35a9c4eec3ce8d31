"""What the benchmark of plan asks for, and how it tells what it measured."""

import json
import sys

import pytest

from bench.accuracy.rows import configurations
from bench.planning.__main__ import Run, rows, run, table, written


def test_a_batch_asks_for_every_model_and_for_no_row_twice(tmp_path):
    files = written(tmp_path, configurations())
    asked = [json.loads(line) for line in rows(files)]
    assert len(asked) == 1_000
    assert {each["model"] for each in asked} == {str(file) for file in files}
    assert len({(each["model"], *each["args"]) for each in asked}) == 1_000


def test_a_program_that_falls_over_is_no_measurement():
    assert run((sys.executable, "-c", "raise SystemExit(1)")).cpu_seconds > 0
    with pytest.raises(RuntimeError, match="ended with -9"):
        run((sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))


def test_the_median_is_held_against_the_aim_and_the_floor():
    runs = {
        "floor": [Run(wall_seconds=0.1, cpu_seconds=0.1)],
        "plan": [Run(wall_seconds=wall, cpu_seconds=0.4) for wall in (0.2, 0.5, 0.3)],
        "batch": [Run(wall_seconds=6.0, cpu_seconds=5.0)],
    }
    lines = table(runs, {"plan": 0.3, "batch": 5.0}).splitlines()
    assert lines[3] == "| plan | 3 | 0.30 | 0.20 to 0.50 | 0.40 | 4.0 | 0.3 | met |"
    assert lines[4].endswith("| 50.0 | 5 | **missed** |")

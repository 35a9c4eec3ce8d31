"""What the page and the terminal say in words."""

import re
from pathlib import Path

import pytest

from exporter import words
from tests.exporter.web import statuses

SOURCES = [
    *(Path("exporter/sources") / name for name in ("nvml.py", "process.py", "vllm.py")),
    Path("exporter/observe.py"),
    Path("exporter/state.py"),
]
_RAISED = re.compile(
    r'(?:Source\w+|RestartNeeded)\(\s*"(\w+)"|^\s+nvml\.NVML_ERROR_\w+: "(\w+)"|, "(nvml_error)"\)', re.MULTILINE
)


def reasons():
    """Return every reason that a source of the daemon gives for a failure; HTTP statuses are not listed one by one."""
    found = {
        reason
        for file in SOURCES
        for groups in _RAISED.findall(file.read_text(encoding="utf-8"))
        for reason in groups
        if reason
    }
    assert {"gpu_lost", "nvml_error", "timeout", "hung", "state_not_written"} <= found, "the pattern has gone stale"
    # not_json never leaves its source: /version and /v1/models are asked for what they may add.
    return sorted((found | {"no_vllm_metrics", "not_metrics"}) - {"not_json"})


def failing(collector, reason, status):
    collectors = [each for each in status["collectors"] if each["collector"] != collector]
    return status | {"collectors": [*collectors, {"collector": collector, "success": 0, "failing": {reason: 1}}]}


@pytest.mark.parametrize(("risk", "told"), [(0.01, "memory faults"), (None, "memory faults"), (0.5, "risk of running")])
def test_a_row_that_waits_for_a_reset_is_told_also_of_a_board_without_memory_of_its_own(risk, told):
    status = statuses.good()
    board = {"gpu": "7", "uuid": "GPU-7", "oom_risk_ratio": risk, "row_remap_failed": 1}
    level, sentence = words.headline(status | {"gpus": [board]})
    assert level == "warning"
    assert sentence.startswith(f"Look at GPU 7 ({told}")


@pytest.mark.parametrize("reason", reasons())
def test_a_reason_is_told_in_words_beside_its_name(reason):
    assert re.fullmatch(rf"[a-zA-Z].+ \({reason}\)", words.failing({reason: 1}))


@pytest.mark.parametrize(
    ("collector", "reason", "told"),
    [
        ("nvml", "driver_not_loaded", "the GPUs (the NVIDIA driver is not loaded)"),
        ("nvml", "gpu_lost", "the GPUs (a GPU has fallen off the bus)"),
        ("nvml", "hung", "the GPUs (a read has not come back)"),
        ("process", "no_process_table", "this host's processes (the process table cannot be read)"),
        ("state", "state_not_written", "what survives a restart (the state directory cannot be written)"),
    ],
)
def test_nothing_is_well_while_a_source_cannot_be_read(collector, reason, told):
    assert words.headline(failing(collector, reason, statuses.good())) == ("warning", f"Look at {told}.")


@pytest.mark.parametrize(
    ("risk", "level"), [(0.199, "good"), (0.2, "warning"), (0.699, "warning"), (0.7, "critical"), (None, "unknown")]
)
def test_a_gpu_is_as_bad_as_its_risk_from_each_threshold_on(risk, level):
    policy = statuses.good()["policy"]
    assert words.gpu_level({"oom_risk_ratio": risk, "memory_slack_bytes": 0}, policy) == level


def test_a_gpu_is_over_committed_below_no_slack_and_not_at_it():
    policy = statuses.good()["policy"]
    assert words.gpu_level({"oom_risk_ratio": 0.0, "memory_slack_bytes": -1}, policy) == "warning"


@pytest.mark.parametrize(
    ("capacity", "verdict"),
    [
        (899, "less than expected"),
        (900, "as expected"),
        (999, "as expected"),
        (1_100, "as expected"),
        (1_101, "more than expected"),
    ],
)
def test_a_capacity_is_as_expected_between_the_bounds_of_theory(capacity, verdict):
    theory = {"kv_theory_tokens": 1_000, "kv_theory_lower_tokens": 900, "kv_theory_upper_tokens": 1_100}
    assert words.capacity_sentence({"kv_capacity_tokens": capacity, **theory}).endswith(f": {verdict}.")


def test_gpus_that_are_lost_all_at_once_are_no_good_state():
    status = failing("nvml", "driver_unloaded", statuses.good()) | {"gpus": []}
    assert words.headline(status)[0] == "warning"


def test_a_host_without_a_driver_may_be_well():
    status = failing("nvml", "no_driver_library", statuses.good()) | {"gpus": []}
    assert words.headline(status) == ("good", "All is well: 0 GPUs, 1 engine.")


def test_what_is_critical_comes_before_a_source_that_fails():
    assert words.headline(failing("process", "hung", statuses.bad()))[1].startswith("Look at GPU 1 (risk")

"""Every recording rule through promtool: what it makes of series, by which labels."""

import pytest

from dashboards.rules.prometheus import recording_groups
from dashboards.rules.recording import RECORDINGS
from tests.dashboards.promtool import assert_passes, run_unit_test
from tests.dashboards.rules.examples import ENGINE, GPU, engine, gpu, series

pytestmark = pytest.mark.needs_promtool

MODEL = {"job": "headroom", "model_name": "m"}
OTHER_MODEL = {"job": "headroom", "model_name": "n"}


def fleet(name, first, second, other):
    """Return a figure of two engines of one model on two servers, and of one of another model."""
    return {
        engine(name): first,
        engine(name, instance="i:9738", dp_rank="1"): second,
        engine(name, model_name="n", engine="e:8001"): other,
    }


EXAMPLES = {
    "instance_gpu:headroom_gpu_memory_slack_bytes:min1h": (
        {gpu("memory_slack_bytes"): "9+0x20 -3 9+0x100"},
        {"20m": [(GPU, 9)], "80m": [(GPU, -3)], "90m": [(GPU, 9)]},
    ),
    "instance_gpu:headroom_gpu_oom_risk_ratio:max1h": (
        {gpu("oom_risk_ratio"): "0.1+0x20 0.8 0.1+0x100"},
        {"20m": [(GPU, 0.1)], "80m": [(GPU, 0.8)], "90m": [(GPU, 0.1)]},
    ),
    "instance_engine:headroom_engine_kv_headroom_tokens:min5m": (
        {engine("kv_headroom_tokens"): "900+0x20 16 900+0x100"},
        {"20m": [(ENGINE, 900)], "25m": [(ENGINE, 16)], "30m": [(ENGINE, 900)]},
    ),
    "instance_engine:headroom_engine_requests_running:max1h": (
        {engine("requests_running"): "4+0x20 64 4+0x100"},
        {"20m": [(ENGINE, 4)], "80m": [(ENGINE, 64)], "90m": [(ENGINE, 4)]},
    ),
    "instance_engine:headroom_engine_preemptions:rate5m": (
        # The server restarts, then nothing is preempted.
        {engine("preemptions_total"): "0+6x20 0+6x20 120+0x20"},
        {"20m": [(ENGINE, 0.1)], "40m": [(ENGINE, 0.1)], "50m": [(ENGINE, 0)]},
    ),
    "model_name:headroom_engine_kv_used_per_capacity:ratio": (
        # A small engine that is full and a large one that is empty are nearly empty.
        fleet("kv_used_tokens", "100+0x60", "0+0x60", "50+0x60")
        | fleet("kv_capacity_tokens", "100+0x60", "900+0x60", "100+0x60"),
        {"30m": [(MODEL, 0.1), (OTHER_MODEL, 0.5)]},
    ),
    "model_name:headroom_engine_request_headroom:sum": (
        fleet("request_headroom", "3+0x60", "4+0x60", "9+0x60"),
        {"30m": [(MODEL, 7), (OTHER_MODEL, 9)]},
    ),
    "model_name:headroom_engine_requests_waiting:sum": (
        fleet("requests_waiting", "3+0x60", "4+0x60", "0+0x60"),
        {"30m": [(MODEL, 7), (OTHER_MODEL, 0)]},
    ),
    "model_name:headroom_engine_up:count": (
        # Where none is up there is no series: an autoscaler that has no number does nothing.
        fleet("up", "1+0x60", "1+0x40 0+0x20", "1+0x40 0+0x20") | {engine("up", dp_rank="1"): "1+0x60"},
        {"30m": [(MODEL, 2), (OTHER_MODEL, 1)], "50m": [(MODEL, 1)]},
    ),
}


def test_every_recording_rule_has_an_example():
    assert EXAMPLES.keys() == {rule.record for rule in RECORDINGS}


@pytest.mark.parametrize("record", EXAMPLES)
def test_it_records(tmp_path, record):
    shown, recorded = EXAMPLES[record]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in shown.items()],
        "promql_expr_test": [
            {
                "expr": record,
                "eval_time": at,
                "exp_samples": [{"labels": series(record, labels), "value": value} for labels, value in samples],
            }
            for at, samples in recorded.items()
        ],
    }
    assert_passes(run_unit_test(tmp_path, test, rules=recording_groups(RECORDINGS)))

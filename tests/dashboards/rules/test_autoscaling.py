"""The number that autoscalers follow, worked out by Prometheus' own engine."""

import pytest

from dashboards.rules import autoscaling
from tests.dashboards.promtool import assert_passes, run_unit_test

IDLE = {"requests_running": 0, "requests_waiting": 0, "request_headroom": 20, "up": 1}
HALF = IDLE | {"requests_running": 10, "request_headroom": 10}
FULL = IDLE | {"requests_running": 20, "requests_waiting": 20, "request_headroom": 0}
DOWN = {"up": 0}


@pytest.fixture
def demand(tmp_path):
    def evaluated(expected, *replicas):
        series = [
            {
                "series": f'headroom_engine_{field}{{model_name="{model}", engine="e{number}", dp_rank="{rank}"}}',
                "values": f"{value}x5",
            }
            for number, (model, ranks) in enumerate([*(("m", each) for each in replicas), ("other", [FULL])])
            for rank, figures in enumerate(ranks if isinstance(ranks, list) else [ranks])
            for field, value in figures.items()
        ]
        samples = [] if expected is None else [{"value": expected}]
        test = {
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [
                {"expr": autoscaling.replicas_of_demand("m"), "eval_time": "3m", "exp_samples": samples}
            ],
        }
        assert_passes(run_unit_test(tmp_path, test))

    return evaluated


@pytest.mark.needs_promtool
def test_an_idle_model_needs_no_replica_and_the_autoscalers_least_number_keeps_one(demand):
    demand(0, IDLE)


@pytest.mark.needs_promtool
def test_two_half_filled_replicas_are_one_of_demand(demand):
    demand(1, HALF, HALF)


@pytest.mark.needs_promtool
def test_who_waits_is_demand_too(demand):
    demand(2, FULL)


@pytest.mark.needs_promtool
def test_a_replica_of_several_ranks_is_one(demand):
    demand(0.5, [HALF, HALF, HALF, HALF])


@pytest.mark.needs_promtool
def test_a_replica_that_is_down_counts_for_nothing(demand):
    demand(0.5, HALF, DOWN)


@pytest.mark.needs_promtool
def test_with_all_replicas_down_there_is_no_number_to_act_on(demand):
    demand(None, DOWN)


def test_both_autoscalers_fill_a_replica_as_far_and_go_down_as_slowly():
    keda, hpa = autoscaling.keda()["spec"], autoscaling.horizontal_pod_autoscaler()["spec"]
    assert 1000 * float(keda["triggers"][0]["metadata"]["threshold"]) == float(
        hpa["metrics"][0]["external"]["target"]["averageValue"].removesuffix("m")
    )
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    (rule,) = autoscaling.prometheus_adapter()["externalRules"]
    assert rule["name"]["as"] == hpa["metrics"][0]["external"]["metric"]["name"]

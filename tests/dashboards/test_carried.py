"""What the check of labels sees: each of these would show nothing on a dashboard and say nothing in a log."""

import pytest

from tests.dashboards.carried import labels_of


def test_the_labels_of_an_expression_are_those_that_its_grouping_leaves():
    assert labels_of("max without (uuid) (headroom_gpu_oom_risk_ratio)") == {"job", "instance", "gpu"}
    assert labels_of("sum by (gpu) (rate(headroom_gpu_xid_errors_total[5m]))") == {"gpu"}
    assert labels_of("headroom_gpu_oom_risk_ratio > 0.5 and headroom_gpu_memory_slack_bytes < 0") == {
        "job",
        "instance",
        "gpu",
        "uuid",
    }


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("max by (gpuu) (headroom_gpu_oom_risk_ratio)", r"nothing here has \['gpuu'\]"),
        ("sum without (engine) (headroom_gpu_oom_risk_ratio)", r"nothing here has \['engine'\]"),
        ("headroom_engine_limiter == headroom_engine_up", r"only one side has \['limiter'\]"),
        ("up == 0 and on (instance, uuid) headroom_gpu_info", r"nothing here has \['uuid'\]"),
        ("histogram_quantile(0.5, sum by (model_name) (rate(vllm:x_bucket[5m])))", r"nothing here has \['le'\]"),
    ],
)
def test_a_label_that_is_not_there_is_seen(expr, message):
    with pytest.raises(ValueError, match=message):
        labels_of(expr)

"""An alert on its whole way: a page, the exported rules in Prometheus, the snippet in Alertmanager, the operator."""

import time

import pytest

from bench.alerts.programs import alertmanager, prometheus
from bench.alerts.witness import Webhook, fetched, held_back
from dashboards.files import GENERATED
from tests.exporter.daemon import FakeServer

pytestmark = [pytest.mark.needs_prometheus, pytest.mark.needs_alertmanager]

PATIENCE_SECONDS = 60.0
RULES = sorted((GENERATED / "prometheus").glob("*.yaml"))
INHIBITION = GENERATED / "alertmanager" / "vllm-headroom.inhibit.yaml"


@pytest.fixture
def page():
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def operator():
    webhook = Webhook()
    yield webhook
    webhook.close()


@pytest.fixture
def manager(tmp_path, page, operator):
    show(page)
    target = page.url.removeprefix("http://")
    with (
        alertmanager(tmp_path, inhibition=INHIBITION, webhook=operator.url) as manager,
        prometheus(tmp_path, targets=[target], rules=RULES, alertmanager=manager),
    ):
        yield manager


def show(page, *codes):
    """Serve GPU 1, on which each of these errors happened once."""
    lines = ['headroom_build_info{version="0"} 1']
    lines += [f'headroom_gpu_xid_errors_total{{gpu="1",uuid="GPU-1",xid="{code}"}} 1' for code in codes]
    text = "\n".join(lines) + "\n"
    page.answers = {"/metrics": (200, {"Content-Type": "text/plain; version=0.0.4"}, text.encode())}


def wait_for(look):
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.2)
    return found


def told(operator):
    return [(labels["alertname"], labels["severity"]) for _, labels in operator.told]


def test_an_error_reaches_the_operator_with_its_words_and_a_lesser_one_of_the_same_gpu_does_not(
    page, manager, operator
):
    show(page, 79)
    wait_for(lambda: told(operator))
    (alert,) = fetched(f"{manager}/api/v2/alerts")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url", "dashboard_url"}
    assert "GPU 1" in alert["annotations"]["description"]
    assert "79" in alert["annotations"]["description"]
    show(page, 79, 94)
    ((labels, by),) = wait_for(lambda: held_back(manager))
    assert (labels["severity"], labels["xid"], by) == ("warning", "94", "HeadroomGpuXid")
    assert told(operator) == [("HeadroomGpuXid", "critical")]

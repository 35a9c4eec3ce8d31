"""The inhibition snippet in a real Alertmanager: what a message is kept back for, and what never is."""

import json
import subprocess
import time
from urllib.request import Request, urlopen

import pytest
import yaml

from bench.alerts.programs import alertmanager
from bench.alerts.witness import fetched
from dashboards.files import GENERATED
from tests.dashboards.rules.examples import ENGINE, GPU, TARGET

INHIBITION = GENERATED / "alertmanager" / "vllm-headroom.inhibit.yaml"

pytestmark = pytest.mark.needs_alertmanager


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    with alertmanager(tmp_path_factory.mktemp("alertmanager"), inhibition=INHIBITION) as url:
        yield url


hosts = iter(f"host{number}:9738" for number in range(100))


@pytest.fixture
def silenced(manager):
    """Let these alerts fire at a server of their own; return for each that is held back the alerts that do it."""
    host = next(hosts)

    def fire(*alerts):
        posted = [{"labels": {"alertname": name, "severity": severity} | labels} for name, severity, labels in alerts]
        for each in posted:
            each["labels"].setdefault("instance", host)
            if each["labels"]["instance"] == TARGET["instance"]:
                each["labels"]["instance"] = host
        body = json.dumps(posted).encode()
        request = Request(f"{manager}/api/v2/alerts", data=body, headers={"Content-Type": "application/json"})
        with urlopen(request, timeout=10):
            pass
        seen = []
        # Alertmanager takes alerts in the background: what stays the same for half a second is its answer.
        while len(seen) < 50 and (len(seen) < 5 or seen[-1] is None or seen[-5:] != [seen[-1]] * 5):
            time.sleep(0.1)
            mine = [each for each in fetched(f"{manager}/api/v2/alerts") if each["labels"]["instance"] == host]
            seen.append(held_back(mine) if len(mine) == len(posted) else None)
        return seen[-1]

    return fire


def held_back(alerts):
    names = {each["fingerprint"]: titled(each["labels"]) for each in alerts}
    return {
        titled(each["labels"]): {names[by] for by in each["status"]["inhibitedBy"]}
        for each in alerts
        if each["status"]["inhibitedBy"]
    }


def titled(labels):
    return f"{labels['alertname'].removeprefix('Headroom')} {labels['severity']}"


def test_a_critical_alert_holds_back_its_own_warning(silenced):
    assert silenced(("HeadroomGpuOomRisk", "critical", GPU), ("HeadroomGpuOomRisk", "warning", GPU)) == {
        "GpuOomRisk warning": {"GpuOomRisk critical"}
    }


def test_a_critical_alert_of_one_gpu_says_nothing_of_another(silenced):
    other = GPU | {"gpu": "1", "uuid": "GPU-1"}
    assert silenced(("HeadroomGpuOomRisk", "critical", GPU), ("HeadroomGpuOomRisk", "warning", other)) == {}


def test_a_critical_alert_holds_back_no_warning_of_another_cause(silenced):
    assert silenced(("HeadroomGpuXid", "critical", GPU), ("HeadroomGpuThrottled", "warning", GPU)) == {}


def test_memory_that_ends_is_one_message(silenced):
    assert silenced(
        ("HeadroomGpuMemoryEnds", "critical", GPU),
        ("HeadroomGpuMemoryEnds", "warning", GPU),
        ("HeadroomGpuOomRisk", "warning", GPU),
    ).keys() == {"GpuMemoryEnds warning", "GpuOomRisk warning"}


def test_two_critical_alerts_never_hold_back_each_other(silenced):
    quiet = silenced(
        ("HeadroomGpuMemoryEnds", "critical", GPU),
        ("HeadroomGpuOomRisk", "critical", GPU),
        ("HeadroomGpuOvercommitted", "warning", GPU),
    )
    assert quiet == {"GpuOvercommitted warning": {"GpuOomRisk critical"}}


def test_an_engine_that_preempts_need_not_be_said_to_fill_up(silenced):
    assert silenced(
        ("HeadroomEnginePreempting", "warning", ENGINE), ("HeadroomEngineKvFillsUp", "warning", ENGINE)
    ) == {"EngineKvFillsUp warning": {"EnginePreempting warning"}}


def test_an_engine_that_is_down_tells_nothing_else(silenced):
    quiet = silenced(
        ("HeadroomEngineDown", "critical", ENGINE),
        ("HeadroomEngineWouldNotRestart", "warning", ENGINE),
        ("HeadroomMetricMissing", "info", ENGINE | {"metric": "kv_usage_ratio"}),
        ("HeadroomGpuOomRisk", "warning", GPU),
    )
    assert quiet == {
        "EngineWouldNotRestart warning": {"EngineDown critical"},
        "MetricMissing info": {"EngineDown critical"},
    }


def test_a_daemon_that_is_down_holds_back_all_of_its_server(silenced):
    quiet = silenced(
        ("HeadroomExporterDown", "critical", TARGET),
        ("HeadroomEngineDown", "critical", ENGINE),
        ("HeadroomGpuOomRisk", "warning", GPU),
    )
    assert quiet.keys() == {"EngineDown critical", "GpuOomRisk warning"}


def test_amtool_accepts_the_snippet_in_a_configuration(tmp_path):
    whole = {"route": {"receiver": "x"}, "receivers": [{"name": "x"}], **yaml.safe_load(INHIBITION.read_text())}
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(whole))
    command = ["amtool", "check-config", "alertmanager.yml"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(whole['inhibit_rules'])} inhibit rules" in checked.stdout

"""What is committed is what the declarations give, and everything it reads exists."""

import itertools
import json
import re
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from advisor.policy import Policy
from advisor.report import COMPONENTS, LIMITERS
from advisor.risk import REMEDIES
from dashboards import generate
from dashboards.files import GENERATED, RUNBOOKS, generated_dashboards, panels_of, rule_files, runbooks
from dashboards.links import TAG, Board
from dashboards.rules import autoscaling
from dashboards.rules.catalogue import all_alerts
from dashboards.rules.prometheus import Places
from exporter.cli import cli
from exporter.lint import Known, Query, dashboard_queries, own_names, rule_queries
from exporter.promql import selectors, without_variables
from exporter.sources.nvml import _THROTTLE_REASONS
from tests.dashboards.carried import labels_of, labels_of_metric
from tests.dashboards.promtool import assert_passes, promtool

ALERTS = all_alerts(Policy())
BOARDS = {Board(board["uid"]): board for board in map(json.loads, generated_dashboards().values())}
PANELS = [
    pytest.param(board, panel, id=f"{board.value}-{panel['title']}")
    for board, content in BOARDS.items()
    for panel in panels_of(content)
]
VALUES = {"component": set(COMPONENTS), "limiter": set(LIMITERS), "reason": set(_THROTTLE_REASONS)}


def all_queries():
    dashboards = [
        query for board in Board for query in dashboard_queries(GENERATED / "grafana" / "dashboards" / board.file_name)
    ]
    rules = [
        query
        for kind in ("alerts", "recordings")
        for query in rule_queries(GENERATED / "prometheus" / f"vllm-headroom.{kind}.yaml")[0]
    ]
    scalers = [Query(where="autoscaling", expr=autoscaling.replicas_of_demand("m"))]
    return dashboards + rules + scalers


def test_the_committed_files_are_current():
    wanted = {**generate.dashboard_files(), **rule_files(Policy(), Places())}
    present = {
        str(file.relative_to(GENERATED)): file.read_text(encoding="utf-8")
        for file in GENERATED.rglob("*")
        if file.is_file()
    }
    assert present == wanted, "run `make dashboards`"
    assert (RUNBOOKS / "README.md").read_text(encoding="utf-8") == generate.runbook_index(), "run `make dashboards`"


def test_every_metric_of_every_rule_and_panel_exists():
    assert Known().remarks(all_queries()) == ()


def means_something(label, pattern):
    return label not in VALUES or any(re.fullmatch(pattern, value) for value in VALUES[label])


def test_every_label_exists_on_its_metric_and_has_that_value():
    wrong = []
    for query in all_queries():
        for selector in selectors(query.expr):
            for label, value in selector.matchers:
                exists = label in labels_of_metric(selector.name)
                if not exists or not all(means_something(label, each) for each in value.split("|")):
                    wrong.append((query.where, selector.name, label, value))
    assert wrong == []


def test_every_query_groups_by_and_matches_on_labels_that_are_there():
    for query in all_queries():
        labels_of(query.expr)


def test_legends_and_columns_are_made_of_labels_that_their_queries_return():
    for board, content in BOARDS.items():
        for panel in panels_of(content):
            returned = [labels_of(target["expr"]) for target in panel.get("targets", ())]
            for target, labels in zip(panel.get("targets", ()), returned, strict=True):
                assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, (board, panel["title"])
            for each in panel.get("transformations", ()):
                columns = each["options"].get("indexByName", {})
                wanted = {name for name in columns if not name.startswith("Value")}
                assert wanted <= frozenset().union(*returned), (board, panel["title"])


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_legend_tells_apart_the_servers_gpus_and_engines_that_its_query_returns(board, panel):
    for target in panel.get("targets", ()):
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        if named:
            assert labels_of(target["expr"]) & {"instance", "gpu", "engine", "dp_rank"} <= named, board


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_an_alert_speaks_of_labels_that_it_has(alert):
    said = alert.summary + alert.description + Places().dashboard(alert)
    assert set(re.findall(r"\$labels\.(\w+)", said)) <= labels_of(alert.expr)


@pytest.mark.parametrize("board", list(Board))
def test_a_dashboard_is_found_by_its_uid_and_asks_for_its_data_source(board):
    content = BOARDS[board]
    variables = {variable["name"]: variable for variable in content["templating"]["list"]}
    assert TAG in content["tags"]
    assert variables["datasource"] == {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "skipUrlSync": False,
        "query": "prometheus",
        "multi": False,
        "includeAll": False,
    }
    assert {"instance"} <= variables.keys()
    assert all(variable["allValue"] == ".*" for variable in variables.values() if variable["type"] == "query"), (
        "All must match what has not been seen yet"
    )
    assert "id" not in content


def every_panel(content):
    """Yield rows and panels."""
    for panel in content["panels"]:
        yield panel
        yield from panel.get("panels", ())


def test_ids_of_panels_are_unique_within_their_dashboard():
    for content in BOARDS.values():
        ids = [panel["id"] for panel in every_panel(content)]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("content", BOARDS.values(), ids=[board.value for board in BOARDS])
def test_panels_do_not_overlap_and_stay_within_24_columns(content):
    taken = {}
    for panel in every_panel(content):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns = range(place["x"], place["x"] + place["w"])
        for cell in itertools.product(columns, range(place["y"], place["y"] + place["h"])):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_is_described_has_a_unit_and_is_of_a_kind_that_grafana_keeps(board, panel):
    assert panel["description"]
    assert panel["type"] in {"timeseries", "stat", "table", "barchart", "state-timeline", "text"}
    if panel["type"] == "text":
        return
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        for selector in selectors(target["expr"]):
            if selector.name.startswith("headroom_"):
                assert selector.name in panel["description"], "its meaning stands in the declaration"


@pytest.mark.parametrize(("board", "panel"), [each for each in PANELS if each.values[1]["type"] == "stat"])
def test_a_figure_is_of_now_and_not_the_last_one_of_what_is_gone(board, panel):
    assert [(target["instant"], target["range"]) for target in panel["targets"]] == [(True, False)]


@pytest.mark.parametrize(("board", "panel"), [each for each in PANELS if each.values[1]["type"] == "timeseries"])
def test_a_legend_is_shown(board, panel):
    assert panel["options"]["legend"]["showLegend"] is True


def test_what_needs_vllms_own_page_stands_in_one_row_that_is_closed():
    for board, content in BOARDS.items():
        closed = [row for row in content["panels"] if row["type"] == "row" and row.get("panels")]
        inside = {panel["id"] for row in closed for panel in row["panels"]}
        assert [row["title"] for row in closed] == (
            ["From vLLM's own page (optional: if Prometheus scrapes the vLLM server too)"] * (board is Board.ENGINE)
        )
        for panel in panels_of(content):
            of_vllm = any("vllm:" in target["expr"] for target in panel.get("targets", ()))
            assert of_vllm is (panel["id"] in inside), f"{board.value}: {panel['title']}"


def test_links_lead_to_dashboards_and_set_variables_that_these_have():
    from_alerts = [Places().dashboard(alert) for alert in ALERTS]
    for text in [*map(json.dumps, BOARDS.values()), *from_alerts]:
        for uid, rest in re.findall(r"/d/([\w-]+)\?([^\"]*)", text):
            names = {variable["name"] for variable in BOARDS[Board(uid)]["templating"]["list"]}
            assert set(re.findall(r"var-(\w+)=", rest)) <= names


def test_alerts_and_panels_draw_the_line_at_the_same_place():
    policy = Policy()
    panel = next(each for each in panels_of(BOARDS[Board.SERVER]) if each["title"] == "OOM risk")
    borders = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    assert borders == [None, policy.oom_risk_warning_ratio, policy.oom_risk_critical_ratio]
    assert {alert.expr.split(">= ")[1] for alert in ALERTS if alert.name == "HeadroomGpuOomRisk"} == {"0.2", "0.7"}
    assert "at least 0.2 (warning) or 0.7 (critical)" in runbooks()["runbooks/HeadroomGpuOomRisk.md"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_an_alert_has_its_runbook_and_its_panel(alert):
    page = (RUNBOOKS / f"{alert.name}.md").read_text()
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    assert headings == [alert.name, "Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert "```sh" in page
    assert alert.panel in {panel["title"] for panel in panels_of(BOARDS[alert.board])}


def test_the_runbook_of_the_risk_tells_what_to_do_about_every_cause():
    _, mitigation = (RUNBOOKS / "HeadroomGpuOomRisk.md").read_text().split("## Mitigation")
    assert {factor for factor in REMEDIES if f"- `{factor}`" in mitigation} == set(REMEDIES)


def test_every_runbook_has_its_alert():
    assert {file.stem for file in RUNBOOKS.glob("*.md")} - {"README"} == {alert.name for alert in ALERTS}


def test_what_runbooks_tell_to_grep_for_exists():
    names = "\n".join(own_names())
    for file in RUNBOOKS.glob("*.md"):
        for pattern in re.findall(r":9738/metrics \| grep -E '(.+?)'", file.read_text()):
            for part in re.split(r"\|(?![^(]*\))", pattern):
                assert re.search(part, names), f"{file.name}: {part}"


def test_runbooks_link_only_to_pages_that_exist():
    for file in RUNBOOKS.glob("*.md"):
        for target in re.findall(r"\]\((?!https://)(.+?)\)", file.read_text()):
            assert (RUNBOOKS / target).is_file(), f"{file.name}: {target}"


def export(*arguments):
    return CliRunner().invoke(cli, ["dashboards", "export", *map(str, arguments)])


def test_export_writes_what_each_program_loads(tmp_path):
    result = export(tmp_path / "out", "--grafana-alerts", "--datasource-uid", "abc", "--grafana-url", "https://g.test/")
    assert result.exit_code == 0, result.output
    written = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert written == {
        *generated_dashboards(),
        *runbooks(),
        *rule_files(Policy(), Places()),
        "grafana/provisioning/alerting/vllm-headroom.yaml",
    }
    rules = yaml.safe_load((tmp_path / "out/prometheus/vllm-headroom.alerts.yaml").read_text())
    urls = [rule["annotations"]["dashboard_url"] for group in rules["groups"] for rule in group["rules"]]
    assert all(url.startswith("https://g.test/d/vllm-headroom-") for url in urls)


def test_an_exported_alert_points_to_the_runbook_that_is_exported_beside_it(tmp_path):
    assert export(tmp_path).exit_code == 0
    rules = yaml.safe_load((tmp_path / "prometheus/vllm-headroom.alerts.yaml").read_text())
    pages = {rule["annotations"]["runbook_url"] for group in rules["groups"] for rule in group["rules"]}
    assert pages == {name for name in runbooks() if name != "runbooks/README.md"}
    assert all((tmp_path / page).is_file() for page in pages)


def test_exported_alerts_take_the_daemons_thresholds(tmp_path):
    (tmp_path / "c.yaml").write_text("policy: {oom_risk_critical_ratio: 0.9}\n")
    assert export(tmp_path / "out", "--config", tmp_path / "c.yaml").exit_code == 0
    assert "headroom_gpu_oom_risk_ratio >= 0.9" in (tmp_path / "out/prometheus/vllm-headroom.alerts.yaml").read_text()


def test_grafanas_alerts_need_to_know_their_data_source(tmp_path):
    assert "--datasource-uid" in str(export(tmp_path / "out", "--grafana-alerts").exception)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def managed(tmp_path):
    export(tmp_path, "--grafana-alerts", "--datasource-uid", "abc")
    content = yaml.safe_load((tmp_path / "grafana/provisioning/alerting/vllm-headroom.yaml").read_text())
    return [rule for group in content["groups"] for rule in group["rules"]]


def test_grafana_manages_the_same_alerts(managed):
    assert [(rule["title"], rule["data"][0]["model"]["expr"], rule["for"]) for rule in managed] == [
        (f"{alert.name} ({alert.severity})", alert.expr, alert.hold)
        for board in dict.fromkeys(each.board for each in ALERTS)
        for alert in ALERTS
        if alert.board == board
    ]
    assert {rule["data"][0]["datasourceUid"] for rule in managed} == {"abc"}


def test_a_managed_alert_is_whole(managed):
    assert len({rule["uid"] for rule in managed}) == len(managed)
    for rule in managed:
        assert len(rule["uid"]) <= 40
        nodes = {node["refId"]: node for node in rule["data"]}
        assert rule["condition"] in nodes
        assert all(node["model"]["refId"] == name for name, node in nodes.items())
        assert rule["noDataState"] == "OK"
        panel = next(each for each in panels_of(BOARDS[Board(rule["dashboardUid"])]) if each["id"] == rule["panelId"])
        assert panel["targets"]


def test_a_managed_alert_says_the_value_of_its_query(managed):
    said = "\n".join(text for rule in managed for text in rule["annotations"].values())
    assert "$values.query.Value | humanizePercentage" in said
    assert not re.search(r"\$value\b", said)
    assert "$$" not in said, "provisioning keeps annotations as they are"


def test_the_daemon_loads_neither_the_sdk_nor_the_parser():
    """Resident memory counts; only commands about files need them."""
    code = (
        "import sys, exporter.cli, exporter.cli.serve, exporter.cli.check, exporter.cli.dashboards;"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "{'grafana_foundation_sdk', 'promql_parser', 'dashboards'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.needs_promtool
def test_every_panels_query_is_promql_to_prometheus_itself(tmp_path):
    """The parser that finds names accepts functions that 2.42 has not; promtool does not."""
    rules = [
        {"record": f"q{position}", "expr": without_variables(query.expr, "1")}
        for position, query in enumerate(all_queries())
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert_passes(promtool("check", "rules", "--lint=none", "rules.yaml", within=tmp_path))

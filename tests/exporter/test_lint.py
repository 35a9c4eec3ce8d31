import json
from dataclasses import make_dataclass

import pytest
from click.testing import CliRunner

from advisor.estimate import Origin
from advisor.facts import Fact, Former, metrics_of, total
from exporter.cli import cli
from exporter.errors import UsageError
from exporter.lint import Known, Query, dashboard_queries, names_in, renamed, rule_queries
from tests.exporter.daemon import FakeServer, vllm_page

RULES = """
groups:
  - name: a
    rules:
      - record: job:kv:max
        expr: max by (job) (vllm:gpu_cache_usage_perc)
      - alert: Full
        expr: job:kv:max > 0.9 and vllm:num_requests_waiting > 0
"""


@pytest.fixture
def server():
    running = FakeServer()
    yield running
    running.close()


def remarks(*exprs, **known):
    found = Known(**known).remarks([Query(where="here", expr=expr) for expr in exprs])
    return [(each.metric, each.replacement, each.wrong) for each in found]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),
        ("vllm:gpu_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"),
        ("vllm:time_per_output_token_seconds_bucket", "vllm:inter_token_latency_seconds_bucket"),
        ("vllm_gpu_cache_usage_perc", "vllm_kv_cache_usage_perc"),
        ("ray_vllm_gpu_cache_usage_perc", "ray_vllm_kv_cache_usage_perc"),
        ("vllm:num_preemptions", "vllm:num_preemptions_total"),
        ("vllm:time_to_first_token_seconds", "vllm:time_to_first_token_seconds_bucket"),
        ("headroom_gpu_slack_bytes", "headroom_gpu_memory_slack_bytes"),
    ],
)
def test_a_name_that_does_not_exist_is_told_with_the_one_that_does(old, new):
    assert remarks(old) == [(old, new, True)]


@pytest.mark.parametrize("name", ["vllm:num_requests_swapped", "vllm_cpu_cache_usage_perc"])
def test_a_name_that_no_other_took_the_place_of_is_told_with_what_to_do_instead(name):
    (remark,) = Known(live=frozenset({"vllm:num_requests_waiting"})).remarks([Query(where="here", expr=name)])
    assert remark.wrong
    assert remark.replacement is None, "a name that is merely alike would be a wrong answer"
    assert remark.message.startswith("gone: vLLM 0.9.0 is the last release with it; a preempted request")
    assert remarks(name, live=frozenset({name})) == []


@pytest.mark.parametrize(
    "good",
    [
        "vllm:kv_cache_usage_perc",
        "vllm:time_to_first_token_seconds_count",
        "up",
        "scrape_duration_seconds",
        'ALERTS{alertstate="firing"}',
        "process_resident_memory_bytes",
        "headroom_engine_up",
    ],
)
def test_what_exists_is_nothing_to_say(good):
    assert remarks(good) == []


def test_an_old_name_beside_its_new_one_is_meant():
    assert remarks("vllm:kv_cache_usage_perc or vllm:gpu_cache_usage_perc") == []


def test_an_old_name_is_right_for_a_server_that_still_has_it():
    assert remarks("vllm:gpu_cache_usage_perc", live=frozenset({"vllm:gpu_cache_usage_perc"})) == []


def test_a_new_name_is_wrong_for_a_server_that_has_only_the_old_one():
    live = frozenset({"vllm:gpu_cache_usage_perc"})
    assert remarks("vllm:kv_cache_usage_perc", live=live) == [
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", True)
    ]


def test_another_exporters_metric_is_not_judged_without_its_page():
    assert remarks("node_load1") == [("node_load1", None, False)]
    assert remarks("node_load1", live=frozenset({"node_load1"})) == []


def test_a_recorded_name_exists(tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    queries, recorded = rule_queries(file)
    assert recorded == {"job:kv:max"}
    assert [query.where for query in queries] == ["rules.yaml: job:kv:max", "rules.yaml: Full"]


def test_the_operators_resource_is_a_rule_file_too(tmp_path):
    file = tmp_path / "rule.yaml"
    file.write_text("kind: PrometheusRule\nspec:\n" + "".join(f"  {line}\n" for line in RULES.splitlines()))
    assert len(rule_queries(file)[0]) == 2


@pytest.mark.parametrize(
    "text",
    ["- a\n", "", "groups: 3\n", "spec: 3\n", "groups: [{rules: [{alert: A}]}]\n", "a: [\n", "[" * 5000],
    ids=lambda text: text[:20],
)
def test_what_is_no_rule_file_is_said(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"r\.yaml"):
        rule_queries(tmp_path / "r.yaml")


def test_a_dashboard_is_read_in_rows_variables_and_annotations(tmp_path):
    file = tmp_path / "d.json"
    content = {
        "panels": [
            {"title": "a", "targets": [{"expr": "in_panel"}, {"rawSql": "select 1"}]},
            {"title": "logs", "datasource": {"type": "loki"}, "targets": [{"expr": '{app="a"} |= "b"'}]},
            {"type": "row", "panels": [{"title": "b", "targets": [{"expr": "in_row"}]}]},
            {"type": "text"},
        ],
        "templating": {
            "list": [
                {"type": "query", "name": "v", "query": {"query": 'label_values(in_variable{a="b,c"}, d)'}},
                {"type": "query", "name": "w", "query": "query_result(topk(3, in_result))"},
                {"type": "query", "name": "x", "query": "label_values(d)"},
                {"type": "custom", "name": "y", "query": "1,2"},
            ]
        },
        "annotations": {"list": [{"name": "z", "expr": "in_annotation"}]},
    }
    file.write_text(json.dumps({"dashboard": content}))
    assert [query.expr for query in dashboard_queries(file)] == [
        "in_panel",
        "in_row",
        'in_variable{a="b,c"}',
        "topk(3, in_result)",
        "in_annotation",
    ]


@pytest.mark.parametrize(
    "text", ["3", "{}", '{"panels": [3]}', '{"panels": [{"targets": "x"}]}', "[" * 100_000], ids=lambda text: text[:20]
)
def test_what_is_no_dashboard_is_said(tmp_path, text):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(UsageError, match=r"d\.json"):
        dashboard_queries(tmp_path / "d.json")


def test_a_page_announces_histograms_without_samples():
    assert names_in('# TYPE a histogram\n# TYPE b gauge\nc{d="e"} 1\nf 2\n') == {
        "a_bucket",
        "a_sum",
        "a_count",
        "b",
        "c",
        "f",
    }


def test_prometheus_list_of_names_is_a_page():
    assert names_in('{"status":"success","data":["a","b"]}') == {"a", "b"}


def check(*arguments):
    return CliRunner().invoke(cli, ["check", *map(str, arguments)])


def test_the_command_finds_a_renamed_metric_on_a_live_server(tmp_path, server):
    (tmp_path / "r.yaml").write_text(RULES)
    server.page(vllm_page())
    result = check("--rules", tmp_path / "r.yaml", "--against", server.url)
    assert result.exit_code == 1
    assert result.output == (
        "r.yaml: job:kv:max: vllm:gpu_cache_usage_perc: this server has it by another name; use "
        "vllm:kv_cache_usage_perc\n2 expressions: 1 wrong, 0 not to be told\n"
    )


def test_the_command_says_the_same_as_json(tmp_path):
    (tmp_path / "r.yaml").write_text(RULES)
    result = check("--rules", tmp_path / "r.yaml", "--json")
    assert result.exit_code == 1
    (remark,) = json.loads(result.output)
    assert (remark["metric"], remark["replacement"]) == ("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc")


def test_good_files_are_good(tmp_path):
    (tmp_path / "r.yaml").write_text(RULES.replace("gpu_cache", "kv_cache"))
    result = check("--rules", tmp_path / "r.yaml")
    assert (result.exit_code, result.output) == (0, "2 expressions: good\n")


@pytest.mark.parametrize("arguments", [(), ("--rules", "nowhere.yaml"), ("--dashboard", "nowhere.json")])
def test_nothing_to_check_is_wrong_use(arguments):
    failed = check(*arguments)
    assert isinstance(failed.exception, UsageError) or failed.exit_code == 2


def test_a_page_that_does_not_answer_is_wrong_use(tmp_path, server):
    (tmp_path / "r.yaml").write_text(RULES)
    result = check("--rules", tmp_path / "r.yaml", "--against", server.url)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == f"{server.url}/metrics cannot be read (it answers 404)"


def test_a_page_of_nobody_is_said_without_the_words_of_a_library(tmp_path):
    (tmp_path / "r.yaml").write_text(RULES)
    result = check("--rules", tmp_path / "r.yaml", "--against", "http://127.0.0.1:1")
    assert str(result.exception) == "http://127.0.0.1:1/metrics cannot be read (no connection)"


@pytest.mark.parametrize(
    ("headers", "body"),
    [({"Content-Length": "9999"}, b"up 1"), ({"Content-Encoding": "gzip"}, b"up 1")],
    ids=["breaks off", "is not compressed as it says"],
)
def test_a_page_that_breaks_off_is_said_without_the_words_of_a_library(tmp_path, server, headers, body):
    (tmp_path / "r.yaml").write_text(RULES)
    server.answers["/metrics"] = (200, headers, body)
    result = check("--rules", tmp_path / "r.yaml", "--against", server.url)
    assert str(result.exception) == f"{server.url}/metrics cannot be read (its answer is broken)"


@pytest.mark.parametrize("group", ["5", "{rules: 5}", "{rules: {a: b}}"])
def test_a_group_of_rules_that_is_none_is_told(tmp_path, group):
    (tmp_path / "r.yaml").write_text(f"groups: [{group}]")
    assert str(check("--rules", tmp_path / "r.yaml").exception).endswith("r.yaml: a group without a list 'rules'")


def test_an_old_name_of_our_own_is_told_with_the_new_one_and_its_last_day():
    former = Former(field="drips_total", gone_in="0.3")
    new, old = metrics_of(_declaration(turns_total=total("Turns.", Origin.REPORTED, formerly=former)))
    assert renamed(new, "here") is None
    told = renamed(old, "here")
    assert (told.metric, told.replacement, told.wrong) == ("headroom_tap_drips_total", "headroom_tap_turns_total", True)
    assert told.message == "renamed: vllm-headroom 0.3 is the first release without this name"


def _declaration(**fields):
    kinds = [(name, int | None, field) for name, field in fields.items()]
    return make_dataclass("Tap", kinds, bases=(Fact,), namespace={"subject": "tap"}, frozen=True, kw_only=True)

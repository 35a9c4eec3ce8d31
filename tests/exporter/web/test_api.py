"""The API against its own description, over a real daemon."""

import json
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.web.openapi import openapi
from exporter.web.what_if import PARAMETERS, QueryError, read_query
from tests.exporter.daemon import Daemon, FakeServer, daemon, vllm_page
from tests.exporter.web import statuses

DOCUMENT = openapi("0")


def check(name, answer):
    """Hold an answer against the schema of this name; every object in there names all that it may hold."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer)


def references(part):
    if isinstance(part, dict):
        yield from (value for key, value in part.items() if key == "$ref")
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from references(each)


@pytest.fixture(scope="module")
def demo():
    """A host with one engine whose theory is known."""
    running = Daemon(command="demo")
    running.wait_for(lambda: asked(running, "/api/v1/plan")[0] == 200, seconds=20)
    running.wait_for(lambda: asked(running, "/api/v1/plan")[1]["engines"], seconds=20)
    running.wait_for(lambda: asked(running, "/api/v1/plan")[1]["engines"][0]["plan"], seconds=20)
    yield running
    assert running.stop()[0] == 0  # killed, it would leave its files behind


def asked(running, path):
    """Return the status and the JSON of an answer."""
    try:
        return 200, json.loads(running.get(path))
    except HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_description_is_one_and_refers_to_nothing_that_is_not_there():
    assert DOCUMENT["openapi"].startswith("3.1.")
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    names = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    found = set(references(DOCUMENT))
    assert found
    assert found <= names


def test_every_path_under_the_api_is_described(demo):
    status, document = asked(demo, "/api/v1/openapi.json")
    assert status == 200
    assert document["paths"] == json.loads(json.dumps(DOCUMENT["paths"]))
    for path in document["paths"]:
        assert asked(demo, path)[0] == 200


def test_the_status_is_as_described(demo):
    check("Status", asked(demo, "/api/v1/status")[1])
    check("Status", statuses.bad())


def test_the_status_of_a_host_with_nothing_and_of_a_server_that_is_down_are_as_described():
    server = FakeServer()
    server.page(vllm_page())
    with daemon("--poll-interval", "0.25", "--engine", server.url, "--engine", "http://127.0.0.1:1") as running:
        check("Status", asked(running, "/api/v1/status")[1])
        running.wait_for(lambda: running.value("headroom_engine_up", engine=server.engine) == 1.0)
        status = asked(running, "/api/v1/status")[1]
        check("Status", status)
        assert {engine["up"] for engine in status["engines"]} == {0, 1}
        check("Advice", asked(running, "/api/v1/advice")[1])
        plans = asked(running, "/api/v1/plan")[1]
        check("Plans", plans)
        assert "another host or cannot be found" in plans["engines"][0]["declined"]
    server.close()


def test_a_misspelled_field_does_not_pass_for_a_described_one():
    status = statuses.bad()
    status["gpus"][0]["memory_slak_bytes"] = 1
    with pytest.raises(jsonschema.ValidationError, match="memory_slak_bytes"):
        check("Status", status)


def test_an_engines_own_plan_is_as_described_and_names_no_path(demo):
    status, answer = asked(demo, "/api/v1/plan")
    assert status == 200
    check("Plans", answer)
    plan = answer["engines"][0]["plan"]
    assert answer["changed"] == {}
    assert (plan["verdict"], plan["flags"]["max_num_seqs"]) == ("fits", {"value": 64, "origin": "given"})
    assert (
        plan["kv"]["capacity_tokens"]["expected"] == asked(demo, "/api/v1/status")[1]["engines"][0]["kv_theory_tokens"]
    )
    assert "/tmp" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("gpu_memory_utilization=0.95", lambda plan, own: plan["budget"] > own["budget"]),
        ("kv_cache_dtype=fp8", lambda plan, own: plan["tokens"] > 1.9 * own["tokens"]),
        ("enforce_eager=true", lambda plan, own: plan["graphs"] == 0 < own["graphs"]),
        ("max_num_seqs=128&max_num_batched_tokens=8192", lambda plan, own: plan["tokens"] < own["tokens"]),
        ("tensor_parallel_size=2", lambda plan, own: plan["gpus"] == 2 and plan["tokens"] > own["tokens"]),
    ],
)
def test_a_query_changes_flags_of_the_plan(demo, query, told):
    def figures(path):
        status, answer = asked(demo, path)
        assert status == 200
        check("Plans", answer)
        plan = answer["engines"][0]["plan"]
        return {
            "budget": plan["per_gpu"]["budget_bytes"],
            "graphs": plan["per_gpu"]["cuda_graph_bytes"],
            "tokens": plan["kv"]["capacity_tokens"]["expected"],
            "gpus": plan["gpu"]["count"],
        }

    assert told(figures(f"/api/v1/plan?{query}"), figures("/api/v1/plan"))


def test_what_vllm_would_refuse_is_said_and_is_no_error(demo):
    status, answer = asked(demo, "/api/v1/plan?tensor_parallel_size=3")
    check("Plans", answer)
    assert status == 200
    assert "one must divide the other" in answer["engines"][0]["declined"]
    status, answer = asked(demo, "/api/v1/plan?max_num_seqs=4096")
    check("Plans", answer)
    assert answer["engines"][0]["plan"]["vllm_error"].startswith("max_num_batched_tokens (2048) must be greater")


@pytest.mark.parametrize(
    ("query", "parameter", "message"),
    [
        ("model=/etc/passwd", "model", "unknown parameter; known: gpu_memory_utilization, max_model_len"),
        ("max_num_seqs=0", "max_num_seqs", "0 is not between 1 and 65536"),
        ("max_num_seqs=1e3", "max_num_seqs", "'1e3' is not a whole number"),
        ("max_model_len=99999999999999999999", "max_model_len", "is not a whole number"),
        ("max_num_seqs=%D9%A3", "max_num_seqs", "is not a whole number"),
        ("gpu_memory_utilization=nan", "gpu_memory_utilization", "'nan' is not a number such as 0.9"),
        ("gpu_memory_utilization=1.1", "gpu_memory_utilization", "1.1 is not between 0.01 and 1"),
        ("enforce_eager=yes", "enforce_eager", "'yes' is neither true nor false"),
        ("kv_cache_dtype=../../x", "kv_cache_dtype", "'../../x' is none of auto, bfloat16"),
        ("max_num_seqs=1&max_num_seqs=2", "max_num_seqs", "given twice"),
        ("max_num_seqs=", "max_num_seqs", "'' is not a whole number"),
    ],
)
def test_a_wrong_query_is_refused_with_its_parameter_and_what_would_be_right(demo, query, parameter, message):
    status, answer = asked(demo, f"/api/v1/plan?{query}")
    assert status == 400
    check("Error", answer)
    assert answer["error"]["parameter"] == parameter
    assert message in answer["error"]["message"]


@pytest.mark.parametrize("end", ["least", "most"])
def test_the_most_absurd_question_that_is_allowed_is_answered(demo, end):
    for parameter in PARAMETERS:
        if getattr(parameter, end) is None:
            continue
        status, answer = asked(demo, f"/api/v1/plan?{parameter.name}={getattr(parameter, end)}")
        assert status == 200
        check("Plans", answer)


def test_it_only_reads(demo):
    with pytest.raises(HTTPError, match="405"):
        urlopen(Request(f"http://127.0.0.1:{demo.port}/api/v1/plan", data=b"{}"), timeout=10)


@pytest.mark.parametrize(
    ("path", "data", "status"), [("/metrics/", None, 404), ("/nowhere", None, 404), ("/", b"", 405)]
)
def test_what_is_refused_is_as_guarded_as_what_is_served(demo, path, data, status):
    # A redirect to the path without its slash would lead to whatever host the request names.
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"http://127.0.0.1:{demo.port}{path}", data=data), timeout=10)
    refused.value.close()
    assert refused.value.code == status
    assert refused.value.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in refused.value.headers["Content-Security-Policy"]
    assert ("Allow" in refused.value.headers) == (status == 405)


NAMES = st.sampled_from([*(each.name for each in PARAMETERS), "model", ""])


@given(st.lists(st.tuples(NAMES, st.text(max_size=30)), max_size=4))
def test_whatever_is_asked_is_read_or_refused(pairs):
    known = {each.name: each for each in PARAMETERS}
    with suppress(QueryError):
        changes = read_query(pairs)
        assert len(changes) == len(pairs)
        for name, value in changes.items():
            jsonschema.Draft202012Validator(known[name].schema()).validate(value)

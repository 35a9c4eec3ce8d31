from dataclasses import replace

import pytest

from advisor.advise import advise
from advisor.history import History, remember
from advisor.policy import Policy
from advisor.snapshot import EngineTarget, Snapshot
from advisor.starts import MOST_ENGINES, NONE_YET, Starts, from_json, start_key, to_json
from tests.advisor import examples


def moment(history, *, tokens, began, command="vllm serve /models/m", version="0.32.0"):
    """Judge one moment of a server; return the report and what is remembered after it."""
    engine = replace(examples.reading(tokens=tokens), started_at_seconds=began, vllm_version=version)
    target = EngineTarget(engine=engine.engine, url=engine.url, failing=None)
    servers = (examples.server(command),)
    snapshot = Snapshot(now_seconds=began, engines=(engine,), servers=servers, targets=(target,))
    report = advise(snapshot, history, Policy())
    return report, remember(history, snapshot, report)


def dropped(report):
    return [finding for finding in report.findings if finding.rule == "capacity_dropped"]


def test_a_start_that_holds_less_than_the_one_before_is_told_with_both_figures():
    _, history = moment(History(), tokens=100_000, began=1_000.0)
    report, history = moment(history, tokens=80_000, began=2_000.0)
    (finding,) = dropped(report)
    assert finding.summary == (
        "the KV cache holds 80,000 tokens, 20% less than the 100,000 after the start before with the same flags"
    )
    assert "another process" in finding.advice
    report, _ = moment(history, tokens=80_000, began=2_000.5)
    assert dropped(report), "it is told for as long as that start runs"


def test_an_upgrade_is_named_as_such():
    _, history = moment(History(), tokens=100_000, began=1_000.0, version="0.19.0")
    report, _ = moment(history, tokens=90_000, began=2_000.0, version="0.20.0")
    (finding,) = dropped(report)
    assert finding.summary.endswith("(vLLM 0.19.0 then, 0.20.0 now)")
    assert "start-up logs" in finding.advice


def test_other_flags_another_matter():
    _, history = moment(History(), tokens=100_000, began=1_000.0)
    report, _ = moment(history, tokens=50_000, began=2_000.0, command="vllm serve /models/m --max-num-seqs 512")
    assert not dropped(report)


def test_another_port_or_host_is_no_other_flag_and_one_per_cent_no_drop():
    engine = examples.reading()
    plain, moved = examples.server(), examples.server("vllm serve /models/m --host 0.0.0.0 --port 8000")
    assert start_key(engine, plain) == start_key(engine, moved)
    _, history = moment(History(), tokens=100_000, began=1_000.0)
    report, _ = moment(history, tokens=99_000, began=2_000.0)
    assert not dropped(report)


def test_a_capacity_that_only_theory_gives_is_not_remembered():
    _, history = moment(History(), tokens=None, began=1_000.0)
    assert history.starts == NONE_YET


def test_what_is_remembered_is_read_back_and_bounded():
    history = History()
    for began in (1_000.0, 2_000.0, 3_000.0):
        _, history = moment(history, tokens=100_000, began=began)
    ((newest, before),) = history.starts.by_key.values()
    assert (newest.began_wall_seconds, before.began_wall_seconds) == (3_000.0, 2_000.0)
    assert from_json(to_json(history.starts)) == history.starts
    many = Starts({f"engine {number}": (newest,) for number in range(2 * MOST_ENGINES)})
    _, history = moment(History(starts=many), tokens=100_000, began=1_000.0)
    assert len(history.starts.by_key) == MOST_ENGINES


@pytest.mark.parametrize("content", [[], {"k": 3}, {"k": [[1]]}, {"k": [["0.32.0", "many", 1]]}, None])
def test_anything_else_is_no_memory_of_starts(content):
    with pytest.raises(ValueError, match="not the starts of engines"):
        from_json(content)

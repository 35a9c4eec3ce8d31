"""The benchmark's own parts: what it measures with, the host it makes up, the page it writes."""

import os
import subprocess
import sys
import time

import pytest

from bench.performance import pages
from bench.performance.engine import Page
from bench.performance.floor import values_of
from bench.performance.measure import (
    Memory,
    Program,
    cpu_seconds,
    cpu_seconds_a_minute,
    memory,
    quantile,
    running,
    scrape,
    scrapes,
)
from bench.performance.pages import PageCost, of_ranks
from bench.performance.report import (
    FLOOR,
    OURS,
    PEER,
    Answers,
    Cost,
    Growth,
    Measured,
    PageSize,
    Scene,
    Start,
    text,
)
from bench.performance.world import PAGE, world
from bench.ports import free_port
from exporter.sources.vllm import Server, parse_page, read_engines
from tests.exporter.daemon import FakeServer

RECORDED = PAGE.read_text()


def engines_of(text):
    return read_engines(parse_page(text), Server(vllm_version="0.32.0"), engine="e", url="u")


# What it measures with


def test_cpu_time_is_that_of_all_threads_and_waiting_is_none():
    busy = "import threading, time\ndef spin():\n    while time.thread_time() < 0.1: pass\n"
    busy += "for _ in range(3):\n    t = threading.Thread(target=spin); t.start(); t.join()\n"
    process = subprocess.Popen([sys.executable, "-c", f"{busy}\nprint(1, flush=True); time.sleep(60)"], stdout=-1)
    try:
        process.stdout.readline()
        first = cpu_seconds(process.pid)
        assert first >= 0.3
        (a_minute,) = cpu_seconds_a_minute([process.pid], 0.2)
        assert a_minute < first  # what three threads used is not used again by one that sleeps
        assert memory(process.pid).resident_bytes >= memory(process.pid).proportional_bytes > 2**20
    finally:
        process.kill()
        process.communicate()
    with pytest.raises(OSError, match="No such process"):
        cpu_seconds(process.pid)


def test_a_quantile_is_a_value_that_was_measured():
    assert quantile([4, 1, 3, 2], 0.5) == 2
    assert quantile(range(1, 101), 0.99) == 99
    assert quantile([7], 0.99) == 7


def test_ports_are_scraped_in_turn():
    one, other = FakeServer(), FakeServer()
    try:
        one.answers = other.answers = {"/metrics": (200, {"Content-Length": "3"}, b"a 1")}
        took = scrapes([int(each.url.rpartition(":")[2]) for each in (one, other)], count=3, per_second=1000)
    finally:
        one.close()
        other.close()
    assert [len(each) for each in took] == [3, 3]
    assert len(one.requests) == len(other.requests) == 3
    assert one.requests[0][1]["Accept-Encoding"] == "gzip"


def test_an_answer_that_is_no_page_is_an_error():
    server = FakeServer()
    try:
        with pytest.raises(ConnectionError, match="404"):
            scrape(int(server.url.rpartition(":")[2]))
    finally:
        server.close()


def test_a_program_that_ends_at_once_is_told_with_what_it_said(tmp_path):
    broken = Program(name="broken", command=(sys.executable, "-c", "raise SystemExit('no GPU')"), port=free_port())
    with (
        pytest.raises(RuntimeError, match="broken shows no GPU: no GPU"),
        running(broken, os.environ, tmp_path / "log"),
    ):
        pass


# The host that it makes up


def test_the_recorded_page_moves_on_as_a_busy_servers_does():
    page = Page(RECORDED)
    (before,), (after,) = (engines_of(page.next().decode()) for _ in range(2))
    assert after.totals["generation_tokens_total"] > before.totals["generation_tokens_total"] > 0
    assert after.requests_running == before.requests_running == engines_of(RECORDED)[0].requests_running
    lengths = after.histograms["prompt_tokens"]
    assert list(lengths.cumulative) == sorted(lengths.cumulative)
    assert lengths.cumulative[-1] == lengths.count


def test_many_ranks_are_read_from_a_page_of_many():
    assert [each.dp_rank for each in engines_of(of_ranks(RECORDED, 3))] == ["0", "1", "2"]
    assert of_ranks(RECORDED, 1) == RECORDED


def test_the_floor_finds_every_line_that_the_reader_wants():
    assert len(values_of(RECORDED)) == len(parse_page(RECORDED).samples)


def test_the_costs_of_a_page_are_of_that_page():
    cost = pages.cost("".join(RECORDED.splitlines(keepends=True)[:60]), 1)
    assert cost.lines == 60
    assert min(cost.library_seconds, cost.first_seconds, cost.later_seconds, cost.least_seconds, cost.peak_bytes) > 0


@pytest.mark.needs_cc
def test_a_daemon_sees_the_gpus_and_the_server_of_the_made_up_host(tmp_path):
    with world(tmp_path / "host", gpus=2, engines=1) as host:
        port = free_port()
        command = (sys.executable, "-m", "exporter", "serve", "--web.listen-address", f"127.0.0.1:{port}")
        command += ("--poll-interval", "0.2", "--engine", *host.engine_urls)
        ours = Program(name=OURS, command=command, port=port, sample=b"headroom_gpu_memory_total_bytes{")
        floor = Program(name=FLOOR, command=(sys.executable, "-m", "bench.performance.floor", "0.1", *host.engine_urls))
        with running(ours, host.environment, tmp_path / "log") as found:
            end = time.monotonic() + 20
            while b"headroom_engine_kv_capacity_tokens{" not in (page := scrape(port, {}).body):
                assert time.monotonic() < end, page
                time.sleep(0.1)
            assert page.count(b"\nheadroom_gpu_memory_total_bytes{") == 2
            assert scrape(port).sent_bytes < len(page)
            assert found.first_sample_seconds > 0
        with running(floor, host.environment, tmp_path / "floor.log") as found:
            cpu_seconds_a_minute([found.pid], 0.3)
        assert (tmp_path / "floor.log").read_text() == ""


# The page that it writes


def scene(title, *, ours, p99_seconds):
    small = Memory(resident_bytes=50 * 2**20, proportional_bytes=40 * 2**20)
    costs = [
        (OURS, 1.0, ours),
        (PEER, 1.0, 0.6),
        (FLOOR, 1.0, 0.1),
        (OURS, 5.0, 0.1),
        (PEER, 5.0, 0.2),
        (FLOOR, 5.0, 0.02),
    ]
    return Scene(
        title=title,
        costs=tuple(
            Cost(
                program=name,
                interval_seconds=interval,
                cpu_seconds_a_minute=seconds,
                memory=None if name == FLOOR else small,
            )
            for name, interval, seconds in costs
        ),
        answers=tuple(
            Answers(program=name, per_second=10, took_seconds=(0.001, seconds), cpu_seconds_a_minute=1.0)
            for name, seconds in ((OURS, p99_seconds), (PEER, 0.008))
        ),
        pages=tuple(PageSize(program=name, series=9, plain_bytes=2048, sent_bytes=512) for name in (OURS, PEER)),
    )


def measured():
    page = PageCost(
        ranks=1,
        lines=614,
        size_bytes=50_000,
        library_seconds=0.008,
        first_seconds=0.004,
        later_seconds=0.001,
        least_seconds=0.0005,
        peak_bytes=2**20,
    )
    return Measured(
        command="python -m bench.performance",
        machine="Linux",
        window_seconds=60,
        load_before=1,
        load_after=2,
        gpus_only=scene("GPUs", ours=0.3, p99_seconds=0.004),
        with_engines=scene("servers too", ours=0.75, p99_seconds=0.006),
        starts=(Start(program=OURS, seconds=(0.5, 0.7, 0.6)),),
        growths=(Growth(of="GPUs", programs=(OURS, FLOOR), rows=((1, (0.2, 0.1)), (2, (0.3, 0.1)), (4, (0.5, 0.1)))),),
        many_processes=1000,
        crowded=(Cost(program=OURS, interval_seconds=1.0, cpu_seconds_a_minute=0.4),),
        pages=(page,),
    )


def test_an_aim_is_met_or_missed_and_said_to_be():
    rows = [line for line in text(measured()).splitlines() if line.endswith((" met |", " **missed** |"))]
    assert rows == [
        "| GPUs: CPU at 1 s, ours / nvitop-exporter | 0.50 | 0.5 | met |",
        "| servers too: CPU at 1 s, ours / nvitop-exporter | 1.25 | 1 | **missed** |",
        "| resident memory with 8 engines and state kept, MiB | 50.00 | 60 | met |",
        "| GPUs: /metrics p99 at 10/s, ms | 4.00 | 5 | met |",
        "| servers too: /metrics p99 at 10/s, ms | 6.00 | 5 | **missed** |",
    ]


def test_a_scrape_is_compared_by_its_middle_and_its_slowest():
    assert "| GPUs: /metrics p50 at 10/s, ours / nvitop-exporter | 1.00 |  |  |" in text(measured()).splitlines()
    assert "| GPUs: /metrics p99 at 10/s, ours / nvitop-exporter | 0.50 |  |  |" in text(measured()).splitlines()


def test_growth_tells_what_each_further_one_costs():
    lines = text(measured()).splitlines()
    assert lines[lines.index("| GPUs | vllm-headroom | floor | vllm-headroom, each more |") + 2 :][:3] == [
        "| 1 | 0.20 | 0.10 |  |",
        "| 2 | 0.30 | 0.10 | 0.100 |",
        "| 4 | 0.50 | 0.10 | 0.100 |",
    ]


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    table = 0
    for line in text(measured()).splitlines():
        cells = line.count("|") if line.startswith("|") else 0
        assert not (table and cells) or cells == table, line
        table = cells

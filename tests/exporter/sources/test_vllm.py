"""The source on pages recorded from real servers, on hand-made ones for older names, and over real HTTP."""

import json
import re
import socket
import ssl
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from advisor.engine import judge_engine
from advisor.history import EngineHistory
from advisor.policy import Policy
from advisor.readings import CacheConfig
from advisor.start_log import parse_start_logs
from advisor.versions import parse_version
from exporter.config import EngineConfig
from exporter.connection import Connection
from exporter.engines import open_connection
from exporter.errors import SourceError, SourceMalformed, SourceUnavailable
from exporter.sources.vllm import (
    PageReader,
    Server,
    VllmSource,
    parse_models,
    parse_page,
    parse_server_version,
    read_engines,
)
from exporter.sources.vllm_names import BY_SPELLING, FIGURES, Shape, expected_figures
from tests.exporter.daemon import FakeServer, vllm_page
from tests.exporter.test_connection import again_and_again
from tests.exporter.web.certificates import Authority

CAPTURES = Path(__file__).parents[2] / "captures" / "vllm"


def engines(name, version="0.32.0"):
    page = parse_page((CAPTURES / name).read_text())
    return read_engines(page, Server(vllm_version=version), engine="e", url="http://e")


def engine(name, version="0.32.0"):
    (only,) = engines(name, version)
    return only


def judged(reading):
    return judge_engine(
        reading,
        theory=None,
        no_theory=None,
        max_num_seqs=(64, "given"),
        history=EngineHistory(),
        now_seconds=0.0,
        policy=Policy(),
    )


def test_what_was_understood_of_earlier_pages_changes_nothing_in_later_ones():
    texts = [file.read_text() for file in sorted(CAPTURES.glob("*/*.metrics"))]
    for reader in (PageReader(), PageReader()):
        for text in (*texts, *reversed(texts)):
            assert reader.read(text) == parse_page(text)


def wanted_by_the_library(text):
    """Return what prometheus_client's parser makes of the wanted lines: sorted (key, suffix, labels, value)."""
    found = []
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix("ray_")
            if not name.startswith(("vllm:", "vllm_")):
                continue
            for suffix in ("", "_bucket", "_sum", "_count"):
                spelling = name[len("vllm:") :].removesuffix(suffix)
                figure = BY_SPELLING.get(spelling)
                if figure and name.endswith(suffix) and (not suffix or figure.shape is Shape.HISTOGRAM):
                    found.append((figure.key, spelling, suffix, sample.labels, sample.value))
    newest = {figure.key: [each.name for each in figure.spellings] for figure in FIGURES}
    shown = {(key, spelling) for key, spelling, *_, value in found if 0 <= value <= 2**63}
    return sorted(
        (key, suffix, sorted(labels.items()), value)
        for key, spelling, suffix, labels, value in found
        if 0 <= value <= 2**63 and spelling == next(each for each in newest[key] if (key, each) in shown)
    )


def wanted(page):
    return sorted(
        (sample.series.key, sample.series.suffix, sorted(sample.series.labels.items()), sample.value)
        for sample in page.samples
    )


@pytest.mark.parametrize(
    "file", sorted(CAPTURES.glob("*/*.metrics")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_of_every_recorded_page_what_the_library_would_read_is_read(file):
    text = file.read_text()
    assert wanted(parse_page(text)) == wanted_by_the_library(text) != []


def lines_of_any_server():
    """Return a strategy of sample lines as prometheus_client writes them."""
    names = [
        f"vllm:{spelling}{suffix}"
        for spelling, figure in BY_SPELLING.items()
        for suffix in (("_bucket", "_sum", "_count") if figure.shape is Shape.HISTOGRAM else ("",))
    ]
    names += ["vllm:of_tomorrow", "vllm:num_requests_running_bucket", "python_info", "ray_vllm_num_requests_running"]

    def line(name, labels, value):
        escapes = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
        pairs = [f'{label}="{text.translate(escapes)}"' for label, text in labels.items()]
        return f"{name}{{{','.join(pairs)}}} {floatToGoString(value)}" if pairs else f"{name} {floatToGoString(value)}"

    labels = st.dictionaries(
        st.sampled_from(["engine", "le", "model_name", "reason"]), st.text(max_size=12), max_size=4
    )
    return st.builds(line, st.sampled_from(names), labels, st.floats(allow_nan=False))


@given(st.lists(st.lists(lines_of_any_server(), min_size=1, max_size=20), min_size=1, max_size=3))
def test_of_any_pages_in_turn_what_the_library_would_read_is_read(pages):
    reader = PageReader()
    for lines in pages:
        text = "# TYPE vllm:num_requests_running gauge\n" + "".join(f"{line}\n" for line in lines)
        assert wanted(reader.read(text)) == wanted_by_the_library(text)


@pytest.mark.parametrize("labels", ["", '{engine="0"}'])
def test_a_page_with_times_is_refused_because_a_time_would_pass_for_a_value(labels):
    with pytest.raises(SourceMalformed, match="timestamps"):
        parse_page(f"vllm:num_requests_running{labels} 1 1700000000000\n")


@pytest.mark.parametrize("broken", ['vllm:num_requests_running{a="b"}', 'vllm:num_requests_running{a="b"} '])
def test_a_line_that_breaks_off_is_noticed_whatever_was_understood_before(broken):
    reader = PageReader()
    reader.read('vllm:num_requests_running{a="b"} 1\n\n')
    with pytest.raises(SourceMalformed, match="half_page"):
        reader.read(f"\n{broken}\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (" 16.0\n", " 17.0\n"),
        (" 16.0\n", " NaN\n"),
        (" 16.0\n", " -1.0\n"),
        (" 16.0\n", " +Inf\n"),
        (" 16.0\n", " 16.0 \n"),
        (" 16.0\n", " sixteen\n"),
        (" 16.0\n", " 16.0 1700000000000\n"),
        ("vllm:num_requests_running{", "vllm:num_requests_walking{"),
        ("# TYPE vllm:num_requests_running gauge\n", "\n"),
        ("vllm:num_requests_running{", 'vllm:num_requests_running{a="b",'),
    ],
)
def test_a_page_of_nearly_the_same_lines_is_read_as_if_it_were_the_first(before, after):
    text = (CAPTURES / "0.32.0/single_kv_scarce_3.metrics").read_text()
    assert before in text
    changed = text.replace(before, after)
    reader = PageReader()
    for _ in range(2):
        assert reader.read(text) == parse_page(text)
    try:
        expected = parse_page(changed)
    except SourceMalformed as error:
        with pytest.raises(SourceMalformed, match=error.reason):
            reader.read(changed)
    else:
        assert reader.read(changed) == expected
    assert reader.read(text) == parse_page(text)


def test_a_server_whose_names_change_at_every_look_fills_no_memory():
    reader = PageReader()
    for look in range(50):
        reader.read("".join(f'vllm:num_requests_running{{a="{look}.{line}"}} 1\n' for line in range(100)))
    assert len(reader._understood) <= 300


def test_of_a_page_of_more_lines_than_are_remembered_the_same_is_read_at_every_look():
    lines = [f'vllm:num_requests_running{{engine="{n}"}} {n}' for n in range(45_000)]
    text = "# TYPE vllm:num_requests_running gauge\n" + "\n".join(lines) + "\n"
    reader = PageReader()
    first = reader.read(text)
    remembered = dict(reader._understood)
    assert reader.read(text) == first
    assert (len(first.samples), len(remembered)) == (45_000, 40_000)
    assert reader._understood == remembered
    reader.read(vllm_page())
    assert reader._understood == {}


@pytest.mark.parametrize(
    ("log", "page"),
    [
        ("0.27.0/single", "0.27.0/single_idle"),
        ("0.32.0/single", "0.32.0/single_idle"),
        ("0.32.0/limited", "0.32.0/limited_by_seqs"),
        ("0.32.0/refusing", "0.32.0/refusing_queue_full"),
        ("0.32.0/api_servers_2", "0.32.0/api_servers_2_before_first_request"),
        ("0.32.0/data_parallel_2", "0.32.0/data_parallel_2_after_requests"),
    ],
)
def test_a_servers_start_up_log_and_its_page_tell_the_same_capacity(log, page):
    lines = (CAPTURES / f"{log}.log").read_text().splitlines(keepends=True)
    (start,) = parse_start_logs(lines)
    version = log.partition("/")[0]
    assert start.version == version
    assert {judged(rank).kv_capacity_tokens for rank in engines(f"{page}.metrics", version)} == {start.kv_tokens}


# What surprises about vLLM's figures, one by one


def test_usage_counts_evictable_prefix_blocks_as_free_so_a_used_but_idle_server_reads_0():
    after = engine("0.32.0/single_after_load.metrics")
    assert after.totals["prompt_tokens_total"] > 10_000
    assert after.cache.enable_prefix_caching is True
    assert after.kv_usage_ratio == 0.0
    assert judged(after).kv_headroom_tokens == 12_288


def test_the_preemption_counter_lags_behind_what_running_and_waiting_show():
    before, during, later = (engine(f"0.32.0/single_kv_scarce_{n}.metrics") for n in (1, 3, 4))
    assert (before.requests_running, before.requests_waiting) == (20, 20)
    assert (during.requests_running, during.requests_waiting) == (16, 24)
    assert during.totals["preemptions_total"] == 0
    assert later.totals["preemptions_total"] == 7


def test_no_endpoint_tells_max_num_seqs_so_it_is_unknown_from_the_page_alone():
    reading = engine("0.32.0/limited_by_seqs.metrics")
    assert not any("seqs" in name for name in CacheConfig.__dataclass_fields__)
    assert (reading.requests_running, reading.requests_waiting) == (4, 6)


def test_gauges_without_a_sample_before_the_first_request_are_unknown_and_not_missing():
    before = engine("0.32.0/api_servers_2_before_first_request.metrics")
    assert (before.requests_running, before.requests_waiting, before.kv_usage_ratio) == (None, None, None)
    assert before.missing == ()
    assert before.cache.kv_cache_size_tokens == 12_288
    after = engine("0.32.0/api_servers_2_after_requests.metrics")
    assert (after.requests_running, after.kv_usage_ratio) == (0, 0)


def test_usage_split_by_front_end_process_is_the_largest_and_0_when_nothing_runs():
    assert engine("handmade/0.9.2_two_front_ends.metrics", "0.9.2").kv_usage_ratio == 0.4
    assert engine("handmade/0.9.2_two_front_ends_idle.metrics", "0.9.2").kv_usage_ratio == 0.0


def test_num_gpu_blocks_none_of_0_8_is_unknown():
    reading = engine("handmade/0.8.5_v1.metrics", "0.8.5")
    assert reading.cache.num_gpu_blocks is None
    assert judged(reading).kv_capacity_tokens is None


def test_blocks_summed_over_data_parallel_engines_are_divided_and_tokens_are_not():
    ranks = engines("0.32.0/data_parallel_2_after_requests.metrics")
    assert [rank.dp_rank for rank in ranks] == ["0", "1"]
    for rank in ranks:
        assert rank.cache.num_gpu_blocks == 4_096
        assert rank.cache.kv_cache_size_tokens == 512_000
        assert judged(rank).kv_capacity_tokens == 512_000


def test_iteration_tokens_total_is_a_histogram_whatever_its_name():
    reading = engine("0.32.0/single_after_load.metrics")
    assert "iteration_tokens" in reading.histograms
    assert "iteration_tokens_total" not in reading.totals


def test_lengths_are_of_those_that_finished():
    lengths = engine("0.32.0/single_after_load.metrics").histograms["generation_tokens"]
    assert lengths.count == 59
    assert 200 < lengths.mean < 400


def test_usage_of_a_hybrid_pool_is_taken_of_the_reported_tokens_and_not_of_blocks_times_block_size():
    reading = engine("0.32.0/data_parallel_2_after_requests.metrics".replace("data_parallel_2", "api_servers_2"))
    assert reading.cache.num_gpu_blocks * reading.cache.block_size == reading.cache.kv_cache_size_tokens
    uneven = engines("0.32.0/data_parallel_2_after_requests.metrics")[0]
    assert uneven.cache.num_gpu_blocks * uneven.cache.block_size != judged(uneven).kv_capacity_tokens


def test_a_label_that_says_none_is_no_value():
    cache = engine("0.32.0/single_idle.metrics").cache
    assert cache.sliding_window is None
    assert cache.num_gpu_blocks_override == 96
    assert cache.kv_cache_memory_bytes == 1024**3


# Names and shapes by release


def test_a_current_page_misses_nothing():
    for name, version in (("0.32.0/single_idle", "0.32.0"), ("0.27.0/single_idle", "0.27.0")):
        assert engine(f"{name}.metrics", version).missing == ()


def test_the_oldest_names_are_understood():
    reading = engine("handmade/0.4.3_v0.metrics", "0.4.3")
    assert (reading.model_name, reading.dp_rank) == ("old", "0")
    assert (reading.requests_running, reading.kv_usage_ratio) == (5, 0.25)
    assert reading.totals["preemptions_total"] == 3
    assert reading.totals["requests_finished_total"] == 20
    assert reading.histograms["inter_token_seconds"].mean == pytest.approx(0.03)
    assert reading.missing == ()
    assert judged(reading).kv_used_tokens == 28_000


def test_of_two_names_for_one_figure_the_newer_counts_once():
    reading = engine("handmade/0.9.2_two_front_ends.metrics", "0.9.2")
    assert reading.kv_usage_ratio == 0.4


def test_rays_prefix_is_understood():
    reading = engine("handmade/ray.metrics")
    assert (reading.requests_running, reading.requests_waiting, reading.kv_usage_ratio) == (7, 1, 0.75)


def test_a_value_that_is_no_number_is_unknown_and_labels_may_be_absent():
    reading = engine("handmade/nan_and_missing_labels.metrics")
    assert reading.kv_usage_ratio is None
    assert (reading.requests_running, reading.dp_rank, reading.model_name) == (2, "0", "")


@pytest.mark.parametrize(("shown", "read"), [(1.0, 1.0), (1.01, None)])
def test_a_full_cache_is_full_and_more_than_full_is_unknown(shown, read):
    (reading,) = read_engines(parse_page(vllm_page(usage=shown)), Server(), engine="e", url="http://e")
    assert reading.kv_usage_ratio == read
    assert ("kv_usage_ratio" in reading.missing) == (read is None)


def test_label_values_may_hold_anything():
    assert engine("handmade/absurd_labels.metrics").model_name == 'a "quoted" \\ name, with }braces{ and\nnewline'


def test_what_a_release_should_show_and_does_not_is_named():
    reading = engine("handmade/nan_and_missing_labels.metrics", "0.32.0")
    assert "preemptions_total" in reading.missing
    assert "cache_config" in reading.missing
    assert "requests_running" not in reading.missing


@pytest.mark.parametrize("shown", ["NaN", "-1.0", "+Inf", "1.5"])
def test_a_usage_that_cannot_be_is_missing_and_is_not_when_it_can_be_again(shown):
    reader = PageReader()

    def missing(usage):
        page = reader.read(vllm_page(usage=usage))
        return read_engines(page, Server(), engine="e", url="http://e")[0].missing

    assert [("kv_usage_ratio" in missing(usage)) for usage in (0.5, shown, 0.5)] == [False, True, False]
    assert "requests_running" not in missing(shown)


def test_a_usage_without_a_sample_is_missing_while_the_engine_runs():
    page = re.sub(r"\nvllm:kv_cache_usage_perc.*", "", vllm_page())
    (reading,) = read_engines(parse_page(page), Server(), engine="e", url="http://e")
    assert "kv_usage_ratio" in reading.missing


def test_a_page_of_gauges_that_are_no_numbers_lacks_them_all():
    page = vllm_page(running="NaN", waiting="NaN", usage="NaN")
    (reading,) = read_engines(parse_page(page), Server(), engine="e", url="http://e")
    assert {"requests_running", "requests_waiting", "kv_usage_ratio"} <= set(reading.missing)


def test_only_the_engine_whose_figure_is_spoilt_lacks_it():
    page = vllm_page() + vllm_page(running="NaN").replace('engine="0"', 'engine="1"')
    both = read_engines(parse_page(page), Server(), engine="e", url="http://e")
    assert [("requests_running" in each.missing) for each in both] == [False, True]


def test_what_is_shown_as_no_number_is_named_as_missing():
    (reading,) = read_engines(
        parse_page(vllm_page(running="NaN", usage="-1", preempted="+Inf")),
        Server(vllm_version="0.32.0"),
        engine="e",
        url="http://e",
    )
    assert {"requests_running", "kv_usage_ratio", "preemptions_total"} <= set(reading.missing)
    assert "requests_waiting" not in reading.missing


def test_what_a_release_never_had_is_not_missed():
    keys = {figure.key for figure in expected_figures(parse_version("0.4.3"))}
    assert "queue_seconds" not in keys
    assert "requests_waiting_by_reason" not in keys
    assert "kv_usage_ratio" in keys


def test_refused_requests_are_counted():
    assert engine("0.32.0/refusing_queue_full.metrics").totals["rejections_total"] == 198


def test_waiting_for_capacity_is_told_apart_where_the_release_does():
    assert engine("0.32.0/limited_by_seqs.metrics").requests_waiting_for_capacity == 6
    assert engine("handmade/0.4.3_v0.metrics", "0.4.3").requests_waiting_for_capacity is None


def test_histograms_keep_their_buckets():
    histogram = engine("0.32.0/single_after_load.metrics").histograms["prompt_tokens"]
    assert histogram.bounds[-1] == float("inf")
    assert histogram.cumulative[-1] == histogram.count == 59


# What is no page


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_metrics"),
        ("<html></html>", "not_metrics"),
        ("# TYPE python_info gauge\npython_info 1.0\n", "no_vllm_metrics"),
        (vllm_page()[:-3], "half_page"),
        ('vllm:num_requests_running{engine="0" 1.0\n', "broken_labels"),
        ('vllm:num_requests_running{engine="0"} one\n', "half_page"),
        ('vllm:num_requests_running{engine="0"}\n', "half_page"),
    ],
)
def test_what_is_no_page_is_refused_with_a_reason(text, reason):
    with pytest.raises(SourceMalformed) as caught:
        parse_page(text)
    assert caught.value.reason == reason


@given(st.text(max_size=300))
def test_no_text_makes_the_parser_fall_over(text):
    try:
        page = parse_page(text)
    except SourceMalformed:
        return
    assert read_engines(page, Server(), engine="e", url="u")


@given(st.lists(st.sampled_from(vllm_page().splitlines()), max_size=12), st.integers(0, 400))
def test_no_shuffled_or_cut_page_makes_the_parser_fall_over(lines, cut):
    text = ("\n".join(lines) + "\n")[:cut]
    try:
        read_engines(parse_page(text), Server(), engine="e", url="u")
    except SourceMalformed:
        return


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, {"data": None}, {"data": [1]}, {"data": [{"id": "a", "max_model_len": "long"}]}, {"data": [{}]}],
)
def test_whatever_v1_models_says_the_server_is_read(answer):
    assert parse_models(answer, "0.32.0").vllm_version == "0.32.0"


@pytest.mark.parametrize("version", ["0.27.0", "0.32.0"])
def test_what_a_real_server_says_of_itself_is_read(version):
    told, models = (json.loads((CAPTURES / version / f"{name}.json").read_text()) for name in ("version", "models"))
    assert parse_models(models, parse_server_version(told)) == Server(
        vllm_version=version, model_names=("tiny",), model_path="/models/tiny", max_model_len=2048
    )


def test_adapters_are_no_base_model():
    answer = {"data": [{"id": "lora", "parent": "m"}, {"id": "m", "root": "/models/m", "max_model_len": 4096}]}
    server = parse_models(answer, None)
    assert (server.model_names, server.model_path, server.max_model_len) == (("m",), "/models/m", 4096)


# Over HTTP


@pytest.fixture
def fake():
    server = FakeServer()
    server.page(vllm_page())
    yield server
    server.close()


@pytest.fixture
def source(fake):
    with source_of(fake.url, connect_seconds=0.5, read_seconds=0.5) as source:
        yield source


def source_of(url, connection=None, **more):
    return closing(VllmSource(engine="e", url=url, connection=connection or Connection(url, headers={}), **more))


def failure(source):
    with pytest.raises(SourceError) as caught:
        source.read()
    return caught.value


def test_version_and_model_are_asked_once_and_metrics_each_time(fake, source):
    for _ in range(3):
        (reading,) = source.read()
    assert (reading.vllm_version, reading.model_path, reading.max_model_len) == ("0.32.0", "/models/m", 8192)
    asked = [path for path, _ in fake.requests]
    assert (asked.count("/metrics"), asked.count("/version"), asked.count("/v1/models")) == (3, 1, 1)


def test_after_a_failure_version_and_model_are_asked_again(fake, source):
    source.read()
    good = fake.answers["/metrics"]
    fake.answers["/metrics"] = (500, {}, b"")
    assert failure(source).reason == "http_500"
    fake.answers["/metrics"] = good
    fake.answers["/version"] = (200, {}, b'{"version": "0.33.0"}')
    assert source.read()[0].vllm_version == "0.33.0"


def test_a_restart_seen_by_the_start_time_asks_for_the_version_again(fake, source):
    fake.page("process_start_time_seconds 100.0\n" + vllm_page())
    assert source.read()[0].started_at_seconds == 100.0
    fake.page("process_start_time_seconds 200.0\n" + vllm_page(), version="0.33.0")
    assert source.read()[0].vllm_version == "0.33.0"


@pytest.mark.parametrize("path", ["/version", "/v1/models"])
@pytest.mark.parametrize("answer", [(404, {}, b""), (200, {}, b"not json"), (401, {}, b"")])
def test_a_server_that_hides_an_endpoint_is_read_without_it(fake, source, path, answer):
    fake.answers[path] = answer
    (reading,) = source.read()
    assert reading.requests_running == 3


def test_a_server_that_is_not_there_is_refused():
    with source_of("http://127.0.0.1:1") as source:
        assert failure(source).reason == "connection_refused"


def test_an_authority_whose_file_went_away_is_no_fault_of_the_program(tmp_path):
    def gone():
        return ssl.create_default_context(cafile=tmp_path / "gone.pem")

    with source_of("https://127.0.0.1:9", Connection("https://127.0.0.1:9", headers={}, trust=gone)) as source:
        assert failure(source).reason == "tls"


def test_a_redirect_is_not_followed(fake, source):
    fake.answers["/metrics"] = (302, {"Location": "http://127.0.0.1:1/"}, b"")
    assert failure(source).reason == "http_302"


def test_a_server_that_says_nothing_is_given_up(fake, source):
    fake.answers["/metrics"] = (200, {}, lambda stream: time.sleep(1.4))  # then it ends: an empty page is malformed
    found = failure(source)
    assert (type(found), found.reason) == (SourceUnavailable, "timeout")


def test_a_server_that_dribbles_is_given_up_at_the_deadline(fake, source):
    written = []

    def dribble(stream):
        for _ in range(100):
            stream.write(b"#")
            stream.flush()
            written.append(1)
            time.sleep(0.05)

    fake.answers["/metrics"] = (200, {}, dribble)
    assert failure(source).reason == "timeout"
    assert len(written) <= 40, "two seconds of it, or less"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Encoding": "gzip"}, b"this is not gzip"),
        ({"Content-Length": "5000"}, b"less than promised"),
        ({"Transfer-Encoding": "chunked"}, b"ZZ\r\nno chunk\r\n"),
    ],
    ids=["gzip", "length", "chunks"],
)
def test_a_body_that_breaks_off_or_cannot_be_decoded_is_refused(fake, source, headers, body):
    fake.answers["/metrics"] = (200, headers, body)
    assert failure(source).reason in ("broken_body", "not_metrics")


STATUS_LINES = [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 ", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", b"HTTP/1.1 -1"]
HEADERS = [
    *(b"Content-Length: %b" % length for length in (b"5", b"-1", b"9" * 5000, b"%d" % len(vllm_page()))),
    *(b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Connection: close"),
    *(b"\xff\xfe: \x00", b" folded", b"x" * 70_000),
]
BODIES = [
    *(b"5\r\nhello\r\n", b"-5\r\nhello\r\n", b"FFFFFFFFFFFFFFFFFFFF\r\nhello\r\n", b"0\r\n\r\n"),
    *(vllm_page().encode(), b"%x\r\n%b\r\n0\r\n\r\n" % (len(vllm_page()), vllm_page().encode())),
]


@given(
    st.tuples(
        st.one_of(st.sampled_from(STATUS_LINES), st.binary(max_size=20)),
        st.lists(st.one_of(st.sampled_from(HEADERS), st.binary(max_size=20)), max_size=3).map(b"\r\n".join),
        st.sampled_from([b"\r\n", b""]),
        st.lists(st.one_of(st.sampled_from(BODIES), st.binary(max_size=20)), max_size=3).map(b"".join),
    ).map(b"\r\n".join)
)
def test_whatever_stands_where_http_should_it_is_read_or_refused(answer):
    connect = socket.create_connection

    def connected(*_):
        ours = connect(listening.getsockname())
        left.append(listening.accept()[0])
        left[-1].sendall(answer)
        left[-1].shutdown(socket.SHUT_WR)
        return ours

    left = []
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        pytest.MonkeyPatch.context() as patch,
        source_of("http://h:1") as source,
    ):
        patch.setattr(socket, "create_connection", connected)
        try:
            assert source.read()
        except SourceError as error:
            event(error.reason)
    for each in left:
        each.close()


def test_a_request_that_had_to_be_cut_has_timed_out(fake):
    """To the one who reads, a cut looks as if the server had hung up: connection refused, or half an answer."""
    over = threading.Event()

    def dribble(stream):
        stream.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not over.wait(0.02):
            stream.write(b"x")
            stream.flush()

    fake.answers["/metrics"] = (None, {}, dribble)
    with source_of(fake.url) as source:
        source.patience_seconds = 0.3
        try:
            with again_and_again(source.interrupt):
                assert failure(source).reason == "timeout"
        finally:
            over.set()


def test_the_key_goes_with_every_request(fake):
    headers = {"Authorization": "Bearer s3cret"}
    with source_of(fake.url, Connection(fake.url, headers=headers)) as source:
        source.read()
    assert {headers["Authorization"] for _, headers in fake.requests} == {"Bearer s3cret"}


def test_a_server_with_a_certificate_is_read_where_its_authority_is_trusted_and_its_name_is_right(tmp_path):
    authority = Authority(tmp_path)
    secure = FakeServer(certificate=authority.issue("engine"))
    secure.page(vllm_page())

    def trusting(url, ca_file):
        return source_of(url, open_connection(EngineConfig(url=url, ca_file=ca_file)))

    try:
        with trusting(secure.url, authority.file) as source:
            assert source.read()[0].requests_running == 3
        with trusting(secure.url, None) as source:
            assert failure(source).reason == "tls"
        with trusting(secure.url.replace("127.0.0.1", "localhost"), authority.file) as source:
            assert failure(source).reason == "tls"
        with trusting(secure.url, authority.file) as source:
            authority.file.unlink()
            assert failure(source).reason == "tls"
    finally:
        secure.close()


def test_a_proxy_of_the_environment_is_not_asked(fake, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    with source_of(fake.url, open_connection(EngineConfig(url=fake.url))) as source:
        assert source.read()[0].requests_running == 3


def test_a_server_below_a_path_is_asked_there(fake):
    fake.answers = {f"/tenant{path}": answer for path, answer in fake.answers.items()}
    url = f"{fake.url}/tenant"
    with source_of(url, open_connection(EngineConfig(url=url))) as source:
        assert source.read()[0].max_model_len == 8192

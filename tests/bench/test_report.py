from bench.accuracy.predict import Declined
from bench.accuracy.report import machine_rows, report
from bench.accuracy.rows import Doubt
from tests.bench.examples import deployment, prediction, scored


def page(*rows):
    return report(rows, peers=(), packages_said="None.", examples=())


def test_a_row_left_out_is_listed_with_its_reason():
    row = scored(deployment(kv_gib=10.0, doubts=(Doubt(of="build", why="a fork"),)), prediction())
    left_out = page(row).partition("## Rows and figures left out")[2]
    assert "[row](https://example.org/log)" in left_out
    assert "KV: build: a fork" in left_out


def test_a_row_with_doubts_is_scored_apart():
    row = scored(deployment(kv_gib=8.0, doubts=(Doubt(of="gpu", why="from a folder name"),)), prediction())
    text = page(row)
    assert "| only how the GPU or the release is known | fitted | 1 | 10.00% | 10.00% | 0 | - |" in text
    assert "| KV cache | 0 of 0 | 0 of 0 | 0 of 0 |" in text


def test_a_target_is_met_or_not_for_each_half():
    near = scored(deployment(kv_gib=10.0), prediction(kv=10.01))
    far = scored(deployment(kv_gib=10.0, half="held out"), prediction(kv=14.0))
    line = next(line for line in page(near, far).splitlines() if line.startswith("| KV error over the budget, median"))
    assert line.endswith("| 10.03%, not met | 0.05%, met | 20.00%, not met |")


def test_a_confident_wrong_verdict_is_named_in_bold():
    wrong = scored(deployment(kv_gib=1.0, started=False, error="no_memory_for_kv"), prediction())
    assert "**1 confident and wrong:**" in page(wrong)
    assert "said fits, but it did not start (no_memory_for_kv)" in page(wrong)


def test_a_declined_row_stays_on_the_page():
    assert "declined: unknown kind" in page(scored(deployment(kv_gib=10.0), Declined(reason="unknown kind")))


def test_the_page_is_the_same_for_the_same_rows():
    rows = (scored(deployment(kv_gib=10.0, weights_gib=5.0), prediction()),)
    assert page(*rows) == page(*rows)


def test_every_table_row_has_as_many_cells_as_its_head():
    rows = (
        scored(deployment(kv_gib=10.0, weights_gib=5.0, started=True), prediction()),
        scored(deployment(kv_tokens=500, half="held out", stated=False), prediction()),
        scored(deployment(kv_gib=10.0), Declined(reason="a | in it")),
    )
    width = None
    for line in page(*rows).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        width = width or line.count("|")
        assert line.count("|") == width, line


def test_rows_as_figures_say_what_each_part_is_and_was():
    row = machine_rows([scored(deployment(kv_gib=9.0, non_torch_gib=0.25), prediction())])[0]
    assert row["said_gib"]["kv_cache"] == 10.0
    assert row["reported_gib"]["non_torch"] == 0.25
    assert row["counts_for"] == ["kv"]

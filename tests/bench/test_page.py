"""Benchmarks replace their section of a page and nothing else."""

from pathlib import Path

import pytest

from bench.page import replaced, write_section

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- written by make tea: begin -->", "<!-- written by make tea: end -->"


def test_the_section_is_replaced_between_its_marks():
    assert replaced(f"a\n{BEGIN}\nold\n{END}\nb", "new", target="tea") == f"a\n{BEGIN}\n\nnew\n{END}\nb"


@pytest.mark.parametrize("page", ["a", BEGIN, f"{END}\n{BEGIN}"])
def test_a_page_without_both_marks_is_refused(page):
    with pytest.raises(ValueError, match="begin"):
        replaced(page, "new", target="tea")


def test_what_stands_around_the_section_is_left(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"a\n{BEGIN}\nold\n{END}\nb\n", encoding="utf-8")
    write_section(page, "é", target="tea")
    assert page.read_text(encoding="utf-8") == f"a\n{BEGIN}\n\né\n{END}\nb\n"


@pytest.mark.parametrize(
    ("page", "target"),
    [
        ("capacity.md", "plan-bench"),
        ("dashboards.md", "alerts"),
        ("risk.md", "backtest"),
        ("risk.md", "live-risk"),
        ("risk.md", "pressure-backtest"),
        ("tuning.md", "tuning-bench"),
    ],
)
def test_each_page_has_one_section_to_replace(page, target):
    text = (DOCS / page).read_text(encoding="utf-8")
    for end in ("begin", "end"):
        assert text.count(f"<!-- written by make {target}: {end} -->") == 1

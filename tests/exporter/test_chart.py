"""Line charts as pictures."""

import sys
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from exporter.chart import Chart, Panel, Series, Words, marks, save, size_of, svg
from exporter.errors import UsageError


def chart(*series, panels=2, unit=""):
    lines = series or (Series(name="", points=((4, 10.0), (8, 20.0), (16, 15.0))),)
    panel = Panel(title="tokens & <more>", horizontal="max-num-seqs", unit=unit, series=lines)
    return Chart(title="a load", panels=(panel,) * panels)


def words(of):
    return [mark.text for mark in marks(of) if isinstance(mark, Words)]


def test_a_picture_is_well_formed_and_says_what_it_shows():
    root = ET.fromstring(svg(chart()))
    assert (root.get("width"), root.get("height")) == tuple(map(str, size_of(chart())))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a load", "tokens & <more>", "max-num-seqs", "4", "8", "16", "20"} <= set(texts)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 2 * 3


def test_higher_values_are_higher_up_and_settings_are_evenly_spaced():
    root = ET.fromstring(svg(chart(panels=1)))
    dots = [(float(each.get("cx")), float(each.get("cy"))) for each in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.2)
    assert dots[1][1] < dots[2][1] < dots[0][1]


def test_everything_lies_within_the_picture():
    many = [Series(name=f"KV tokens {number}0,000", points=((1, 0.0), (1000, 3e6))) for number in range(12)]
    width, height = size_of(chart(*many))
    for mark in marks(chart(*many)):
        for x, y in getattr(mark, "points", None) or [(mark.x, mark.y)]:
            assert 0 <= x <= width and 0 <= y <= height


def test_one_line_needs_no_name_and_several_have_theirs():
    pair = [Series(name=name, points=((1, 1.0),)) for name in ("KV tokens 5", "KV tokens 9")]
    assert "KV tokens 9" in words(chart(*pair))
    assert words(chart(pair[0])).count("KV tokens 5") == 0


def test_ratios_are_shown_as_percent_and_nothing_is_a_flat_line():
    assert "100%" in words(chart(Series(name="", points=((1, 0.97),)), unit="ratio"))
    assert "1" in words(chart(Series(name="", points=((1, 0.0), (2, 0.0)))))


def test_a_picture_is_saved_as_its_name_says(tmp_path):
    save(chart(), tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text() == svg(chart())
    save(chart(), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == tuple(2 * each for each in size_of(chart()))
        assert len(picture.getcolors(1 << 24)) > 10


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        save(chart(), tmp_path / "nowhere" / "x.svg")


def test_without_pillow_png_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"vllm-headroom\[picture\]"):
        save(chart(), tmp_path / "x.png")

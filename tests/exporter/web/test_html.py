"""No text reaches a page unescaped."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.web.html import element, fragment


def test_a_text_is_escaped_and_an_element_is_not_escaped_again():
    inner = element("b", "<i>")
    assert element("p", inner, " & ", None) == "<p><b>&lt;i&gt;</b> &amp; </p>"


def test_an_attribute_is_escaped_left_out_or_bare():
    told = element("a", "x", href='"><script>', class_="c", data_n=1, hidden=True, title=None, open=False)
    assert told == '<a href="&quot;&gt;&lt;script&gt;" class="c" data-n="1" hidden>x</a>'


@given(st.text(), st.text())
def test_whatever_the_text_no_tag_comes_of_it(text, value):
    told = fragment(element("p", [text, [text]], title=value))
    assert told.count("<") == 2
    assert told.count(">") == 2
    assert told.count('"') == 2

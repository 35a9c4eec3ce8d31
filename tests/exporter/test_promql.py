import pytest

from exporter.promql import selectors, without_variables


def names(expr):
    return [each.name for each in selectors(expr)]


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("up", ["up"]),
        ('sum by (le) (rate(vllm:ttft_bucket{model="a b"}[5m]))', ["vllm:ttft_bucket"]),
        ("job:errors:rate5m / on (job) group_left (team) owner", ["job:errors:rate5m", "owner"]),
        ('{__name__="a_total", job="b"} > 3', ["a_total"]),
        ('{__name__=~"a|b:c"}', ["a", "b:c"]),
        ('{__name__=~"a.*"}', []),
        ('label_replace(a, "b", "$1", "c", "(d)")', ["a"]),
        ("max_over_time(rate(a[1m])[1h:5m] offset 1d)", ["a"]),
        ("a unless a offset 15m", ["a", "a"]),
        ("absent(a) or vector(1)", ["a"]),
        ("holt_winters(a[10m], 0.5, 0.5)", ["a"]),
        ("count({__name__='sum'})", ["sum"]),
        ("by", ["by"]),
    ],
)
def test_names_are_told_from_functions_labels_and_strings(expr, expected):
    assert names(expr) == expected


def test_matchers_come_with_their_labels():
    (selector,) = selectors('a{b="c", d=~"e|f"}')
    assert selector.matchers == (("b", "c"), ("d", "e|f"))


@pytest.mark.parametrize("expr", ["sum((", "a b", "rate(a)", "a{b=c}"])
def test_what_is_no_promql_is_said(expr):
    with pytest.raises(ValueError, match=r"."):
        selectors(expr)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("rate(a[$__rate_interval])", ["a"]),
        ("rate(a[${__interval}])", ["a"]),
        ("max_over_time(a[$window:$step])", ["a"]),
        ("a offset $back", ["a"]),
        ("topk($n, a)", ["a"]),
        ("topk([[n]], a)", ["a"]),
        ("sum by ($label) (a)", ["a"]),
        ("sum by (${label:csv}) (a)", ["a"]),
        ('a{instance=~"$instance", job=~"${job:regex}"}', ["a"]),
        ("a > $limit", ["a", "x"]),
    ],
)
def test_grafanas_variables_stand_for_what_fits_their_place(expr, expected):
    assert names(expr) == expected


def test_a_variable_inside_a_string_stays():
    assert without_variables('a{b="$c"} > $d', "1") == 'a{b="$c"} > 1'

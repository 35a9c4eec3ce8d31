import pytest

from advisor.units import GIB, MIB, spelled_growth, spelled_ratio


@pytest.mark.parametrize(
    ("an_hour", "spelled"),
    [
        (0.03 * MIB, "0.03 MiB an hour"),
        (42.5 * MIB, "42.5 MiB an hour"),
        (2 * GIB, "2 GiB an hour"),
        (193.98 * GIB, "194 GiB an hour"),
        (1234.5 * GIB, "1,234 GiB an hour"),
    ],
)
def test_growth_is_spelled_with_three_digits_whatever_its_size(an_hour, spelled):
    assert spelled_growth(an_hour / 3600) == spelled


@pytest.mark.parametrize(
    ("ratio", "spelled"),
    [(0.0, "0%"), (0.005, "<1%"), (0.26, "26%"), (0.99, "99%"), (0.995, ">99%"), (1.0, "100%")],
)
def test_what_is_not_quite_nothing_and_not_quite_all_is_spelled_so(ratio, spelled):
    assert spelled_ratio(ratio) == spelled

import pytest

from advisor.units import GIB, MIB, spelled_growth, spelled_ratio, spelled_seconds


@pytest.mark.parametrize(
    ("an_hour", "spelled"),
    [
        (0.03 * MIB, "0.03 MiB an hour"),
        (42.5 * MIB, "42.5 MiB an hour"),
        (102.3 * MIB, "102 MiB an hour"),
        (0.1 * GIB, "0.1 GiB an hour"),
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


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [
        (119.0, "119 s"),
        (120.0, "2 min"),
        (7_199.0, "120 min"),
        (7_200.0, "2.0 h"),
        (47.9 * 3600, "47.9 h"),
        (48.0 * 3600, "2.0 days"),
    ],
)
def test_a_duration_is_spelled_in_a_unit_of_which_there_are_at_least_two(seconds, spelled):
    assert spelled_seconds(seconds) == spelled

import pytest

from advisor.versions import parse_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.32.0", (0, 32, 0)),
        ("v0.8.5.post1", (0, 8, 5)),
        ("0.23.1rc1.dev12+g0a1b2c3", (0, 23, 1)),
        ("0.11", (0, 11, 0)),
        ("0.32.0+cpu", (0, 32, 0)),
        ("0.1.dev1+gabc", None),
        ("0.0.0", None),
        ("main", None),
        ("", None),
        (None, None),
    ],
)
def test_a_version_text_gives_its_release_or_nothing(text, version):
    assert parse_version(text) == version

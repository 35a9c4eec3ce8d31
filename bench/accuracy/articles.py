"""The articles' worked examples."""

from collections.abc import Sequence


def examples() -> Sequence[str]:
    """Return the section."""
    return ()

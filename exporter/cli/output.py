"""Where a command prints for people."""

import sys

from rich.console import Console

WIDTH = 80
"""Of what is piped, which fits everywhere; a terminal may be wider, and gets no more than it has."""


def paper() -> Console:
    """Return the standard output."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, emoji=False)

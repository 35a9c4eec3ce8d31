"""Short files that the kernel writes about a process or a control group."""

from pathlib import Path

_MOST_BYTES = 65_536


def short_text(file: Path) -> str:
    """Return what a file holds, nothing where it may not be read or is not there."""
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(_MOST_BYTES)
    except OSError:
        return ""

"""Short files that the kernel writes about a process or a control group."""

from pathlib import Path

_MOST_CHARACTERS = 65_536
_MOST_DIGITS = 20


def figure(text: str) -> int | None:
    """Return the whole number that stands alone in a text, None for any other text and for more than 64 bits hold.

    >>> figure(" 4096 "), figure("max")
    (4096, None)
    """
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def short_text(file: Path, *, most_characters: int = _MOST_CHARACTERS) -> str:
    """Return what a file holds, up to a size; nothing where it may not be read or is not there."""
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(most_characters)
    except OSError:
        return ""

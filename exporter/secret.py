"""Keys, out of files: read as editors leave them, and never repeated by a message."""

from pathlib import Path

from exporter.errors import CredentialMissing, UsageError


def secret_in(file: Path, told: str) -> str:
    """Return what a file holds, without the space around it and without the byte order mark that Windows puts first.

    Args:
        file: UTF-8 text.
        told: Which key of the configuration names it.

    Raises:
        CredentialMissing: It cannot be opened.
        UsageError: It is no text, or holds nothing: who writes it has not come that far.
    """
    try:
        held = file.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise CredentialMissing(f"{told}: {file} cannot be read") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{told}: {file} is no text") from error
    if not held:
        raise UsageError(f"{told}: {file} is empty")
    return held


def checked_key(key: str, told: str) -> str:
    """Return a key that a header can carry.

    Raises:
        UsageError: No request could be made with it: a pasted dash or quote of a word processor, two keys in one file.
    """
    if not all("!" <= each <= "~" for each in key):
        raise UsageError(f"{told} holds what no key does: one line of ASCII without spaces is needed")
    return key

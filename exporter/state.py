"""What must survive a restart of the daemon: small JSON files in the state directory, each written whole or not at all.

A file that cannot be read is set aside under another name, for a person to look at, and the daemon starts without it.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from exporter.errors import SourceUnavailable

log = logging.getLogger(__name__)

Content = TypeVar("Content")

FORMAT = 1
RESIDUALS_FILE = "residuals"
"""Written by the daemon, read by ``plan --state-dir`` too."""
LOAD_FILE = "load"
"""The same for ``advise --state-dir`` and ``simulate --state-dir``."""
MOST_BYTES = 16 * 1024**2


class State:
    """One file of the state directory. With no directory nothing is kept, and nothing is wrong with that."""

    def __init__(self, directory: Path | None, name: str, *, is_ours: bool = True) -> None:
        """Take the directory, which is made if it is missing, and the file's name in it.

        With ``is_ours=False`` a file that cannot be read is left where it is, for the daemon whose it is.
        """
        self._is_ours = is_ours
        self._file = directory / f"{name}.json" if directory else None

    def load(self, read: Callable[[Any], Content], otherwise: Content) -> Content:
        """Return the file's content as ``read`` understands it, ``otherwise`` without a usable file.

        Args:
            read: Makes sense of the JSON, or raises ValueError.
            otherwise: What to start from without one.
        """
        if self._file is None:
            return otherwise
        try:
            with self._file.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return otherwise
        except OSError as error:
            log.warning("%s: %s; starting without it", self._file, error.strerror)
            return otherwise
        try:
            if len(text) > MOST_BYTES:
                raise ValueError(f"over {MOST_BYTES} bytes")  # noqa: TRY301 - one place handles a bad file
            content = json.loads(text)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError(f"not a state file of format {FORMAT}")  # noqa: TRY301 - see above
            return read(content["content"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            self._set_aside(error)
            return otherwise

    def save(self, content: Any) -> None:
        """Replace the file by this content.

        Raises:
            SourceUnavailable: It could not be written; the old one is untouched.
        """
        if self._file is None:
            return
        beside = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("w", encoding="utf-8") as file:
                json.dump({"format": FORMAT, "content": content}, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._file)
        except OSError as error:
            raise SourceUnavailable("state_not_written", f"{self._file}: {error.strerror}") from error

    def _set_aside(self, error: Exception) -> None:
        assert self._file is not None
        if not self._is_ours:
            log.warning("%s: %s; going on without it", self._file, error)
            return
        aside = self._file.with_suffix(".unreadable")
        try:
            self._file.replace(aside)
        except OSError:
            aside = self._file
        log.warning("%s: %s; kept as %s, starting without it", self._file, error, aside.name)

"""What others wrote, read within bounds: a file that may be a pipe or endless, JSON that unfolds into a gigabyte.

Whoever can start a process on this host chooses what a command line names, so every such file is taken for hostile.
"""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

_MOST_PARTS = 1_000_000
"""Of one JSON text. A part takes up to 116 bytes once it is read, and the unit file grants a daemon 256 MB in all."""


def opened(path: Path) -> BinaryIO:
    """Open a regular file; a pipe would keep its reader until somebody writes, a device for ever.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def content(path: Path, most_bytes: int) -> bytes:
    """Return all that a file holds.

    Raises:
        OSError: As `opened`.
        ValueError: It holds more than ``most_bytes``.
    """
    with opened(path) as file:
        found = file.read(most_bytes + 1)
    if len(found) > most_bytes:
        raise ValueError(f"over {most_bytes} bytes")
    return found


def parsed(text: str | bytes, *, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return what a JSON text says; ``hook`` stands in for each object, the innermost first.

    Raises:
        ValueError: It is no JSON, or of too many parts.
        RecursionError: It is nested absurdly deep.
    """
    if isinstance(text, bytes):
        text = text.decode()
    if text.count(",") + text.count("[") + text.count("{") > _MOST_PARTS:
        raise ValueError(f"over {_MOST_PARTS} parts")
    return json.loads(text, object_hook=hook)

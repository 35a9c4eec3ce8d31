"""vLLM release numbers: parsed once, compared as tuples."""

import re
from functools import lru_cache

Version = tuple[int, int, int]

_RELEASE = re.compile(r"^[vV]?(\d+)\.(\d+)(?:\.(\d+))?")

OLDEST_STUDIED: Version = (0, 4, 0)
NEWEST_STUDIED: Version = (0, 33, 0)
"""Newest release whose source the rules here were read from; a newer one is taken to behave like it."""


@lru_cache(maxsize=1024)
def parse_version(text: str | None) -> Version | None:
    """Return the release in a version text (``0.8.5.post1``, ``v0.23.1rc1.dev3+g1a2b``), None if there is none.

    A pre-release counts as the release it leads to; a main build that says ``0.0.0`` or ``0.1.dev1`` says nothing.
    """
    match = _RELEASE.match(text.strip()) if text else None
    if match is None:
        return None
    version = (int(match[1]), int(match[2]), int(match[3] or 0))
    return version if version >= (0, 2, 0) else None

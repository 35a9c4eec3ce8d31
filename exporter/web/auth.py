"""Basic auth with bcrypt, as cheap for a scraper as no auth at all.

A right password is remembered (as a keyed hash, in memory), so that a scrape costs no bcrypt. A wrong one never is:
guesses cannot push the right ones out. bcrypt runs in one thread beside the server, and few guesses may wait for it.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum

import bcrypt

from exporter.web.aside import aside

_MOST_REMEMBERED = 256
_MOST_WAITING = 8
_BCRYPT_BYTES = 72
"""bcrypt looks at no more; htpasswd and Go cut there too."""


class Answer(Enum):
    """What to do with a request."""

    WELCOME = "welcome"
    REFUSED = "refused"
    BUSY = "busy"
    """Too many unknown passwords are being checked."""


class BasicAuth:
    """Checks ``Authorization`` headers; every method belongs to the server's event loop."""

    def __init__(self) -> None:
        """Start knowing nobody."""
        self._secret = os.urandom(32)
        self._remembered: OrderedDict[bytes, None] = OrderedDict()
        self._one_at_a_time = asyncio.Semaphore(1)
        self._waiting = 0

    async def check(self, header: str | None, users: Mapping[str, str]) -> Answer:
        """Judge one request's header against these users' hashes."""
        given = credentials_in(header)
        if given is None:
            return Answer.REFUSED
        user, password = given
        wanted = users.get(user)
        # For a user who does not exist another's hash is checked: the time must not tell who does.
        stored = (wanted or next(iter(users.values()))).encode()
        seal = hmac.new(self._secret, b"\0".join((user.encode(), stored, password)), hashlib.sha256).digest()
        if wanted is not None and seal in self._remembered:
            self._remembered.move_to_end(seal)
            return Answer.WELCOME
        if self._waiting >= _MOST_WAITING:
            return Answer.BUSY
        self._waiting += 1
        try:
            async with self._one_at_a_time:
                is_right = await aside(lambda: _matches(password, stored))
        finally:
            self._waiting -= 1
        if wanted is None or not is_right:
            return Answer.REFUSED
        self._remembered[seal] = None
        while len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return Answer.WELCOME


def _matches(password: bytes, stored: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], stored)
    except ValueError:  # a null byte in older releases: no password that a hash was made of
        return False


def credentials_in(header: str | None) -> tuple[str, bytes] | None:
    """Return user and password of a header; None for any other scheme or for nonsense."""
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, ValueError):
        return None

"""What stands before the application: who may ask, how much, how often, how many at once."""

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.web.looks import CONTENT_SECURITY_POLICY

if TYPE_CHECKING:
    from exporter.web.auth import BasicAuth
    from exporter.web.config import WebConfig
    from exporter.web.live import LiveWebConfig

MOST_HEAD_BYTES = 16 * 1024
MOST_BODY_BYTES = 64 * 1024


_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
}
"""On every answer, those that refuse included."""


class Guard:
    """Lets a request through to the application, or answers it; every method belongs to the server's event loop."""

    def __init__(self, app: ASGIApp, live: "LiveWebConfig | None", *, most_at_once: int) -> None:
        """Take what to protect, the web configuration to protect it by, and how many requests may be in progress."""
        self._most_at_once = most_at_once
        self._app = app
        self._live = live
        self._in_progress = 0
        self._bucket = _Bucket()
        self._auth: BasicAuth | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        config = self._current()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                set_headers(MutableHeaders(scope=message), config)
            await send(message)

        self._in_progress += 1
        try:
            refusal = await self._refusal(scope, config)
            await (refusal or self._app)(scope, receive, send_with_headers)
        finally:
            self._in_progress -= 1

    def _current(self) -> "WebConfig | None":
        if self._live is None:
            return None
        self._live.refresh()
        return self._live.config

    async def _refusal(self, scope: Scope, config: "WebConfig | None") -> Response | None:
        headers = Headers(scope=scope)
        if self._in_progress > self._most_at_once:
            return _refused(503, f"{self._most_at_once} requests are in progress already", {"Retry-After": "1"})
        if (
            len(scope["raw_path"])
            + len(scope["query_string"])
            + sum(len(name) + len(value) for name, value in headers.raw)
            > MOST_HEAD_BYTES
        ):
            return _refused(431, f"path and headers hold at most {MOST_HEAD_BYTES} bytes")
        if "transfer-encoding" in headers:
            return _refused(411, "a request body needs a Content-Length here")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY_BYTES:
            return _refused(413, f"a request body holds at most {MOST_BODY_BYTES} bytes")
        if config is None:
            return None
        limit = config.rate_limit
        if not self._bucket.take(time.monotonic(), limit.interval_seconds, limit.burst):
            return _refused(429, "over the rate limit of this server", {"Retry-After": "1"})
        if not config.basic_auth_users:
            return None
        return await self._stranger(headers.get("authorization"), config)

    async def _stranger(self, credentials: str | None, config: "WebConfig") -> Response | None:
        from exporter.web.auth import Answer, BasicAuth

        self._auth = self._auth or BasicAuth()
        answer = await self._auth.check(credentials, config.basic_auth_users)
        if answer is Answer.WELCOME:
            return None
        if answer is Answer.BUSY:
            return _refused(503, "too many passwords are being checked", {"Retry-After": "1"})
        return _refused(401, "a user name and a password are needed", {"WWW-Authenticate": "Basic"})


class _Bucket:
    """A token bucket: full at first, a token more at every interval."""

    def __init__(self) -> None:
        self._level: float | None = None
        self._filled_at_seconds = 0.0

    def take(self, now_seconds: float, interval_seconds: float, burst: int) -> bool:
        """Take a token, if there is one; without an interval there is no limit."""
        if interval_seconds <= 0:
            return True
        level = float(burst) if self._level is None else self._level
        level = min(float(burst), level + (now_seconds - self._filled_at_seconds) / interval_seconds)
        self._filled_at_seconds = now_seconds
        self._level = level - 1 if level >= 1 else level
        return level >= 1


def _refused(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    """Answer without the application; whatever of the request is still to come is not waited for."""
    return PlainTextResponse(
        f"{why}\n",
        status_code=status,
        headers={
            "Connection": "close",
            **(headers or {}),
        },
    )


def set_headers(headers: MutableHeaders, config: "WebConfig | None") -> None:
    """Give an answer the headers that every answer has."""
    headers["Date"] = formatdate(usegmt=True)
    for name, value in _HEADERS.items():
        headers[name] = value
    for name, value in config.http_server_config.headers.items() if config else ():
        if value:
            headers[name] = value
        elif name in headers:
            del headers[name]

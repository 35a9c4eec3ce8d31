"""The web configuration as it is on disk now: a renewed certificate counts from the next connection on."""

import logging
import ssl
from pathlib import Path

from exporter.checked_yaml import require_readable_again
from exporter.errors import UsageError
from exporter.web.config import WebConfig, load_web_config
from exporter.web.tls import build_context

log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int] | None


def check_web_config(path: Path) -> tuple[WebConfig, ssl.SSLContext | None]:
    """Return a web configuration with the TLS context that follows from it, None for plain HTTP.

    Raises:
        UsageError: Lists every problem of the file and of the certificates it names.
    """
    config = load_web_config(path)
    return config, _context_of(config, path)


def _context_of(config: WebConfig, path: Path) -> ssl.SSLContext | None:
    try:
        return build_context(config.tls_server_config) if config.tls_server_config else None
    except UsageError as error:
        raise UsageError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


class LiveWebConfig:
    """Follows a file. One that becomes unusable changes nothing but a line in the log, and `is_current`."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UsageError: It is not usable.
        """
        self._path = path
        self._seen: dict[Path, _Stamp] = {}
        """What the file and those that it names were when they were last read, whether they were usable or not."""
        self._config, self._context = self._read()
        self.is_current = True
        """Whether what is in effect is what the files say."""

    @property
    def config(self) -> WebConfig:
        """What is in effect."""
        return self._config

    @property
    def context(self) -> ssl.SSLContext | None:
        """What encrypts the next connection; None for plain HTTP, which a reload cannot change."""
        return self._context

    def refresh(self, *, even_if_unchanged: bool = False) -> bool:
        """Read the files again if one of them changed; return whether what is in effect is what they say."""
        if not even_if_unchanged and all(_stamp(path) == seen for path, seen in self._seen.items()):
            return self.is_current
        try:
            require_readable_again(self._path)
            config, context = self._read()
            if (context is None) != (self._context is None):
                raise UsageError(f"{self._path}: turning TLS on or off needs a restart")  # noqa: TRY301 - one place handles it
        except UsageError as error:
            self.is_current = False
            log.error("web configuration not reloaded, the old one stays: %s", error)  # noqa: TRY400 - a message, not a trace
            return False
        self._config, self._context = config, context
        self.is_current = True
        log.info("web configuration and certificates read again")
        return True

    def _read(self) -> tuple[WebConfig, ssl.SSLContext | None]:
        seen = {self._path: _stamp(self._path)}  # before it is read: a change in between is one at the next look
        try:
            config = load_web_config(self._path)
            tls = config.tls_server_config
            named = (tls.cert_file, tls.key_file, tls.client_ca_file) if tls else ()
            seen |= {path: _stamp(path) for path in named if path is not None}
            return config, _context_of(config, self._path)
        finally:
            self._seen = seen


def _stamp(path: Path) -> _Stamp:
    """Return what changes with a file's content, its rights, or the file that a link stands for."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ctime_ns, status.st_size, status.st_ino

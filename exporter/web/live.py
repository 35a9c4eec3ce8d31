"""The web configuration as it is on disk now: a renewed certificate counts from the next connection on."""

import logging
import ssl
from pathlib import Path

from exporter.errors import UsageError
from exporter.web.config import WebConfig, load_web_config
from exporter.web.tls import build_context

log = logging.getLogger(__name__)

_Signature = tuple[tuple[int, int, int] | None, ...]


def check_web_config(path: Path) -> tuple[WebConfig, ssl.SSLContext | None]:
    """Return a web configuration with the TLS context that follows from it, None for plain HTTP.

    Raises:
        UsageError: Lists every problem of the file and of the certificates it names.
    """
    config = load_web_config(path)
    try:
        return config, build_context(config.tls_server_config) if config.tls_server_config else None
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
        self._config, self._context = check_web_config(path)
        self._seen = self._signature(self._config)
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
        signature = self._signature(self._config)
        if signature == self._seen and not even_if_unchanged:
            return self.is_current
        self._seen = signature
        try:
            config, context = check_web_config(self._path)
            if (context is None) != (self._context is None):
                raise UsageError(f"{self._path}: turning TLS on or off needs a restart")  # noqa: TRY301 - one place handles it
        except UsageError as error:
            self.is_current = False
            log.error("web configuration not reloaded, the old one stays: %s", error)  # noqa: TRY400 - a message, not a trace
            return False
        self._config, self._context = config, context
        self._seen = self._signature(config)
        self.is_current = True
        log.info("web configuration and certificates read again")
        return True

    def _signature(self, config: WebConfig) -> _Signature:
        tls = config.tls_server_config
        files = (self._path, *((tls.cert_file, tls.key_file, tls.client_ca_file) if tls else ()))
        return tuple(_stamp(path) for path in files if path is not None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino

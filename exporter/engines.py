"""Which vLLM servers are watched: those named in the config, or those found on this host."""

import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from advisor.flags import EngineFlags
from advisor.readings import EngineProcess, EngineReading
from advisor.snapshot import EngineTarget
from exporter.config import EngineConfig
from exporter.errors import SourceError, UsageError
from exporter.sources.process import ProcessSource

FORGET_AFTER_SECONDS = 24 * 3600.0
"""A server that vanished stays on the pages as down for this long: a crash at night must be seen in the morning."""


@dataclass(kw_only=True, slots=True)
class Watched:
    """One server under watch."""

    engine: str
    url: str
    config: EngineConfig
    model: str | None = None
    ranks: tuple[tuple[str, str], ...] = ()
    last_running_seconds: float | None = None
    """Steady clock, when its process was last seen; None for a server that the config names."""
    alongside: frozenset[str] = frozenset()
    """The engines that ran when its process was last seen."""


@dataclass(kw_only=True)
class Engines:
    """The servers under watch, by engine id."""

    configured: tuple[EngineConfig, ...]
    on_new: Callable[[Watched], None]
    on_gone: Callable[[Watched], None]
    watched: dict[str, Watched] = field(default_factory=dict)

    def start(self) -> None:
        """Watch what the config names."""
        for config in self.configured:
            self._watch(Watched(engine=_name(config), url=config.url, config=config))

    def reconfigure(self, configured: tuple[EngineConfig, ...]) -> None:
        """Watch what a changed config names; a server that it names still is watched on, with its keys read again."""
        named_before = {_name(config) for config in self.configured}
        named = {_name(config): config for config in configured}
        self.configured = configured
        for engine, watched in list(self.watched.items()):
            leaves = engine not in named if configured else engine in named_before
            if leaves:
                del self.watched[engine]
                self.on_gone(watched)
        for engine, config in named.items():
            known = self.watched.get(engine)
            kept = known is not None and known.url == config.url
            ranks, model = (known.ranks, known.model) if known and kept else ((), None)
            self._watch(Watched(engine=engine, url=config.url, config=config, ranks=ranks, model=model))

    def discover(self, servers: Iterable[EngineProcess], now_seconds: float) -> None:
        """Watch what runs on this host now, by the steady clock, unless the config names the servers."""
        if self.configured:
            return
        running = {f"{server.host}:{server.port}": server for server in servers if not server.flags.headless}
        for engine, server in running.items():
            known = self.watched.get(engine)
            if known is None:
                url = f"{'https' if server.secure else 'http'}://{engine}"
                model = server.model_path or server.flags.model
                known = Watched(engine=engine, url=url, config=EngineConfig(url=url), model=model)
                self._watch(known)
            known.last_running_seconds = now_seconds
            known.alongside = frozenset(running)
        for watched in list(self.watched.values()):
            last = watched.last_running_seconds
            # The same model on another port is this server moved; a replica that ran beside it is not.
            moved = watched.engine not in running and any(
                self.watched[engine].model == watched.model for engine in running.keys() - watched.alongside
            )
            if moved or (last is not None and now_seconds - last > FORGET_AFTER_SECONDS):
                del self.watched[watched.engine]
                self.on_gone(watched)

    def answered(self, readings: Iterable[EngineReading]) -> None:
        """Keep the names of what answered, for the time when it does not."""
        for reading in readings:
            watched = self.watched.get(reading.engine)
            if watched is not None and (reading.model_name, reading.dp_rank) not in watched.ranks:
                same_model = tuple(rank for rank in watched.ranks if rank[0] == reading.model_name)
                watched.ranks = (*same_model, (reading.model_name, reading.dp_rank))

    def targets(self, failing: Callable[[str], str | None]) -> tuple[EngineTarget, ...]:
        """Return every watched server, with the reason why it does not answer if it does not."""
        return tuple(
            EngineTarget(engine=each.engine, url=each.url, failing=failing(each.engine), ranks=each.ranks)
            for each in sorted(self.watched.values(), key=lambda each: each.engine)
        )

    def _watch(self, watched: Watched) -> None:
        self.watched[watched.engine] = watched
        self.on_new(watched)


def _name(config: EngineConfig) -> str:
    return config.name or urlsplit(config.url).netloc


def local_flags(url: str, processes: Any) -> EngineFlags | None:
    """Return the flags of the server behind a loopback URL from its command line, None where that cannot be told.

    ``processes`` is the process table: the ``psutil`` module or a stand-in.
    """
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    try:
        found = ProcessSource(processes).read()
    except SourceError:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return next((each.flags for each in found if each.port == port), None)


def open_pool(config: EngineConfig) -> urllib3.HTTPConnectionPool:
    """Return the connection to one server, kept open between requests, with its credentials.

    Proxies and .netrc of the environment are left alone: a loopback server is behind neither. What requests would add
    to urllib3 is not used here, and would make a look a quarter dearer.

    Raises:
        UsageError: A key file or an authority cannot be read, or the environment variable is not set.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "vllm-headroom"}
    key = api_key(config)
    if key:
        headers["Authorization"] = f"Bearer {key}"
    if not config.url.startswith("https:"):
        return urllib3.connection_from_url(config.url, headers=headers)
    import certifi

    if config.ca_file is not None:
        try:
            ssl.create_default_context(cafile=config.ca_file)
        except OSError as error:  # ssl.SSLError too: it holds no certificate
            raise UsageError(f"ca_file of {config.url}: {config.ca_file} cannot be read, or is not PEM") from error
    return urllib3.connection_from_url(
        config.url, headers=headers, cert_reqs="CERT_REQUIRED", ca_certs=str(config.ca_file or certifi.where())
    )


def api_key(config: EngineConfig) -> str | None:
    """Return the key to a server, None where none is configured.

    Raises:
        UsageError: The key file cannot be read, or the environment variable is not set.
    """
    if config.api_key_file is not None:
        try:
            return Path(config.api_key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"api_key_file of {config.url}: {config.api_key_file} cannot be read") from error
    if config.api_key_env is not None:
        try:
            return os.environ[config.api_key_env].strip()
        except KeyError:
            raise UsageError(f"api_key_env of {config.url}: {config.api_key_env} is not set") from None
    return None

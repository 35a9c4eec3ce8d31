"""Which vLLM servers are watched: those named in the config, or those found on this host."""

import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from advisor.flags import EngineFlags
from advisor.readings import EngineProcess, EngineReading
from advisor.snapshot import EngineTarget
from exporter.authority import require_authority
from exporter.config import EngineConfig
from exporter.connection import Connection
from exporter.errors import CredentialMissing, SourceError
from exporter.secret import checked_key, secret_in
from exporter.sources.process import ProcessSource

FORGET_AFTER_SECONDS = 24 * 3600.0
"""A server that vanished stays on the pages as down for this long: a crash at night must be seen in the morning."""

_MOST_GONE = 32
"""Of those, the last to vanish are kept: what starts on another port time and again must not fill the pages."""


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
            self._watch(Watched(engine=config.label, url=config.url, config=config))

    def reconfigure(self, configured: tuple[EngineConfig, ...]) -> None:
        """Watch what a changed config names; a server that it names still is watched on, with its keys read again."""
        named_before = {config.label for config in self.configured}
        named = {config.label: config for config in configured}
        self.configured = configured
        for engine, watched in list(self.watched.items()):
            leaves = engine not in named if configured else engine in named_before
            if leaves:
                self._forget(watched)
        for engine, config in named.items():
            known = self.watched.get(engine)
            kept = known is not None and known.url == config.url
            ranks, model = (known.ranks, known.model) if known and kept else ((), None)
            self._watch(Watched(engine=engine, url=config.url, config=config, ranks=ranks, model=model))

    def discover(self, servers: Iterable[EngineProcess], now_seconds: float) -> None:
        """Watch what runs on this host now, by the steady clock, unless the config names the servers."""
        if self.configured:
            return
        running = {address: server for server in servers if (address := server.address) is not None}
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
                self._forget(watched)
        gone = [watched for watched in self.watched.values() if watched.engine not in running]
        for watched in sorted(gone, key=lambda each: each.last_running_seconds or 0.0)[:-_MOST_GONE]:
            self._forget(watched)

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
            EngineTarget(
                engine=each.engine,
                url=each.url,
                failing=failing(each.engine),
                ranks=each.ranks,
                gpus=each.config.gpus,
            )
            for each in sorted(self.watched.values(), key=lambda each: each.engine)
        )

    def _forget(self, watched: Watched) -> None:
        del self.watched[watched.engine]
        self.on_gone(watched)

    def _watch(self, watched: Watched) -> None:
        self.watched[watched.engine] = watched
        self.on_new(watched)


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
    return next((each.flags for each in found if each.port == port and each.address is not None), None)


def open_connection(config: EngineConfig) -> Connection:
    """Return a connection to one server, with its credentials; nothing is sent yet.

    Proxies and .netrc of the environment are left alone: a loopback server is behind neither.

    Raises:
        UsageError: As `api_key`, or as `require_authority`.
    """
    if config.ca_file is not None:
        require_authority(config.ca_file, config.url)
    return Connection(config.url, headers=request_headers(config), trust=partial(_trust, config.ca_file))


def request_headers(config: EngineConfig) -> dict[str, str]:
    """Return what goes with every request to a server.

    Raises:
        UsageError: As `api_key`.
    """
    headers = {"User-Agent": "vllm-headroom", "Accept": "*/*"}
    if key := api_key(config):
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _trust(authority: Path | None) -> ssl.SSLContext:
    """Return what trusts this authority alone, else those that requests brings."""
    if authority is not None:
        return ssl.create_default_context(cafile=authority)
    from requests.utils import DEFAULT_CA_BUNDLE_PATH  # eight mebibytes that few daemons need

    return ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)


def api_key(config: EngineConfig) -> str | None:
    """Return a server's API key, None where it has none.

    Raises:
        CredentialMissing: Its file cannot be opened, or the environment variable is not set.
        UsageError: What is there is no key.
    """
    if config.api_key_file is not None:
        told = f"api_key_file of {config.url}"
        return checked_key(secret_in(config.api_key_file, told), f"{told}: {config.api_key_file}")
    if config.api_key_env is not None:
        told = f"api_key_env of {config.url}: {config.api_key_env}"
        if config.api_key_env not in os.environ:
            raise CredentialMissing(f"{told} is not set")
        return checked_key(os.environ[config.api_key_env].strip(), told)
    return None

"""``vllm-headroom capture``: what an engine's pages say, byte for byte, to attach to a report or to test with."""

from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import click
import urllib3

from exporter.config import EngineConfig, checked_url
from exporter.engines import open_pool
from exporter.errors import UsageError

_PAGES = {"metrics": "/metrics", "version.json": "/version", "models.json": "/v1/models"}
_MOST_BYTES = 64 * 1024**2


@click.command(name="capture")
@click.option("--engine", "urls", multiple=True, metavar="URL", default=("http://127.0.0.1:8000",), show_default=True)
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File that holds the server's API key.")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
def command(urls: tuple[str, ...], api_key_file: Path | None, directory: Path) -> None:
    """Save /metrics, /version and /v1/models of each engine into DIRECTORY, exactly as they came.

    The pages hold figures and the model's name and path; no prompt, no answer and no key is part of them.
    """
    for url in urls:
        try:
            config = EngineConfig(url=checked_url(url), api_key_file=api_key_file)
        except ValueError as error:
            raise UsageError(f"--engine: {error}") from error
        folder = directory / urlsplit(config.url).netloc.replace(":", "_")
        folder.mkdir(parents=True, exist_ok=True)
        with open_pool(config) as pool:
            for name, path in _PAGES.items():
                click.echo(f"{folder / name}: {_save(pool, urlsplit(config.url).path + path, folder / name)}")


def _save(pool: urllib3.HTTPConnectionPool, path: str, file: Path) -> str:
    """Save one answer; return what happened, in words."""
    timeout = urllib3.Timeout(connect=2, read=10)
    try:
        with pool.urlopen("GET", path, timeout=timeout, retries=False, redirect=False, preload_content=False) as answer:
            if answer.status != HTTPStatus.OK:
                return f"not saved: HTTP {answer.status}"
            body = answer.read(_MOST_BYTES, decode_content=True)
    except urllib3.exceptions.HTTPError as error:
        return f"not saved: {type(error).__name__}"
    file.write_bytes(body)
    return f"{len(body)} bytes"

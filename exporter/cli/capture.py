"""``vllm-headroom capture``: what an engine's pages say, byte for byte, to attach to a report or to test with."""

from pathlib import Path
from urllib.parse import urlsplit

import click
import requests

from exporter.config import EngineConfig, checked_url
from exporter.engines import open_session
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
        with open_session(config) as session:
            for name, path in _PAGES.items():
                click.echo(f"{folder / name}: {_save(session, config.url + path, folder / name)}")


def _save(session: requests.Session, url: str, file: Path) -> str:
    """Save one answer; return what happened, in words."""
    try:
        with session.get(url, timeout=(2, 10), allow_redirects=False, stream=True) as response:
            if response.status_code != requests.codes.ok:
                return f"not saved: HTTP {response.status_code}"
            body = response.raw.read(_MOST_BYTES, decode_content=True)
    except requests.exceptions.RequestException as error:
        return f"not saved: {type(error).__name__}"
    file.write_bytes(body)
    return f"{len(body)} bytes"

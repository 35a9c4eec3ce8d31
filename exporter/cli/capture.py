"""``vllm-headroom capture``: what an engine's pages say, byte for byte, to attach to a report or to test with."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

import click
import requests

from exporter.config import named_engine
from exporter.engines import request_headers
from exporter.errors import UsageError
from exporter.unread import UNREAD, why_unread

_PAGES = {"metrics": "/metrics", "version.json": "/version", "models.json": "/v1/models"}
_MOST_BYTES = 64 * 1024**2


@click.command(name="capture")
@click.option(
    "--engine",
    "urls",
    multiple=True,
    metavar="URL",
    default=("http://127.0.0.1:8000",),
    show_default=True,
    help="A vLLM server; repeatable.",
)
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Holds the server's API key.")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
def command(urls: tuple[str, ...], api_key_file: Path | None, directory: Path) -> None:
    """Save /metrics, /version and /v1/models of each engine into DIRECTORY, exactly as they came.

    The pages hold figures and the model's name and path; no prompt, no answer and no key is part of them. Exit status 1
    where a page of metrics could not be saved.
    """
    saved = []
    for url in urls:
        config = named_engine("--engine", url, api_key_file=api_key_file)
        folder = directory / _folder_of(config.url)
        with requests.Session() as session:
            session.trust_env = False  # as the daemon asks
            session.headers.update(request_headers(config))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for name, path in _PAGES.items():
                    click.echo(f"{folder / name}: {_save(session, config.url + path, folder / name)}")
            except OSError as error:
                raise UsageError(f"{error.filename or folder}: {error.strerror}") from error
        saved.append((folder / "metrics").is_file())
    sys.exit(int(not all(saved)))


def _folder_of(url: str) -> str:
    """Return a name for one engine's folder: several engines may stand behind one host and port."""
    parts = urlsplit(url)
    return (parts.netloc + parts.path).replace(":", "_").replace("/", "_").lstrip(".") or "engine"


def _save(session: requests.Session, url: str, file: Path) -> str:
    """Save one answer; return what happened, in words.

    Raises:
        OSError: The file cannot be written.
    """
    file.unlink(missing_ok=True)  # what an earlier capture left there must not pass for this one's
    try:
        with session.get(url, timeout=(2, 10), allow_redirects=False, stream=True) as response:
            if response.status_code != requests.codes.ok:
                return f"not saved: it answers {response.status_code}"
            body = response.raw.read(_MOST_BYTES, decode_content=True)
    except UNREAD as error:
        return f"not saved: {why_unread(error)}"
    file.write_bytes(body)
    return f"{len(body)} bytes"

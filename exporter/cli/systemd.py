"""``vllm-headroom systemd``: the unit files of this installation."""

import stat
import sys
from collections.abc import Iterable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

import exporter
from exporter.command_line import shell_word, systemd_word
from exporter.errors import UsageError

_SHIPPED_EXECUTABLE = "/opt/vllm-headroom/bin/vllm-headroom"
_PRIVATE = ("/root/", "/home/", "/tmp/")  # noqa: S108 - compared with, not written to


@click.group(name="systemd")
def command() -> None:
    """Run it as a service: writes the unit files."""


@command.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--executable",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What the service starts; default: the vllm-headroom of this environment.",
)
def export(directory: Path, executable: Path | None) -> None:
    """Write the unit files into DIRECTORY.

    The service, its drop-in, socket, environment file, sysusers and tmpfiles; docs/systemd.md says where each belongs.
    """
    started = (executable or Path(sys.executable).with_name("vllm-headroom")).absolute()
    word = systemd_word(str(started))
    for name, content in unit_files():
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content.replace(_SHIPPED_EXECUTABLE, word), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error
        click.echo(path)
    if _is_missing(started):
        click.echo(f"note: {started} is not there: --executable names another", err=True)
    if note := kept_from_the_service((started, *(() if executable else _own_parts()))):
        click.echo(f"note: {note}", err=True)


def kept_from_the_service(needed: Iterable[Path]) -> str | None:
    """Return which of these a service's own user cannot get at, and what to do about it; None where it can at all."""
    for path in needed:
        if str(path).startswith(_PRIVATE):
            return f"{path} lies where a service's own user cannot go: install into /opt or /usr/local"
        if closed := _closed(path):
            return f"{closed} is closed to a service's own user: chmod -R go+rX {shell_word(str(closed))}"
    return None


def _own_parts() -> tuple[Path, ...]:
    """Return what else this environment's command needs: the real interpreter, which a link may stand for, and us."""
    return Path(sys.executable).resolve(), Path(exporter.__file__).parent


def _is_missing(path: Path) -> bool:
    """Tell whether a file is surely not there: who may not look, as an ordinary user below /root, cannot say so."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _closed(path: Path) -> Path | None:
    """Return the first directory on the way to a program, or itself, that others may not enter or run."""
    for each in (*reversed(path.parents), path):
        try:
            if not each.stat().st_mode & stat.S_IXOTH:
                return each
        except OSError:
            return None
    return None


def unit_files() -> Iterator[tuple[str, str]]:
    """Yield name and content of every unit file, as they were shipped."""
    yield from _walk(_folder(), "")


def _folder() -> Traversable:
    """Find the folder: inside the package in an installation, at the top in a checkout."""
    installed = files("exporter").joinpath("systemd")
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "systemd"


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.read_text(encoding="utf-8")

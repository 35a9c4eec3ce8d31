"""What is installed from a wheel, and what a source distribution holds."""

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from exporter.cli import COMMANDS

pytestmark = pytest.mark.needs_checkout

ROOT = Path(__file__).resolve().parent.parent
_BUILD = """
import sys
from setuptools import build_meta
to = sys.argv[1]  # the backend puts its own arguments there
build_meta.build_wheel(to)
build_meta.build_sdist(to)
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A copy of the files under version control, and their names: building leaves traces in its folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    names = [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]
    copy = tmp_path_factory.mktemp("source")
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy, names


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    """The wheel and the source distribution, by the build backend itself."""
    to = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(to)], cwd=tracked[0], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = to.glob("*.whl"), to.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Where the wheel was installed, and how to run its command from there."""
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, built[0]],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, str(target / "bin" / "vllm-headroom"), *arguments],
            cwd=target,
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            check=False,
        )

    return target, run


def test_the_wheel_holds_every_module_and_every_file_that_is_read_at_run_time(tracked, built):
    _, names = tracked
    packages = ("advisor/", "exporter/", "dashboards/", "systemd/", "docs/runbooks/")
    wanted = {
        re.sub("^systemd/", "exporter/systemd/", re.sub("^docs/runbooks/", "dashboards/runbooks/", name))
        for name in names
        if name.startswith(packages) and not name.endswith(".toml")
    }
    with zipfile.ZipFile(built[0]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert wanted - held == set()
    assert held - wanted == set()


def test_the_source_distribution_holds_everything_needed_to_build_and_test(tracked, built):
    _, names = tracked
    with tarfile.open(built[1]) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert {name for name in names if not name.startswith(".")} - held == set()


def test_a_source_distribution_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(fileobj=io.BytesIO(built[1].read_bytes())) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    subprocess.run([sys.executable, "-c", _BUILD, str(tmp_path)], cwd=source, capture_output=True, check=True)
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built[0]) as first, zipfile.ZipFile(again) as second:
        assert {each.filename: each.CRC for each in first.infolist() if "RECORD" not in each.filename} == {
            each.filename: each.CRC for each in second.infolist() if "RECORD" not in each.filename
        }


def test_the_installed_command_runs_from_anywhere(installed):
    target, run = installed
    shown = run("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "serve" in shown.stdout
    located = subprocess.run(
        [sys.executable, "-c", "import exporter; print(exporter.__file__)"],
        cwd=target,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert located.startswith(str(target)), "the installed one, not the checkout"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_installed_command_finds_what_it_imports(installed, name):
    shown = installed[1](name, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")


def test_the_installed_command_writes_its_unit_files(installed, tmp_path):
    _, run = installed
    written = run("systemd", "export", str(tmp_path), "--executable", sys.executable)
    assert written.returncode == 0, written.stderr
    shipped = {str(path.relative_to(ROOT / "systemd")) for path in (ROOT / "systemd").rglob("*") if path.is_file()}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == shipped
    service = (tmp_path / "vllm-headroom.service").read_text()
    assert f"\nExecStart={sys.executable} serve $OPTIONS\n" in service


def test_the_installed_command_writes_dashboards_rules_and_runbooks(installed, tmp_path):
    written = installed[1]("dashboards", "export", str(tmp_path))
    assert written.returncode == 0, written.stderr
    pages = {page.name for page in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert {page.name for page in (tmp_path / "runbooks").iterdir()} == pages
    boards = {board.name for board in (ROOT / "dashboards/generated/grafana/dashboards").iterdir()}
    assert {board.name for board in (tmp_path / "grafana" / "dashboards").iterdir()} == boards
    assert (tmp_path / "prometheus" / "vllm-headroom.alerts.yaml").is_file()

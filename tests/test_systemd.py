"""The unit files, judged by systemd's own tools."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner

from exporter.cli.systemd import command, kept_from_the_service, unit_files

UNITS = Path(__file__).resolve().parent.parent / "systemd"


@pytest.fixture
def exported(tmp_path):
    result = CliRunner().invoke(command, ["export", str(tmp_path), "--executable", sys.executable])
    assert result.exit_code == 0, result.output
    return tmp_path


def analyze(*arguments):
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def exposure(unit):
    told = analyze("security", "--offline=yes", "--no-pager", str(unit))
    return float(re.search(r"Overall exposure level for \S+: ([\d.]+)", told.stdout)[1])


@pytest.mark.needs_systemd
def test_systemd_has_nothing_to_say_of_the_units(exported):
    told = analyze("verify", str(exported / "vllm-headroom.service"), str(exported / "vllm-headroom.socket"))
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


@pytest.mark.needs_systemd
def test_the_service_as_shipped_is_exposed_to_at_most_1_8(exported, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone") / "vllm-headroom.service"
    alone.write_text((exported / "vllm-headroom.service").read_text())
    assert exposure(alone) <= 1.8
    # Reading other users' processes has its price, and it is in a file of its own, which says so.
    assert exposure(exported / "vllm-headroom.service") <= 2.2


def test_every_setting_has_its_reason_above_it():
    without = []
    for name in ("vllm-headroom.service", "vllm-headroom.socket", "vllm-headroom.service.d/10-read-other-users.conf"):
        explained = False
        for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                explained = True
            elif not line or line.startswith("["):
                explained = False
            elif not explained and line.partition("=")[0] not in {
                *("Description", "Documentation", "ListenStream", "WantedBy", "EnvironmentFile"),
            }:
                without.append(line)
    assert without == []


def test_every_variable_of_the_command_line_has_a_value_in_the_unit_itself():
    """systemd 253 and newer remark on one without at every start, and the file that may set it need not be there."""
    service = dict(unit_files())["vllm-headroom.service"]
    command_line = re.search(r"^ExecStart=(.*)$", service, re.MULTILINE)[1]
    named = re.findall(r"\$\{?(\w+)", command_line)
    assert named == ["OPTIONS"]
    assert all(f"\nEnvironment={name}=" in service for name in named)


def test_what_cannot_be_set_on_a_host_with_gpus_is_not_set():
    service = dict(unit_files())["vllm-headroom.service"]
    settings = {line.partition("=")[0] for line in service.splitlines() if not line.startswith("#")}
    # Each of these hides the GPUs or the processes on them.
    assert not settings & {"PrivateDevices", "PrivateUsers", "ProtectProc", "ProcSubset", "PrivateNetwork"}


def test_a_service_of_an_executable_where_its_user_cannot_go_is_warned_of(tmp_path):
    result = CliRunner().invoke(command, ["export", str(tmp_path), "--executable", "/root/.local/bin/vllm-headroom"])
    assert result.exit_code == 0
    assert "install into /opt or /usr/local" in result.stderr


def test_an_environment_that_a_strict_umask_closed_to_the_services_user_is_warned_of():
    # Not below /tmp, whose files no service sees whatever their modes.
    with TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        executable = Path(folder, "venv", "bin", "vllm-headroom")
        executable.parent.mkdir(parents=True)
        executable.touch()
        notes = []
        for venv, own in ((0o755, 0o755), (0o755, 0o700), (0o750, 0o700)):
            Path(folder, "venv").chmod(venv)
            executable.chmod(own)
            result = CliRunner().invoke(command, ["export", f"{folder}/units", "--executable", str(executable)])
            notes.append(result.stderr.partition(" is closed to a service's own user: ")[0])
        assert notes == ["", f"note: {executable}", f"note: {folder}/venv"]


def test_packages_and_an_interpreter_that_the_services_user_cannot_get_at_are_warned_of():
    # pip leaves scripts open and packages closed under a strict umask; a venv's python is a link into somebody's home.
    with TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        script, package = Path(folder, "vllm-headroom"), Path(folder, "it's ours", "exporter")
        script.touch(0o755)
        package.mkdir(0o755, parents=True)
        package.parent.chmod(0o755)
        assert kept_from_the_service((script, package)) is None
        package.chmod(0o700)
        chmod = f"chmod -R go+rX {shlex.quote(str(package))}"
        assert kept_from_the_service((script, package)) == f"{package} is closed to a service's own user: {chmod}"
        interpreter = Path("/root/.pyenv/versions/3.11.7/bin/python3.11")
        assert str(kept_from_the_service((script, interpreter))).startswith(f"{interpreter} lies where")


@pytest.mark.needs_systemd
def test_an_executable_whose_path_systemd_would_take_apart_is_spelled_for_it(tmp_path):
    executable = tmp_path / "our tools 100%" / "vllm-headroom"
    executable.parent.mkdir()
    executable.symlink_to(sys.executable)
    result = CliRunner().invoke(command, ["export", str(tmp_path / "units"), "--executable", str(executable)])
    assert result.exit_code == 0, result.output
    told = analyze("verify", str(tmp_path / "units" / "vllm-headroom.service"))
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_an_executable_that_is_not_there_is_warned_of(tmp_path):
    missing = tmp_path / "bin" / "vllm-headroom"
    result = CliRunner().invoke(command, ["export", str(tmp_path), "--executable", str(missing)])
    assert result.exit_code == 0
    assert f"{missing} is not there" in result.stderr


def test_an_executable_that_cannot_be_looked_at_is_not_said_to_be_missing(tmp_path):
    result = CliRunner().invoke(command, ["export", str(tmp_path), "--executable", f"/opt/{'a' * 300}"])
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_directory_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(command, ["export", str(tmp_path / "file" / "units")])
    assert "Not a directory" in str(result.exception)

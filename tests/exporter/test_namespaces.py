"""Containers, made of what they are made of: the kernel's own PID and network namespaces."""

import json
import subprocess
import sys

import psutil
import pytest

from exporter.sources.process import ProcessSource
from tests.exporter.daemon import FakeServer, daemon, vllm_page
from tests.namespaces import unshare
from tests.nvml_standin.standin import GIB, Process, State, environment

FAST = ("--poll-interval", "0.25")
OF_THE_HOST = 4_242_424
"""A process's number that no namespace knows, this one included: these tests may be their container's first process."""


@pytest.mark.needs_cc
@pytest.mark.needs_namespaces("pid", "mount-proc")
def test_a_daemon_in_a_pid_namespace_of_its_own_says_what_it_cannot_map(tmp_path, nvml_library):
    state = State(tmp_path / "nvml.state")
    gpu = state.add_gpu()
    gpu.set_memory(total=80 * GIB, used=60 * GIB, reserved=GIB // 2)
    gpu.set_processes(Process(pid=OF_THE_HOST, memory=60 * GIB))
    server = FakeServer()
    server.page(vllm_page())
    prefix = unshare("pid", "mount-proc")
    variables = environment(nvml_library, state)
    with daemon(*FAST, "--engine", server.url, environment=variables, prefix=prefix) as running:
        running.wait_for(lambda: running.value("headroom_engine_up") == 1.0)
        rules = running.wait_for(
            lambda: {each["rule"]: each for each in json.loads(running.get("/api/v1/status"))["findings"]}
        )
        assert set(rules) == {"memory_without_owner", "engine_not_mapped"}
        assert "host's processes" in rules["memory_without_owner"]["advice"]
        assert str(OF_THE_HOST) not in json.dumps(rules)
        assert running.value("headroom_gpu_memory_component_bytes", component="foreign") == 60 * GIB
        gpu.set_processes()  # what a driver shows to such a container: nothing
        running.wait_for(
            lambda: "no process that the driver names" in json.dumps(json.loads(running.get("/api/v1/status")))
        )
        assert running.value("headroom_gpu_memory_component_bytes", component="foreign") == 60 * GIB
    server.close()


@pytest.fixture
def contained(tmp_path):
    """Start ``vllm serve`` as a stand-in program in namespaces of its own; it has a worker."""
    program = tmp_path / "vllm"
    program.write_text(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    started = []

    def start(*kinds, before="true", host="0.0.0.0"):
        shell = ("sh", "-c", f'{before}; exec "$@"', "sh")
        command = [
            *unshare(*kinds),
            *shell,
            sys.executable,
            str(program),
            "serve",
            "m",
            "--port",
            "8123",
            "--host",
            host,
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.communicate()


@pytest.mark.needs_namespaces("pid", "mount-proc")
def test_a_server_in_a_pid_namespace_of_its_own_is_found_with_the_pids_that_the_driver_uses(contained):
    outer = contained("pid", "mount-proc")
    here = {child.pid for child in psutil.Process(outer.pid).children(recursive=True)}
    (server,) = (each for each in ProcessSource(psutil).read() if each.pids & here)
    assert server.pids == here
    assert len(here) == 2


@pytest.mark.needs_namespaces("net")
def test_a_server_whose_network_has_no_address_is_not_looked_for_at_this_hosts_loopback(contained):
    outer = contained("net")
    here = {child.pid for child in psutil.Process(outer.pid).children(recursive=True)}
    (server,) = (each for each in ProcessSource(psutil).read() if each.pids & here)
    assert (server.host, server.address) == ("", None)  # another server may be there


@pytest.mark.needs_ip
@pytest.mark.needs_namespaces("net")
def test_a_server_at_the_loopback_of_another_network_is_not_looked_for_at_this_hosts(contained):
    address = "ip link set lo up && ip address add 198.51.100.7/32 dev lo"
    outer = contained("net", before=address, host="127.0.0.1")
    here = {child.pid for child in psutil.Process(outer.pid).children(recursive=True)}
    (server,) = (each for each in ProcessSource(psutil).read() if each.pids & here)
    assert server.address is None


@pytest.mark.needs_ip
@pytest.mark.needs_namespaces("net")
def test_a_server_in_a_network_of_its_own_is_asked_at_its_own_address(contained):
    outer = contained("net", before="ip link set lo up && ip address add 198.51.100.7/32 dev lo")
    here = {child.pid for child in psutil.Process(outer.pid).children(recursive=True)}
    (server,) = (each for each in ProcessSource(psutil).read() if each.pids & here)
    assert (server.host, server.port) == ("198.51.100.7", 8123)

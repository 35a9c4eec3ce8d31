"""The check of our GPU readings, over the stand-in driver; and every capture of a real one, read again."""

import ctypes
import json
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from advisor.readings import Gpu, GpuProcess
from advisor.units import GIB, MIB
from bench.gpu_check.__main__ import plain, replayed
from bench.gpu_check.checks import adds_up, against_cuda, against_nvidia_smi
from bench.gpu_check.others import NvidiaSmi, cuda_totals, parse_gpus, parse_processes
from bench.gpu_check.record import MadeUp, Recorded, Replayed
from exporter.sources.nvml import GpuReadings, NvmlSource
from tests.nvml_standin.standin import Process, State, environment

REPOSITORY = Path(__file__).parents[2]
CAPTURES = sorted((REPOSITORY / "tests/captures/nvml").glob("*.json"))
UUID = "GPU-6fb0e2a4-3d4f-4c60-9d0c-1a2b3c4d5e6f"


# What is written down.


@pytest.fixture
def recorded(nvml):
    """A reading of two GPUs, one with two processes, and what was written down of it."""
    first, _ = nvml.add_gpu(), nvml.add_gpu({"power": None})
    first.set_memory(total=80 * GIB, used=30 * GIB, reserved=GIB // 2)
    first.set_processes(Process(pid=4711, memory=20 * GIB), Process(pid=4712, memory=None))
    recorder = Recorded(pynvml, MadeUp())
    source = NvmlSource(recorder)
    readings = source.read()
    source.close()
    return readings, json.loads(json.dumps(recorder.calls))


@pytest.mark.needs_cc
def test_a_capture_reads_as_the_gpus_did(recorded):
    readings, calls = recorded
    again = replayed(calls)
    assert [replace(each, uuid="") for each in again.gpus] == [replace(each, uuid="") for each in readings.gpus]
    assert again.gpus[0].memory_used_bytes == 30 * GIB
    assert again.gpus[1].power_watts is None
    assert [each.used_bytes for each in again.processes] == [20 * GIB, None]
    assert again.failure is None


@pytest.mark.needs_cc
def test_a_capture_names_no_board_and_no_process(recorded):
    readings, calls = recorded
    text = json.dumps(calls)
    for secret in (*(each.uuid for each in readings.gpus), "4711", "4712"):
        assert secret not in text
    again = replayed(calls)
    assert [each.uuid for each in again.gpus] == [f"GPU-00000000-0000-0000-0000-{n:012d}" for n in (1, 2)]
    assert {each.uuid for each in again.processes} == {again.gpus[0].uuid}, "who holds what is still known"


@pytest.mark.needs_cc
def test_a_question_that_was_not_asked_then_is_answered_as_an_old_driver_does(recorded):
    _, calls = recorded
    fewer = [each for each in calls if each["call"] != "nvmlDeviceGetPowerUsage"]
    assert replayed(fewer).gpus[0].power_watts is None


@pytest.mark.needs_cc
def test_an_error_that_came_between_two_readings_comes_again(nvml):
    gpu = nvml.add_gpu()
    recorder = Recorded(pynvml, MadeUp())
    source = NvmlSource(recorder)
    source.read()
    gpu.add_xid(79)
    assert source.read().gpus[0].xid_errors_total == {79: 1}
    source.close()
    again = NvmlSource(Replayed(pynvml, json.loads(json.dumps(recorder.calls))))
    assert [again.read().gpus[0].xid_errors_total for _ in range(2)] == [{}, {79: 1}]


@pytest.mark.parametrize("capture", ["of the stand-in", *(each.name for each in CAPTURES)])
@pytest.mark.needs_cc
def test_every_capture_is_read_as_it_was_when_it_was_made(capture, recorded):
    if capture == "of the stand-in":
        calls, expected = recorded[1], plain(replayed(recorded[1]))
    else:
        content = json.loads((REPOSITORY / "tests/captures/nvml" / capture).read_text(encoding="utf-8"))
        calls, expected = content["calls"], content["readings"]
    assert plain(replayed(calls)) == expected
    assert expected["gpus"]
    assert expected["failure"] is None


# What is compared.


def card(**changes):
    return Gpu(
        **{
            "gpu": "0",
            "uuid": UUID,
            "name": "NVIDIA H100 80GB HBM3",
            "driver_version": "570.86.15",
            "compute_capability": "9.0",
            "memory_total_bytes": 81559 * MIB,
            "memory_used_bytes": 40000 * MIB,
            "memory_free_bytes": 41000 * MIB,
            "memory_reserved_bytes": 559 * MIB,
            "temperature_celsius": 41,
        }
        | changes
    )


def read(gpu, *processes):
    told = tuple(GpuProcess(uuid=UUID, pid=pid, used_bytes=used) for pid, used in processes)
    return GpuReadings(gpus=(gpu,), processes=told, failure=None)


def smi(*, processes=(), **changes):
    row = {
        "uuid": UUID,
        "name": "NVIDIA H100 80GB HBM3",
        "driver_version": "570.86.15",
        "compute_cap": "9.0",
        "memory.total": "81559",
        "memory.reserved": "559",
        "memory.used": "40000",
        "memory.free": "41000",
        "temperature.gpu": "41",
    }
    return NvidiaSmi(
        gpus={UUID: row | changes},
        process_bytes={(UUID, pid): used for pid, used in processes},
    )


def verdicts(checks):
    return [each.verdict for each in checks]


def test_memory_that_adds_up_agrees_and_memory_that_does_not_differs():
    assert verdicts(adds_up(read(card(), (1, 39_000 * MIB)))) == ["agrees", "agrees"]
    total, _ = adds_up(read(card(memory_free_bytes=40_000 * MIB)))
    assert total.verdict == "differs"
    _, held = adds_up(read(card(), (1, 30_000 * MIB), (2, 11_000 * MIB)))
    assert held.verdict == "differs"


def test_a_board_whose_memory_is_on_its_instances_is_left_out():
    parent = card(memory_total_bytes=None, memory_used_bytes=None, memory_free_bytes=None, mig="parent")
    assert verdicts(adds_up(read(parent))) == ["left out"]
    assert verdicts(against_nvidia_smi(read(parent), smi(), read(parent))) == ["left out"]


def test_equal_figures_agree():
    before = after = read(card(), (7, 39_000 * MIB))
    figures, processes = against_nvidia_smi(before, smi(processes=((7, 39_000 * MIB),)), after)
    assert (figures.verdict, processes.verdict) == ("agrees", "agrees")
    assert "memory.reserved" in figures.words
    assert "1 compute processes" in processes.words


def test_what_changed_between_our_two_readings_is_no_difference():
    later = read(card(memory_used_bytes=42_000 * MIB, memory_free_bytes=39_000 * MIB))
    said = smi(**{"memory.used": "41200", "memory.free": "39800"})
    assert verdicts(against_nvidia_smi(read(card()), said, later)) == ["agrees", "agrees"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory.used": "40559"}, "memory.used is 40559 there and 40000 to 40000 here"),
        ({"name": "NVIDIA H100 PCIe"}, "name is 'NVIDIA H100 PCIe' there"),
        ({"temperature.gpu": "60"}, "temperature.gpu is 60 there"),
    ],
)
def test_another_figure_differs_and_is_told(changes, words):
    figures, _ = against_nvidia_smi(read(card()), smi(**changes), read(card()))
    assert figures.verdict == "differs"
    assert words in figures.words


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        (((7, 20_000 * MIB),), "a process holds 19.53 GiB there and 38.09 GiB to 38.09 GiB here"),
        (((7, None),), "told by one of us alone"),
        (((7, 39_000 * MIB), (8, MIB)), "process 2 of 2 is listed there alone"),
    ],
)
def test_another_memory_of_a_process_differs(processes, words):
    ours = read(card(), (7, 39_000 * MIB))
    _, check = against_nvidia_smi(ours, smi(processes=processes), ours)
    assert check.verdict == "differs"
    assert words in check.words


def test_a_gpu_that_one_of_us_does_not_list_differs():
    assert verdicts(against_nvidia_smi(read(card()), NvidiaSmi(gpus={}, process_bytes={}), read(card()))) == ["differs"]


def test_the_table_of_nvidia_smi_is_read():
    row = f"{UUID}, NVIDIA H100 80GB HBM3, 570.86.15, 9.0, 81559, 559, 40000, 41000, 41, [N/A]\n"
    (board,) = parse_gpus(row).values()
    assert (board["memory.total"], board["name"]) == ("81559", "NVIDIA H100 80GB HBM3")
    assert "ecc.errors.uncorrected.aggregate.total" not in board, "a board without ECC tells no errors"
    processes = parse_processes(f"{UUID}, 4711, 20480\n{UUID}, 4712, [N/A]\n")
    assert processes == {(UUID, 4711): 20 * GIB, (UUID, 4712): None}
    assert (parse_gpus(""), parse_processes("\n")) == ({}, {})


class Cuda:
    """libcuda with one device, in Python."""

    def __init__(self, total, status=0):
        self.total, self.status = total, status

    def cuInit(self, _flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = ordinal
        return 0

    def cuDeviceTotalMem_v2(self, size, _device):
        size._obj.value = self.total
        return 0

    def cuDeviceGetUuid_v2(self, name, _device):
        ctypes.memmove(name._obj, uuid.UUID(UUID.partition("-")[2]).bytes, 16)
        return 0


def test_the_total_without_what_is_reserved_is_what_cuda_sees():
    assert verdicts(against_cuda(read(card()), cuda_totals(Cuda(81_000 * MIB)))) == ["agrees"]
    (check,) = against_cuda(read(card()), cuda_totals(Cuda(81_559 * MIB)))
    assert check.verdict == "differs", "were reserved memory CUDA's, every budget would be off by it"
    assert verdicts(against_cuda(read(card()), {})) == ["left out"]


def test_a_cuda_that_does_not_start_is_told():
    with pytest.raises(RuntimeError, match="cuInit fails with 100"):
        cuda_totals(Cuda(0, status=100))


# The command.


def checked(tmp_path, *, nvidia_smi, variables=None):
    return subprocess.run(
        [
            *(sys.executable, "-m", "bench.gpu_check", "--write", str(tmp_path / "capture.json")),
            *("--nvidia-smi", str(nvidia_smi), "--cuda", "libnone.so.1"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=variables,
        cwd=REPOSITORY,
        timeout=120,
    )


def nvidia_smi(tmp_path, *, gpus, processes=""):
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\ncase "$1" in --query-gpu=*) echo "{gpus}";; *) echo "{processes}";; esac\n')
    program.chmod(0o755)
    return program


@pytest.fixture
def host(nvml_library, tmp_path):
    state = State(tmp_path / "nvml.state")
    gpu = state.add_gpu()
    gpu.set_memory(total=80 * GIB, used=30 * GIB, reserved=GIB // 2)
    gpu.set_processes(Process(pid=4711, memory=20 * GIB))
    return gpu, environment(nvml_library, state)


@pytest.mark.needs_cc
def test_the_command_checks_and_writes_a_capture_that_reads_the_same(host, tmp_path):
    gpu, variables = host
    row = f"{gpu.uuid}, NVIDIA H100 80GB HBM3, 570.86.15, 9.0, 81920, 512, 30720, 50688, 31, 0"
    program = nvidia_smi(tmp_path, gpus=row, processes=f"{gpu.uuid}, 4711, 20480")
    result = checked(tmp_path, nvidia_smi=program, variables=variables)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "differs" not in result.stdout
    assert "nvidia-smi: name, driver_version, compute_cap, memory.total, memory.reserved" in result.stdout
    assert "nvidia-smi: the memory of 1 compute processes" in result.stdout
    assert "left out  CUDA: libnone.so.1" in result.stdout
    content = json.loads((tmp_path / "capture.json").read_text())
    assert plain(replayed(content["calls"])) == content["readings"]
    assert content["readings"]["gpus"][0]["memory_used_bytes"] == 30 * GIB
    assert gpu.uuid not in (tmp_path / "capture.json").read_text()


@pytest.mark.needs_cc
def test_a_difference_is_told_and_is_the_exit_status(host, tmp_path):
    gpu, variables = host
    row = f"{gpu.uuid}, NVIDIA H100 80GB HBM3, 570.86.15, 9.0, 81920, 512, 31232, 50176, 31, 0"
    result = checked(tmp_path, nvidia_smi=nvidia_smi(tmp_path, gpus=row), variables=variables)
    assert result.returncode == 1
    assert "differs   GPU 0 (NVIDIA H100 80GB HBM3): nvidia-smi: memory.used is 31232 there" in result.stdout


@pytest.mark.needs_cc
def test_without_nvidia_smi_the_rest_is_checked(host, tmp_path):
    _, variables = host
    result = checked(tmp_path, nvidia_smi=tmp_path / "none", variables=variables)
    assert result.returncode == 0
    assert "left out  nvidia-smi: " in result.stdout
    assert (tmp_path / "capture.json").exists()


@pytest.mark.needs_cc
def test_without_a_driver_it_skips_politely(nvml_library, tmp_path):
    state = State(tmp_path / "nvml.state")
    state.fail("nvmlInit*", "DRIVER_NOT_LOADED")
    result = checked(tmp_path, nvidia_smi="nvidia-smi", variables=environment(nvml_library, state))
    assert result.returncode == 0
    why, said = result.stdout.splitlines()
    assert why.startswith("driver_not_loaded: ")
    assert why.count("driver_not_loaded") == 1
    assert said == "There is no NVIDIA GPU to check here; nothing was checked."
    assert not (tmp_path / "capture.json").exists()

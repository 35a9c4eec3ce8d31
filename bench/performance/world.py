"""A made-up host to measure on: GPUs behind the stand-in NVML library, vLLM-shaped servers, other processes."""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from bench.ports import free_ports
from tests.nvml_standin.standin import GIB, Process, State, build, environment

_ROOT = Path(__file__).parents[2]
PAGE = _ROOT / "tests" / "captures" / "vllm" / "0.32.0" / "single_kv_scarce_3.metrics"
_ENGINE = Path(__file__).with_name("engine.py")
_STARTS_WITHIN_SECONDS = 60.0
_GPU_BYTES = 80 * GIB

_MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""Qwen3-8B's shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What a program that is measured lives in."""

    environment: dict[str, str]
    """Shows it the GPUs."""
    engine_urls: tuple[str, ...]
    gpus: int


@contextmanager
def world(folder: Path, *, gpus: int, engines: int = 0, others: int = 0, processes_per_gpu: int = 2) -> Iterator[World]:
    """Let a host exist while the context lasts: ``engines`` servers over its GPUs, ``others`` idle processes besides.

    Each GPU lists at least ``processes_per_gpu`` processes: its engines, then strangers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        ports = free_ports(engines)
        servers = [running.enter_context(_started(_engine_command(folder, port), **_PAGES)) for port in ports]
        holders: list[list[int]] = [[server.pid for server in servers[number::gpus]] for number in range(gpus)]
        for pids in holders:
            while len(pids) < processes_per_gpu:
                pids.append(running.enter_context(_started(["sleep", "infinity"])).pid)
        for _ in range(others):
            running.enter_context(_started(["sleep", "infinity"]))
        state = State(folder / "nvml.state")
        with state.together():
            for pids in holders:
                gpu = state.add_gpu()
                each = int(_GPU_BYTES * 0.9) // len(pids)
                gpu.set_memory(used=each * len(pids), total=_GPU_BYTES)
                gpu.set_processes(*(Process(pid=pid, memory=each, utilization=(45, 20, 0, 0)) for pid in pids))
        for port in ports:
            _wait_for(f"http://127.0.0.1:{port}/version")
        yield World(
            environment={**environment(build(folder.parent), state), "PYTHONPATH": str(_ROOT)},
            engine_urls=tuple(f"http://127.0.0.1:{port}" for port in ports),
            gpus=gpus,
        )


_PAGES = {"PAGE": str(PAGE), "VERSION": "0.32.0"}


def _engine_command(folder: Path, port: int) -> list[str]:
    link = folder / "vllm"
    if not link.exists():
        link.symlink_to(_ENGINE)
        _write_model(folder / "model")
    return [sys.executable, str(link), "serve", str(folder / "model"), "--port", str(port), "--max-num-seqs", "64"]


def _write_model(directory: Path) -> None:
    """Write config.json and the header of a weights file; nobody reads the weights themselves."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(_MODEL), encoding="utf-8")
    hidden, inner, heads, kv_heads, size, vocabulary = (
        *(int(str(_MODEL[key])) for key in ("hidden_size", "intermediate_size", "num_attention_heads")),
        *(int(str(_MODEL[key])) for key in ("num_key_value_heads", "head_dim", "vocab_size")),
    )
    layer = {
        "self_attn.q_proj.weight": (heads * size, hidden),
        "self_attn.k_proj.weight": (kv_heads * size, hidden),
        "self_attn.v_proj.weight": (kv_heads * size, hidden),
        "self_attn.o_proj.weight": (hidden, heads * size),
        "self_attn.q_norm.weight": (size,),
        "self_attn.k_norm.weight": (size,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    for number in range(int(str(_MODEL["num_hidden_layers"]))):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    header, at = {}, 0
    for name, shape in shapes.items():
        length = 2
        for dimension in shape:
            length *= dimension
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (at, at + length)}
        at += length
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


@contextmanager
def _started(command: list[str], **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(  # noqa: S603 - our own stand-ins
        command, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str) -> None:
    end = time.monotonic() + _STARTS_WITHIN_SECONDS
    while True:
        try:
            with urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback
                answer.read()
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)

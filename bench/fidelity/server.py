"""A real vLLM on this machine's CPU with a tiny model and a scarce KV cache."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from bench.ports import free_port

_STARTS_WITHIN_SECONDS = 600.0
QUICK_FLAGS = (
    "--enforce-eager",
    # The engine runs the model itself: a worker of its own would wait for each step in a busy loop.
    *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
)
QUICK_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""So small a model gains nothing from more threads, and they wait for each other where the machine is shared."""
_SMALLER = {
    "num_hidden_layers": 1,
    "max_window_layers": 1,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
"""The scheduler does not care how much a step computes."""
_TINY_MODEL = Path(__file__).parents[2] / "tests" / "end_to_end" / "tiny_model.py"


def write_model(vllm: Path, directory: Path) -> Path:
    """Write the tiny model with vLLM's own Python, which has the tokenizers package."""
    subprocess.run([vllm.parent / "python", _TINY_MODEL, directory], check=True)  # noqa: S603 - our own script
    return directory


def write_smaller_model(vllm: Path, directory: Path) -> Path:
    """Write the tiny model, and of that one layer: where the scheduler is what counts."""
    config = write_model(vllm, directory) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), **_SMALLER}), encoding="utf-8")
    return directory


@contextmanager
def serving(
    vllm: Path, model: Path, *flags: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serve the model on a free port of loopback while the context lasts; yield the URL.

    Args:
        vllm: The executable.
        model: Directory of the model.
        flags: More of them.
        log: Where its output goes.
        environment: Variables beside those of this process.

    Raises:
        RuntimeError: The server ended or was not up in time.
    """
    port = free_port()
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    argv = [
        *(str(vllm), "serve", str(model), "--load-format", "dummy", "--dtype", "bfloat16"),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", *flags),
    ]
    with log.open("ab") as output:
        # A session of its own, so that stopping it stops its workers and nothing else.
        process = subprocess.Popen(  # noqa: S603 - the program that the caller named
            argv,
            stdout=output,
            stderr=output,
            env={**os.environ, **settings, **(environment or {})},
            start_new_session=True,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _STARTS_WITHIN_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urlopen(url, timeout=2):  # noqa: S310 - loopback
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server was not up within {_STARTS_WITHIN_SECONDS:.0f} s")

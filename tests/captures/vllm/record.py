"""Records what a real vLLM server shows in each situation that a reader of its pages meets.

    python tests/captures/vllm/record.py VLLM_EXECUTABLE VERSION_FOLDER

Starts the server on loopback, once for each situation, with a tiny model of random weights; saves /metrics, /version
and /v1/models byte for byte but for the model's path, and the start-up log with this machine's paths and names
replaced. Run from the checkout.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.end_to_end.real_vllm import Load, RealVllm

SCARCE = ("--num-gpu-blocks-override", "96", "--block-size", "128", "--max-model-len", "2048")


class Recorder:
    """Saves the pages of one server in one situation."""

    def __init__(self, executable, model, folder, situation, *flags):
        self.folder, self.situation, self.model = folder, situation, model
        self.installation = executable.parents[1]
        self.log = Path(tempfile.mkdtemp()) / "server.log"
        self.server = RealVllm(executable, model, *flags, log=self.log)

    def __enter__(self):
        self.server.wait_until_up()
        return self

    def __exit__(self, *_):
        self.server.stop()
        self.save_log()

    def save_log(self):
        log = self.log.read_text(errors="replace")
        for pattern, plain in (
            (re.escape(str(self.model)), "/models/tiny"),
            (re.escape(socket.gethostname()), "host"),
            (r"/[^\s'\"]*/site-packages/", "site-packages/"),
            (re.escape(str(self.installation)), "/venv"),
            (r"/(?:root|home)/[^\s'\"]*", "/home/x"),
            (r"/tmp/[^\s'\"]*", "/tmp/x"),
            (r"(?m)^.*The chat template requires system-first ordering.*\n", ""),  # of another product, not of memory
        ):
            log = re.sub(pattern, plain, log)
        (self.folder / f"{self.situation}.log").write_text(log)

    def save(self, name, path="/metrics"):
        with urlopen(self.server.url + path, timeout=30) as answer:
            (self.folder / name).write_bytes(answer.read().replace(str(self.model).encode(), b"/models/tiny"))

    def page(self, moment):
        self.save(f"{self.situation}_{moment}.metrics")

    def one_request(self):
        body = f'{{"model": "tiny", "prompt": {[7] * 40}, "max_tokens": 16, "ignore_eos": true}}'
        request = Request(f"{self.server.url}/v1/completions", body.encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as answer:
            answer.read()


def single(executable, model, folder):
    """One process: idle after its start, under a load that overfills scarce KV, and idle again."""
    with Recorder(executable, model, folder, "single", *SCARCE, "--max-num-seqs", "64") as recorder:
        recorder.page("idle")
        recorder.save("version.json", "/version")
        recorder.save("models.json", "/v1/models")
        with Load(recorder.server.port, clients=40, prompt_tokens=600, output_tokens=400, most_requests=70):
            for number in range(8):
                time.sleep(1.2)
                recorder.page(f"kv_scarce_{number}")
        time.sleep(2)
        recorder.page("after_load")


def limited(executable, model, folder):
    """A queue that waits for max_num_seqs with KV to spare."""
    with (
        Recorder(executable, model, folder, "limited", *SCARCE, "--max-num-seqs", "4") as recorder,
        Load(recorder.server.port, clients=12, prompt_tokens=80, output_tokens=200, most_requests=24),
    ):
        time.sleep(3)
        recorder.page("by_seqs")


def api_servers(executable, model, folder):
    """Two API server processes: before the first request gauges have no sample."""
    with Recorder(executable, model, folder, "api_servers_2", *SCARCE, "--api-server-count", "2") as recorder:
        recorder.page("before_first_request")
        for _ in range(4):
            recorder.one_request()
        recorder.page("after_requests")


def data_parallel(executable, model, folder):
    """Two engines behind one port."""
    flags = ("--max-model-len", "1000", "--max-num-seqs", "8", "--data-parallel-size", "2")
    with Recorder(executable, model, folder, "data_parallel_2", *flags) as recorder:
        for _ in range(6):
            recorder.one_request()
        recorder.page("after_requests")


def refusing(executable, model, folder):
    """A queue that is full: new requests are refused."""
    flags = ("--max-num-seqs", "2", "--max-num-queued-reqs", "2")
    with Recorder(executable, model, folder, "refusing", *SCARCE, *flags) as recorder:
        try:
            with Load(recorder.server.port, clients=16, prompt_tokens=80, output_tokens=200, most_requests=200):
                time.sleep(3)
                recorder.page("queue_full")
        except HTTPError:
            recorder.page("queue_full")


def start_failing(executable, model, folder):
    """A start that ends: two GiB of KV for one request of 1,048,576 tokens, where one is given."""
    long = ("--hf-overrides", '{"max_position_embeddings": 1048576}', "--max-model-len", "1048576")
    recorder = Recorder(executable, model, folder, "start_failing", *long)
    try:
        recorder.server.process.wait(300)
    finally:
        recorder.server.stop()
        recorder.save_log()


def start_tensor_parallel_2(executable, model, folder):
    """Two ranks that both tell their part."""
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # else each rank needs a NUMA node of its own
    flags = ("--tensor-parallel-size", "2", "--max-model-len", "1000", "--max-num-seqs", "8")
    with Recorder(executable, model, folder, "start_tensor_parallel_2", *flags):
        pass


SITUATIONS = (single, limited, api_servers, data_parallel, refusing, start_failing, start_tensor_parallel_2)


def main():
    executable, folder = Path(sys.argv[1]), Path(__file__).parent / sys.argv[2]
    folder.mkdir(parents=True, exist_ok=True)
    model = Path(tempfile.mkdtemp()) / "tiny"
    script = Path(__file__).parents[2] / "end_to_end" / "tiny_model.py"
    subprocess.run([executable.parent / "python", script, model], check=True)
    situations = [globals()[name] for name in sys.argv[3:]] or SITUATIONS
    for situation in situations:
        try:
            situation(executable, model, folder)
        except Exception as error:  # noqa: BLE001 - one situation that this release does not know must not end the rest
            print(f"{situation.__name__}: {type(error).__name__}: {error}"[:500])  # noqa: T201


if __name__ == "__main__":
    main()

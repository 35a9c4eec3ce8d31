"""Estimators from the package index, asked offline: ``python packages.py < questions > answers``.

It runs under whatever interpreter has them (bench/accuracy/requirements.txt) and imports nothing of this project.
accelerate insists on a hub; a stand-in on the loopback serves it the configurations. hf-mem has its hub's address
written in, so its own KV function is called as its command line calls it.

A question is ``{"model", "config", "dtype", "kv_cache_dtype", "max_model_len"}``; the answer is
``{"versions": {package: version}, "answers": [{package: {"weights_bytes" or "kv_bytes"} or {"error"}}, ...]}``.
"""

import contextlib
import http.server
import importlib.metadata
import importlib.util
import json
import os
import sys
import threading
import types
import warnings
from collections.abc import Mapping
from typing import Any


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as reading one config.json takes."""

    configs: Mapping[str, Mapping[str, Any]] = {}

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        model = path.removeprefix("api/models/").partition("/resolve/")[0].partition("/revision/")[0]
        config = self.configs.get(model)
        if config is None or ("/resolve/" in path and not path.endswith("/config.json")):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if config else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content: Any = config
        if path.startswith("api/models/"):
            content = {
                "id": model,
                "sha": "0" * 40,
                "config": {},
                "siblings": [{"rfilename": "config.json"}],
                "tags": [],
            }
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("ETag", '"0"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        """Say nothing: standard output is the answer."""


def _accelerate_answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of the whole model as ``accelerate estimate-memory --dtypes float32`` adds them up.

    It halves what it calls float32 for float16. Its float32 figure is the sum over the tensors in the dtype they were
    made in, so the parameter count is taken from their element size here and priced in the checkpoint's dtype.
    """
    from accelerate.commands.estimate import create_empty_model  # type: ignore[import-not-found,unused-ignore]

    model = create_empty_model(question["model"], library_name="transformers")
    parameters = sum(each.numel() for each in model.parameters())
    return {"weights_bytes": parameters * {"float32": 4, "int8": 1, "int4": 0.5}.get(question["dtype"], 2)}


def _hf_mem_answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """KV bytes of one request of the full context, all GPUs together."""
    from hf_mem.safetensors.kv_cache import (  # type: ignore[import-not-found,unused-ignore]
        compute_safetensors_kv_cache_size,
        resolve_kv_cache_dtype,
    )

    config = dict(question["config"])
    config = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    dtype = question["kv_cache_dtype"]
    if dtype == "auto" and "quantization_config" in config:
        dtype = "bfloat16"  # its own advice where it cannot tell the cache's dtype from the quantisation
    resolved = resolve_kv_cache_dtype(config, dtype, types.SimpleNamespace(components={}), question["model"])
    return {"kv_bytes": compute_safetensors_kv_cache_size(config, resolved, question["max_model_len"])}


_PACKAGES = {"accelerate": _accelerate_answer, "hf-mem": _hf_mem_answer}


def _version(name: str) -> str:
    version = importlib.metadata.version(name)
    # accelerate's sizes are those of the modules that transformers builds.
    return f"{version} (transformers {importlib.metadata.version('transformers')})" if name == "accelerate" else version


def main() -> None:
    """Answer every question on standard input."""
    questions = json.load(sys.stdin)
    _Hub.configs = {each["model"]: each["config"] for each in questions}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_XET"] = "1"
    warnings.simplefilter("ignore")
    there = {name: ask for name, ask in _PACKAGES.items() if importlib.util.find_spec(name.replace("-", "_"))}
    answers = []
    with contextlib.redirect_stdout(sys.stderr):
        for question in questions:
            answer: dict[str, Any] = {}
            for name, ask in there.items():
                try:
                    answer[name] = ask(question)
                except Exception as problem:  # noqa: BLE001 - whatever a peer raises is its answer
                    answer[name] = {"error": f"{type(problem).__name__}: {str(problem).splitlines()[0]}"}
            answers.append(answer)
    json.dump({"versions": {name: _version(name) for name in there}, "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main()

"""The deployments scored against, read from the two files beside this one.

``deployments.jsonl``: one real server a line, facts only: what was started on what, what vLLM's log then reported, its
source, and what is doubtful about it. ``models.jsonl``: of each model's configuration the keys that memory depends on.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent

Half = Literal["fitted", "held out"]
Figure = Literal["kv", "weights", "verdict"]

_NUMBERED = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """What vLLM's log said; GiB are those of one GPU, tokens those of the whole engine. None: not printed."""

    weights_gib: float | None = None
    kv_gib: float | None = None
    kv_tokens: int | None = None
    kv_blocks: int | None = None
    activation_peak_gib: float | None = None
    non_torch_gib: float | None = None
    cuda_graphs_gib: float | None = None
    """As captured."""
    cuda_graphs_estimated_gib: float | None = None
    """As vLLM estimated before."""
    full_context_concurrency: float | None = None
    needed_kv_gib: float | None = None
    started: bool | None = None
    """Whether the server came up; None where the log ends before that or fails for a reason other than memory."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """What is not certain about a row."""

    of: str
    """gpu, build, version, utilization, flags, parallelism, model, variant or figure."""
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """One real server."""

    id: str
    source: str
    author: str
    """Repository or thread of the source: what is split into halves."""
    half: Half
    model: str
    geometry: str | None
    """The line of models.jsonl; another model's where it has the same layers (see the doubt of the variant)."""
    gpu: str
    gpu_total_gib: float | None
    """The CUDA-visible total of one GPU, where the log prints it."""
    gpu_count: int
    vllm_version: str | None
    args: tuple[str, ...]
    environment: Mapping[str, str]
    utilization_stated: bool
    """Whether ``--gpu-memory-utilization`` was given; else that release's default was in effect."""
    reported: Reported
    doubts: tuple[Doubt, ...]


def deployments(path: Path = FOLDER / "deployments.jsonl") -> tuple[Deployment, ...]:
    """Return every row of the file, in order."""
    with path.open(encoding="utf-8") as lines:
        return tuple(_deployment(json.loads(line)) for line in lines)


PARTS_PRINTED_BY = "llm-d-incubation/llm-d-planner"
"""The one source that prints every part of the memory: without it the parts cannot be fitted one by one."""


def halves(authors: Iterable[str]) -> dict[str, Half]:
    """Divide the sources: by a hash of their names, the half that holds `PARTS_PRINTED_BY` is the fitted one."""
    drawn = sorted(set(authors), key=lambda author: sha256(f"vllm-headroom accuracy {author}".encode()).hexdigest())
    first = set(drawn[: len(drawn) // 2])
    fitted = first if PARTS_PRINTED_BY in first else set(drawn) - first
    return {author: "fitted" if author in fitted else "held out" for author in drawn}


def configurations(path: Path = FOLDER / "models.jsonl") -> dict[str, dict[str, Any]]:
    """Return each model's configuration, its shortened lists spelled out."""
    with path.open(encoding="utf-8") as lines:
        return {row["model"]: spelled_out(row["config"]) for row in map(json.loads, lines)}


def configuration_of(row: Deployment, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a row's configuration, None where none is at hand.

    Where only the geometry is another checkpoint's, how that one is quantised says nothing and is left out.
    """
    if row.geometry is None:
        return None
    config = dict(known[row.geometry])
    if any(doubt.of == "variant" for doubt in row.doubts):
        config.pop("quantization_config", None)
    return config


def spelled_out(value: Any) -> Any:
    """Undo the file's shorthand: ``{"repeat": [...], "times": n}`` and names with a range, ``layers.{0..3}.gate``."""
    if isinstance(value, dict):
        if value.keys() == {"repeat", "times"}:
            return list(value["repeat"]) * value["times"]
        return {key: spelled_out(each) for key, each in value.items()}
    if isinstance(value, list):
        return [name for each in value for name in _numbered(each)]
    return value


def reasons_against(row: Deployment, figure: Figure) -> tuple[str, ...]:
    """Return why a row cannot judge a figure, in words; empty where it can.

    Only what is not known about the deployment counts, never how far an estimate is from it.
    """
    missing = _missing(row.reported, figure)
    if missing is not None:
        return (missing,)
    return tuple(f"{doubt.of}: {doubt.why}" for doubt in row.doubts if doubt.of not in _NO_MATTER[figure])


_NO_MATTER: Mapping[Figure, frozenset[str]] = {
    "kv": frozenset(),
    "weights": frozenset({"gpu", "version", "utilization"}),
    "verdict": frozenset({"version", "figure"}),
}
"""Doubts that say nothing against a figure: a start fails or not by more than releases differ."""


def _missing(reported: Reported, figure: Figure) -> str | None:
    if figure == "weights":
        return None if reported.weights_gib is not None else "weights not printed"
    if figure == "verdict":
        return None if reported.started is not None else "whether it started is not shown"
    if reported.kv_gib is not None:
        return None if reported.kv_gib > 0 else "no KV cache was left, so there is no amount to compare"
    if reported.kv_tokens is None and reported.kv_blocks is None:
        return "KV cache not printed"
    return None


def _deployment(row: Mapping[str, Any]) -> Deployment:
    values = {each.name: row[each.name] for each in fields(Deployment)}
    values["args"] = tuple(row["args"])
    values["reported"] = Reported(**row["reported"])
    values["doubts"] = tuple(Doubt(**each) for each in row["doubts"])
    return Deployment(**values)


def _numbered(value: Any) -> list[Any]:
    match = _NUMBERED.search(value) if isinstance(value, str) else None
    if match is None:
        return [spelled_out(value)]
    before, after = value[: match.start()], value[match.end() :]
    return [f"{before}{number}{after}" for number in range(int(match[1]), int(match[2]) + 1)]


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the decoder's part of a configuration."""
    part = config.get("text_config")
    return {**config, **part} if isinstance(part, Mapping) else config


def family(config: Mapping[str, Any]) -> str:
    """Return the kind of model, by what is hardest about its memory."""
    text = text_part(config)
    if "kv_lora_rank" in text:
        return "latent attention"
    if any(key in text for key in ("mamba_d_state", "linear_num_key_heads", "ssm_state_size")):
        return "hybrid with states"
    kinds = {"Gemma2", "Gemma3", "Gemma4", "GptOss", "Llama4"}
    if any(str(config["architectures"][0]).startswith(kind) for kind in kinds):
        return "sliding-window hybrid"
    if any(key in config for key in ("vision_config", "audio_config")) or "cross_attention_layers" in config:
        return "multimodal"
    if any(text.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        return "mixture of experts"
    return "dense"


def weight_format(row: Deployment, config: Mapping[str, Any]) -> str:
    """Return how the weights are stored: the checkpoint's method, else the flag's, else 16 bits."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method is None and "--quantization" in row.args:
        method = row.args[row.args.index("--quantization") + 1]
    return str(method or ("float32" if "float32" in row.args else "16 bits"))


_GPUS = (
    ("H100 NVL", "H100 NVL"),
    ("H100", "H100 80 GB"),
    ("H200", "H200"),
    ("H800", "H800"),
    ("H20", "H20"),
    ("A100", "A100"),
    ("L40S", "L40S"),
    ("L20Y", "L20Y"),
    ("L20", "L20"),
    ("L4", "L4"),
    ("T4", "T4"),
    ("V100", "V100"),
    ("GB10", "GB10"),
    ("PRO 6000", "RTX PRO 6000"),
)


def gpu_class(row: Deployment) -> str:
    """Return a short name under which GPUs alike are grouped."""
    for part, name in _GPUS:
        if part in row.gpu:
            return "A100 40 GB" if name == "A100" and "40GB" in row.gpu else name
    return row.gpu.removeprefix("NVIDIA ").removeprefix("GeForce ")


def release(row: Deployment) -> str:
    """Return the minor release, ``0.19``."""
    return ".".join((row.vllm_version or "not known").split(".")[:2])

"""From what was asked to a plan, and from a plan to its JSON; shared by the command and the API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from advisor.defaults import Device
from advisor.estimate import Estimate, exactly
from advisor.flags import EngineFlags, FlagError, misspelled, parse_flags, require_valid
from advisor.gpus import GpuModel, UnknownGpuError, find_gpu
from advisor.model_files import ModelFiles
from advisor.plan import EnginePlan, plan_engine
from advisor.residuals import NO_RESIDUALS, Residuals, flags_key, place_key
from advisor.spec import ModelSpec
from advisor.suggest import Suggestion
from advisor.units import GIB
from advisor.versions import NEWEST_STUDIED, Version, parse_version
from advisor.weights import TensorIndex
from exporter.errors import UsageError
from exporter.sources.model import read_model_files

_ROW_KEYS = {"id", "gpu", "gpu_memory_gib", "gpu_count", "vllm_version", "model", "args"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One question, as it came."""

    gpu: str | None = None
    gpu_memory_gib: float | None = None
    gpu_count: int | None = None
    vllm_version: str | None = None
    argv: tuple[str, ...] = ()
    residuals: Residuals = NO_RESIDUALS
    """What a daemon of this host has learned."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: str) -> "Asked":
        """Read one line of a batch.

        Raises:
            UsageError: A key is unknown, missing or of another type; the message says where.
        """
        problems = [
            f"{where}: unknown key {key!r}; known: {', '.join(sorted(_ROW_KEYS))}" for key in row.keys() - _ROW_KEYS
        ]

        def take(key: str, kind: type | tuple[type, ...], expected: str, *, needed: bool = False) -> Any:
            value = row.get(key)
            if value is None and not needed:
                return None
            if not isinstance(value, kind) or isinstance(value, bool):
                problems.append(f"{where}: {key} must be {expected}")
                return None
            return value

        model = take("model", str, "a directory, a config.json or a hub id", needed=True)
        args = take("args", list, "a list of words such as ['--max-model-len', '8192']") or []
        asked = cls(
            gpu=take("gpu", str, "the name of a GPU"),
            gpu_memory_gib=take("gpu_memory_gib", (int, float), "a number of GiB"),
            gpu_count=take("gpu_count", int, "a whole number"),
            vllm_version=take("vllm_version", str, "a release such as '0.19.0'"),
            argv=("serve", *([model] if model else []), *(str(each) for each in args)),
        )
        if problems:
            raise UsageError("\n".join(problems))
        return asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A plan with what it rests on."""

    spec: ModelSpec
    tensors: TensorIndex | None
    flags: EngineFlags
    version: Version
    device: Device
    total: Estimate
    residual: Estimate | None
    plan: EnginePlan


def answer(asked: Asked) -> Answer:
    """Plan what was asked.

    Raises:
        UsageError: The question is wrong: the message names the flag, file or key and what would be right.
    """
    device, total = _device(asked)
    version = _version(asked.vllm_version)
    try:
        flags = require_valid(parse_flags(asked.argv))
    except FlagError as error:
        raise UsageError(str(error)) from error
    if flags.model is None:
        raise UsageError("no model: the command line needs one after serve, or --model")
    spec, tensors = _model(flags)
    place = place_key(spec, version=version, gpu=device.name, flags=flags)
    residual = asked.residuals.estimate(place, flags_key(flags))
    try:
        plan = plan_engine(
            spec,
            flags,
            version=version,
            device=device,
            gpu_count=asked.gpu_count,
            tensors=tensors,
            total=total,
            residual=residual,
        )
    except ValueError as error:
        raise UsageError(f"{flags.model}: {error}") from error
    slips = tuple(
        f"{given} is not known here and left out of account: is {meant} meant?"
        for given, meant in misspelled(asked.argv)
    )
    plan = replace(plan, notes=(*slips, *plan.notes))
    if residual is not None:
        seen = (
            f"engines like this one had {residual.expected / GIB:+.2f} GiB of KV cache beyond the estimate on this host"
        )
        plan = replace(plan, notes=(*plan.notes, f"{seen}: it is shifted by that"))
    return Answer(
        spec=spec,
        tensors=tensors,
        flags=flags,
        version=version,
        device=device,
        total=total,
        residual=residual,
        plan=plan,
    )


def plan_of(found: Answer, **changes: Any) -> EnginePlan | None:
    """Return the plan with some flags (or the ``gpu``) replaced, None where vLLM would refuse the combination."""
    gpu: GpuModel | None = changes.pop("gpu", None)
    device, total = found.device, found.total
    if gpu is not None:
        total = gpu.cuda_total
        device = Device(name=gpu.name, memory_bytes=int(total.expected), compute_capability=gpu.compute_capability)
    known = {each.name for each in fields(EngineFlags)}
    assert changes.keys() <= known, changes.keys() - known
    try:
        return plan_engine(
            found.spec,
            replace(found.flags, **changes),
            version=found.version,
            device=device,
            tensors=found.tensors,
            total=total,
            residual=found.residual if gpu is None else None,
        )
    except ValueError:
        return None


def _version(text: str | None) -> Version:
    if text is None:
        return NEWEST_STUDIED
    version = parse_version(text)
    if version is None:
        raise UsageError(f"--vllm-version: {text!r} is not a release such as 0.19.0")
    return version


def _device(asked: Asked) -> tuple[Device, Estimate]:
    given = asked.gpu_memory_gib
    if given is not None and not 0.5 <= given <= 2048:
        raise UsageError(f"--gpu-memory-gib: {given} is not the GiB of one GPU")
    if asked.gpu is None and given is None:
        raise UsageError("--gpu or --gpu-memory-gib is needed: the name of a GPU, or its CUDA-visible total")
    try:
        total = find_gpu(asked.gpu).cuda_total if asked.gpu is not None and given is None else None
    except UnknownGpuError as error:
        raise UsageError(f"--gpu: {error}") from error
    if total is None:
        assert given is not None
        total = exactly(given * GIB)
    return Device(name=asked.gpu or "unnamed GPU", memory_bytes=int(total.expected)), total


def _model(flags: EngineFlags) -> tuple[ModelSpec, TensorIndex | None]:
    assert flags.model is not None
    path = Path(flags.model)
    overrides = flags.config_overrides()
    changed_ns = _changed_ns(path)
    if changed_ns is not None:
        files = _local(str(path), overrides, changed_ns)
    elif flags.model.count("/") == 1 and not flags.model.startswith((".", "/", "~")):
        from exporter.sources.hub import read_hub_model

        files = read_hub_model(flags.model, revision=flags.revision, overrides=overrides)
    else:
        raise UsageError(f"{flags.model}: no such directory or file, and not a hub id such as org/model")
    if files.spec is None:
        reason = files.declined or "cannot be read"
        raise UsageError(reason if flags.model in reason else f"{flags.model}: {reason}")
    return files.spec, files.weights


def _changed_ns(path: Path) -> int | None:
    """Return when a model's config, or a directory without one, was changed; None where there is no such path.

    Raises:
        UsageError: It may not be looked at, which is not the same as not being there.
    """
    for each in (path / "config.json", path):
        try:
            return each.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error
    return None


@lru_cache(maxsize=1024)
def _local(path: str, overrides: str, _changed_ns: int) -> ModelFiles:
    return read_model_files(Path(path), overrides)


def result_of(
    found: Answer, *, suggestions: Sequence[Suggestion] = (), typical_tokens: int | None = None
) -> dict[str, Any]:
    """Return the JSON of a plan; sizes are bytes of one GPU."""
    plan = found.plan
    layout = plan.layout
    result: dict[str, Any] = {
        "verdict": plan.verdict,
        "vllm_error": plan.error,
        "margin_bytes": _bounds(plan.margin) if plan.margin is not None else None,
        "binding": plan.binding,
        "model": {"architecture": found.spec.architecture, "parameters": found.spec.num_parameters},
        "vllm_version": ".".join(map(str, found.version)),
        "gpu": {"name": found.device.name, "count": plan.gpus_needed},
        "per_gpu": _per_gpu(plan),
        "kv": {
            "bytes_per_token_per_gpu": layout.bytes_per_token,
            "block_size": layout.block_size,
            "num_gpu_blocks": int(plan.num_gpu_blocks.expected),
            "capacity_tokens": _bounds(plan.kv_tokens),
            "full_context_concurrency": round(plan.full_context_concurrency.expected, 2),
            "groups": [
                {
                    "kind": group.kind,
                    "layers": group.layers,
                    "block_size": group.block_size,
                    "page_bytes": list(group.page_bytes),
                    "blocks_per_request": group.blocks_per_request,
                }
                for group in layout.groups
            ],
        },
        "flags": plan.flags.table(),
        "notes": list(plan.notes),
    }
    if typical_tokens is not None:
        result["kv"]["typical_tokens"] = typical_tokens
        result["kv"]["typical_concurrency"] = _bounds(plan.concurrency_at(typical_tokens))
    if suggestions:
        result["suggestions"] = [
            {each.name: getattr(one, each.name) for each in fields(Suggestion)} for one in suggestions
        ]
    return result


def _per_gpu(plan: EnginePlan) -> dict[str, Any]:
    memory = plan.memory
    if memory is None:
        return {"kv_cache_bytes": _bounds(plan.kv_bytes)}
    parts = {
        "weights_bytes": memory.weights,
        "activation_peak_bytes": memory.activation_peak,
        "non_torch_bytes": memory.non_torch,
        "cuda_graph_bytes": memory.cuda_graphs,
        "startup_peak_bytes": memory.startup_peak,
    }
    return {
        "total_bytes": round(memory.total_bytes),
        "budget_bytes": round(memory.budget_bytes),
        **{name: round(part.expected) for name, part in parts.items()},
        "kv_cache_bytes": _bounds(memory.kv_cache),
        "bounds": {
            "total_bytes": _bounds(memory.total),
            "budget_bytes": _bounds(memory.budget),
            **{name: _bounds(part) for name, part in parts.items()},
        },
        "cuda_graphs_in_budget": memory.graphs_in_budget,
    }


def _bounds(estimate: Estimate) -> dict[str, Any]:
    return {
        "lower": round(estimate.lower),
        "expected": round(estimate.expected),
        "upper": round(estimate.upper),
        "origin": str(estimate.origin),
    }

"""Plans of the engines that run here, with their own flags or with some of them changed by a query."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from advisor.advise import Placed, placements
from advisor.estimate import exactly
from advisor.plan import plan_engine
from advisor.snapshot import Snapshot
from advisor.versions import NEWEST_STUDIED
from exporter.planning import Answer, result_of


class QueryError(ValueError):
    """A query parameter is unknown, repeated or out of range; the message says what would be right."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A flag that a query may change. Bounds keep an absurd question from costing time."""

    name: str
    kind: type
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    help: str

    def schema(self) -> dict[str, Any]:
        """Return its JSON Schema."""
        if self.kind is bool:
            return {"type": "boolean"}
        if self.choices:
            return {"type": "string", "enum": list(self.choices)}
        return {
            "type": "integer" if self.kind is int else "number",
            "minimum": self.least,
            "maximum": self.most,
        }

    def read(self, text: str) -> Any:
        """Return the value that a query gives.

        Raises:
            QueryError: It is none.
        """
        if self.kind is bool:
            if text not in ("true", "false"):
                raise QueryError(self.name, f"{text[:40]!r} is neither true nor false")
            return text == "true"
        if self.choices:
            if text not in self.choices:
                raise QueryError(self.name, f"{text[:40]!r} is none of {', '.join(self.choices)}")
            return text
        whole = self.kind is int
        if not re.fullmatch(r"[0-9]{1,12}" if whole else r"[0-9]{1,12}(\.[0-9]{1,12})?", text, re.ASCII):
            raise QueryError(self.name, f"{text[:40]!r} is not a {'whole number' if whole else 'number such as 0.9'}")
        value = self.kind(text)
        assert self.least is not None
        assert self.most is not None
        if not self.least <= value <= self.most:
            raise QueryError(self.name, f"{text} is not between {self.least:g} and {self.most:g}")
        return value


PARAMETERS = (
    Parameter(
        name="gpu_memory_utilization", kind=float, least=0.01, most=1.0, help="Share of the GPU that vLLM may take."
    ),
    Parameter(name="max_model_len", kind=int, least=1, most=100_000_000, help="Longest request, in tokens."),
    Parameter(name="max_num_seqs", kind=int, least=1, most=65_536, help="Most requests that run at once."),
    Parameter(name="max_num_batched_tokens", kind=int, least=1, most=4_194_304, help="Most tokens of one step."),
    Parameter(
        name="kv_cache_dtype",
        kind=str,
        choices=("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"),
        help="How keys and values are stored.",
    ),
    Parameter(name="tensor_parallel_size", kind=int, least=1, most=1024, help="GPUs over which each layer is split."),
    Parameter(name="enforce_eager", kind=bool, help="Whether CUDA graphs are left out."),
)


def read_query(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the flags that a query changes.

    Raises:
        QueryError: A parameter is unknown, given twice or wrong.
    """
    known = {parameter.name: parameter for parameter in PARAMETERS}
    changes: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            raise QueryError(name[:40], f"unknown parameter; known: {', '.join(known)}")
        if name in changes:
            raise QueryError(name, "given twice")
        changes[name] = known[name].read(text)
    return changes


def plans(snapshot: Snapshot, changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the plan of every engine here, or why there is none; nothing in it names a path or a process."""
    return [_told(placed, snapshot, changes) for placed in placements(snapshot)]


def _told(placed: Placed, snapshot: Snapshot, changes: Mapping[str, Any]) -> dict[str, Any]:
    reading = placed.reading
    entry: dict[str, Any] = {
        "engine": reading.engine,
        "model_name": reading.model_name,
        "dp_rank": reading.dp_rank,
        "plan": None,
        "declined": None,
    }
    planned = placed.planned
    if placed.theory is None or planned is None:
        return entry | {"declined": _without(placed.no_theory or "there is no theory for this engine", snapshot)}
    flags = replace(planned.flags, **changes)
    plan = placed.theory
    if changes:
        try:
            plan = plan_engine(
                planned.spec,
                flags,
                version=planned.version,
                device=planned.device,
                tensors=planned.tensors,
                kv_cache_bytes=planned.kv_cache_bytes,
            )
        except ValueError as error:
            return entry | {"declined": _without(str(error), snapshot)}
    found = Answer(
        spec=planned.spec,
        tensors=planned.tensors,
        flags=flags,
        version=planned.version or NEWEST_STUDIED,
        device=planned.device,
        total=exactly(planned.device.memory_bytes),
        residual=None,
        plan=plan,
    )
    return entry | {"plan": _plain(result_of(found), snapshot)}


def _plain(result: Mapping[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    """Return a result without the flags whose values are texts or objects of the user's own: they may name paths."""
    flags = {name: told for name, told in result["flags"].items() if _is_plain(told["value"])}
    error = result["vllm_error"]
    return {
        **result,
        "flags": flags,
        "vllm_error": error and _without(error, snapshot),
        "notes": [_without(note, snapshot) for note in result["notes"]],
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"[A-Za-z0-9_.]{1,40}", value) is not None
    if isinstance(value, tuple | list):
        return all(isinstance(each, int) for each in value)
    return value is None or isinstance(value, bool | int | float)


def _without(text: str, snapshot: Snapshot) -> str:
    """Return a text with the models' directories taken out of it."""
    for path in sorted(_paths(snapshot), key=len, reverse=True):
        text = text.replace(path, "the model")
    return text


def _paths(snapshot: Snapshot) -> Iterable[str]:
    yield from (files.path for files in snapshot.models)
    yield from (path for server in snapshot.servers for path in (server.model_path,) if path and "/" in path)

"""Every answer that NVML gives to one reading, written down so that the same reading can be made without the GPU.

Boards and processes appear under made-up names: the file holds no UUID and no process id of the machine.
"""

import ctypes
import json
import re
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_FIRST_PID = 1001

Call = dict[str, Any]
"""``call``: the function; ``with``: its arguments; then ``answer``, or ``error``, NVML's number for what went wrong."""


class MadeUp:
    """The same made-up name whenever the same board or process is met."""

    def __init__(self) -> None:
        """Know nobody yet."""
        self._uuids: dict[str, str] = {}
        self._pids: dict[int, int] = {}

    def text(self, text: str) -> str:
        """Return a text with every UUID replaced."""
        return _UUID.sub(self._uuid, text)

    def pid(self, pid: int) -> int:
        """Return a number for a process id."""
        return self._pids.setdefault(pid, _FIRST_PID + len(self._pids))

    def _uuid(self, found: re.Match[str]) -> str:
        number = len(self._uuids) + 1
        return self._uuids.setdefault(found[0], f"{found[1]}-00000000-0000-0000-0000-{number:012d}")


class Recorded:
    """nvidia-ml-py to whoever calls it; every call and its answer is in `calls`."""

    def __init__(self, nvml: Any, made_up: MadeUp) -> None:
        """Take the module to ask, and the names to use."""
        self._nvml = nvml
        self._made_up = made_up
        self._handles: dict[int, int] = {}
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        """Return a function that asks and writes down; constants and exceptions are the module's own."""
        found = getattr(self._nvml, name)
        if not name.startswith("nvml") or isinstance(found, type) or not callable(found):
            return found
        return self._asking(name, found)

    def _asking(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            call: Call = {"call": name, "with": [self._plain(each) for each in arguments]}
            self.calls.append(call)
            try:
                answer = function(*arguments)
            except self._nvml.NVMLError as error:
                call["error"] = error.value
                raise
            call["answer"] = self._plain(answer)
            return answer

        return ask

    def _plain(self, value: Any) -> Any:
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, bytes):
            return self._made_up.text(value.decode(errors="replace"))
        if isinstance(value, str):
            return self._made_up.text(value)
        if isinstance(value, list | tuple):
            return [self._plain(each) for each in value]
        if isinstance(value, self._nvml.c_nvmlDevice_t | self._nvml.c_nvmlEventSet_t):
            address = ctypes.cast(value, ctypes.c_void_p).value or 0
            return {"handle": self._handles.setdefault(address, len(self._handles))}
        if isinstance(value, ctypes.Structure):
            return self._fields({field[0]: getattr(value, field[0]) for field in value._fields_})
        return self._fields(vars(value))

    def _fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        plain = {name: self._plain(each) for name, each in fields.items()}
        if "pid" in plain:
            plain["pid"] = self._made_up.pid(plain["pid"])
        return {"fields": plain}


@dataclass(frozen=True, slots=True)
class _Handle:
    number: int


class Replayed:
    """nvidia-ml-py that answers as it was written down; the last answer to a question is repeated.

    A question that was not asked then is answered as a driver does that does not know the function.
    """

    def __init__(self, nvml: Any, calls: list[Call]) -> None:
        """Take the module for its constants and exceptions, and what `Recorded.calls` held."""
        self._nvml = nvml
        self._answers: dict[str, deque[Call]] = defaultdict(deque)
        for call in calls:
            self._answers[_question(call["call"], call["with"])].append(call)

    def __getattr__(self, name: str) -> Any:
        """Return a function that answers from the record; constants and exceptions are the module's own."""
        found = getattr(self._nvml, name)
        if not name.startswith("nvml") or isinstance(found, type) or not callable(found):
            return found

        def answer(*arguments: Any) -> Any:
            answers = self._answers.get(_question(name, [_plain_again(each) for each in arguments]))
            if answers is None:
                raise self._nvml.NVMLError(self._nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
            call = answers.popleft() if len(answers) > 1 else answers[0]
            if "error" in call:
                raise self._nvml.NVMLError(call["error"])
            return _revived(call["answer"])

        return answer


def _question(name: str, arguments: list[Any]) -> str:
    return f"{name} {json.dumps(arguments, sort_keys=True)}"


def _plain_again(value: Any) -> Any:
    return {"handle": value.number} if isinstance(value, _Handle) else value


def _revived(value: Any) -> Any:
    if isinstance(value, list):
        return [_revived(each) for each in value]
    if isinstance(value, dict):
        if "handle" in value:
            return _Handle(value["handle"])
        return SimpleNamespace(**{name: _revived(each) for name, each in value["fields"].items()})
    return value

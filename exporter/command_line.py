"""A server's own command line with some flags changed, for the person at its terminal and for nobody else."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from advisor.flags import is_server_command

_SECRETS = ("--api-key", "--hf-token")
_MASK = "***"
_BARE = frozenset({"use-v2-block-manager"})
"""Flags without a value: what follows one is a word of its own."""
_ALIASES = {
    "tensor-parallel-size": ("-tp",),
    "gpu-memory-utilization": ("--device-memory-utilization",),
}


def with_flags(argv: Sequence[str], changes: Mapping[str, str | None], *, mask: str = _MASK) -> list[str]:
    """Return the words of a command line with flags set or, where None, taken out.

    A flag stays where it stands; a new one comes last, where it wins over a ``--config`` file. Values of keys are
    masked: a terminal is copied from more often than one thinks.

    Args:
        argv: The words of the command line as it is.
        changes: Value by flag, without dashes in front.
        mask: What stands for a key.
    """
    words = list(argv)
    for flag, value in changes.items():
        words = _with_flag(words, flag, value)
    return _masked(words, mask)


def _with_flag(words: list[str], flag: str, value: str | None) -> list[str]:
    names = (f"--{flag}", *_ALIASES.get(flag, ()))
    changed: list[str] = []
    is_set, position = False, 0
    while position < len(words):
        word = words[position]
        position += 1
        head, equals, _ = word.partition("=")
        name = head.replace("_", "-") if head.startswith("--") else head
        if name not in names:
            changed.append(word)
            continue
        if flag not in _BARE and not equals and position < len(words) and not words[position].startswith("-"):
            position += 1
        if value is not None and not is_set:
            changed += [f"{head}={value}"] if equals else [head, value]
            is_set = True
    if value is not None and not is_set:
        changed += [f"--{flag}", value]
    return changed


def _masked(words: list[str], mask: str) -> list[str]:
    masked: list[str] = []
    hide = False
    for word in words:
        head, equals, _ = word.partition("=")
        if hide and not word.startswith("--"):
            masked.append(mask)  # a flag may take several keys
            continue
        is_secret = _is_secret(head)
        hide = is_secret and not equals
        masked.append(f"{head}={mask}" if is_secret and equals else word)
    return masked


def _is_secret(head: str) -> bool:
    """Tell whether a flag's value is a key: vLLM takes underscores for dashes, and a flag's beginning for the flag."""
    name = head.replace("_", "-")
    return any(name == secret[: len(name)] and len(name) >= len(secret) - 2 for secret in _SECRETS)


_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./~^-]+")


def shell_word(word: str) -> str:
    """Return a word as a shell has to be given it.

    What does not print, and could steer the terminal that it is shown on, is spelled as its bytes (bash, zsh, ksh).
    """
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(f"\\{each}" if each in "\\'" else _shown(each) for each in word) + "'"


def systemd_word(word: str) -> str:
    """Return a word as a unit file's ``ExecStart=`` has to spell it (systemd.service(5), "Command lines").

    Specifiers and variables are doubled, since systemd would fill them in; what its unquoting would eat is escaped, and
    so is what does not print.
    """
    doubled = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(doubled.replace("%", "").replace("$", "") or " "):
        return doubled
    if doubled == ";":  # bare or quoted it would begin another command
        return "\\;"
    return '"' + "".join(f"\\{each}" if each in '"\\' else _shown(each) for each in doubled) + '"'


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def server_argv(processes: Any, pids: frozenset[int]) -> list[str] | None:
    """Return the words of the server among these processes, None where they cannot be read.

    Args:
        processes: The process table: ``psutil`` or a stand-in.
        pids: A server and its descendants.
    """
    for pid in sorted(pids):
        try:
            argv = list(processes.Process(pid).cmdline())
        except (processes.NoSuchProcess, processes.AccessDenied, processes.ZombieProcess, OSError):
            continue
        if is_server_command(argv):
            return argv
    return None

"""What is advised as a systemd drop-in: the whole command line of a unit with the changed flags in it."""

from collections.abc import Sequence

from advisor.report import EngineAdvice
from exporter.command_line import systemd_word, with_flags
from exporter.words import printable

_WIDTH = 100
KEY_STANDIN = "PUT-THE-KEY-HERE"
ASSUMED_UNIT = "vllm.service"
_SYSTEMS = ("/etc/systemd/system", "systemctl")


def drop_in(
    each: EngineAdvice,
    changes: dict[str, str | None],
    *,
    argv: Sequence[str] | None,
    unit: str | None,
    is_users: bool = False,
) -> str:
    """Return the text of a drop-in, or comments that say why there is none.

    Args:
        each: What is advised.
        changes: New value by flag, None for one to take out.
        argv: The server's command line as it is; None where it cannot be read.
        unit: Its unit; None where that cannot be told.
        is_users: Whether the unit is one of a user's own manager.
    """
    engine = f"{printable(each.engine)} ({printable(each.model_name)})"
    if each.seqs is None:
        return f"# {engine}: no advice: {each.not_yet}.\n"
    if not changes:
        return f"# {engine}: nothing to change.\n"
    reasons = [
        f"#   {one.flag} {one.current} -> {one.recommended} ({one.binding})"
        for one in each.recommendations()
        if one.flag in changes
    ]
    if argv is None:
        says = "its command line cannot be read from here; set the flags where it is started"
        return "\n".join([f"# {engine}: {says}:", *map(printable, reasons)]) + "\n"
    words = with_flags(argv, changes, mask=KEY_STANDIN)
    named = unit or ASSUMED_UNIT
    folder, systemctl = ("~/.config/systemd/user", "systemctl --user") if is_users else _SYSTEMS
    lines = [
        f"# {folder}/{named}.d/50-headroom.conf",
        f"# {engine}: advised, changed by nobody. Look it over, put it there, then:",
        f"#   {systemctl} daemon-reload && {systemctl} restart {named}",
        *map(printable, reasons),
        "# It replaces the unit's whole command line: a wrapper in it (a shell, numactl) must be written back by hand.",
    ]
    if unit is None:
        lines.append(f"# No unit of this server was found: {ASSUMED_UNIT} is a guess.")
    if "/" not in words[0]:
        lines.append(f"# {words[0]} was started by its name alone: its full path is safer here.")
    elif not words[0].startswith("/"):
        lines.append(f"# {words[0]} was started by a relative path: systemd wants the full one.")
    if any(KEY_STANDIN in word for word in words):
        lines.append(
            f"# {KEY_STANDIN} stands for a key that is not shown. vLLM reads VLLM_API_KEY from its environment"
        )
        lines.append("# as well (EnvironmentFile=), where other users do not see it.")
    lines += ["[Service]", "ExecStart=", *_continued("ExecStart=", [systemd_word(word) for word in words])]
    return "\n".join(lines) + "\n"


def _continued(key: str, words: Sequence[str]) -> list[str]:
    """Break a setting between words; a flag stays beside its value."""
    lines = [key + words[0]]
    for position, word in enumerate(words[1:], start=1):
        is_value = not word.startswith("-") and words[position - 1].startswith("--")
        if is_value or len(lines[-1]) + len(word) < _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return [line + (" \\" if line is not lines[-1] else "") for line in lines]

"""What ``top`` shows: a status as lines of a terminal, as rich in detail as its size allows. Nothing here reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from exporter import words
from exporter.words import LEVELS, SIGNS, Level, Status

SORTS = ("worst first", "by name", "fullest first")

_LEVEL_STYLES: dict[Level, str] = {
    "good": "green",
    "info": "cyan",
    "warning": "yellow",
    "critical": "bold red",
    "unknown": "dim",
}

_LOOKS = {
    "weights": ("weights", "#000000 on #56a0d3", "#"),
    "kv_used": ("KV", "#000000 on #1fb58c", "="),
    "kv_idle": ("KV idle", "#c9eadf on #1d5546", "-"),
    "cuda_graphs": ("graphs", "#000000 on #cc79a7", "%"),
    "activation_reserve": ("act", "#000000 on #9ad4f5", "+"),
    "engine_other": ("rest", "#000000 on #e6dc55", "~"),
    "foreign": ("others", "#000000 on #e8772e", "x"),
    "driver_reserved": ("drv", "white on #6b727c", ":"),
    "free": ("free", "#c8ccd2 on #3a414b", "."),
}
"""What a part is called within a bar, its colours, and what fills it where there are none."""

_LEAST_BAR = 8
_KEYS = "q quit  p pause  s sort  ↑↓ scroll"


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What the person at the keyboard has chosen, and where the figures come from."""

    source: str
    interval_seconds: float
    sort: int = 0
    offset: int = 0
    """GPUs and engines that are scrolled away at the top."""
    paused: bool = False
    trouble: str | None = None
    """Why there is no newer status than the one shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """Where it is drawn."""

    width: int
    height: int | None
    """None: as long as it needs to be."""
    colour: bool


def draw(status: Status | None, view: View, canvas: Canvas) -> list[Text]:
    """Return the lines of the screen, no more than it is high and none wider than it is."""
    head = _head(status, view, canvas.width)
    foot = [] if canvas.height is None else [_foot(view)]
    if status is None:
        return _fitted([*head, Text(view.trouble or "The first reading is under way.")], foot, canvas)
    room = None if canvas.height is None else canvas.height - len(head) - len(foot)
    findings = status["findings"]
    for detail in (3, 2, 1):
        blocks = _blocks(status, view, canvas, detail)
        gap = 1 if detail == 3 else 0
        needed = sum(len(block) + gap for block in blocks)
        if room is None or needed + _least_of_findings(findings, room) <= room:
            break
    told = _findings(findings, canvas.width, None if room is None else max(0, room - needed), room)
    empty = _empty(status)
    body = [*told, *([Text("")] if told and gap else [])]
    left = None if room is None else room - len(told)
    shown = blocks[min(view.offset, max(0, len(blocks) - 1)) :]
    for position, block in enumerate(shown):
        if left is not None and len(body) - len(told) + len(block) > left - (1 if position < len(shown) - 1 else 0):
            body.append(Text(f"… {len(shown) - position} more, scroll with ↓", style="dim"))
            break
        body += [*block, *([Text("")] if gap else [])]
    return _fitted([*head, *body, *empty], foot, canvas)


def _fitted(lines: Sequence[Text], foot: Sequence[Text], canvas: Canvas) -> list[Text]:
    if canvas.height is not None:
        lines = list(lines[: max(0, canvas.height - len(foot))])
        lines += [Text("")] * (canvas.height - len(lines) - len(foot))
    fitted = [*lines, *foot]
    for line in fitted:
        line.truncate(canvas.width, overflow="ellipsis")
        line.no_wrap = True
    return fitted


def _head(status: Status | None, view: View, width: int) -> list[Text]:
    line = Text.assemble(("vllm-headroom", "bold"), "  ", words.printable(view.source))
    if status is not None and status["time_seconds"] is not None:
        line.append(f"  {datetime.fromtimestamp(status['time_seconds'], UTC):%H:%M:%S} UTC")
    if status is not None and status["build"].get("mode") == "demo":
        line.append("  demo: all of it is made up", style="dim")
    if view.paused:
        line.append("  paused", style="bold yellow")
    lines = [line]
    if status is not None and view.trouble:
        lines.append(Text(f"■ {words.printable(view.trouble)}; what stands below is old", style="bold red"))
    if status is not None:
        level, sentence = words.headline(status)
        told = _wrapped(words.printable(f"{SIGNS[level]} {sentence}"), width, "")
        lines += [Text(line.plain, style=_LEVEL_STYLES[level]) for line in told[:2]]
    return lines


def _foot(view: View) -> Text:
    return Text(f"{_KEYS}   sorted {SORTS[view.sort]}   every {view.interval_seconds:g} s", style="dim")


def _least_of_findings(findings: Sequence[Mapping[str, Any]], room: int) -> int:
    return min(len(findings), max(1, room // 4)) if findings else 0


def _findings(findings: Sequence[Mapping[str, Any]], width: int, spare: int | None, room: int | None) -> list[Text]:
    """Return each finding in full where there is room, else its first line; those left out are counted."""
    lines: list[Text] = []
    most = None if spare is None or room is None else max(spare, _least_of_findings(findings, room))
    for position, each in enumerate(findings):
        level = words.severity_level(each["severity"])
        told = words.printable(f"{SIGNS[level]} {each['subject']}: {each['summary']}. To do: {each['advice']}.")
        wrapped = _wrapped(told, width, _LEVEL_STYLES[level])
        after = len(findings) - position - 1
        if most is not None:
            here = max(0, most - len(lines) - after)
            if here == 0:
                lines[-1:] = [Text(f"… {after + 2} more findings", style="dim")]
                break
            if len(wrapped) > here:
                wrapped = wrapped[:here]
                wrapped[-1].append(" …")
        lines += wrapped
    return lines


def _wrapped(text: str, width: int, style: str) -> list[Text]:
    lines: list[str] = []
    for word in text.split():
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word if not lines else f"  {word}")
    return [Text(line, style=style if position == 0 else "") for position, line in enumerate(lines)]


def _empty(status: Status) -> list[Text]:
    lines = []
    for kind, collector, sentence in (
        ("gpus", "nvml", "No GPU is readable here"),
        ("engines", "process", "No vLLM server has been found"),
    ):
        if status[kind] or status["time_seconds"] is None:
            continue
        reasons = next((each.get("failing") for each in status["collectors"] if each["collector"] == collector), None)
        lines.append(Text(f"{sentence}{f': {words.failing(reasons)}' if reasons else ''}.", style="dim"))
    return lines


def _blocks(status: Status, view: View, canvas: Canvas, detail: int) -> list[list[Text]]:
    """Return the lines of each GPU, then of each engine, in the order asked for."""
    policy = status["policy"]
    gpus = _ordered(
        status["gpus"],
        view,
        level=lambda gpu: words.gpu_level(gpu, policy),
        fullness=lambda gpu: (gpu.get("memory_used_bytes") or 0) / (gpu.get("memory_total_bytes") or 1),
    )
    engines = _ordered(
        status["engines"], view, level=words.engine_level, fullness=lambda engine: engine.get("kv_usage_ratio") or 0.0
    )
    return [_gpu(gpu, policy, canvas, detail) for gpu in gpus] + [
        _engine(status, each, canvas, detail) for each in engines
    ]


def _ordered(
    things: Sequence[Status], view: View, *, level: Callable[[Status], Level], fullness: Callable[[Status], float]
) -> list[Status]:
    if view.sort == 0:
        return sorted(things, key=lambda thing: -LEVELS.index(level(thing)))
    if view.sort == 1:
        return list(things)
    return sorted(things, key=lambda thing: -fullness(thing))


def _gpu(gpu: Status, policy: Status, canvas: Canvas, detail: int) -> list[Text]:
    level = words.gpu_level(gpu, policy)
    risk = f"risk {words.percent(gpu['oom_risk_ratio'])}" if gpu.get("oom_risk_ratio") is not None else "risk unknown"
    state = Text(f"{risk} {SIGNS[level]}", style=_LEVEL_STYLES[level])
    name = Text.assemble((f"GPU {words.printable(gpu.get('gpu', '?'))}", "bold"))
    if detail == 1:
        slack = gpu.get("memory_slack_bytes")
        told = f" slack {words.gib(slack):>9} " if slack is not None else " "
        name.append(" ")
        rest = canvas.width - name.cell_len - len(told) - state.cell_len
        return [Text.assemble(name, _memory_bar(gpu, max(_LEAST_BAR, rest), canvas.colour), told, state)]
    name.append(f"  {words.printable(gpu.get('name', ''))}")
    middle = "  ".join(words.hardware(gpu))
    lines = [_sides(name, Text.assemble((middle, "dim"), "   ", state), canvas.width)]
    if gpu.get("memory_total_bytes"):
        lines.append(_memory_bar(gpu, canvas.width, canvas.colour))
    if detail == 3:
        lines += _gpu_notes(gpu, canvas.width)
    return lines


def _gpu_notes(gpu: Status, width: int) -> list[Text]:
    parts = []
    really, total = words.used_really_bytes(gpu), gpu.get("memory_total_bytes")
    if really is not None and total:
        parts.append(f"really in use {words.gib(really)} of {words.gib(total)}")
    if gpu.get("memory_slack_bytes") is not None:
        parts.append(f"slack {words.gib(gpu['memory_slack_bytes'], 2)}")
    if gpu.get("time_to_oom_seconds") is not None:
        time_to_oom = gpu["time_to_oom_seconds"]
        if time_to_oom == "+Inf":
            parts.append("no OOM in sight")
        else:
            goes_on = f" {words.if_growth_goes_on(gpu)}" if time_to_oom else ""
            parts.append(f"OOM in {words.until(time_to_oom)}{goes_on}")
    lines = [Text(f"  {line.plain}", style="dim") for line in _wrapped(", ".join(parts), width - 2, "")]
    factors, reasons = gpu.get("oom_risk_factor_ratio") or {}, gpu.get("oom_risk_reasons") or {}
    if factors:
        worst = max(factors, key=lambda name: factors[name])
        if factors[worst] >= 0.005 and worst in reasons:
            told = words.printable(f"{words.percent(factors[worst])} {worst.replace('_', ' ')}: {reasons[worst]}")
            lines += [Text(f"  {line.plain}") for line in _wrapped(told, width - 2, "")]
    return lines


def _memory_bar(gpu: Status, width: int, colour: bool) -> Text:
    total = gpu.get("memory_total_bytes") or 1
    components = gpu.get("memory_component_bytes")
    if not components:
        used = gpu.get("memory_used_bytes") or 0
        components = {"foreign": used, "free": total - used}
    segments = [(name, size / total, words.gib(size).removesuffix(" GiB")) for name, size in components.items()]
    return _bar(segments, width, colour)


def _bar(segments: Sequence[tuple[str, float, str]], width: int, colour: bool) -> Text:
    """Return a bar whose parts hold their own names and figures where these fit."""
    line = Text()
    left, share_so_far = 0, 0.0
    for name, share, figure in segments:
        share_so_far += max(0.0, share)
        end = min(width, round(share_so_far * width))
        cells = end - left
        left = end
        if cells <= 0:
            continue
        title, style, fill = _LOOKS.get(name, (name, "reverse", "?"))
        label = next((text for text in (f" {title} {figure} ", f" {title} ", f"{title}") if len(text) <= cells), "")
        if colour:
            line.append(label.ljust(cells), style=Style.parse(style))
        else:
            line.append(label + fill * (cells - len(label)))
    return line


def _engine(status: Status, engine: Status, canvas: Canvas, detail: int) -> list[Text]:
    level = words.engine_level(engine)
    state = Text(f"{words.engine_state(engine)} {SIGNS[level]}", style=_LEVEL_STYLES[level])
    name = Text.assemble((words.printable(engine["engine"]), "bold"))
    if engine.get("dp_rank", "0") != "0":
        name.append(f" rank {words.printable(engine['dp_rank'])}")
    if detail == 1:
        told = Text(f" {_requests(engine, short=True)} ")
        room = canvas.width - told.cell_len - state.cell_len
        name.truncate(max(8, room - _LEAST_BAR - 1), overflow="ellipsis")
        name.append(" ")
        rest = room - name.cell_len
        return [Text.assemble(name, _cache_bar(engine, max(_LEAST_BAR, rest), canvas.colour), told, state)]
    version = f"  vLLM {engine['vllm_version']}" if engine.get("vllm_version") else ""
    name.append(words.printable(f"  {engine.get('model_name') or ''}{version}"))
    lines = [_sides(name, state, canvas.width)]
    if engine.get("kv_usage_ratio") is not None:
        lines.append(_cache_bar(engine, canvas.width, canvas.colour))
    if engine.get("requests_running") is not None:
        lines.append(Text(f"  {_requests(engine, short=False)}"))
    if detail == 3:
        lines += _engine_notes(status, engine, canvas.width)
    return lines


def _cache_bar(engine: Status, width: int, colour: bool) -> Text:
    usage = engine.get("kv_usage_ratio")
    if usage is None:
        return Text(" " * width)
    used, free = engine.get("kv_used_tokens"), engine.get("kv_headroom_tokens")
    figures = (words.count(used) if used is not None else "", words.count(free) if free is not None else "")
    return _bar([("kv_used", usage, figures[0]), ("kv_idle", 1 - usage, figures[1])], width, colour)


def _requests(engine: Status, *, short: bool) -> str:
    running, waiting = words.count(engine.get("requests_running")), words.count(engine.get("requests_waiting"))
    fit, most = engine.get("request_headroom"), engine.get("max_num_seqs")
    if engine.get("requests_running") is None:
        return ""
    if short:
        return f"fit {words.count(fit):>4} run {running:>4} wait {waiting:>4}" if fit is not None else f"run {running}"
    parts = [f"{words.count(fit)} more {'request fits' if fit == 1 else 'requests fit'}"] if fit is not None else []
    parts.append(f"{running}{f' of {words.count(most)}' if most is not None else ''} run")
    parts.append(f"{waiting} wait")
    parts.append(f"KV {words.percent(engine.get('kv_usage_ratio'))}")
    if engine.get("preemptions_total") is not None:
        parts.append(f"{words.count(engine['preemptions_total'])} preempted")
    return ", ".join(parts)


def _engine_notes(status: Status, engine: Status, width: int) -> list[Text]:
    notes = []
    capacity = words.capacity_sentence(engine)
    if capacity:
        notes.append(f"KV cache {capacity}")
    full = words.kv_full_in(engine)
    if full is not None:
        notes.append(f"KV cache full in: {full}.")
    restart = words.restart_sentence(engine)
    if restart:
        notes.append(restart)
    stays = words.advice_sentence(engine)
    if stays:
        notes.append(stays)
    notes += [
        f"Advice: {words.as_flag(each['flag'], each['recommended'])} (now {each['current']}; {each['binding']})."
        for each in words.recommendations(status, engine)
    ]
    return [
        Text(f"  {line.plain}", style="dim")
        for note in notes
        for line in _wrapped(words.printable(note), width - 2, "")
    ]


def _sides(left: Text, right: Text, width: int) -> Text:
    """Return one text at the left edge and one at the right; where both do not fit, the left one is cut."""
    space = width - right.cell_len - 1
    if left.cell_len > space:
        left.truncate(max(8, space), overflow="ellipsis")
    return Text.assemble(left, " " * max(1, width - left.cell_len - right.cell_len), right)

"""The status page: figures without scripts, kept up to date by one where scripts run."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from exporter import words
from exporter.recent import Subject
from exporter.web.engine_card import engine_card
from exporter.web.gpu_card import gpu_card
from exporter.web.html import Html, element, fragment
from exporter.web.looks import SCRIPT, STYLE
from exporter.web.parts import pill, sign
from exporter.words import LEVELS, SIGNS, Level, Status

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='3' fill='%230072b2'/%3E"
    "%3Crect x='3' y='7' width='10' height='6' fill='white'/%3E"
    "%3C/svg%3E"
)

Recents = Mapping[Subject, Mapping[str, Sequence[float]]]


def render_page(status: Status, recents: Recents) -> str:
    """Return the page for one status.

    Args:
        status: As `exporter.web.status.status` returns it.
        recents: The last hour of each GPU and engine, by subject.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width,initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{_title(status)} vllm-headroom"),
        element("link", rel="icon", href=_ICON),
        element("style", Html(STYLE)),
    )
    body = element(
        "body",
        element("a", "Skip to findings", href="#findings", class_="skip"),
        _header(status),
        element("p", id="lost", role="alert", hidden=True),
        element("main", _main(status, recents), id="main"),
        _footer(status),
        element("script", Html(SCRIPT)),
        data_poll_seconds=max(1.0, status["poll_interval_seconds"]),
    )
    return f"<!doctype html>{element('html', head, body, lang='en')}"


def _title(status: Status) -> str:
    level, _ = words.headline(status)
    return f"{SIGNS[level]} {level} ·"


def _header(status: Status) -> Html:
    demo = status["build"].get("mode") == "demo"
    return element(
        "header",
        element("h1", "vllm-headroom"),
        element("p", "Demo: the GPUs, the engine and its load are made up.", class_="demo") if demo else None,
        element("button", "Pause updates", type="button", id="pause", hidden=True),
    )


def _main(status: Status, recents: Recents) -> Html:
    level, sentence = words.headline(status)
    return fragment(
        element(
            "p",
            sign(level),
            element("strong", sentence),
            " ",
            _read_at(status),
            class_=f"headline {level}",
            role="status",
        ),
        _tiles(status),
        _findings(status),
        _gpus(status, recents),
        _engines(status, recents),
        _sources(status["collectors"]),
    )


def _read_at(status: Status) -> Html | None:
    if status["time_seconds"] is None:
        return None
    moment = datetime.fromtimestamp(status["time_seconds"], UTC)
    return element(
        "span",
        "Read at ",
        element("time", f"{moment:%H:%M:%S} UTC", datetime=moment.isoformat(timespec="seconds")),
        class_="read-at",
    )


def _tiles(status: Status) -> Html | None:
    gpus, engines = status["gpus"], status["engines"]
    tiles = []
    risks = [gpu for gpu in gpus if gpu.get("oom_risk_ratio") is not None]
    if risks:
        worst = max(risks, key=lambda gpu: gpu["oom_risk_ratio"])
        tiles.append(
            _tile(
                words.percent(worst["oom_risk_ratio"]),
                "highest risk of running out of GPU memory",
                f"GPU {worst['gpu']}",
                words.risk_level(worst, status["policy"]),
            )
        )
    fits = [engine for engine in engines if engine.get("request_headroom") is not None]
    if fits:
        fewest = min(fits, key=lambda engine: engine["request_headroom"])
        held_up = any(words.limiter_level(engine) in {"warning", "critical"} for engine in fits)
        tiles.append(
            _tile(
                words.count(sum(engine["request_headroom"] for engine in fits)),
                "more typical requests fit",
                "in all" if len(fits) > 1 else fewest["engine"],
                "warning" if held_up or fewest["request_headroom"] < 1 else "good",
            )
        )
    queues = [engine for engine in engines if engine.get("requests_waiting") is not None]
    if queues:
        waiting = sum(engine["requests_waiting"] for engine in queues)
        running = sum(engine.get("requests_running") or 0 for engine in queues)
        tiles.append(
            _tile(
                words.count(waiting), "requests wait", f"{words.count(running)} run", "warning" if waiting else "good"
            )
        )
    return element("ul", tiles, class_="tiles", aria_label="At a glance") if tiles else None


def _tile(figure: str, meaning: str, where: str, level: Level) -> Html:
    return element(
        "li",
        element("span", figure, class_="figure"),
        element("span", meaning),
        element("span", where, class_="where"),
        class_=level,
    )


def _findings(status: Status) -> Html:
    items = [
        element(
            "li",
            sign(each["severity"]),
            element(
                "div",
                element("strong", f"{each['severity'].capitalize()}, {each['subject']}: "),
                f"{each['summary']}.",
                element("p", element("b", "To do: "), f"{each['advice']}."),
            ),
            class_=each["severity"],
        )
        for each in status["findings"]
    ]
    if items:
        content = element("ul", items, class_="findings")
    elif status["time_seconds"] is None:
        content = element("p", "Nothing can be said without a fresh reading.", class_="empty")
    else:
        well = words.headline(status)[0] == "good"
        content = element("p", "Nothing to report." if well else "Nothing beyond the first line.", class_="empty")
    return element("section", element("h2", "Findings", id="findings", tabindex="-1"), content)


def _gpus(status: Status, recents: Recents) -> Html:
    policy = status["policy"]
    gpus = sorted(status["gpus"], key=lambda gpu: -LEVELS.index(words.gpu_level(gpu, policy)))
    cards = [gpu_card(gpu, policy, recents.get(("gpu", gpu["uuid"]), {})) for gpu in gpus]
    why = _why_none(status, "nvml", "No GPU is readable here")
    return element("section", element("h2", "GPUs"), _cards(cards) or element("p", why, class_="empty"))


def _engines(status: Status, recents: Recents) -> Html:
    engines = sorted(status["engines"], key=lambda engine: -LEVELS.index(words.engine_level(engine)))
    cards = [
        engine_card(status, engine, recents.get(("engine", engine["engine"], engine["dp_rank"]), {}))
        for engine in engines
    ]
    why = _why_none(status, "process", "No vLLM server has been found on this host")
    return element("section", element("h2", "Engines"), _cards(cards) or element("p", why, class_="empty"))


def _cards(cards: Sequence[Html]) -> Html | None:
    return element("div", cards, class_="cards") if cards else None


def _why_none(status: Status, collector: str, fallback: str) -> str:
    failing = next((each for each in status["collectors"] if each["collector"] == collector), None)
    if not status["ready"] or failing is None:
        return "The first reading is under way."
    if failing.get("failing"):
        return f"{fallback}: {words.failing(failing['failing'])}."
    if status["time_seconds"] is None:
        return "Not shown: there is no fresh reading."
    return f"{fallback}."


def _sources(collectors: Sequence[Mapping[str, Any]]) -> Html:
    rows = [
        element(
            "tr",
            element("th", each["collector"], scope="row"),
            element(
                "td",
                pill("good", "ok") if each.get("success") else pill("warning", "failing"),
                "" if each.get("success") else f" {words.failing(each.get('failing'))}",
            ),
        )
        for each in collectors
    ]
    bad = sum(not each.get("success") for each in collectors)
    summary = f"{bad} of {len(rows)} cannot be read" if bad else f"all {len(rows)} can be read"
    table = element(
        "table",
        element("thead", element("tr", element("th", "Source", scope="col"), element("th", "State", scope="col"))),
        element("tbody", rows),
    )
    return element(
        "section",
        element("h2", "Sources"),
        element("details", element("summary", summary), table, open=bool(bad))
        if rows
        else element("p", "The first reading is under way.", class_="empty"),
    )


def _footer(status: Status) -> Html:
    # Relative, as the script's own question is: a proxy may serve this below a path of its own.
    links = [
        element("a", text, href=path)
        for path, text in (
            ("metrics", "Metrics"),
            ("api/v1/status", "Status as JSON"),
            ("api/v1/advice", "Advice as JSON"),
            ("api/v1/plan", "Plans as JSON"),
            ("api/v1/openapi.json", "API description"),
        )
    ]
    return element(
        "footer",
        element("p", f"vllm-headroom {status['build'].get('version', '')}. It advises and changes nothing."),
        element("nav", links, aria_label="More of this"),
        element("noscript", element("p", "Reload to update: scripts are off.")),
    )

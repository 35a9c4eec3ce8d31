"""The status page: plain HTML that works without scripts."""

from html import escape
from typing import Any

from advisor.units import GIB

_STYLE = """
:root{color-scheme:light dark;font-family:system-ui,sans-serif;line-height:1.45}
body{max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.25rem .9rem .25rem 0;text-align:left}
.demo{padding:.5rem .8rem;border:1px solid}.critical{font-weight:bold}
"""


def render_page(status: dict[str, Any]) -> str:
    """Return the page for one status."""
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>vllm-headroom</title><style>{_STYLE}</style></head><body><h1>vllm-headroom</h1>",
    ]
    build = status["build"]
    if build.get("mode") == "demo":
        parts.append("<p class=demo>Demo: the GPUs, the engine and its load are made up.</p>")
    parts.append(
        f"<p>Version {escape(build.get('version', '?'))} · <a href=/metrics>metrics</a> · "
        "<a href=/api/v1/status>status as JSON</a> · <a href=/api/v1/advice>advice as JSON</a></p>"
    )
    parts.append(_findings(status["findings"]))
    parts.append(_gpus(status["gpus"]))
    parts.append(_engines(status["engines"]))
    parts.append(_collectors(status["collectors"]))
    parts.append("</body></html>")
    return "".join(parts)


def _table(title: str, header: list[str], rows: list[list[str]], empty: str) -> str:
    if not rows:
        return f"<h2>{title}</h2><p>{escape(empty)}</p>"
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h2>{title}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _findings(findings: list[dict[str, Any]]) -> str:
    items = "".join(
        f"<li class={escape(each['severity'])}>{escape(each['subject'])}: {escape(each['summary'])}. "
        f"To do: {escape(each['advice'])}.</li>"
        for each in findings
    )
    return f"<h2>Findings</h2><ul>{items}</ul>" if items else "<h2>Findings</h2><p>Nothing to report.</p>"


def _gpus(gpus: list[dict[str, Any]]) -> str:
    rows = [
        [
            gpu.get("gpu", "?"),
            gpu.get("name", ""),
            _gib(gpu.get("memory_used_bytes")),
            _gib(gpu.get("memory_free_bytes")),
            _gib(gpu.get("memory_slack_bytes")),
            _number(gpu.get("oom_risk_ratio"), "{:.2f}"),
        ]
        for gpu in gpus
    ]
    header = ["GPU", "Name", "Used", "Free", "Slack", "OOM risk (15 min)"]
    return _table("GPUs", header, rows, "No GPU is readable here.")


def _engines(engines: list[dict[str, Any]]) -> str:
    rows = [
        [
            engine["engine"],
            engine.get("model_name", ""),
            "up" if engine.get("up") else f"down ({', '.join(engine.get('failing', {}))})",
            _number(engine.get("kv_usage_ratio"), "{:.0%}"),
            _number(engine.get("kv_headroom_tokens"), "{:,.0f}"),
            _number(engine.get("request_headroom"), "{:,.0f}"),
            " / ".join(_number(engine.get(f"requests_{state}"), "{:.0f}") for state in ("running", "waiting")),
            next((name for name, on in engine.get("limiter", {}).items() if on), "-"),
            _seqs(engine),
        ]
        for engine in engines
    ]
    header = [
        *("Engine", "Model", "State", "KV used", "Free tokens", "Requests that fit", "Running / waiting", "Limiter"),
        "max-num-seqs",
    ]
    return _table("Engines", header, rows, "No vLLM server has been found on this host.")


def _seqs(engine: dict[str, Any]) -> str:
    now, recommended = engine.get("max_num_seqs"), engine.get("recommended_max_num_seqs")
    shown = _number(now, "{:.0f}")
    return shown if recommended in (None, now) else f"{shown}, should be {recommended:.0f}"


def _collectors(collectors: list[dict[str, Any]]) -> str:
    rows = [
        [each["collector"], "ok" if each.get("success") else f"failing: {', '.join(each.get('failing', {}))}"]
        for each in collectors
    ]
    return _table("Sources", ["Source", "State"], rows, "The first reading is under way.")


def _gib(size_bytes: Any) -> str:
    return _number(size_bytes / GIB if isinstance(size_bytes, int | float) else None, "{:.2f} GiB")


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else "-"

"""One engine on the status page."""

from collections.abc import Iterable, Mapping, Sequence

from exporter import words
from exporter.web.drawing import Segment, bar, chart, swatch
from exporter.web.html import Html, element
from exporter.web.parts import pill, row
from exporter.words import Status


def engine_card(status: Status, engine: Status, recent: Mapping[str, Sequence[float]]) -> Html:
    """Return how full an engine is, what limits it, what it should hold and what would be better."""
    level = words.engine_level(engine)
    rank = f", rank {engine['dp_rank']}" if engine.get("dp_rank", "0") != "0" else ""
    version = f", vLLM {engine['vllm_version']}" if engine.get("vllm_version") else ""
    return element(
        "article",
        element(
            "h3",
            element("span", engine["engine"]),
            element("small", f"{engine.get('model_name') or 'model not known'}{rank}{version}"),
            pill(level, words.engine_state(engine)),
        ),
        _cache(engine),
        element("dl", [row(term, told) for term, told in _facts(engine)]),
        _advice(status, engine),
        element("div", _charts(recent), class_="charts"),
        class_=f"card {level}",
    )


def _cache(engine: Status) -> Html | None:
    capacity, used = engine.get("kv_capacity_tokens"), engine.get("kv_used_tokens")
    if not capacity or used is None:
        return None
    lower, upper = engine.get("kv_theory_lower_tokens"), engine.get("kv_theory_upper_tokens")
    whole = max(capacity, upper or 0)
    label = (
        f"KV cache of {engine['engine']}: {words.count(used)} of {words.count(capacity)} tokens in use, "
        f"{words.percent(used / capacity)}"
    )
    band = (lower / whole, upper / whole) if lower is not None and upper is not None else None
    segments = [
        Segment(name="kv_used", share=used / whole),
        Segment(name="kv_idle", share=(capacity - used) / whole),
    ]
    names = [("kv_used", "in use"), ("kv_idle", "idle"), *([("band", "what theory says")] if band else [])]
    legend = [element("li", swatch(name), text) for name, text in names]
    return element(
        "div",
        bar(segments, label=label, band=band),
        element("ul", legend, class_="legend", aria_hidden="true"),
        class_="memory",
    )


def _facts(engine: Status) -> Iterable[tuple[str, str | None]]:
    limiter = words.limiter(engine)
    yield "More requests", words.headroom_sentence(engine)
    yield "KV cache in use", _usage(engine)
    yield "Requests", _requests(engine)
    drain = engine.get("queue_drain_seconds")
    yield "Queue served in", words.until(drain) if drain is not None else None
    yield "What limits it", words.LIMITER_SENTENCES.get(limiter or "")
    yield "KV cache full in", words.kv_full_in(engine)
    yield "Preemptions", _preemptions(engine)
    yield "KV cache size", words.capacity_sentence(engine)
    concurrency = engine.get("full_context_concurrency")
    yield "At full length", f"{concurrency:,.1f} requests of max-model-len fit at once." if concurrency else None
    yield "A restart", words.restart_sentence(engine)
    yield "Advice", words.advice_sentence(engine)
    missing = ", ".join(name for name, on in (engine.get("metric_missing") or {}).items() if on)
    yield "Not on its page", missing or None


def _usage(engine: Status) -> str | None:
    used, capacity, free = (engine.get(f"kv_{name}_tokens") for name in ("used", "capacity", "headroom"))
    if engine.get("kv_usage_ratio") is None:
        return None
    ratio = words.percent(engine["kv_usage_ratio"])
    if used is None or capacity is None:
        return ratio
    return f"{ratio}: {words.count(used)} of {words.count(capacity)} tokens, {words.count(free)} free."


def _requests(engine: Status) -> str | None:
    if engine.get("requests_running") is None:
        return None
    most = engine.get("max_num_seqs")
    of = f" of at most {words.count(most)}" if most is not None else ""
    return f"{words.count(engine['requests_running'])}{of} run, {words.count(engine.get('requests_waiting'))} wait."


def _preemptions(engine: Status) -> str | None:
    total, risk = engine.get("preemptions_total"), engine.get("preemption_risk_ratio")
    told = []
    if total is not None:
        told.append(f"{words.count(total)} since it started")
    if risk is not None:
        told.append(f"probability of another soon {words.percent(risk)}")
    return "; ".join(told) or None


def _advice(status: Status, engine: Status) -> Html | None:
    """Advice is a list of values to copy: a whole command line is not shown to whoever can open the page."""
    rows = [
        element(
            "tr",
            element("td", _value(each["flag"], each["recommended"])),
            element("td", each["current"], data_name="Now"),
            element("td", each["gain"], data_name="KV cache"),
            element("td", each["why"]),
        )
        for each in words.recommendations(status, engine)
    ]
    if not rows:
        return None
    confidence = engine.get("advice_confidence_ratio")
    title = "Advice" if confidence is None else f"Advice, confidence {words.percent(confidence)}"
    head = [element("th", each, scope="col") for each in ("Better", "Now", "KV cache", "Why")]
    return element(
        "div",
        element(
            "table",
            element("caption", title),
            element("thead", element("tr", head)),
            element("tbody", rows),
        ),
        class_="advice",
    )


def _value(flag: str, value: str) -> Html:
    text = words.as_flag(flag, value)
    return element(
        "span",
        element("code", text),
        element("button", "Copy", type="button", class_="copy", aria_label=f"Copy {text}"),
    )


def _charts(recent: Mapping[str, Sequence[float]]) -> list[Html | None]:
    charts: list[Html | None] = []
    usage, fits = recent.get("kv_usage_ratio"), recent.get("request_headroom")
    running, waiting = recent.get("requests_running"), recent.get("requests_waiting")
    if usage:
        charts.append(chart("KV cache in use", [("", usage)], spelled=words.percent, highest=1.0))
    if running and waiting:
        charts.append(chart("Requests", [("running", running), ("waiting", waiting)], spelled=words.count))
    if fits:
        charts.append(chart("More requests that fit", [("", fits)], spelled=words.count))
    return charts

"""One GPU on the status page."""

from collections.abc import Callable, Mapping, Sequence

from advisor.units import spelled_growth
from exporter import words
from exporter.web.drawing import Segment, bar, chart, swatch
from exporter.web.html import Html, element
from exporter.web.parts import pill, row
from exporter.words import Status

_TELLING_RATIO = 0.005
"""What is spelled as less than 1% is folded away."""


def gpu_card(gpu: Status, policy: Status, recent: Mapping[str, Sequence[float]]) -> Html:
    """Return what a GPU holds, how likely it runs out, and how that went in the last hour."""
    level = words.gpu_level(gpu, policy)
    risk = gpu.get("oom_risk_ratio")
    hardware = ", ".join(words.hardware(gpu))
    return element(
        "article",
        element(
            "h3",
            element("span", f"GPU {gpu.get('gpu', '?')}"),
            element("small", gpu.get("name", "")),
            pill(level, f"risk of running out {words.percent(risk)}" if risk is not None else "risk not known"),
        ),
        _memory(gpu),
        element(
            "dl",
            row("Slack", _slack(gpu)),
            row("Out of memory in", _time_to_oom(gpu)),
            row(
                f"Risk within {words.until(policy['oom_horizon_seconds'])}",
                _factors(gpu),
            ),
            row("Hardware", hardware) if hardware else None,
            row("Held back by", _throttled(gpu)),
            row("Hardware faults", _faults(gpu)),
        ),
        element(
            "div",
            _chart("Risk of running out", recent.get("oom_risk_ratio"), words.percent, highest=1.0),
            _chart("Slack", recent.get("memory_slack_bytes"), words.gib, highest=None),
            class_="charts",
        ),
        class_=f"card {level}",
    )


def _memory(gpu: Status) -> Html | None:
    components, total = gpu.get("memory_component_bytes"), gpu.get("memory_total_bytes")
    if not total:
        return None
    if not components:
        used = gpu.get("memory_used_bytes")
        told = f"{words.gib(used)} of {words.gib(total)} in use; by whom is not known."
        segments = [Segment(name="foreign", share=(used or 0) / total)]
        return element("div", bar(segments, label=told), element("p", told), class_="memory")
    held = [(name, size) for name, size in components.items() if size > 0]
    legend = [
        element(
            "li",
            swatch(name),
            words.COMPONENT_WORDS.get(name, name),
            " ",
            element("b", words.gib(size)),
        )
        for name, size in held
    ]
    label = f"Memory of GPU {gpu.get('gpu', '?')}: " + ", ".join(
        f"{words.COMPONENT_WORDS.get(name, name)} {words.gib(size)}" for name, size in held
    )
    why = words.why_full(gpu)
    return element(
        "div",
        bar([Segment(name=name, share=size / total) for name, size in held], label=label),
        element("ul", legend, class_="legend", aria_hidden="true"),
        element("p", why, class_="why") if why else None,
        class_="memory",
    )


def _slack(gpu: Status) -> str | None:
    slack = gpu.get("memory_slack_bytes")
    if slack is None:
        return None
    meaning = "free, and no engine may claim it" if slack >= 0 else "engines may still claim more than is free"
    lowest = gpu.get("memory_slack_low_bytes")
    low = f"; lowest so far {words.gib(lowest, 2)}" if lowest is not None else ""
    return f"{words.gib(slack, 2)} ({meaning}{low})"


def _time_to_oom(gpu: Status) -> str | None:
    seconds = gpu.get("time_to_oom_seconds")
    if seconds is None:
        return None
    if not seconds or seconds == "+Inf":
        return words.until(seconds)
    lower, upper = gpu.get("time_to_oom_lower_seconds"), gpu.get("time_to_oom_upper_seconds")
    bounds = ""
    if lower is not None and upper is not None and lower != upper:
        bounds = f" ({words.until(lower, none='never')} to {words.until(upper, none='never')})"
    growth = gpu.get("memory_growth_bytes_per_second")
    rate = f", {spelled_growth(growth)}" if growth else ""
    return f"{words.until(seconds)}{bounds} {words.if_growth_goes_on(gpu)}{rate}"


def _factors(gpu: Status) -> Html | None:
    factors, reasons = gpu.get("oom_risk_factor_ratio") or {}, gpu.get("oom_risk_reasons") or {}
    if not factors:
        return None
    items = [
        (
            ratio,
            element(
                "li",
                element("b", words.percent(ratio)),
                f" {name.replace('_', ' ')}" + (f": {reasons[name]}" if name in reasons else ""),
            ),
        )
        for name, ratio in sorted(factors.items(), key=lambda pair: -pair[1])
    ]
    telling = [item for ratio, item in items if ratio >= _TELLING_RATIO]
    rest = [item for ratio, item in items if ratio < _TELLING_RATIO]
    summary = f"{len(rest)} {'more causes' if telling else 'causes'}, each below 1%"
    folded = element("details", element("summary", summary), element("ul", rest, class_="factors")) if rest else None
    # The list stays, empty or not: an opened detail behind it is the same one after an update.
    return element("div", element("ul", telling, class_="factors"), folded)


def _throttled(gpu: Status) -> str:
    return ", ".join(words.THROTTLE_WORDS.get(name, name) for name, on in (gpu.get("throttled") or {}).items() if on)


def _faults(gpu: Status) -> str | None:
    faults = []
    if gpu.get("row_remap_failed"):
        faults.append("a memory row could not be remapped: replace the board")
    elif gpu.get("row_remap_pending"):
        faults.append("a memory row waits for a reset to be remapped")
    if gpu.get("ecc_uncorrected_errors_total"):
        faults.append(f"{words.count(gpu['ecc_uncorrected_errors_total'])} uncorrected memory errors")
    xids = {code: times for code, times in (gpu.get("xid_errors_total") or {}).items() if times}
    if xids:
        faults.append("Xid " + ", ".join(f"{code} ({_times(times)})" for code, times in xids.items()))
    return "; ".join(faults) or None


def _times(number: float) -> str:
    return "once" if number == 1 else f"{words.count(number)} times"


def _chart(
    title: str, values: Sequence[float] | None, spelled: Callable[[float], str], *, highest: float | None
) -> Html | None:
    return chart(title, [("", values)], spelled=spelled, highest=highest) if values else None

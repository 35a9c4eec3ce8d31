"""How figures and states read, the same on the page and in the terminal. Input is the status, as JSON has it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeGuard

from advisor.report import COMPONENTS, LIMITERS
from advisor.units import GIB, spelled_ratio, spelled_seconds

Level = Literal["good", "info", "warning", "critical", "unknown"]
Status = Mapping[str, Any]

LEVELS: tuple[Level, ...] = ("good", "unknown", "info", "warning", "critical")
"""From the best to the worst."""

SIGNS: dict[Level, str] = {"good": "✓", "info": "i", "warning": "▲", "critical": "■", "unknown": "?"}
"""A shape beside every colour: colour alone says nothing to one man in twelve."""

NOT_REPORTED = "not reported"

COMPONENT_WORDS = {
    "weights": "weights",
    "kv_used": "KV cache, in use",
    "kv_idle": "KV cache, idle",
    "cuda_graphs": "CUDA graphs",
    "activation_reserve": "activation reserve",
    "engine_other": "CUDA context, rest",
    "foreign": "other processes",
    "driver_reserved": "driver",
    "free": "free",
}
assert tuple(COMPONENT_WORDS) == COMPONENTS

LIMITER_WORDS = {
    "kv": "KV cache",
    "max_num_seqs": "max-num-seqs",
    "compute": "compute",
    "queue_cap": "queue is capped",
    "stalled": "stalled",
    "none": "nothing",
}
assert tuple(LIMITER_WORDS) == LIMITERS

LIMITER_SENTENCES = {
    "kv": "The KV cache holds requests up: they wait for blocks, or lose theirs and are computed again.",
    "max_num_seqs": "As many requests run as max-num-seqs lets in; the rest wait although the KV cache has room.",
    "compute": "Each step's token budget is used up: requests take turns, memory is not what holds them up.",
    "queue_cap": "The queue is at its limit: new requests are refused.",
    "stalled": "Requests wait or run and no token comes: the engine is stuck.",
    "none": "Nothing holds requests up: a new one starts at once.",
}
_LIMITER_LEVELS: dict[str, Level] = {
    "kv": "warning",
    "max_num_seqs": "warning",
    "compute": "info",
    "queue_cap": "critical",
    "stalled": "critical",
    "none": "good",
}

BINDING_WORDS = {
    "kv": "the KV cache decides",
    "demand": "what is asked for decides",
    "latency": "the time that a token may take decides",
    "token_budget": "the token budget of a step decides",
    "state_blocks": "the blocks for states decide",
    "memory": "what vLLM would surely start with decides",
    "slack": "memory that is free decides",
    "over_commitment": "more is claimed than is free",
    "gone": "this release has no such flag",
    "none": "nothing speaks for another",
}

THROTTLE_WORDS = {
    "sw_power_cap": "power limit",
    "hw_slowdown": "hardware slowdown",
    "sw_thermal_slowdown": "heat (software)",
    "hw_thermal_slowdown": "heat (hardware)",
    "hw_power_brake": "power brake",
    "sync_boost": "sync boost",
}

_FAILING = {
    "no_driver_library": "no NVIDIA driver is installed here",
    "driver_not_loaded": "the NVIDIA driver is not loaded",
    "driver_library_mismatch": "the driver's library and its kernel module are of different releases",
    "driver_unloaded": "the NVIDIA driver was unloaded",
    "driver_timeout": "the NVIDIA driver did not answer in time",
    "no_permission": "the NVIDIA driver's device files may not be opened",
    "no_gpu": "the driver shows no GPU",
    "gpu_missing": "a GPU that was there is gone",
    "gpu_lost": "a GPU has fallen off the bus",
    "gpu_reset_required": "a GPU has to be reset",
    "nvml_error": "the NVIDIA driver reports an error",
    "no_process_table": "the process table cannot be read",
    "hung": "a read has not come back",
    "not_read_yet": "not read yet",
    "connection_refused": "nothing listens there",
    "timeout": "no answer in time",
    "tls": "its certificate is not trusted, or it does not speak TLS",
    "not_http": "what answers there does not speak HTTP",
    "not_metrics": "what answers there does not serve metrics",
    "no_vllm_metrics": "its page has no vLLM metrics",
    "broken_labels": "a line of its page is broken",
    "broken_body": "the answer is broken",
    "half_page": "the answer breaks off",
    "body_too_large": "the answer is absurdly large",
    "page_too_large": "its page has absurdly many lines",
    "absurd_labels": "its page has absurdly long names or labels",
    "too_many_engines": "its page names absurdly many engines",
    "timestamps": "its page shows times beside the values, which vLLM never does",
    "unknown_encoding": "the answer is compressed in a way that was not asked for",
    "http_401": "it wants an API key",
    "http_403": "it does not let the daemon in",
    "state_not_written": "the state directory cannot be written",
    "internal_error": "a fault of vllm-headroom: its log has it",
}

_SOURCES = {
    "nvml": "the GPUs",
    "process": "this host's processes",
    "model": "the models' files",
    "state": "what survives a restart",
    "advice": "the judgement",
}
"""What is not read when a source fails. Servers are named one by one."""


def printable(text: object) -> str:
    """Return a text without control characters: what comes from servers must not steer a terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(text))


def count(value: Any) -> str:
    """Spell a count: ``36,720``."""
    return f"{value:,.0f}" if _is_number(value) else NOT_REPORTED


def gib(size_bytes: Any, digits: int = 1) -> str:
    """Spell bytes in GiB."""
    return f"{size_bytes / GIB:,.{digits}f} GiB" if _is_number(size_bytes) else NOT_REPORTED


def percent(ratio: Any) -> str:
    """Spell a ratio; what is not quite nothing and not quite all says so."""
    return spelled_ratio(ratio) if _is_number(ratio) else NOT_REPORTED


def until(value: Any, *, none: str = "not in sight") -> str:
    """Spell the time until something happens; ``+Inf`` is never."""
    if value == "+Inf":
        return none
    return spelled_seconds(value) if _is_number(value) else NOT_REPORTED


def if_growth_goes_on(gpu: Status) -> str:
    """Say under which condition a GPU's memory ends when it is said to: what grew for a minute may be over."""
    lasted = gpu.get("memory_growth_lasted_seconds")
    return f"if the growth of the last {spelled_seconds(lasted)} goes on" if lasted else "if growth goes on"


def failing(reasons: Mapping[str, Any] | None) -> str:
    """Say why something could not be read."""
    told = [f"{_FAILING[reason]} ({reason})" if reason in _FAILING else reason for reason in reasons or ()]
    return "; ".join(told) or "no reason known"


def worst(levels: Sequence[Level]) -> Level:
    """Return the worst of some levels, good without any."""
    return max(levels, key=LEVELS.index, default="good")


def risk_level(gpu: Status, policy: Status) -> Level:
    """Return how bad a GPU's risk of running out of memory is."""
    risk = gpu.get("oom_risk_ratio")
    if not _is_number(risk):
        return "unknown"
    if risk >= policy["oom_risk_critical_ratio"]:
        return "critical"
    return "warning" if risk >= policy["oom_risk_warning_ratio"] else "good"


def gpu_level(gpu: Status, policy: Status) -> Level:
    """Return how bad a GPU's state is, by risk, slack and the health of its hardware."""
    levels = [risk_level(gpu, policy)]
    if (gpu.get("memory_slack_bytes") or 0) < 0:
        levels.append("warning")
    if gpu.get("row_remap_pending") or gpu.get("row_remap_failed"):
        levels.append("warning")
    return worst(levels)


def limiter(engine: Status) -> str | None:
    """Return what keeps an engine from running more requests, None where it cannot be told."""
    return next((name for name, on in (engine.get("limiter") or {}).items() if on), None)


def limiter_level(engine: Status) -> Level:
    """Return how bad it is what keeps an engine from running more requests."""
    return _LIMITER_LEVELS.get(limiter(engine) or "", "unknown")


def engine_level(engine: Status) -> Level:
    """Return how bad an engine's state is, by whether it answers, what limits it and whether it would start again."""
    if not engine.get("up"):
        return "critical"
    levels: list[Level] = [limiter_level(engine)]
    if engine.get("restart_fits") == 0:
        levels.append("warning")
    return worst(levels)


def hardware(gpu: Status) -> list[str]:
    """Return how busy, how warm and how hungry a GPU is, as far as it says."""
    told = []
    if gpu.get("utilization_ratio") is not None:
        told.append(f"{percent(gpu['utilization_ratio'])} busy")
    if gpu.get("temperature_celsius") is not None:
        told.append(f"{gpu['temperature_celsius']:.0f} °C")
    if gpu.get("power_watts") is not None:
        told.append(f"{gpu['power_watts']:.0f} W")
    return told


def engine_state(engine: Status) -> str:
    """Return an engine's state in a few words."""
    if not engine.get("up"):
        return f"down: {failing(engine.get('failing'))}"
    if engine.get("asleep"):
        return "asleep"
    what = limiter(engine)
    if what is None:
        return "up"
    return "room for more" if what == "none" else f"limited by {LIMITER_WORDS.get(what, what)}"


def used_really_bytes(gpu: Status) -> float | None:
    """Return what is in use of a GPU without the idle part of the preallocated KV cache."""
    components = gpu.get("memory_component_bytes")
    if not components:
        return None
    return float(sum(size for name, size in components.items() if name not in ("kv_idle", "free")))


def why_full(gpu: Status) -> str | None:
    """Say why a GPU with a vLLM engine is nearly full whatever its load; None where no engine holds a KV cache."""
    components, total = gpu.get("memory_component_bytes"), gpu.get("memory_total_bytes")
    really = used_really_bytes(gpu)
    if not components or not total or really is None:
        return None
    idle = components.get("kv_idle", 0.0)
    pool = idle + components.get("kv_used", 0.0)
    if pool <= 0:
        return None
    taken = percent(1 - components.get("free", 0.0) / total)
    return (
        f"{taken} is taken at any load, because vLLM reserves its KV cache when it starts and keeps it. Of these "
        f"{gib(pool)}, {gib(idle)} are idle now, so {gib(really)} ({percent(really / total)}) are really in use."
    )


def headroom_sentence(engine: Status) -> str | None:
    """Say how many more requests fit, and by what."""
    fit = engine.get("request_headroom")
    if fit is None:
        return None
    parts = [
        f"{words} {count(engine[name])}"
        for name, words in (("kv_request_headroom", "the KV cache takes"), ("seqs_request_headroom", "max-num-seqs"))
        if engine.get(name) is not None
    ]
    typical = engine.get("typical_request_tokens")
    length = f" of {count(typical)} tokens" if typical is not None else ""
    fits = "request" + length + " fits" if fit == 1 else "requests" + length + " fit"
    return f"{count(fit)} more typical {fits}" + (f" ({', '.join(parts)})." if parts else ".")


def capacity_sentence(engine: Status) -> str | None:
    """Hold an engine's capacity against theory, with its bounds."""
    capacity, theory = engine.get("kv_capacity_tokens"), engine.get("kv_theory_tokens")
    if capacity is None:
        return None
    if theory is None:
        why = engine.get("theory")
        return f"{count(capacity)} tokens. No theory to hold against it" + (f": {why}." if why else ".")
    lower, upper = engine.get("kv_theory_lower_tokens"), engine.get("kv_theory_upper_tokens")
    bounds = f" ({count(lower)} to {count(upper)})" if lower is not None and upper is not None else ""
    verdict = ""
    if lower is not None and upper is not None:
        verdict = (
            "less than expected" if capacity < lower else "more than expected" if capacity > upper else "as expected"
        )
        verdict = f": {verdict}"
    gap = engine.get("kv_capacity_gap_ratio")
    difference = f", {gap:+.1%}" if _is_number(gap) else ""
    return f"{count(capacity)} tokens; theory says {count(theory)}{bounds}{difference}{verdict}."


def restart_sentence(engine: Status) -> str | None:
    """Say whether an engine would start again with its flags; None where that is not judged."""
    fits = engine.get("restart_fits")
    if fits is None:
        return None
    if fits:
        return "It would start again with its flags."
    shortfall = engine.get("restart_shortfall_bytes")
    missing = f": {gib(shortfall, 2)} are missing" if _is_number(shortfall) and shortfall > 0 else ""
    return f"It would not start again with its flags{missing}."


def recommendations(status: Status, engine: Status) -> list[dict[str, str]]:
    """Return the flags of an engine that would better be set otherwise.

    Each has, as text: flag, current, recommended, binding (what decides, in a few words), why (in a sentence) and
    gain (what it does to the KV cache).
    """
    told = [
        {key: str(each.get(key, "")) for key in ("flag", "current", "recommended")}
        | {"binding": _binding(each), "why": str(each.get("why") or _binding(each))}
        | {"gain": _gain(each.get("kv_gain_tokens"))}
        for each in status.get("recommendations") or ()
        if (each["engine"], each["dp_rank"]) == (engine["engine"], engine["dp_rank"])
    ]
    lower, upper = engine.get("recommended_max_num_seqs_lower"), engine.get("recommended_max_num_seqs_upper")
    bounds = f"{count(lower)} to {count(upper)} would do" if lower is not None and upper is not None else ""
    best = engine.get("recommended_max_num_seqs")
    seqs = next((each for each in told if as_flag(each["flag"]) == "--max-num-seqs"), None)
    if seqs is not None:
        seqs["why"] = ": ".join(part for part in (bounds, seqs["why"]) if part)
        seqs["binding"] = ", ".join(part for part in (seqs["binding"], bounds) if part)
    elif best is not None:
        now = engine.get("max_num_seqs")
        told.insert(
            0,
            {
                "flag": "max_num_seqs",
                "current": f"{now:.0f}" if _is_number(now) else NOT_REPORTED,
                "recommended": f"{best:.0f}",
                "binding": bounds,
                "why": bounds,
                "gain": "",
            },
        )
    return [each for each in told if each["recommended"] != each["current"]]


def advice_sentence(engine: Status) -> str | None:
    """Say that max-num-seqs is as it should be; None where nothing is advised, or something else is."""
    best = engine.get("recommended_max_num_seqs")
    if best is None or best != engine.get("max_num_seqs"):
        return None
    confidence = engine.get("advice_confidence_ratio")
    how_sure = f" (confidence {percent(confidence)})" if confidence is not None else ""
    return f"max-num-seqs {count(best)} is as it should be{how_sure}."


def _binding(recommendation: Status) -> str:
    binding = str(recommendation.get("binding", ""))
    return BINDING_WORDS.get(binding, binding)


def kv_full_in(engine: Status) -> str | None:
    """Say when the KV cache is full at the present trend; None where that is not judged."""
    seconds = engine.get("time_to_kv_exhaustion_seconds")
    if seconds is None:
        return None
    return "0 s: it is full" if _is_number(seconds) and seconds < 1 else until(seconds)


def _gain(tokens: Any) -> str:
    return f"{tokens:+,.0f} tokens" if _is_number(tokens) and tokens else ""


def as_flag(flag: str, value: str = "") -> str:
    """Spell a flag as it is typed: ``--max-num-seqs 48``."""
    return f"--{flag.removeprefix('--').replace('_', '-')} {value}".rstrip()


def headline(status: Status) -> tuple[Level, str]:
    """Return the one sentence that somebody who looks for ten seconds takes away, and how bad it is."""
    if not status["ready"]:
        return "unknown", "The first reading is under way."
    if status["time_seconds"] is None:
        return "critical", "Blind: there is no fresh reading, so nothing is shown that may no longer be so."
    gpus, engines, policy = status["gpus"], status["engines"], status["policy"]
    level = worst(
        [
            *(gpu_level(gpu, policy) for gpu in gpus),
            *(engine_level(engine) for engine in engines),
            *(severity_level(finding["severity"]) for finding in status["findings"]),
        ]
    )
    unread = unread_sources(status.get("collectors") or ())
    if unread:
        level = worst([level, "warning"])
    if level in ("warning", "critical"):
        told: list[tuple[Level, str]] = [("warning", each) for each in unread]
        told += [(gpu_level(gpu, policy), _trouble_of_gpu(gpu, policy)) for gpu in gpus]
        told += [(engine_level(engine), _trouble_of_engine(engine)) for engine in engines]
        bad = [trouble for each in ("critical", "warning") for found, trouble in told if found == each]
        return level, f"Look at {_listed(bad or sorted({each['subject'] for each in status['findings']}))}."
    if not gpus and not engines:
        return "unknown", "Nothing to watch: no GPU is readable here and no vLLM server has been found."
    return "good", f"All is well: {_plural(len(gpus), 'GPU')}, {_plural(len(engines), 'engine')}."


def unread_sources(collectors: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name what is not read, or not in full, and why: ``the GPUs (a GPU that was there is gone)``."""
    return [
        f"{_SOURCES[each['collector']]} ({_named(each['failing'])})"
        for each in collectors
        if each["collector"] in _SOURCES and set(each.get("failing") or ()) - _ONLY_ABSENT
    ]


_ONLY_ABSENT = frozenset({"no_driver_library"})
"""A host without the driver has no GPU to look after: a vLLM on its CPU may be well."""


def _named(reasons: Mapping[str, Any]) -> str:
    return ", ".join(_FAILING.get(reason, reason) for reason in reasons)


def _trouble_of_gpu(gpu: Status, policy: Status) -> str:
    name = f"GPU {gpu.get('gpu', '?')}"
    risk = f"risk of running out {percent(gpu.get('oom_risk_ratio'))}"
    if (gpu.get("memory_slack_bytes") or 0) < 0:
        return f"{name} (over-committed, {risk})"
    is_calm = risk_level(gpu, policy) in ("good", "unknown")  # unknown: a board whose memory is its MIG instances'
    if is_calm and (gpu.get("row_remap_failed") or gpu.get("row_remap_pending")):
        return f"{name} (memory faults)"
    return f"{name} ({risk})"


def _trouble_of_engine(engine: Status) -> str:
    name = engine["engine"]
    if not engine.get("up"):
        return f"{name} (down)"
    what = limiter(engine)
    if what in ("kv", "max_num_seqs"):
        waiting = engine.get("requests_waiting")
        queue = f", {count(waiting)} wait" if waiting else ""
        return f"{name} (limited by {LIMITER_WORDS[what]}{queue})"
    if what in ("stalled", "queue_cap"):
        return f"{name} ({'stalled' if what == 'stalled' else 'refuses requests'})"
    return f"{name} (would not start again)"


def severity_level(severity: str) -> Level:
    """Return how bad a finding is."""
    return next((level for level in LEVELS if level == severity), "info")


def _listed(names: Sequence[str]) -> str:
    shown = [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)

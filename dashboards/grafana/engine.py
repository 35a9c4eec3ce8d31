"""One engine: what its KV cache holds and should hold, what more fits, what limits it, how its requests fare."""

from grafana_foundation_sdk.models.common import LineInterpolation
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.grafana.looks import (
    CAPACITY_GAP,
    COUNT_OF_BAD,
    FITS,
    FULL_NEVER_OR_NOW,
    KV_USAGE,
    LIMITER_STATES,
    POLICY,
    PREEMPTION_RISK,
    REQUESTS_LEFT,
    TIME_TO_KV_FULL,
    UP,
    limiter_number,
    scaled,
)
from dashboards.grafana.panels import (
    BLUE,
    ENGINE_LEGEND,
    GREEN,
    GREY,
    NOT_REPORTED,
    ORANGE,
    Column,
    Layout,
    Query,
    Steps,
    band,
    colored,
    engine,
    figure,
    lines,
    sheet,
    timeline,
    until,
)
from dashboards.links import Board

_LATENCIES = (
    ("Time to first token", ("time_to_first_token_seconds",)),
    ("Time between tokens", ("inter_token_latency_seconds", "time_per_output_token_seconds")),
    ("Time in the queue", ("request_queue_time_seconds",)),
    ("Whole request", ("e2e_request_latency_seconds",)),
)

_FURTHEST_SECONDS = 5 * POLICY.kv_exhaustion_warning_seconds
_MINUTE_SECONDS = 60
_ENGINE = "instance, engine, dp_rank, model_name"
_LIMITER = limiter_number(lambda name: engine("limiter", limiter=name))


def _each(field_name: str, *, by: str = _ENGINE) -> str:
    return f"max by ({by}) ({engine(field_name)})"


def build() -> Dashboard:
    """Return the dashboard."""
    layout = Layout(
        board=Board.ENGINE,
        title="vLLM headroom: engine",
        description="What a vLLM engine holds, what more fits, what limits it and how close it is to preempting.",
    )
    layout.variable("engine", "Engine", 'label_values(headroom_engine_up{instance=~"$instance"}, engine)')
    layout.variable(
        "model_name",
        "Model",
        'label_values(headroom_engine_up{instance=~"$instance", engine=~"$engine"}, model_name)',
        hidden=True,
    )
    _figures(layout)
    layout.row("What fits")
    _room(layout)
    layout.row("Load and what limits it")
    _load(layout)
    layout.row("Since the start")
    _start(layout)
    layout.row("From vLLM's own page (optional: if Prometheus scrapes the vLLM server too)", collapsed=True)
    _latency(layout)
    return layout.built()


def _figures(layout: Layout) -> None:
    layout.add(
        figure("State", "", Query(expr=engine("up"), legend=ENGINE_LEGEND), unit="short", states=UP),
        width=3,
        height=4,
    )
    layout.add(
        figure(
            "Limited by",
            "What keeps more requests from running now.",
            Query(expr=_LIMITER, legend=ENGINE_LEGEND),
            unit="short",
            states=LIMITER_STATES,
        ),
        width=4,
        height=4,
    )
    layout.add(
        figure(
            "More requests",
            "Typical requests that fit now.",
            Query(expr=engine("request_headroom"), legend=ENGINE_LEGEND),
            unit="short",
            steps=REQUESTS_LEFT,
            decimals=0,
        ),
        width=3,
        height=4,
    )
    figures = (
        ("Free tokens", "", engine("kv_headroom_tokens"), "short", Steps(base=BLUE)),
        (
            "KV in use",
            "High is healthy as long as nothing waits and nothing is preempted.",
            engine("kv_usage_ratio"),
            "percentunit",
            KV_USAGE,
        ),
        ("Preemption risk", "", engine("preemption_risk_ratio"), "percentunit", PREEMPTION_RISK),
    )
    for title, note, expr, unit, steps in figures:
        query = Query(expr=expr, legend=ENGINE_LEGEND)
        layout.add(figure(title, note, query, unit=unit, steps=steps), width=3, height=4)
    layout.add(
        figure(
            "KV full in",
            "At the present trend.",
            Query(expr=until(engine("time_to_kv_exhaustion_seconds")), legend=ENGINE_LEGEND),
            unit="dtdurations",
            steps=TIME_TO_KV_FULL,
            states=FULL_NEVER_OR_NOW,
        ),
        width=3,
        height=4,
    )
    layout.add(
        figure(
            "Restart",
            "Whether it would start again on the memory that is free now.",
            Query(expr=engine("restart_fits"), legend=ENGINE_LEGEND),
            unit="short",
            states=FITS,
        ),
        width=2,
        height=4,
    )


def _room(layout: Layout) -> None:
    capacity = lines(
        "KV cache: used, capacity, theory",
        "Used against what the engine has, against what it should have by model, GPU and flags (shaded: the bounds). "
        "A capacity below the shade means memory lost to something.",
        [
            Query(expr=f"sum({engine('kv_used_tokens')})", legend="used"),
            Query(expr=f"sum({engine('kv_capacity_tokens')})", legend="capacity"),
            Query(expr=f"sum({engine('kv_theory_tokens')})", legend="theory"),
            Query(expr=f"sum({engine('kv_theory_lower_tokens')})", legend="theory, lower bound"),
            Query(expr=f"sum({engine('kv_theory_upper_tokens')})", legend="theory, upper bound"),
        ],
        unit="short",
        low=0,
    )
    colored(capacity, "/^used$/", GREEN)
    colored(capacity, "/^capacity$/", BLUE, fill=False)
    colored(capacity, "/^theory$/", GREY, dashed=True)
    band(capacity, "theory, upper bound", "theory, lower bound", GREY)
    layout.add(capacity, width=12, height=9)
    layout.add(
        lines(
            "Free KV tokens",
            "Tokens' worth of blocks that no running request holds.",
            [Query(expr=engine("kv_headroom_tokens"), legend=ENGINE_LEGEND)],
            unit="short",
            low=0,
            fill=25,
        ),
        width=6,
        height=9,
    )
    requests = lines(
        "More requests that fit",
        "By KV cache and by max-num-seqs: the smaller one counts.",
        [
            Query(expr=engine("request_headroom"), legend=f"{ENGINE_LEGEND} fits"),
            Query(expr=engine("kv_request_headroom"), legend=f"{ENGINE_LEGEND} by KV"),
            Query(expr=engine("seqs_request_headroom"), legend=f"{ENGINE_LEGEND} by max-num-seqs"),
        ],
        unit="short",
        low=0,
    )
    colored(requests, "/ fits$/", GREEN)
    colored(requests, "/ by KV$/", ORANGE, dashed=True)
    colored(requests, "/ by max-num-seqs$/", BLUE, dashed=True)
    layout.add(requests, width=6, height=9)


def _load(layout: Layout) -> None:
    layout.add(
        timeline(
            "Limited by",
            "What kept more requests from running.",
            [Query(expr=_LIMITER, legend=ENGINE_LEGEND)],
            states=LIMITER_STATES,
        ),
        width=24,
        height=5,
    )
    running = lines(
        "Running and waiting",
        "Waiting requests are harmless in a peak and a queue without bound if they only grow.",
        [
            Query(expr=engine("requests_running"), legend=f"{ENGINE_LEGEND} running"),
            Query(expr=engine("requests_waiting"), legend=f"{ENGINE_LEGEND} waiting"),
            Query(expr=engine("max_num_seqs"), legend=f"{ENGINE_LEGEND} max-num-seqs"),
        ],
        unit="short",
        low=0,
    )
    colored(running, "/ running$/", GREEN)
    colored(running, "/ waiting$/", ORANGE)
    colored(running, "/ max-num-seqs$/", GREY, dashed=True)
    layout.add(running, width=8, height=8)
    layout.add(
        lines(
            "Preemptions a minute",
            "A preempted request loses its KV blocks and is computed again: some in a peak are normal, a steady rate "
            "wastes work.",
            [Query(expr=f"60 * rate({engine('preemptions_total')}[$__rate_interval])", legend=ENGINE_LEGEND)],
            unit="short",
            steps=Steps(above=((60 * POLICY.preemptions_warning_per_second, ORANGE),)),
            low=0,
            fill=25,
        ),
        width=6,
        height=8,
    )
    layout.add(
        lines(
            "Preemption risk",
            "The probability that the scheduler will preempt, before it does.",
            [Query(expr=engine("preemption_risk_ratio"), legend=ENGINE_LEGEND)],
            unit="percentunit",
            steps=PREEMPTION_RISK,
            low=0,
            high=1,
        ),
        width=5,
        height=8,
    )
    layout.add(
        lines(
            "KV full in",
            "At the present trend. What is further away than the top, or not in sight, is drawn at the top.",
            [
                Query(
                    expr=f"clamp_max({engine('time_to_kv_exhaustion_seconds')}, {_FURTHEST_SECONDS:g})"
                    f" / {_MINUTE_SECONDS}",
                    legend=ENGINE_LEGEND,
                )
            ],
            unit="m",
            steps=scaled(TIME_TO_KV_FULL, 1 / _MINUTE_SECONDS),
            low=0,
            high=_FURTHEST_SECONDS / _MINUTE_SECONDS,
        ),
        width=5,
        height=8,
    )


def _start(layout: Layout) -> None:
    layout.add(
        sheet(
            "What it is and what it lacks",
            "Its release, its KV cache against theory, what a restart lacks, and how many metrics it does not show.",
            [
                Column(title="Server", label="instance", width=150),
                Column(title="Engine", label="engine", width=150),
                Column(title="Rank", label="dp_rank", width=60),
                Column(title="Model", label="model_name"),
                Column(
                    title="vLLM",
                    label="vllm_version",
                    expr=_each("info", by=f"{_ENGINE}, vllm_version"),
                    width=80,
                ),
                Column(
                    title="Against theory",
                    expr=_each("kv_capacity_gap_ratio"),
                    unit="percentunit",
                    steps=CAPACITY_GAP,
                    decimals=1,
                    no_value="no theory",
                ),
                Column(
                    title="A token takes",
                    expr=_each("kv_bytes_per_token"),
                    unit="bytes",
                ),
                Column(
                    title="Full contexts",
                    expr=_each("full_context_concurrency"),
                    decimals=1,
                    steps=REQUESTS_LEFT,
                ),
                Column(
                    title="Restart lacks",
                    expr=_each("restart_shortfall_bytes"),
                    unit="bytes",
                    steps=COUNT_OF_BAD,
                    no_value=NOT_REPORTED,
                ),
                Column(
                    title="Lacks metrics",
                    expr=f"sum by ({_ENGINE}) ({engine('metric_missing')})",
                    steps=COUNT_OF_BAD,
                    no_value="none",
                ),
            ],
            sort=(("Engine", False),),
        ),
        width=24,
        height=5,
    )
    starts = lines(
        "Capacity at each start (7 days)",
        "An engine fixes its KV cache when it starts, so each step is a start. A step down with the same flags means "
        "that something else held memory then, or that a new release needs more.",
        [
            Query(expr=engine("kv_capacity_tokens"), legend=f"{ENGINE_LEGEND} {{{{model_name}}}}"),
            Query(expr=engine("kv_theory_tokens"), legend=f"{ENGINE_LEGEND} theory"),
        ],
        unit="short",
        low=0,
    )
    colored(starts, "/ theory$/", GREY, dashed=True)
    starts.line_interpolation(LineInterpolation.STEP_AFTER).time_from("7d")
    layout.add(starts, width=24, height=7)


def _latency(layout: Layout) -> None:
    of_model = 'model_name=~"$model_name"'
    for title, names in _LATENCIES:
        queries = []
        for quantile in (0.5, 0.95):
            either = " or ".join(
                f"sum by (le, model_name) (rate(vllm:{name}_bucket{{{of_model}}}[$__rate_interval]))" for name in names
            )
            queries.append(
                Query(
                    expr=f"histogram_quantile({quantile:g}, {either}) >= 0",
                    legend=f"{{{{model_name}}}} {'median' if quantile == 0.5 else '95%'}",
                )
            )
        layout.add(lines(title, "vLLM's own histogram.", queries, unit="s", low=0), width=6, height=8)
    hits = " / ".join(
        f"(sum by (model_name) (rate(vllm:prefix_cache_{what}_total{{{of_model}}}[$__rate_interval])) or "
        f"sum by (model_name) (rate(vllm:gpu_prefix_cache_{what}_total{{{of_model}}}[$__rate_interval])))"
        for what in ("hits", "queries")
    )
    layout.add(
        lines(
            "Prefix cache hits",
            "Share of prompt tokens that were found in the cache. Blocks that no request holds count as free.",
            [Query(expr=hits, legend="{{model_name}}")],
            unit="percentunit",
            low=0,
            high=1,
        ),
        width=8,
        height=8,
    )
    layout.add(
        lines(
            "Tokens a second",
            "Prompt tokens read and tokens generated.",
            [
                Query(
                    expr=f"sum by (model_name) (rate(vllm:{what}_tokens_total{{{of_model}}}[$__rate_interval]))",
                    legend=f"{{{{model_name}}}} {what}",
                )
                for what in ("prompt", "generation")
            ],
            unit="short",
            low=0,
        ),
        width=16,
        height=8,
    )

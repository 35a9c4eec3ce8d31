"""Every server, GPU and engine at a glance, the worst first."""

from grafana_foundation_sdk.builders import stat, table
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.grafana.looks import (
    CONFIDENCE,
    COUNT_OF_ADVICE,
    COUNT_OF_BAD,
    COUNT_OF_WARNINGS,
    FITS,
    FULL_NEVER_OR_NOW,
    KV_USAGE,
    LIMITER_STATES,
    OOM_NEVER_OR_NOW,
    POLICY,
    PREEMPTION_RISK,
    REQUESTS_LEFT,
    RISK,
    SEVERITIES,
    SLACK,
    TIME_TO_KV_FULL,
    TIME_TO_OOM,
    UP,
    limiter_number,
)
from dashboards.grafana.panels import (
    ENGINE_LEGEND,
    GPU_LEGEND,
    NOT_REPORTED,
    Column,
    Layout,
    Query,
    Steps,
    at_server,
    figure,
    firing,
    lines,
    sheet,
    to,
    until,
)
from dashboards.links import Board

_GPU = "instance, gpu"
_ENGINE = "instance, engine, dp_rank, model_name"


def build() -> Dashboard:
    """Return the dashboard."""
    layout = Layout(
        board=Board.FLEET,
        title="vLLM headroom: fleet",
        description="Every GPU and vLLM engine, worst first. A row leads to its server or engine.",
    )
    _figures(layout)
    layout.row("Worst first")
    layout.add(_alerts(), width=24, height=6)
    layout.add(_gpus(), width=24, height=7)
    layout.add(_engines(), width=24, height=7)
    layout.row("Over time")
    layout.add(
        lines(
            "OOM risk",
            "Every GPU's probability of running out of memory soon.",
            [Query(expr=at_server("gpu_oom_risk_ratio"), legend=GPU_LEGEND)],
            unit="percentunit",
            steps=RISK,
            low=0,
            high=1,
        ),
        width=8,
        height=8,
    )
    layout.add(
        lines(
            "Slack",
            "Free memory that no engine may still claim. Below zero the GPU is over-committed.",
            [Query(expr=at_server("gpu_memory_slack_bytes"), legend=GPU_LEGEND)],
            unit="bytes",
            steps=SLACK,
        ),
        width=8,
        height=8,
    )
    layout.add(
        lines(
            "More requests that fit",
            "How many more typical requests each engine takes now.",
            [Query(expr=at_server("engine_request_headroom"), legend=ENGINE_LEGEND)],
            unit="short",
            low=0,
        ),
        width=8,
        height=8,
    )
    return layout.built()


def _figures(layout: Layout) -> None:
    seqs = at_server("engine_max_num_seqs")
    lower, upper = (at_server(f"engine_recommended_max_num_seqs_{bound}") for bound in ("lower", "upper"))
    panels = (
        figure(
            "OOM risk",
            "The highest of all GPUs.",
            Query(expr=f"max({at_server('gpu_oom_risk_ratio')})"),
            unit="percentunit",
            steps=RISK,
        ),
        _count(
            "GPUs at risk",
            f"GPUs whose OOM risk is {POLICY.oom_risk_warning_ratio:.0%} or more.",
            f"sum({at_server('gpu_oom_risk_ratio')} >= bool {POLICY.oom_risk_warning_ratio:g})",
            COUNT_OF_BAD,
        ),
        figure(
            "Lowest slack",
            "Of all GPUs.",
            Query(expr=f"min({at_server('gpu_memory_slack_bytes')})"),
            unit="bytes",
            steps=SLACK,
        ),
        _count("Engines down", "Engines that do not answer.", f"sum(1 - {at_server('engine_up')})", COUNT_OF_BAD),
        _count(
            "No restart",
            "Engines that would not start again on the memory that is free now.",
            f"sum(1 - {at_server('engine_restart_fits')})",
            COUNT_OF_WARNINGS,
        ),
        _count(
            "Mis-sized",
            "Engines whose max-num-seqs lies outside the bounds of the recommendation.",
            f"sum({seqs} < bool {lower}) + sum({seqs} > bool {upper})",
            COUNT_OF_ADVICE,
            no_value="no advice yet",
        ),
        _count(
            "Room left",
            "More typical requests that all engines together take now.",
            f"sum({at_server('engine_request_headroom')})",
            REQUESTS_LEFT,
        ),
        _count(
            "Blind",
            "Sources that could not be read the last time, over all servers.",
            f"sum(1 - {at_server('collector_success')})",
            COUNT_OF_WARNINGS,
        ),
    )
    for panel in panels:
        layout.add(panel, width=3, height=4)


def _count(title: str, note: str, expr: str, steps: Steps, no_value: str = NOT_REPORTED) -> stat.Panel:
    return figure(title, note, Query(expr=expr), unit="short", steps=steps, decimals=0, no_value=no_value)


def _alerts() -> table.Panel:
    ranks = " or ".join(f"{firing(severity=severity)} * {rank}" for rank, (severity, _) in SEVERITIES.items())
    return sheet(
        "Firing now",
        "Our alerts, as Prometheus evaluates them; each has a runbook. Empty where nothing fires, and where the rules "
        "are not loaded.",
        [
            Column(
                title="Severity",
                expr=f"max by (alertname, instance, gpu, engine, collector) ({ranks})",
                states=SEVERITIES,
                background=True,
                width=110,
            ),
            Column(title="Alert", label="alertname"),
            Column(title="Server", label="instance"),
            Column(title="GPU", label="gpu"),
            Column(title="Engine", label="engine"),
            Column(title="Collector", label="collector"),
        ],
        sort=(("Severity", True),),
        empty="nothing fires",
    )


def _gpus() -> table.Panel:
    server = to(Board.SERVER, instance='${__data.fields["Server"]}', gpu='${__data.fields["GPU"]}')

    def each(field: str, **labels: str) -> str:
        return f"max by ({_GPU}) ({at_server('gpu_' + field, **labels)})"

    return sheet(
        "GPUs",
        "One row a GPU, the most likely to run out of memory first. Its name leads to the server.",
        [
            Column(title="Server", label="instance", width=175),
            Column(title="GPU", label="gpu", width=60, link=("Show this GPU", server)),
            Column(
                title="OOM risk",
                expr=each("oom_risk_ratio"),
                unit="percentunit",
                steps=RISK,
                background=True,
            ),
            Column(
                title="Ends at this growth",
                expr=until(each("time_to_oom_seconds")),
                unit="dtdurations",
                steps=TIME_TO_OOM,
                states=OOM_NEVER_OR_NOW,
                width=165,
            ),
            Column(
                title="Slack",
                expr=each("memory_slack_bytes"),
                unit="bytes",
                steps=SLACK,
            ),
            Column(title="Free", expr=each("memory_free_bytes"), unit="bytes"),
            Column(
                title="Foreign",
                expr=each("memory_component_bytes", component="foreign"),
                unit="bytes",
            ),
            Column(
                title="KV idle",
                expr=each("memory_component_bytes", component="kv_idle"),
                unit="bytes",
            ),
            Column(title="Total", expr=each("memory_total_bytes"), unit="bytes"),
            Column(
                title="Busy",
                expr=each("utilization_ratio"),
                unit="percentunit",
            ),
            Column(title="Product", label="name", width=190, expr=f"max by ({_GPU}, name) ({at_server('gpu_info')})"),
        ],
        sort=(("OOM risk", True), ("Slack", False)),
    )


def _engines() -> table.Panel:
    engine = to(Board.ENGINE, instance='${__data.fields["Server"]}', engine='${__data.fields["Engine"]}')
    advice = to(Board.ADVICE, instance='${__data.fields["Server"]}', engine='${__data.fields["Engine"]}')
    limiter = limiter_number(lambda name: at_server("engine_limiter", limiter=name), by=_ENGINE)

    def each(field: str) -> str:
        return f"max by ({_ENGINE}) ({at_server('engine_' + field)})"

    return sheet(
        "Engines",
        "One row an engine: those that are down first, then those with the least room.",
        [
            Column(title="Server", label="instance", width=140),
            Column(title="Engine", label="engine", width=155, link=("Show this engine", engine)),
            Column(title="Rank", label="dp_rank", width=50),
            Column(title="Model", label="model_name"),
            Column(title="State", expr=each("up"), states=UP, background=True, width=56),
            Column(title="Fit more", expr=each("request_headroom"), steps=REQUESTS_LEFT, decimals=0, width=75),
            Column(title="KV used", expr=each("kv_usage_ratio"), unit="percentunit", steps=KV_USAGE, width=75),
            Column(
                title="KV full in",
                width=95,
                expr=until(each("time_to_kv_exhaustion_seconds")),
                unit="dtdurations",
                steps=TIME_TO_KV_FULL,
                states=FULL_NEVER_OR_NOW,
            ),
            Column(
                title="Preempts",
                expr=each("preemption_risk_ratio"),
                unit="percentunit",
                steps=PREEMPTION_RISK,
                width=86,
            ),
            Column(title="Waiting", expr=each("requests_waiting"), steps=COUNT_OF_WARNINGS, width=70),
            Column(title="Limited by", expr=limiter, states=LIMITER_STATES, width=105),
            Column(title="Restart", expr=each("restart_fits"), states=FITS, width=85),
            Column(title="Max seqs", expr=each("max_num_seqs"), width=86, link=("Show the advice", advice)),
            Column(title="Advised", expr=each("recommended_max_num_seqs"), width=75),
            Column(
                title="Sure",
                expr=each("advice_confidence_ratio"),
                unit="percentunit",
                steps=CONFIDENCE,
                width=55,
            ),
        ],
        sort=(("State", False), ("Fit more", False)),
    )

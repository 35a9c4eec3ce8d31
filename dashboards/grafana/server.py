"""One server: where each GPU's memory went, what may still be claimed, what grows, and how the hardware is."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from advisor.report import COMPONENTS
from dashboards.grafana.looks import (
    CLOCKS,
    COMPONENT_COLORS,
    COUNT_OF_WARNINGS,
    OOM_NEVER_OR_NOW,
    POLICY,
    RISK,
    SLACK,
    TEMPERATURE,
    TIME_TO_OOM,
    WORKS,
    scaled,
)
from dashboards.grafana.panels import (
    GPU_LEGEND,
    GREEN,
    GREY,
    NOT_REPORTED,
    ORANGE,
    RED,
    Column,
    Layout,
    Query,
    at_server,
    bars,
    colored,
    figure,
    gpu,
    lines,
    sheet,
    stacked,
    timeline,
    until,
    words,
)
from dashboards.links import Board

_GPU = "instance, gpu"
_CLAIMANT = "instance, gpu, engine"
_ENGINE_PARTS = "~weights|kv_used|kv_idle|cuda_graphs|activation_reserve|engine_other"

_IF_IT_GOES_ON = (
    "If the present growth goes on. How likely that is, is in the risk: what has just begun may be over soon."
)
_FURTHEST_SECONDS = 1.5 * POLICY.time_to_oom_warning_seconds
_HOUR_SECONDS = 3600
_TELLING_RATIO = 0.01
_GROWTH_AN_HOUR = f"{_HOUR_SECONDS} * {gpu('memory_growth_bytes_per_second')}"
_NO_TREND = "no trend yet"

_WHY_FULL = """\
**A vLLM server that fills its GPU is healthy.** At start it takes `--gpu-memory-utilization` of the memory (unless
set 0.9, from vLLM 0.20 on 0.92) and turns all that weights and work space leave into KV cache, used or not. So "90%
used" says the same at no load and at full load.

- **kv_used** is what requests hold now, **kv_idle** is taken and free for requests: read these for load.
- **slack** is free memory that no engine may still claim: read this for the danger of running out.
- **foreign** belongs to processes that are no vLLM engine.
"""


def _part(component: str) -> str:
    return gpu("memory_component_bytes", component=component)


def _each(field_name: str, *, by: str = _GPU) -> str:
    return f"max by ({by}) ({gpu(field_name)})"


def build() -> Dashboard:
    """Return the dashboard."""
    layout = Layout(
        board=Board.SERVER,
        title="vLLM headroom: server",
        description="Where the memory of one server's GPUs went, and what can still go wrong with it.",
    )
    layout.variable("gpu", "GPU", 'label_values(headroom_gpu_memory_total_bytes{instance=~"$instance"}, gpu)')
    parts = {
        name: Query(expr=f'max by (GPU) (label_join({_part(name)}, "GPU", " GPU ", "instance", "gpu"))')
        for name in COMPONENTS
    }
    layout.add(
        bars(
            "Where the memory is now",
            "One bar a GPU; its pieces add up to all memory installed.",
            parts,
            unit="bytes",
            by="GPU",
            colors=COMPONENT_COLORS,
        ),
        width=16,
        height=9,
    )
    layout.add(words("Why 90% used is normal", _WHY_FULL), width=8, height=9)
    _figures(layout)
    layout.row("Where the memory went")
    layout.add(
        stacked(
            "Memory of GPU $gpu",
            "The same over time; of several servers, their GPUs of this number together.",
            [Query(expr=f"sum by (component) ({_part(name)})", legend=name) for name in COMPONENTS],
            unit="bytes",
            colors=COMPONENT_COLORS,
        ),
        width=12,
        height=9,
        repeat="gpu",
    )
    layout.row("Risk")
    _risk(layout)
    layout.row("Hardware")
    _hardware(layout)
    layout.row("What the daemon sees")
    _daemon(layout)
    return layout.built()


def _figures(layout: Layout) -> None:
    def each(expr: str) -> Query:
        return Query(expr=expr, legend="GPU {{gpu}} {{instance}}")

    risk, slack = gpu("oom_risk_ratio"), gpu("memory_slack_bytes")
    layout.add(
        figure("OOM risk", "Of each GPU.", each(risk), unit="percentunit", steps=RISK, named=True), width=5, height=4
    )
    layout.add(figure("Slack", "Of each GPU.", each(slack), unit="bytes", steps=SLACK, named=True), width=5, height=4)
    layout.add(
        figure(
            "Lowest slack in this time",
            "The low-water mark over the time shown.",
            each(f"min_over_time({slack}[$__range])"),
            unit="bytes",
            steps=SLACK,
            named=True,
        ),
        width=5,
        height=4,
    )
    layout.add(
        figure(
            "Growth an hour",
            "What use grows by in an hour at the present trend.",
            each(_GROWTH_AN_HOUR),
            unit="bytes",
            no_value=_NO_TREND,
            named=True,
        ),
        width=4,
        height=4,
    )
    layout.add(
        figure(
            "Memory ends at this growth",
            _IF_IT_GOES_ON,
            each(until(gpu("time_to_oom_seconds"))),
            unit="dtdurations",
            steps=TIME_TO_OOM,
            states=OOM_NEVER_OR_NOW,
            no_value=_NO_TREND,
            named=True,
        ),
        width=5,
        height=4,
    )


def _risk(layout: Layout) -> None:
    risk = lines(
        "OOM risk",
        "The probability of running out of memory soon. Borders are those of the alerts.",
        [Query(expr=gpu("oom_risk_ratio"), legend=GPU_LEGEND)],
        unit="percentunit",
        steps=RISK,
        low=0,
        high=1,
    )
    layout.add(risk, width=7, height=8)
    factors = gpu("oom_risk_factor_ratio")
    layout.add(
        lines(
            "What the risk is made of",
            "The probability that each cause alone exhausts the GPU. Causes that stayed below 1% are left out.",
            [
                Query(
                    expr=f"{factors} and max_over_time({factors}[$__range] @ end()) >= {_TELLING_RATIO:g}",
                    legend=f"{GPU_LEGEND} {{{{factor}}}}",
                )
            ],
            unit="percentunit",
            low=0,
            high=1,
            no_value="no cause reached 1%",
        ),
        width=9,
        height=8,
    )
    slack = lines(
        "Slack and its low-water mark",
        "Free memory that no engine may still claim, and the least of it within the hour before. Below zero the GPU "
        "is over-committed: the next large step of an engine can fail.",
        [
            Query(expr=gpu("memory_slack_bytes"), legend=GPU_LEGEND),
            Query(expr=f"min_over_time({gpu('memory_slack_bytes')}[1h])", legend=f"{GPU_LEGEND}, lowest of 1 h"),
        ],
        unit="bytes",
        steps=SLACK,
    )
    colored(slack, "/lowest of 1 h$/", GREY, dashed=True)
    layout.add(slack, width=8, height=8)
    layout.add(
        sheet(
            "Ledger of claims",
            "Held by engines + foreign + driver + free = total. Of what is free, engines may still claim a part; the "
            "rest is slack.",
            [
                Column(title="Server", label="instance"),
                Column(title="GPU", label="gpu", width=60),
                Column(title="Total", expr=_each("memory_total_bytes"), unit="bytes"),
                Column(
                    title="Held by engines",
                    expr=f"sum by ({_GPU}) ({_part(_ENGINE_PARTS)})",
                    unit="bytes",
                ),
                Column(
                    title="Foreign",
                    expr=f"sum by ({_GPU}) ({_part('foreign')})",
                    unit="bytes",
                ),
                Column(
                    title="Driver",
                    expr=f"sum by ({_GPU}) ({_part('driver_reserved')})",
                    unit="bytes",
                ),
                Column(title="Free", expr=_each("memory_free_bytes"), unit="bytes"),
                Column(
                    title="Still claimed",
                    # Free memory is told as soon as it is read, slack when it was judged.
                    expr=f"clamp_min(max by ({_GPU}) ({gpu('memory_free_bytes')} - {gpu('memory_slack_bytes')}), 0)",
                    unit="bytes",
                ),
                Column(title="Slack", expr=_each("memory_slack_bytes"), unit="bytes", steps=SLACK),
            ],
            sort=(("Slack", False),),
        ),
        width=24,
        height=6,
    )
    layout.add(
        sheet(
            "Claims by engine",
            "The budget is --gpu-memory-utilization times what CUDA sees of the GPU: a start asks for it. CUDA's "
            "context comes on top.",
            [
                Column(title="Server", label="instance"),
                Column(title="GPU", label="gpu", width=60),
                Column(title="Engine", label="engine"),
                Column(title="Budget", expr=_each("engine_budget_bytes", by=_CLAIMANT), unit="bytes"),
                Column(title="Holds", expr=_each("engine_held_bytes", by=_CLAIMANT), unit="bytes"),
                Column(title="May still take", expr=_each("engine_claim_bytes", by=_CLAIMANT), unit="bytes"),
            ],
            sort=(("GPU", False),),
            empty="No engine on this GPU",
        ),
        width=24,
        height=6,
    )
    layout.add(
        lines(
            "Foreign processes",
            "Memory of processes that are no vLLM engine. What creeps up here ends the engines.",
            [Query(expr=_part("foreign"), legend=GPU_LEGEND)],
            unit="bytes",
            low=0,
            fill=25,
        ),
        width=8,
        height=7,
    )
    layout.add(
        lines(
            "Growth an hour",
            "The robust trend of memory use; a leak shows here hours before it ends anything.",
            [Query(expr=_GROWTH_AN_HOUR, legend=GPU_LEGEND)],
            unit="bytes",
            no_value=_NO_TREND,
        ),
        width=8,
        height=7,
    )
    layout.add(
        lines(
            "Time until memory ends",
            f"{_IF_IT_GOES_ON} What is further away than the top, or not in sight, is drawn at the top.",
            [
                Query(
                    expr=f"clamp_max({gpu('time_to_oom_seconds')}, {_FURTHEST_SECONDS:g}) / {_HOUR_SECONDS}",
                    legend=GPU_LEGEND,
                )
            ],
            unit="h",
            steps=scaled(TIME_TO_OOM, 1 / _HOUR_SECONDS),
            low=0,
            high=_FURTHEST_SECONDS / _HOUR_SECONDS,
        ),
        width=8,
        height=7,
    )


def _hardware(layout: Layout) -> None:
    layout.add(
        lines(
            "Busy",
            "Share of time in which a kernel ran: says nothing about how much more fits.",
            [Query(expr=gpu("utilization_ratio"), legend=GPU_LEGEND)],
            unit="percentunit",
            low=0,
            high=1,
        ),
        width=6,
        height=7,
    )
    layout.add(
        lines("Power", "", [Query(expr=gpu("power_watts"), legend=GPU_LEGEND)], unit="watt", low=0), width=6, height=7
    )
    layout.add(
        lines(
            "Temperature",
            "",
            [Query(expr=gpu("temperature_celsius"), legend=GPU_LEGEND)],
            unit="celsius",
            steps=TEMPERATURE,
        ),
        width=6,
        height=7,
    )
    xids = gpu("xid_errors_total")
    errors = lines(
        "Errors in the last hour",
        "Uncorrected memory errors and Xid errors, as far as they happened under watch.",
        [
            Query(expr=f"increase({gpu('ecc_uncorrected_errors_total')}[1h])", legend=f"{GPU_LEGEND} uncorrected ECC"),
            # The series of a code appears with its first error, and a counter that appears has no increase yet.
            Query(
                expr=f"{xids} unless {xids} offset 1h or increase({xids}[1h])",
                legend=f"{GPU_LEGEND} Xid {{{{xid}}}}",
            ),
        ],
        unit="short",
        low=0,
    )
    # Whole errors on an axis that one error does not fill.
    errors.decimals(0).axis_soft_max(4)
    layout.add(errors, width=6, height=7)
    reasons = ("~sw_power_cap|sync_boost", "~.*thermal.*", "~hw_slowdown|hw_power_brake")
    clocks = " or ".join(f"{gpu('throttled', reason=each)} * {rank}" for rank, each in enumerate(reasons, start=1))
    layout.add(
        timeline(
            "Clocks held down",
            "The worst reason for which each board lowers its clocks. The power limit is normal under load; heat and "
            "the hardware's own brake are not.",
            [Query(expr=f"max by (instance, gpu) ({clocks})", legend=GPU_LEGEND)],
            states=CLOCKS,
        ),
        width=8,
        height=8,
    )
    pending = {0: ("no", GREEN), 1: ("yes", ORANGE)}
    failed = {0: ("no", GREEN), 1: ("yes", RED)}
    layout.add(
        sheet(
            "Health",
            "Errors over the board's life. A pending row remap wants a GPU reset; a failed one a new board.",
            [
                Column(title="Server", label="instance"),
                Column(title="GPU", label="gpu", width=60),
                Column(
                    title="Uncorrected ECC",
                    expr=_each("ecc_uncorrected_errors_total"),
                    steps=COUNT_OF_WARNINGS,
                    no_value="no ECC",
                ),
                Column(
                    title="Remap pending",
                    expr=_each("row_remap_pending"),
                    states=pending,
                    no_value=NOT_REPORTED,
                ),
                Column(
                    title="Remap failed",
                    expr=_each("row_remap_failed"),
                    states=failed,
                    no_value=NOT_REPORTED,
                ),
                Column(
                    title="Xid errors",
                    expr=f"sum by ({_GPU}) ({gpu('xid_errors_total')})",
                    steps=COUNT_OF_WARNINGS,
                    no_value="none seen",
                ),
                Column(title="Driver", label="driver_version", expr=_each("info", by=f"{_GPU}, driver_version")),
            ],
            sort=(("GPU", False),),
        ),
        width=16,
        height=8,
    )


def _daemon(layout: Layout) -> None:
    last_success = at_server("collector_last_success_timestamp_seconds")
    failing = f"{at_server('collector_success')} == 0"
    layout.add(
        timeline(
            "Collectors",
            "Whether each source could be read, and whether the configuration in effect is the one on disk. What a "
            "failing source would tell is missing, not zero.",
            [
                Query(expr=at_server("collector_success"), legend="{{instance}} {{collector}}"),
                Query(expr=at_server("config_last_reload_successful"), legend="{{instance}} configuration"),
            ],
            states=WORKS,
        ),
        width=16,
        height=7,
    )
    layout.add(
        sheet(
            "Why a collector fails",
            "Empty while all sources can be read.",
            [
                Column(title="Server", label="instance"),
                Column(title="Collector", label="collector"),
                Column(
                    title="Reason",
                    label="reason",
                    expr=f"max by (instance, collector, reason) ({at_server('collector_failing')})",
                ),
                Column(
                    title="Last success",
                    expr=f"1000 * max by (instance, collector) ({last_success}) and on (instance, collector) {failing}",
                    unit="dateTimeFromNow",
                ),
            ],
            sort=(("Server", False),),
            empty="every source can be read",
        ),
        width=8,
        height=7,
    )

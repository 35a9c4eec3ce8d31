"""What the flags should be: recommended against configured, how sure that is, what binds and what it would bring."""

from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.grafana.looks import CONFIDENCE, POLICY, REQUESTS_LEFT
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
    words,
)
from dashboards.links import Board

_ENGINE = "engine, dp_rank, model_name"
_NOT_YET = "not enough seen yet"

_HOW = f"""\
**Advice comes from observed load, never from one moment.** Below {POLICY.advice_confidence_ratio:.0%} confidence it is
shown and alerts nobody.

- Outside the shaded bounds: worth a restart at the next occasion. Inside: leave it.
- **Bound by** names what decides: *kv* the KV cache, *demand* that nobody asks for more, *slack* the free memory of
  the GPU, *token_budget* what one step takes, *latency* the time that a token may take.
- **KV tokens** is what the change brings to the KV cache, negative: what it costs. Nothing stands there where the flag
  is right as it is.
- Nothing is changed for you: `vllm-headroom advise` prints the command line to copy.
"""


def build() -> Dashboard:
    """Return the dashboard."""
    layout = Layout(
        board=Board.ADVICE,
        title="vLLM headroom: advice",
        description="Recommended against configured flags, from observed load, with bounds and confidence.",
    )
    layout.variable("engine", "Engine", 'label_values(headroom_engine_up{instance=~"$instance"}, engine)')
    _figures(layout)
    layout.add(_over_time(), width=16, height=10)
    layout.add(words("How to read this", _HOW), width=8, height=10)
    layout.add(
        sheet(
            "Flags",
            "What each flag is, what it should be, what decides that, and what the change brings or costs.",
            [
                Column(title="Server", label="instance"),
                Column(title="Engine", label="engine"),
                Column(title="Rank", label="dp_rank", width=60),
                Column(title="Model", label="model_name"),
                Column(title="Flag", label="flag", width=200),
                Column(title="Now", label="current"),
                Column(title="Recommended", label="recommended"),
                Column(
                    title="Bound by",
                    label="binding",
                    expr=f"max by (instance, {_ENGINE}, flag, current, recommended, binding) "
                    f"({engine('recommendation_info')})",
                ),
                Column(
                    title="KV tokens",
                    expr=f"max by (instance, {_ENGINE}, flag) ({engine('recommendation_kv_gain_tokens')})",
                    no_value="",
                ),
            ],
            sort=(("Engine", False), ("Flag", False)),
            empty=f"{_NOT_YET}: vllm-headroom advise says what it waits for",
        ),
        width=24,
        height=9,
    )
    layout.row("What the load asks for, and what the flags let it have")
    _walls(layout)
    return layout.built()


def _figures(layout: Layout) -> None:
    panels = (
        _figure("max-num-seqs", "", engine("max_num_seqs")),
        _figure("Recommended", "", engine("recommended_max_num_seqs"), steps=Steps(), no_value=_NOT_YET),
        _figure(
            "Confidence",
            "",
            engine("advice_confidence_ratio"),
            unit="percentunit",
            steps=CONFIDENCE,
            no_value=_NOT_YET,
        ),
        _figure(
            "Most that ran at once", "In the time shown.", f"max_over_time({engine('requests_running')}[$__range])"
        ),
        _figure("Tokens a request", "A typical one.", engine("typical_request_tokens")),
        _figure(
            "Full contexts that fit",
            "Below one, a request of max-model-len can never run.",
            engine("full_context_concurrency"),
            steps=REQUESTS_LEFT,
        ),
    )
    for panel in panels:
        layout.add(panel, width=4, height=4)


def _figure(
    title: str,
    note: str,
    expr: str,
    *,
    unit: str = "short",
    steps: Steps | None = None,
    no_value: str = NOT_REPORTED,
) -> stat.Panel:
    query = Query(expr=expr, legend=ENGINE_LEGEND)
    return figure(title, note, query, unit=unit, steps=steps, no_value=no_value)


def _over_time() -> timeseries.Panel:
    panel = lines(
        "max-num-seqs: recommended against configured",
        "The shade is what observed load supports. Choose one engine above: the lines of several look alike.",
        [
            Query(expr=engine("max_num_seqs"), legend="configured"),
            Query(expr=engine("recommended_max_num_seqs"), legend="recommended"),
            Query(expr=engine("recommended_max_num_seqs_lower"), legend="lower bound"),
            Query(expr=engine("recommended_max_num_seqs_upper"), legend="upper bound"),
            Query(expr=engine("requests_running"), legend="running"),
        ],
        unit="short",
        low=0,
    )
    colored(panel, "/^configured$/", BLUE, fill=False)
    colored(panel, "/^recommended$/", GREEN, fill=False)
    colored(panel, "/^running$/", GREY)
    band(panel, "upper bound", "lower bound", GREEN)
    return panel


def _walls(layout: Layout) -> None:
    walls = lines(
        "Which wall is nearer",
        "More typical requests that fit by KV cache and by max-num-seqs. Where the KV line is lower, a higher "
        "max-num-seqs brings preemptions, not throughput; where the other is lower, it brings throughput.",
        [
            Query(expr=engine("kv_request_headroom"), legend=f"{ENGINE_LEGEND} by KV"),
            Query(expr=engine("seqs_request_headroom"), legend=f"{ENGINE_LEGEND} by max-num-seqs"),
        ],
        unit="short",
        low=0,
    )
    colored(walls, "/ by KV$/", ORANGE)
    colored(walls, "/ by max-num-seqs$/", BLUE)
    layout.add(walls, width=8, height=8)
    layout.add(
        lines(
            "Waiting",
            "Requests that a wall keeps from running.",
            [Query(expr=engine("requests_waiting"), legend=ENGINE_LEGEND)],
            unit="short",
            low=0,
            fill=25,
        ),
        width=8,
        height=8,
    )
    layout.add(
        lines(
            "Confidence",
            "Grows with the load that was observed.",
            [Query(expr=engine("advice_confidence_ratio"), legend=ENGINE_LEGEND)],
            unit="percentunit",
            steps=CONFIDENCE,
            low=0,
            high=1,
            no_value=_NOT_YET,
        ),
        width=8,
        height=8,
    )

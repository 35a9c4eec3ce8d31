"""The few kinds of panel that the dashboards are made of, each with its unit, its legend and its declared meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from grafana_foundation_sdk.builders import (
    barchart,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.models import common as cm
from grafana_foundation_sdk.models import dashboard as dm
from grafana_foundation_sdk.models import prometheus as pm
from grafana_foundation_sdk.models.text import TextMode

from dashboards.links import TAG, Board
from exporter.promql import selectors
from exporter.reference import all_metrics

SOURCE = dm.DataSourceRef(type_val="prometheus", uid="${datasource}")

OF_GPU = ('instance=~"$instance"', 'gpu=~"$gpu"')
OF_ENGINE = ('instance=~"$instance"', 'engine=~"$engine"')
OF_SERVER = ('instance=~"$instance"',)
GPU_LEGEND = "{{instance}} GPU {{gpu}}"
ENGINE_LEGEND = "{{instance}} {{engine}} #{{dp_rank}}"
"""An engine is named as its own host sees it: on every host of a fleet there may be a 127.0.0.1:8000."""

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY, PLAIN = (
    "green",
    "yellow",
    "orange",
    "red",
    "blue",
    "purple",
    "#8e8e8e",
    "text",
)
"""Grafana's palette names follow the theme; grey has none. Plain is the colour of text."""

NOT_REPORTED = "not reported"
_NAME_SIZE = 12
"""Pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One PromQL query of a panel and what its series are called."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """Colours by value: the colour below the first step, then (from this value on, colour)."""

    base: str = GREEN
    above: tuple[tuple[float, str], ...] = ()

    def built(self) -> dashboard.ThresholdsConfig:
        """Return Grafana's form of it."""
        steps = [dm.Threshold(value=None, color=self.base)]
        steps += [dm.Threshold(value=value, color=color) for value, color in self.above]
        return dashboard.ThresholdsConfig().mode(dm.ThresholdsMode.ABSOLUTE).steps(steps)


@cache
def _helps() -> dict[str, str]:
    return {metric.name: metric.help for _, metric in all_metrics()}


def described(note: str, exprs: Sequence[str]) -> str:
    """Return a panel's description: what it is for, then what each metric of ours on it means, as declared."""
    names = dict.fromkeys(selector.name for expr in exprs for selector in selectors(expr))
    meanings = [f"`{name}`: {_helps()[name]}" for name in names if name in _helps()]
    return "\n\n".join(filter(None, (note, *meanings)))


def values(states: dict[int, tuple[str, str]]) -> dm.ValueMap:
    """Return the mapping of numbers to (text, colour)."""
    return dm.ValueMap(
        options={
            str(number): dm.ValueMappingResult(text=shown, color=color, index=position)
            for position, (number, (shown, color)) in enumerate(states.items())
        }
    )


def _absent(shown: str) -> dm.SpecialValueMap:
    """What is not reported is neither good nor bad: it has a word and no colour."""
    return dm.SpecialValueMap(
        options=dm.DashboardSpecialValueMapOptions(
            match=dm.SpecialValueMatch.NULL, result=dm.ValueMappingResult(text=shown, color=PLAIN, index=99)
        )
    )


def _begun(
    panel: Any,
    title: str,
    note: str,
    queries: Sequence[Query],
    *,
    unit: str,
    instant: bool = False,
    as_table: bool = False,
) -> Any:
    """Give a panel what every panel with queries has."""
    panel.title(title).description(described(note, [query.expr for query in queries])).unit(unit).datasource(SOURCE)
    for position, query in enumerate(queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(_ref(position))
        target = target.instant() if instant else target.range()
        panel.with_target(target.format(pm.PromQueryFormat.TABLE) if as_table else target)
    return panel


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(cm.LegendDisplayMode.LIST)
        .placement(cm.LegendPlacement.BOTTOM)
        .calcs([])
    )


def _all_series() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(cm.TooltipDisplayMode.MULTI).sort(cm.SortOrder.DESCENDING)


def lines(
    title: str,
    note: str,
    queries: Sequence[Query],
    *,
    unit: str,
    steps: Steps | None = None,
    low: float | None = None,
    high: float | None = None,
    fill: int = 8,
    no_value: str = NOT_REPORTED,
) -> timeseries.Panel:
    """Return lines over time; with steps, their borders are drawn as dashed lines.

    ``low`` and ``high`` fix the axis.
    """
    panel: timeseries.Panel = _begun(timeseries.Panel(), title, note, queries, unit=unit)
    panel.legend(_legend()).tooltip(_all_series()).fill_opacity(fill).line_width(2).no_value(no_value)
    panel.show_points(cm.VisibilityMode.NEVER)
    if low is not None:
        panel.min(low)
    if high is not None:
        panel.max(high)
    if steps is not None:
        panel.thresholds(steps.built())
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(cm.GraphThresholdsStyleMode.DASHED))
        panel.color_scheme(dashboard.FieldColor().mode(dm.FieldColorModeId.PALETTE_CLASSIC))
    return panel


def stacked(
    title: str, note: str, queries: Sequence[Query], *, unit: str, colors: dict[str, tuple[str, int]]
) -> timeseries.Panel:
    """Return areas on top of each other, each legend in its fixed (colour, opacity in percent)."""
    panel = lines(title, note, queries, unit=unit, low=0, fill=70)
    panel.line_width(0).stacking(common.StackingConfig().mode(cm.StackingMode.NORMAL).group("A"))
    for name, (color, opacity) in colors.items():
        panel.override_by_name(name, [_fixed(color), _opacity(opacity)])
    return panel


def _opacity(percent: int) -> dm.DynamicConfigValue:
    return dm.DynamicConfigValue(id_val="custom.fillOpacity", value=percent)


def _fixed(color: str) -> dm.DynamicConfigValue:
    return dm.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})


def colored(panel: timeseries.Panel, pattern: str, color: str, *, dashed: bool = False, fill: bool = True) -> None:
    """Give the series whose name matches a pattern a colour; dashed and not filled for what is meant."""
    properties = [_fixed(color)]
    if dashed:
        properties.append(dm.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]}))
    if dashed or not fill:
        properties.append(_opacity(0))
    panel.override_by_regexp(pattern, properties)


def band(panel: timeseries.Panel, upper: str, lower: str, color: str) -> None:
    """Shade between two series; both keep thin lines."""
    thin = dm.DynamicConfigValue(id_val="custom.lineWidth", value=1)
    none = _opacity(0)
    panel.override_by_name(lower, [_fixed(color), thin, none])
    panel.override_by_name(
        upper,
        [
            _fixed(color),
            thin,
            dm.DynamicConfigValue(id_val="custom.fillBelowTo", value=lower),
            _opacity(15),
        ],
    )


def figure(
    title: str,
    note: str,
    query: Query,
    *,
    unit: str,
    steps: Steps | None = None,
    states: dict[int, tuple[str, str]] | None = None,
    no_value: str = NOT_REPORTED,
    decimals: int | None = None,
    named: bool = False,
) -> stat.Panel:
    """Return one number (one for each series), coloured by its steps; ``named`` ones show what they belong to.

    A share has whole percents unless ``decimals`` are given. It is asked for now, not over time: the last number of a
    series that ended would look as if it were still so.
    """
    panel: stat.Panel = _begun(stat.Panel(), title, note, [query], unit=unit, instant=True)
    panel.no_value(no_value).thresholds((steps or Steps(base=BLUE)).built())
    panel.color_scheme(dashboard.FieldColor().mode(dm.FieldColorModeId.THRESHOLDS))
    panel.color_mode(cm.BigValueColorMode.VALUE).justify_mode(cm.BigValueJustifyMode.CENTER)
    panel.graph_mode(cm.BigValueGraphMode.NONE)
    panel.text_mode(cm.BigValueTextMode.VALUE_AND_NAME if named else cm.BigValueTextMode.AUTO)
    if named:  # else a long name makes all of them too small to read
        panel.text(common.VizTextDisplayOptions().title_size(_NAME_SIZE))
    panel.orientation(cm.VizOrientation.AUTO)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.mappings([*([values(states)] if states is not None else []), _absent(no_value)])
    if (shown := _decimals(unit, decimals)) is not None:
        panel.decimals(shown)
    return panel


def timeline(
    title: str, note: str, queries: Sequence[Query], *, states: dict[int, tuple[str, str]]
) -> statetimeline.Panel:
    """Return states over time, one row a series, each state with its word and colour."""
    panel: statetimeline.Panel = _begun(statetimeline.Panel(), title, note, queries, unit="short")
    panel.mappings([values(states)]).no_value(NOT_REPORTED)
    panel.color_scheme(dashboard.FieldColor().mode(dm.FieldColorModeId.THRESHOLDS))
    panel.thresholds(Steps(base=GREY).built())
    panel.merge_values(True).show_value(cm.VisibilityMode.AUTO).row_height(0.8).fill_opacity(75).line_width(0)
    panel.legend(_legend()).tooltip(common.VizTooltipOptions().mode(cm.TooltipDisplayMode.SINGLE))
    return panel


def words(title: str, content: str) -> text.Panel:
    """Return a text in Markdown."""
    return text.Panel().title(title).description(content.split("\n\n", 1)[0]).mode(TextMode.MARKDOWN).content(content)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a table: a query with one value a row, or the label that it brings along."""

    title: str
    expr: str = ""
    """Empty: its label comes with the queries of other columns."""
    label: str = ""
    unit: str = "short"
    decimals: int | None = None
    """None: whole percents for a share, else as many as Grafana finds fit."""
    steps: Steps | None = None
    states: dict[int, tuple[str, str]] | None = None
    no_value: str = "-"
    """What a row without this value shows."""
    width: int | None = None
    background: bool = False
    link: tuple[str, str] | None = None
    """(Title, URL)."""


def sheet(
    title: str, note: str, columns: Sequence[Column], *, sort: Sequence[tuple[str, bool]], empty: str = "No data"
) -> table.Panel:
    """Return a table: instant queries joined by the labels they share.

    Args:
        title: The panel's title.
        note: What it is for.
        columns: In order.
        sort: (Column, descending), the first one first.
        empty: What it says without rows.
    """
    asked = [column for column in columns if column.expr]
    queries = [Query(expr=column.expr, legend="") for column in asked]
    panel: table.Panel = _begun(table.Panel(), title, note, queries, unit="string", instant=True, as_table=True)
    panel.show_header(True).cell_height(cm.TableCellHeight.SM).min_width(60).filterable(False).no_value(empty)
    panel.sort_by([common.TableSortByFieldState().display_name(name).desc(desc) for name, desc in sort])
    from_name = {
        **{column.label: column.title for column in columns if column.label},
        **{_value_of(position, asked): column.title for position, column in enumerate(asked)},
    }
    order = {column.title: position for position, column in enumerate(columns)}
    # Values that are always 1: their query was made for its labels.
    silent = tuple(_value_of(position, asked) for position, column in enumerate(asked) if column.label)
    panel.transformations(
        _joined(
            hidden=silent,
            order={name: order[title] for name, title in from_name.items()},
            names={name: title for name, title in from_name.items() if name not in silent},
        )
    )
    for column in columns:
        properties = _cell(column)
        if properties:
            panel.override_by_name(column.title, properties)
    return panel


def _joined(
    *, hidden: Sequence[str], order: Mapping[str, int], names: Mapping[str, str]
) -> list[dm.DataTransformerConfig]:
    """Make one table of all queries' answers, in which these columns are hidden, ordered and renamed."""
    organized = {"excludeByName": dict.fromkeys(("Time", *hidden), True), "indexByName": order, "renameByName": names}
    return [
        dm.DataTransformerConfig(id_val="merge", options={}),
        dm.DataTransformerConfig(id_val="organize", options=organized),
    ]


def _value_of(position: int, asked: Sequence[object]) -> str:
    """What Grafana calls the value column of a query."""
    return f"Value #{_ref(position)}" if len(asked) > 1 else "Value"


def _ref(position: int) -> str:
    """What a query is called within its panel."""
    return chr(ord("A") + position)


def _decimals(unit: str, wanted: int | None) -> int | None:
    return 0 if wanted is None and unit == "percentunit" else wanted


def _cell(column: Column) -> list[dm.DynamicConfigValue]:
    # A label that a row lacks; without this the cell shows what an empty table says.
    properties: list[tuple[str, Any]] = [("noValue", "-")] if column.label else []
    if column.expr and not column.label:
        properties.append(("unit", column.unit))
    if (shown := _decimals(column.unit, column.decimals)) is not None:
        properties.append(("decimals", shown))
    if column.expr and not column.label:
        states = [] if column.states is None else [values(column.states)]
        properties.append(("mappings", [*states, _absent(column.no_value)]))
    if column.steps is not None:
        properties.append(("thresholds", column.steps.built().build()))
    if column.steps is not None or column.states is not None:
        cell = {"type": "color-background", "mode": "basic"} if column.background else {"type": "color-text"}
        properties.append(("custom.cellOptions", cell))
    if column.width is not None:
        properties.append(("custom.width", column.width))
    if column.link is not None:
        properties.append(("links", [{"title": column.link[0], "url": column.link[1]}]))
    return [dm.DynamicConfigValue(id_val=name, value=value) for name, value in properties]


def bars(
    title: str, note: str, parts: dict[str, Query], *, unit: str, by: str, colors: dict[str, tuple[str, int]]
) -> barchart.Panel:
    """Return one horizontal stacked bar for each value of the label ``by``; the parts are its pieces, in order."""
    queries = list(parts.values())
    panel: barchart.Panel = _begun(barchart.Panel(), title, note, queries, unit=unit, instant=True, as_table=True)
    panel.min(0).orientation(cm.VizOrientation.HORIZONTAL).stacking(cm.StackingMode.NORMAL).x_field(by)
    panel.show_value(cm.VisibilityMode.NEVER).bar_width(0.8).group_width(0.8).fill_opacity(85).line_width(0)
    panel.legend(_legend()).tooltip(_all_series()).no_value(NOT_REPORTED)
    names = {_value_of(position, queries): name for position, name in enumerate(parts)}
    order = {name: position for position, name in enumerate((by, *names))}
    panel.transformations(_joined(hidden=(), order=order, names=names))
    for name, (color, opacity) in colors.items():
        panel.override_by_name(name, [_fixed(color), _opacity(opacity)])
    return panel


@dataclass(kw_only=True)
class Layout:
    """A dashboard in the making: panels flow from left to right in rows of 24 columns.

    Every dashboard asks for its data source and, as all selectors and the marks of alerts do, for servers.
    """

    board: Board
    title: str
    description: str
    _x: int = 0
    _y: int = 0
    _height: int = 0
    _next_id: int = 1
    _builder: dashboard.Dashboard = field(init=False)
    _collapsed: dashboard.Row | None = None

    def __post_init__(self) -> None:
        self._builder = (
            dashboard.Dashboard(self.title)
            .uid(self.board.value)
            .description(self.description)
            .tags([TAG, "vllm", "gpu"])
            .timezone("browser")
            .time("now-1h", "now")
            .refresh("30s")
            .tooltip(dm.DashboardCursorSync.CROSSHAIR)
            .with_variable(_source_variable())
            .annotation(_alerts())
            .link(
                dashboard.DashboardLink("vLLM headroom")
                .type(dm.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .icon("external link")
                .tooltip("Fleet, server, engine, advice")
                .as_dropdown(False)
                .include_vars(True)
                .keep_time(True)
            )
        )
        self.variable("instance", "Server", "label_values(headroom_build_info, instance)")

    def variable(self, name: str, label: str, query: str, *, hidden: bool = False) -> None:
        """Add a variable that lists the values of a label; All by default."""
        variable = (
            dashboard.QueryVariable(name)
            .label(label)
            .description(f"{label} to show")
            .query({"query": query, "refId": f"{name}-variable"})
            .datasource(SOURCE)
            .refresh(dm.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(dm.VariableSort.NATURAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(dm.VariableOption(text="All", value="$__all", selected=True))
        )
        self._builder.with_variable(variable.hide(dm.VariableHide.HIDE_VARIABLE) if hidden else variable)

    def row(self, title: str, *, collapsed: bool = False) -> None:
        """Start a section."""
        self._finish_row()
        row = dashboard.Row(title).id(self._new_id()).collapsed(collapsed)
        row.grid_pos(dm.GridPos(h=1, w=24, x=0, y=self._y))
        self._y += 1
        if collapsed:
            self._collapsed = row
        else:
            self._builder.with_row(row)

    def add(self, panel: Any, *, width: int, height: int, repeat: str | None = None) -> None:
        """Place the next panel; with ``repeat`` one for each value of a variable, two in a row."""
        if self._x + width > 24:
            self._y += self._height
            self._x = self._height = 0
        panel.id(self._new_id()).grid_pos(dm.GridPos(h=height, w=width, x=self._x, y=self._y))
        if repeat is not None:
            panel.repeat(repeat).repeat_direction("h").max_per_row(2)
        self._x += width
        self._height = max(self._height, height)
        if self._collapsed is not None:
            self._collapsed.with_panel(panel)
        else:
            self._builder.with_panel(panel)

    def built(self) -> dm.Dashboard:
        """Return the dashboard."""
        self._finish_row()
        return self._builder.build()

    def _finish_row(self) -> None:
        self._y += self._height
        self._x = self._height = 0
        if self._collapsed is not None:
            self._builder.with_row(self._collapsed)
            self._collapsed = None

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1


def _alerts() -> dashboard.AnnotationQuery:
    """Marks the times at which our alerts fire, where Prometheus evaluates them."""
    return dashboard.AnnotationQuery().name("Alerts").datasource(SOURCE).enable(True).icon_color(RED).expr(firing())


def _source_variable() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def gpu(field_name: str, **labels: str) -> str:
    """Return the selector of a GPU metric for the chosen servers and GPUs; labels as in `_selector`."""
    return _selector(f"headroom_gpu_{field_name}", OF_GPU, labels)


def engine(field_name: str, **labels: str) -> str:
    """Return the selector of an engine metric for the chosen servers and engines; labels as in `_selector`."""
    return _selector(f"headroom_engine_{field_name}", OF_ENGINE, labels)


def at_server(name: str, **labels: str) -> str:
    """Return the selector of any metric of ours for the chosen servers; labels as in `_selector`."""
    return _selector(f"headroom_{name}", OF_SERVER, labels)


def firing(**labels: str) -> str:
    """Return the selector of our alerts that fire at the chosen servers, or at none; labels as in `_selector`."""
    return _selector("ALERTS", ('alertname=~"Headroom.+"', 'alertstate="firing"', 'instance=~"$instance|"'), labels)


def _selector(name: str, chosen: tuple[str, ...], labels: Mapping[str, str]) -> str:
    """A label's value is matched as it is; after ``~`` as a regular expression."""
    matchers = [
        f'{label}=~"{value[1:]}"' if value.startswith("~") else f'{label}="{value}"' for label, value in labels.items()
    ]
    return f"{name}{{{', '.join((*chosen, *matchers))}}}"


def until(seconds: str) -> str:
    """Return a time to something in whole seconds, and -1 where it is infinite: what is not reported stays absent.

    Panels show -1 and 0 in words; Grafana would spell infinity as a number of years and less than a second in the
    widest word it has.
    """
    return f"floor({seconds} < Inf) or -({seconds} == bool Inf)"


def to(board: Board, **variables: str) -> str:
    """Return the address of another dashboard with these variables set, at the same times and data source."""
    chosen = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return f"/d/{board.value}?var-datasource=${{datasource}}{chosen}&${{__url_time_range}}"

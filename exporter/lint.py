"""Whether the metrics that rules and dashboards read exist: by our declarations, vLLM's names table and live pages."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from advisor.facts import PREFIX, Metric
from advisor.versions import Version
from exporter.checked_yaml import read_mapping
from exporter.errors import UsageError
from exporter.promql import selectors
from exporter.reference import all_metrics
from exporter.sources.vllm_names import BY_SPELLING, GONE, Figure, Shape
from exporter.unread import UNREAD, why_unread

MOST_PAGE_BYTES = 32 * 1024**2
_TIMEOUT_SECONDS = 10.0
_PARTS = ("_bucket", "_sum", "_count")
_VLLM = re.compile(r"(ray_)?vllm([:_])(.+)")
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)[{ ]", re.MULTILINE)
_TYPE = re.compile(r"^# TYPE ([a-zA-Z_:][\w:]*) (\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"\s*(label_values|query_result|metrics|label_names)\((.*)\)\s*", re.DOTALL)
_BY_PROMETHEUS = re.compile(r"up|ALERTS|ALERTS_FOR_STATE|scrape_\w+")
_OWN_PROCESS = re.compile(r"(process|python)_\w+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One expression and where it stands."""

    where: str
    expr: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """What is to be said of one metric, or of one expression that is no PromQL."""

    where: str
    metric: str
    message: str
    replacement: str | None = None
    wrong: bool = True
    """False: it may be right, and nothing here can tell."""


def rule_queries(file: Path) -> tuple[tuple[Query, ...], frozenset[str]]:
    """Return the expressions of a Prometheus rule file and the names it records.

    Raises:
        UsageError: The file cannot be read or is no rule file.
    """
    content = read_mapping(file)
    # The Prometheus operator wraps the same groups in a resource.
    holder = content.get("spec", content)
    groups = holder.get("groups") if isinstance(holder, dict) else None
    if not isinstance(groups, list):
        raise UsageError(f"{file}: no rule file: a list 'groups' is needed at the top")
    queries = []
    recorded = set()
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("rules") or [], list):
            raise UsageError(f"{file}: a group without a list 'rules'")
        for rule in group.get("rules") or ():
            if not isinstance(rule, dict) or "expr" not in rule:
                raise UsageError(f"{file}: group {group.get('name')}: a rule without 'expr'")
            name = rule.get("alert") or rule.get("record") or "unnamed"
            queries.append(Query(where=f"{file.name}: {name}", expr=str(rule["expr"])))
            if "record" in rule:
                recorded.add(str(rule["record"]))
    return tuple(queries), frozenset(recorded)


def dashboard_queries(file: Path) -> tuple[Query, ...]:
    """Return the PromQL of a Grafana dashboard: panels, panels in rows, variables and annotations.

    Raises:
        UsageError: The file cannot be read or is no dashboard.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not JSON: {error}") from error
    if isinstance(content, dict):
        # The HTTP API wraps it once.
        content = content.get("dashboard", content)
    if not isinstance(content, dict) or "panels" not in content:
        raise UsageError(f"{file}: no dashboard: 'panels' is needed at the top")
    try:
        expressions = [(place, expr) for place, expr in _expressions(content) if expr.strip()]
    except (AttributeError, TypeError, RecursionError) as error:
        raise UsageError(f"{file}: no dashboard: a panel, a variable or an annotation is none") from error
    return tuple(Query(where=f"{file.name}: {place}", expr=expr) for place, expr in expressions)


def _expressions(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in _panels(dashboard):
        for target in panel.get("targets") or ():
            if isinstance(target.get("expr"), str) and _asks_prometheus(target, panel):
                yield f"panel {panel.get('title') or panel.get('id')!r}", target["expr"]
    for variable in (dashboard.get("templating") or {}).get("list") or ():
        if variable.get("type") == "query":
            query = variable.get("query")
            text = query.get("query", "") if isinstance(query, dict) else str(query or "")
            yield from ((f"variable {variable.get('name')}", expr) for expr in _variable_expressions(text))
    for annotation in (dashboard.get("annotations") or {}).get("list") or ():
        if isinstance(annotation.get("expr"), str):
            yield f"annotation {annotation.get('name')!r}", annotation["expr"]


def _asks_prometheus(*holders: Mapping[str, Any]) -> bool:
    """Loki's queries are called ``expr`` too; a source that is not named, or by name only, may be Prometheus."""
    for holder in holders:
        source = holder.get("datasource")
        if isinstance(source, dict) and isinstance(source.get("type"), str):
            return "prometheus" in source["type"]
    return True


def _panels(holder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for panel in holder.get("panels") or ():
        yield panel
        yield from _panels(panel)
    for row in holder.get("rows") or ():
        yield from _panels(row)


def _variable_expressions(text: str) -> Iterator[str]:
    """Grafana's own functions around PromQL: ``label_values(metric{...}, label)``, ``query_result(expr)``."""
    match = _FUNCTION.fullmatch(text)
    if match is None:
        return
    function, inside = match.groups()
    if function == "query_result":
        yield inside
    elif function == "label_values" and "," in inside:
        # The last comma outside braces divides; a label's name holds none.
        yield inside.rsplit(",", 1)[0]


def names_on_page(url: str) -> frozenset[str]:
    """Return the sample names that a live page shows: /metrics of an exporter, or Prometheus' list of names.

    Raises:
        UsageError: It cannot be read.
    """
    address = url if re.match(r"https?://[^/]+/.+", url) else url.rstrip("/") + "/metrics"
    try:
        with requests.get(address, timeout=_TIMEOUT_SECONDS, stream=True) as answer:
            answer.raise_for_status()
            body = answer.raw.read(MOST_PAGE_BYTES + 1, decode_content=True)
    except UNREAD as error:
        raise UsageError(f"{address} cannot be read ({why_unread(error)})") from error
    if len(body) > MOST_PAGE_BYTES:
        raise UsageError(f"{address}: more than {MOST_PAGE_BYTES} bytes")
    return names_in(body.decode("utf-8", errors="replace"))


def names_in(text: str) -> frozenset[str]:
    """Return the sample names in the text of a page, those announced without samples included."""
    if text.lstrip().startswith("{"):
        try:
            names = json.loads(text).get("data")
        except (ValueError, RecursionError):
            names = None
        told = names if isinstance(names, list) else ()
        return frozenset(name for name in told if isinstance(name, str) and name)
    names = set(_SAMPLE.findall(text))
    for name, kind in _TYPE.findall(text):
        names |= {name + part for part in _PARTS} if kind == "histogram" else {name}
    return frozenset(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What exists."""

    recorded: frozenset[str] = frozenset()
    """By the recording rules at hand."""
    live: frozenset[str] | None = None
    """On live pages; None without any."""

    def remarks(self, queries: Iterable[Query]) -> tuple[Remark, ...]:
        """Return what is to be said of these queries, each metric once a place, what is wrong first."""
        found: dict[tuple[str, str], Remark] = {}
        for query in queries:
            try:
                names = [selector.name for selector in selectors(query.expr)]
            except ValueError as error:
                found[query.where, query.expr] = Remark(
                    where=query.where, metric="", message=f"no PromQL: {error}: {query.expr}"
                )
                continue
            for name in names:
                remark = self._remark(query.where, name)
                # "new or old" reads servers of both kinds: an old name beside its new one is meant.
                if remark is not None and remark.replacement not in names:
                    found[query.where, name] = remark
        return tuple(sorted(found.values(), key=lambda remark: (not remark.wrong, remark.where, remark.metric)))

    def _remark(self, where: str, name: str) -> Remark | None:
        if name in self.recorded or _BY_PROMETHEUS.fullmatch(name) or (self.live and name in self.live):
            return None
        if name.startswith(f"{PREFIX}_"):
            return self._own(where, name)
        if (match := _VLLM.fullmatch(name)) is not None:
            return self._vllm(where, name, match)
        if _OWN_PROCESS.fullmatch(name):
            return None
        where_looked = "not on the pages given" if self.live else "of another exporter: give a page with --against"
        return Remark(where=where, metric=name, message=where_looked, wrong=False)

    def _own(self, where: str, name: str) -> Remark | None:
        declared = {metric.name: metric for _, metric in all_metrics()}
        if name in declared:
            return renamed(declared[name], where)
        near = difflib.get_close_matches(name, sorted(declared), n=1)
        return Remark(
            where=where, metric=name, message="vllm-headroom has no such metric", replacement=near[0] if near else None
        )

    def _vllm(self, where: str, name: str, match: re.Match[str]) -> Remark | None:
        """Judge a name of vLLM's; Ray's agent adds a prefix and turns the colon into an underscore."""
        prefix = f"{match[1] or ''}vllm{match[2]}"
        spelled = match[3]
        figure, base, part = _figure_of(spelled)
        if spelled in GONE:
            last, instead = GONE[spelled]
            gone = f"gone: vLLM {_spelled(last)} is the last release with it; {instead}"
            return Remark(where=where, metric=name, message=gone)
        if figure is None:
            return self._unknown_vllm(where, name, prefix, spelled)
        now = figure.spellings[0]
        current = prefix + now.name + part
        if figure.shape is Shape.HISTOGRAM and not part:
            return Remark(
                where=where, metric=name, message="a histogram has no series of this name", replacement=name + "_bucket"
            )
        on_page = self._other_spelling(figure, prefix, part)
        if on_page is not None:
            return Remark(where=where, metric=name, message="this server has it by another name", replacement=on_page)
        until = next(each.until for each in figure.spellings if each.name == base)
        if until is not None and base != now.name:
            return Remark(
                where=where,
                metric=name,
                message=f"renamed: vLLM {_spelled(until)} is the last release with this name",
                replacement=current,
            )
        if self.live is not None and any(_VLLM.fullmatch(each) for each in self.live):
            return Remark(
                where=where, metric=name, message="vLLM has it, this server does not show it now", wrong=False
            )
        return None

    def _other_spelling(self, figure: Figure, prefix: str, part: str) -> str | None:
        for spelling in figure.spellings:
            if self.live and prefix + spelling.name + part in self.live:
                return prefix + spelling.name + part
        return None

    def _unknown_vllm(self, where: str, name: str, prefix: str, spelled: str) -> Remark:
        served = frozenset(each for each in self.live or () if _VLLM.fullmatch(each))
        candidates = served or frozenset(_current_vllm_names(prefix))
        if name + "_total" in candidates:
            return Remark(
                where=where, metric=name, message="a counter's series ends in _total", replacement=name + "_total"
            )
        near = difflib.get_close_matches(name, sorted(candidates), n=1, cutoff=0.8)
        if served:
            return Remark(
                where=where, metric=name, message="not on the pages given", replacement=near[0] if near else None
            )
        return Remark(
            where=where,
            metric=name,
            message="not among the names this program reads: give a vLLM server's page with --against",
            replacement=near[0] if near else None,
            wrong=False,
        )


def renamed(metric: Metric, where: str) -> Remark | None:
    """Return what to say of a metric of ours: nothing, unless this is a name that it had before."""
    if metric.former is None:
        return None
    return Remark(
        where=where,
        metric=metric.name,
        message=f"renamed: vllm-headroom {metric.former.gone_in} is the first release without this name",
        replacement=f"{PREFIX}_{metric.subject}_{metric.field}",
    )


def own_names() -> frozenset[str]:
    """Return every metric of ours."""
    return frozenset(metric.name for _, metric in all_metrics())


def _figure_of(spelled: str) -> tuple[Figure | None, str, str]:
    """Return the figure that a name without prefix belongs to, its name there and the histogram's part."""
    for part in ("", *_PARTS):
        base = spelled.removesuffix(part) if part else spelled
        figure = BY_SPELLING.get(base)
        if figure is not None and (base != spelled or not part) and (not part or figure.shape is Shape.HISTOGRAM):
            return figure, base, part
    return None, spelled, ""


def _current_vllm_names(prefix: str) -> Iterator[str]:
    for figure in BY_SPELLING.values():
        name = prefix + figure.spellings[0].name
        if figure.shape is Shape.HISTOGRAM:
            yield from (name + part for part in _PARTS)
        else:
            yield name


def _spelled(version: Version) -> str:
    return ".".join(str(part) for part in version)

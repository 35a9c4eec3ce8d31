"""Which metrics a PromQL expression reads.

Parsed with `promql-parser`, the Rust implementation of Prometheus' own grammar with Python bindings: names come from
the syntax tree, so strings, label names, functions and recording rules with colons are told apart without guessing.
"""

import re
from dataclasses import dataclass
from typing import Any

import promql_parser

_PLAIN_ALTERNATION = re.compile(r"[a-zA-Z_:][\w:]*(?:\|[a-zA-Z_:][\w:]*)*")
_VARIABLE = re.compile(r"\$\{\w+(?:[:.][^}]*)?\}|\$\w+|\[\[\w+(?::\w+)?\]\]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`')
_DURATION_BEFORE = re.compile(r"(?:\[|:|\boffset\s+-?)\s*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selector:
    """One vector selector of an expression."""

    name: str
    matchers: tuple[tuple[str, str], ...]
    """(label, value) of each matcher but the name's; regular expressions as they are written."""


def selectors(expr: str) -> tuple[Selector, ...]:
    """Return every selector with a name, in order of appearance; one for each name of ``{__name__=~"a|b"}``.

    Raises:
        ValueError: The expression is no PromQL; the message is the parser's.
    """
    found: list[Selector] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            matchers = [(each.name, each.value) for each in node.matchers.matchers]
            labels = tuple(pair for pair in matchers if pair[0] != "__name__")
            written = [node.name] if node.name else [value for name, value in matchers if name == "__name__"]
            for text in written:
                if _PLAIN_ALTERNATION.fullmatch(text):
                    found.extend(Selector(name=name, matchers=labels) for name in text.split("|"))

    promql_parser.walk(parse(expr), visit)
    return tuple(found)


def parse(expr: str) -> promql_parser.Expr:
    """Return the syntax tree of an expression, which may hold Grafana's variables.

    Raises:
        ValueError: The expression is no PromQL; the message is the parser's.
    """
    _know_old_functions()
    candidates = dict.fromkeys(without_variables(expr, stand_in) for stand_in in ("x", "1"))
    errors = []
    for candidate in candidates:
        try:
            return promql_parser.parse(candidate)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def without_variables(expr: str, stand_in: str) -> str:
    """Return an expression with Grafana's variables replaced: by 5m where a duration stands, else by ``stand_in``.

    Inside a string a variable is text like any other and stays.
    """
    parts: list[str] = []
    position = 0
    strings = [match.span() for match in _STRING.finditer(expr)]
    for match in _VARIABLE.finditer(expr):
        if any(start < match.start() < end for start, end in strings):
            continue
        parts.append(expr[position : match.start()])
        written = "".join(parts)
        parts.append("5m" if _DURATION_BEFORE.search(written) else stand_in)
        position = match.end()
    return "".join(parts) + expr[position:]


def _know_old_functions() -> None:
    """Prometheus 3 renamed holt_winters, and so did the parser; rules for 2.x still say it."""
    try:
        promql_parser.parse("holt_winters(x[5m], 0.5, 0.5)")
    except ValueError:
        kinds = promql_parser.ValueType
        promql_parser.register_extra_functions(
            [promql_parser.Function("holt_winters", [kinds.Matrix, kinds.Scalar, kinds.Scalar], kinds.Vector)]
        )

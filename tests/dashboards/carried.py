"""Which labels the series of an expression carry, by its syntax tree and the declarations of its metrics.

Prometheus calls no label wrong: grouping by one that is not there merges what should be told apart, and sides with
different labels match nothing. Both look like data that is not there.
"""

import promql_parser as promql

from exporter.promql import parse
from exporter.reference import all_metrics

OF_TARGET = frozenset({"job", "instance"})
_OURS = {metric.name: OF_TARGET.union(metric.labels) for _, metric in all_metrics()}
_OF_VLLM = OF_TARGET | {"model_name", "engine"}
_BY_PROMETHEUS = {
    "up": OF_TARGET,
    "ALERTS": frozenset().union(*_OURS.values(), {"alertname", "alertstate", "severity"}),
}


def labels_of(expr):
    """Return the labels of the series that an expression returns; None for a number.

    Raises:
        ValueError: It groups by or matches on a label that is not there, or its sides differ in labels.
    """
    return _labels(parse(expr))


def labels_of_metric(name):
    """Return the labels of a metric as Prometheus stores it."""
    if name.startswith("vllm:"):
        return _OF_VLLM | {"le"} if name.endswith("_bucket") else _OF_VLLM
    return _OURS.get(name) or _BY_PROMETHEUS[name]


def _labels(node):
    match node:
        case promql.NumberLiteral() | promql.StringLiteral():
            return None
        case promql.VectorSelector():
            return labels_of_metric(node.name)
        case promql.MatrixSelector():
            return _labels(node.vector_selector)
        case promql.ParenExpr() | promql.UnaryExpr():
            return _labels(node.expr)
        case promql.AggregateExpr():
            return _grouped(node)
        case promql.Call():
            return _called(node)
        case promql.BinaryExpr():
            return _joined(node)
    raise ValueError(f"{node.prettify()}: not known here")


def _grouped(node):
    inner = _labels(node.expr)
    if node.modifier is None:
        return frozenset()
    named = _present(node.modifier.labels, inner, node)
    return named if node.modifier.type == promql.AggModifierType.By else inner - named


def _called(node):
    arguments = [_labels(each) for each in node.args]
    match node.func.name:
        case "absent":
            return frozenset()
        case "histogram_quantile":
            return arguments[1] - _present(["le"], arguments[1], node)
        case "label_join":
            _present([source.val for source in node.args[3:]], arguments[0], node)
            return arguments[0] | {node.args[1].val}
    return next(each for each in arguments if each is not None)


def _joined(node):
    left, right = _labels(node.lhs), _labels(node.rhs)
    if left is None or right is None:
        return left if right is None else right
    if node.modifier is not None and node.modifier.matching is not None:
        _present(node.modifier.matching.labels, left & right, node)
    elif left != right:
        raise ValueError(f"{node.prettify()}: only one side has {sorted(left ^ right)}")
    return left


def _present(labels, there, node):
    if absent := set(labels) - there:
        raise ValueError(f"{node.prettify()}: nothing here has {sorted(absent)}")
    return frozenset(labels)

"""HTML made from elements, so that no text reaches a page unescaped."""

from collections.abc import Iterable
from html import escape

_EMPTY = frozenset({"meta", "link", "br", "hr", "rect", "line", "polyline", "path", "use"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | Html | None | Iterable["Child"]


def element(name: str, /, *children: Child, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: Its name.
        children: Texts, which are escaped, elements, and sequences of both; None is left out.
        attributes: An underscore stands for a hyphen (``class_`` for ``class``); None and False are left out, True is
            an attribute without a value.
    """
    told = "".join(_attribute(key, value) for key, value in attributes.items())
    inner = fragment(*children)
    if name in _EMPTY and not inner:
        return Html(f"<{name}{told}>" if name in ("meta", "link", "br", "hr") else f"<{name}{told}/>")
    return Html(f"<{name}{told}>{inner}</{name}>")


def fragment(*children: Child) -> Html:
    """Return children one after the other."""
    return Html("".join(_spelled(child) for child in children))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def _spelled(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, str):
        return escape(child)
    return "".join(_spelled(each) for each in child)

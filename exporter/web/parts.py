"""What several parts of the status page are made of."""

from typing import Any

from exporter.web.html import Html, element
from exporter.words import SIGNS, Level


def sign(level: Level) -> Html:
    """Return the shape that stands beside a level's colour."""
    return element("span", SIGNS[level], class_="sign", aria_hidden="true")


def pill(level: Level, text: str) -> Html:
    """Return a state in words with its sign and colour."""
    return element("span", element("span", SIGNS[level], aria_hidden="true"), f" {text}", class_=f"pill {level}")


def row(term: str, description: Any) -> list[Html] | None:
    """Return a line of a list of terms, None where there is nothing to say."""
    return [element("dt", term), element("dd", description)] if description else None

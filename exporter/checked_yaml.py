"""YAML files whose every key is checked, and whose every problem is told at once with its path."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict

from exporter.errors import UsageError

if TYPE_CHECKING:
    import yaml

_NEVER_SHOWN = frozenset({"api_key_env", "basic_auth_users", "key", "cert"})
"""Keys whose values a message must not repeat: some hold a secret, for others one is easily taken."""

_NAMED = re.compile(r"\b(alias|anchor|tag handle|tag) (['\"]).*?\2", re.DOTALL)
"""What the parser repeats of a value that begins with a sign of YAML's, as a password may that nobody quoted."""

_WANTED = {
    "missing": "is missing",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "path_type": "must be a path in quotes",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys",
    "model_type": "must be a mapping of keys",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
}
"""What would be right, by pydantic's name of the problem: its own words speak of Python's types."""


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - which pydantic tells with the place
    return value


Number = Annotated[float, BeforeValidator(_no_truth)]
"""A number. YAML reads ``yes`` and ``on`` as true, which Python would take for 1."""


class Strict(BaseModel):
    """A section that knows all of its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping at the top of a YAML file; an empty file is an empty one.

    Raises:
        UsageError: It cannot be read, is no YAML or no mapping.
    """
    import yaml  # a mebibyte that a daemon without a file does without

    try:
        content = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except yaml.MarkedYAMLError as error:
        raise UsageError(f"{path}: not YAML: {_where(error)}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a mapping of keys is needed at the top, this is a {type(content).__name__}")
    return content


def require_readable_again(path: Path) -> None:
    """Look at a file that was read before and is about to be read a second time.

    Raises:
        UsageError: It is a pipe, such as the shell's ``<(...)``: nobody writes into it any more, and who waited for it
            would hear no signal.
    """
    if path.is_fifo():
        raise UsageError(f"{path}: a pipe can be read once: only a file can be read again")


def _parsed(text: str) -> Any:
    """Read YAML in which no mapping has a key twice: PyYAML itself would drop the first in silence."""
    from yaml import SafeLoader

    loader = SafeLoader(text)
    try:
        document = loader.get_single_node()
        _refuse_repeated_keys(document)
        return loader.construct_document(document) if document is not None else None
    finally:
        loader.dispose()


def _refuse_repeated_keys(document: Any) -> None:
    from yaml import MappingNode, MarkedYAMLError, ScalarNode, SequenceNode

    left, looked_at = [document], set()
    while left:
        node = left.pop()
        if id(node) in looked_at:  # an alias is the node that it names
            continue
        looked_at.add(id(node))
        if isinstance(node, SequenceNode):
            left += node.value
        elif isinstance(node, MappingNode):
            names = set()
            for key, value in node.value:
                if isinstance(key, ScalarNode) and (name := (key.tag, key.value)) in names:
                    raise MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
                if isinstance(key, ScalarNode):
                    names.add(name)
                left += (key, value)


Section = TypeVar("Section", bound=Strict)


def with_paths(section: Section, directory: Path, keys: tuple[str, ...]) -> Section:
    """Return a section with these paths made relative to its file: a service has no directory of its own."""
    named = {key: directory / path for key in keys if (path := getattr(section, key)) is not None}
    return section.model_copy(update=named)


def _where(error: "yaml.MarkedYAMLError") -> str:
    """Say what is wrong and where; the parser's own message repeats the line, which may hold a secret."""
    mark = error.problem_mark or error.context_mark
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    told = _NAMED.sub(r"\1", str(error.problem or error.context))
    return f"{told}{place}"


def spelled(problem: Any, model: type[BaseModel]) -> str:
    """Return one of pydantic's problems as ``key.path: what would be right (given: what was given). What it is.``."""
    location = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    known = _section_at(model, problem["loc"][:-1])
    if problem["type"] == "extra_forbidden":
        return unknown_key(location, known.model_fields)
    given = problem["input"]
    holds_credentials = isinstance(given, str) and not {"@", "?", "#"}.isdisjoint(given)
    is_whole = isinstance(given, dict | list) or problem["type"] == "missing"
    hidden = is_whole or holds_credentials or not _NEVER_SHOWN.isdisjoint(problem["loc"])
    wanted = _WANTED.get(problem["type"])
    told = wanted.format(**problem.get("ctx", {})) if wanted else problem["msg"].removeprefix("Value error, ")
    shown = "" if hidden or (isinstance(given, str) and repr(given) in told) else f" (given: {given!r})"
    field = known.model_fields.get(str(problem["loc"][-1])) if wanted and problem["loc"] else None
    return f"{location}: {told}{shown}{f'. {field.description}' if field and field.description else ''}"


def unknown_key(location: str, known: Iterable[str]) -> str:
    """Say that a key is none, which there are, and which of them was probably meant."""
    name = location.rpartition(".")[2]
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"{location}: unknown key; known here: {', '.join(names)}{f' (is {near[0]} meant?)' if near else ''}"


def _section_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = section_of(model.model_fields[part].annotation) or model
    return model


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field's type holds, by itself, optionally or as a list; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := section_of(each))), None)

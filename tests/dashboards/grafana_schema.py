"""Holds a dashboard against Grafana's schema, as the classes of Grafana's own SDK declare it.

The SDK's builders check what they are given, but not what they are told as plain values (overrides, mappings, links),
and not what is done to the JSON afterwards. So the committed file is walked key by key: every key must be one that the
class of its place writes, every value must be of the type that the class annotates. Panels' options and custom fields
and queries are held against the classes of their kind, an override against the field that it names.
"""

import enum
import types
import typing
from collections.abc import Iterator
from functools import cache

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.runtime import Runtime
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard, prometheus, units

plugins.register_default_plugins()

_UNITS = {value for name, value in vars(units).items() if not name.startswith("_") and isinstance(value, str)}


def faults(content: typing.Any) -> tuple[str, ...]:
    """Return what in a dashboard's JSON its schema does not know, each with its place."""
    return tuple(_object(content, dashboard.Dashboard, "dashboard"))


def _value(value: typing.Any, wanted: typing.Any, at: str) -> Iterator[str]:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted in (object, typing.Any):
        return
    if origin in (typing.Union, types.UnionType):
        yield from _union(value, arguments, at)
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{at}: {value!r} is none of {arguments}"
    elif origin is list:
        yield from _items(value, arguments[0], at) if isinstance(value, list) else (f"{at}: {value!r} is no list",)
    elif origin is dict:
        pairs = value.items() if isinstance(value, dict) else ()
        yield from () if isinstance(value, dict) else (f"{at}: {value!r} is no object",)
        for key, each in pairs:
            yield from _value(each, arguments[1], f"{at}.{key}")
    elif issubclass(wanted, enum.Enum):
        if value not in {member.value for member in wanted}:
            yield f"{at}: {value!r} is no {wanted.__name__}"
    elif hasattr(wanted, "to_json"):
        yield from _object(value, wanted, at) if isinstance(value, dict) else (f"{at}: {value!r} is no object",)
    elif issubclass(wanted, Dataquery):
        yield from _object(value, prometheus.Dataquery, at)
    elif not _is(value, wanted):
        yield f"{at}: {value!r} is no {wanted.__name__}"


def _union(value: typing.Any, alternatives: tuple[typing.Any, ...], at: str) -> Iterator[str]:
    """Blame the alternative that fits best."""
    if value is None and type(None) in alternatives:
        return
    found = [tuple(_value(value, each, at)) for each in alternatives if each is not type(None)]
    yield from min(found, key=len)


def _items(items: list[typing.Any], wanted: typing.Any, at: str) -> Iterator[str]:
    for position, item in enumerate(items):
        yield from _value(item, wanted, f"{at}[{position}]")


def _is(value: typing.Any, wanted: type) -> bool:
    """JSON has one kind of number, and a truth value is none."""
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is wanted


def _object(value: dict[str, typing.Any], wanted: type, at: str) -> Iterator[str]:
    if wanted is dashboard.Panel and value.get("type") not in Runtime().panelcfg_variants:
        yield f"{at}: {value.get('type')!r} is no kind of panel"
        return
    known = _fields(wanted)
    for key, each in value.items():
        place = f"{at}.{key}"
        if key not in known:
            yield f"{place}: {wanted.__module__.rsplit('.', 1)[-1]}.{wanted.__name__} has no such key"
        elif key in (constants := _constants(wanted)):
            if each != constants[key]:
                yield f"{place}: {each!r} is not {constants[key]!r}"
        elif wanted is dashboard.Panel and key == "options":
            yield from _object(each, _kind(value["type"]).options_from_json_hook.__self__, place)
        elif wanted is dashboard.Panel and key == "fieldConfig":
            yield from _field_config(each, value["type"], place)
        else:
            yield from _value(each, known[key], place)
            if wanted is dashboard.FieldConfig and key == "unit" and each not in _UNITS:
                yield f"{place}: {each!r} is no unit"


def _field_config(value: dict[str, typing.Any], kind: str, at: str) -> Iterator[str]:
    """Custom fields are the panel kind's own; an override names a field by its key, custom ones after ``custom.``."""
    yield from _object(value, dashboard.FieldConfigSource, at)
    custom = _custom(kind)
    yield from _object(value["defaults"].get("custom", {}), custom, f"{at}.defaults.custom")
    for position, override in enumerate(value["overrides"]):
        for each in override["properties"]:
            is_custom = each["id"].startswith("custom.")
            key, holder = each["id"].removeprefix("custom."), custom if is_custom else dashboard.FieldConfig
            yield from _object({key: each["value"]}, holder, f"{at}.overrides[{position}]")


def _kind(panel_type: str) -> typing.Any:
    return Runtime().panelcfg_variants[panel_type]


def _custom(panel_type: str) -> type:
    """Return the class of a panel kind's custom fields; some have none."""
    hook = _kind(panel_type).field_config_from_json_hook
    return _NoFields if hook is None else hook.__self__


class _NoFields:
    def to_json(self) -> dict[str, object]:
        return {}


@cache
def _names(cls: type) -> dict[str, str]:
    """Return the attribute behind each JSON key, by letting the class write attributes that hold their own names."""
    written = cls.__new__(cls)
    for name in typing.get_type_hints(cls):
        setattr(written, name, name)
    return typing.cast("dict[str, str]", written.to_json())


@cache
def _fields(cls: type) -> dict[str, typing.Any]:
    hints = typing.get_type_hints(cls)
    return {key: hints[name] for key, name in _names(cls).items()}


@cache
def _constants(cls: type) -> dict[str, typing.Any]:
    """Return the keys that tell one alternative from another: set by the class, not by its caller."""
    if cls is _NoFields:
        return {}
    parameters = cls.__init__.__code__.co_varnames  # type: ignore[misc]
    made = cls()
    return {key: getattr(made, name) for key, name in _names(cls).items() if name not in parameters}

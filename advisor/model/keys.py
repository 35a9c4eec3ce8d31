"""Reading a config.json key by key: each value checked when it is asked for, each error one line that names the key."""

import math
from collections.abc import Mapping
from typing import Any

from advisor.spec import ModelConfigError

_LARGEST_SIZE = 2**24
"""Above every width, vocabulary and head count of any model, and small enough that products stay sane."""

_LARGEST_LENGTH = 2**31
_MOST_LAYERS = 1024
"""No published model has a fifth of it; more would only cost time."""

_MOST_SHOWN = 60


class Keys:
    """One mapping of a config, with the defaults of the model's configuration class behind it."""

    __slots__ = ("_defaults", "_values", "path")

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, path: str = "") -> None:
        """Read ``values``; ``defaults`` answer for keys that are absent, ``path`` stands before names in errors."""
        self._values = values
        self._defaults: Mapping[str, Any] = defaults or {}
        self.path = path

    def raw(self, *names: str) -> tuple[str, Any]:
        """Return the first of several spellings that is present and not null, with its name; else (names[0], None).

        A null in the config is a choice, so no default answers for it.
        """
        chosen = False
        for name in names:
            value = self._values.get(name)
            if value is not None:
                return name, value
            chosen = chosen or name in self._values
        if not chosen:
            for name in names:
                value = self._defaults.get(name)
                if value is not None:
                    return name, value
        return names[0], None

    def merged(self) -> dict[str, Any]:
        """Return the values with the defaults behind them."""
        return {**self._defaults, **self._values}

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Keys":
        """Return the same mapping with further defaults behind it; those already there win."""
        return Keys(self._values, {**defaults, **self._defaults}, self.path)

    def overridden(self, values: Mapping[str, Any]) -> "Keys":
        """Return the same mapping with some values put in."""
        return Keys({**self._values, **values}, self._defaults, self.path)

    def error(self, name: str, value: object, right: str) -> ModelConfigError:
        """Return the one line that says which key is wrong and what would be right."""
        shown = repr(value)
        if len(shown) > _MOST_SHOWN:
            shown = shown[:_MOST_SHOWN] + "..."
        return ModelConfigError(f"config.json: {self.path}{name} is {shown}; it must be {right}")

    def missing(self, name: str) -> ModelConfigError:
        """Return the one line that says which key is missing."""
        return ModelConfigError(f"config.json: {self.path}{name} is missing")

    def _whole(self, names: tuple[str, ...], default: int | None, lowest: int, highest: int) -> int | None:
        name, value = self.raw(*names)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, value, "a whole number")
        if not lowest <= value < highest:
            raise self.error(name, value, f"from {lowest:,} to {highest - 1:,}")
        return value

    def size(self, *names: str, default: int | None = None, most: int = _LARGEST_SIZE - 1) -> int:
        """Return a width or number of parts, at least 1 and at most ``most``."""
        value = self._whole(names, default, 1, most + 1)
        if value is None:
            raise self.missing(names[0])
        return value

    def optional_size(self, *names: str) -> int | None:
        """Return a size that may be absent or null."""
        return self._whole(names, None, 1, _LARGEST_SIZE)

    def count(self, *names: str, default: int = 0) -> int:
        """Return a number of parts that may be none."""
        value = self._whole(names, default, 0, _LARGEST_SIZE)
        assert value is not None
        return value

    def layers(self, *names: str, default: int | None = None) -> int:
        """Return a number of layers."""
        value = self._whole(names or ("num_hidden_layers",), default, 1, _MOST_LAYERS + 1)
        if value is None:
            raise self.missing(names[0] if names else "num_hidden_layers")
        return value

    def optional_length(self, *names: str) -> int | None:
        """Return a number of tokens that may be absent."""
        return self._whole(names, None, 1, _LARGEST_LENGTH)

    def flag(self, *names: str, default: bool = False) -> bool:
        """Return a truth value; null and absent are the default."""
        name, value = self.raw(*names)
        if value is None:
            return default
        if isinstance(value, bool) or (isinstance(value, int) and value in {0, 1}):
            return bool(value)
        raise self.error(name, value, "true or false")

    def number(self, *names: str, default: float | None = None) -> float:
        """Return a finite number."""
        name, value = self.raw(*names)
        if value is None:
            if default is None:
                raise self.missing(name)
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST_LENGTH:
            raise self.error(name, value, "a number")
        return float(value)

    def fraction(self, name: str, *, default: float) -> float:
        """Return a number above 0 and at most 1."""
        value = self.number(name, default=default)
        if not 0 < value <= 1:
            raise self.error(name, value, "above 0 and at most 1")
        return value

    def text(self, *names: str, default: str = "") -> str:
        """Return a word."""
        name, value = self.raw(*names)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(name, value, "a string")
        return value

    def words(self, *names: str) -> tuple[str, ...] | None:
        """Return a list of words that may be absent."""
        name, value = self.raw(*names)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise self.error(name, value, "a list of strings")
        return tuple(value)

    def whole_numbers(self, *names: str) -> tuple[int, ...] | None:
        """Return a list of whole numbers, none below zero, that may be absent; true and false count as 1 and 0."""
        name, value = self.raw(*names)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(
            isinstance(each, int) and 0 <= each < _LARGEST_SIZE for each in value
        ):
            raise self.error(name, value, "a list of whole numbers")
        return tuple(int(each) for each in value)

    def nested(self, *names: str, defaults: Mapping[str, Any] | None = None) -> "Keys":
        """Return a mapping inside; an absent one is all defaults, which not every caller has."""
        name, value = self.raw(*names)
        if value is None:
            if defaults is None:
                raise self.missing(name)
            value = {}
        if not isinstance(value, Mapping):
            raise self.error(name, value, "an object")
        return Keys(value, defaults, f"{self.path}{name}.")

    def per_layer(self, name: str, values: tuple[Any, ...], layers: int) -> tuple[Any, ...]:
        """Return a list checked to have one entry a layer (some have more, for draft layers).

        Raises:
            ModelConfigError: It is shorter.
        """
        if len(values) < layers:
            raise ModelConfigError(f"config.json: {self.path}{name} has {len(values)} entries for {layers} layers")
        return values[:layers]


def divided(keys: Keys, whole: int, whole_name: str, parts: int, parts_name: str) -> int:
    """Return whole / parts.

    Raises:
        ModelConfigError: It leaves a remainder; names both keys.
    """
    if whole % parts:
        raise ModelConfigError(
            f"config.json: {keys.path}{whole_name} {whole} is not a multiple of {parts_name} {parts}"
        )
    return whole // parts


def is_finite(value: object) -> bool:
    """Tell whether a value is a usable number (JSON as Python reads it has NaN and Infinity)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

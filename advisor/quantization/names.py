"""Which modules a quantisation config speaks of: its lists of names, matched as vLLM does.

vLLM's methods differ in what they take: exact names, names of a module above, ends of names, ``re:`` regular
expressions, shell wildcards (``utils/quant_utils.py:is_layer_skipped``, ``compressed_tensors/utils.py``,
``modelopt.py:is_layer_excluded``, 0.33). Here a plain entry matches where its components stand in a row in the name,
which covers the first three and forgives the prefixes that wrappers put before a text model's names.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import translate

LAYER = "#"
"""Stands for the layer's number in a name, so that one decision serves every layer."""

_LAYER_NUMBER = re.compile(r"(?<=layers\.)\d+(?=\.|\*|$)")
_EXPERT_NUMBER = re.compile(r"(?<=experts\.)\d+(?=\.)")
_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
_REGEX_NUMBER = re.compile(r"\d")

_TOWER = re.compile(r"(?:^|\.)[^.]*(?:vis|audio|image|speech|multi_?modal|mm_proj|projector|aligner|resampler)[^.]*\.")


def in_tower(name: str) -> bool:
    """Tell whether a module outside the decoder's layers is an encoder of another modality, or what joins it on."""
    return LAYER not in name and _TOWER.search(name) is not None


class Names:
    """A list of module names and patterns."""

    def __init__(self, entries: Iterable[str], *, substrings: bool = False) -> None:
        """Take the config's entries; with ``substrings`` a plain entry matches anywhere in a name (AWQ)."""
        self._plain: defaultdict[int | None, set[str]] = defaultdict(set)
        self._substrings: tuple[str, ...] = ()
        globs: defaultdict[int | None, list[str]] = defaultdict(list)
        regexes: list[str] = []
        for entry in entries:
            if entry.startswith("re:"):
                regexes.append(entry[3:])
                continue
            text = _EXPERT_NUMBER.sub("*", entry) if "experts." in entry else entry
            number = _LAYER_NUMBER.search(text)
            layer = int(number[0]) if number else None
            if number:
                text = f"{text[: number.start()]}{LAYER}{text[number.end() :]}"
            if "*" in text.replace("experts.*", ""):
                globs[layer].append(text)
            else:
                self._plain[layer].add(text)
        if substrings:
            self._substrings = tuple(self._plain.pop(None, ()))
        self._globs = {layer: re.compile("|".join(map(translate, each))) for layer, each in globs.items()}
        self._regex = _joined(regexes)
        self._by_number = any(_REGEX_NUMBER.search(each) for each in regexes)
        self._signatures = {layer: frozenset(each) for layer, each in self._plain.items()}
        self._known: dict[object, bool] = {}

    def matches(self, name: str, layer: int | None) -> bool:
        """Tell whether a module is in the list.

        Args:
            name: The module's name, without ``.weight``, with `LAYER` in place of its layer's number.
            layer: That number, None outside the layers.
        """
        key = (name, layer if self._by_number or layer in self._globs else self._signatures.get(layer))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._look(name, layer)
        return known

    def _look(self, name: str, layer: int | None) -> bool:
        for scope in (None,) if layer is None else (None, layer):
            if self._in_plain(name, scope):
                return True
            glob = self._globs.get(scope)
            if glob is not None and any(glob.match(spelling) for spelling in _spellings(name)):
                return True
        if any(each in name for each in self._substrings):
            return True
        numbered = name if layer is None else name.replace(LAYER, str(layer), 1)
        return self._regex is not None and any(self._regex.match(spelling) for spelling in _spellings(numbered))

    def _in_plain(self, name: str, scope: int | None) -> bool:
        entries = self._plain.get(scope)
        if not entries:
            return False
        parts = name.split(".")
        return any(
            ".".join(parts[start:end]) in entries
            for start in range(len(parts))
            for end in range(start + 1, len(parts) + 1)
        )


def _joined(regexes: list[str]) -> re.Pattern[str] | None:
    try:
        return re.compile("|".join(f"(?:{each})" for each in regexes)) if regexes else None
    except re.error:
        return None


def _spellings(name: str) -> tuple[str, ...]:
    """Return the name with and without the prefixes that a wrapper may have put before it or taken away."""
    bare = name
    for prefix in _PREFIXES:
        if bare.startswith(prefix):
            bare = bare.removeprefix(prefix)
            break
    return (name, bare, *(prefix + bare for prefix in _PREFIXES))

"""The model's own files: config.json and the sizes in the weights' headers. Nothing is downloaded."""

import json
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from advisor.model import parse_model
from advisor.model_files import ModelFiles
from advisor.spec import DeclinedError, ModelConfigError
from advisor.weights import TensorIndex, TensorInfo
from exporter.errors import SourceMalformed, SourceUnavailable
from exporter.sources import bounded

MOST_CONFIG_BYTES = 32 * 1024**2
MISTRAL_CONFIG = "params.json"
MODELOPT_CONFIG = "hf_quant_config.json"
SAFETENSORS_INDEX = "model.safetensors.index.json"
MOST_HEADER_BYTES = 16 * 1024**2
"""A hundred thousand tensors in one file. The format allows six times as much, which would be a gigabyte once read."""
_MOST_TENSORS = 500_000
_ENTRY = frozenset({"dtype", "shape", "data_offsets"})
_MOST_UNWANTED = 16
"""Models kept in case their server is only being restarted: what was worked out of them is kept with them."""
_ROPE = frozenset({"rope_scaling", "rope_parameters"})
_Wanted = tuple[str, str]
"""A path, and what is put instead of the values of its config."""
WRONG_SHAPE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What JSON of another shape than expected leads to."""


class ModelSource:
    """Reads the models that running engines serve, each once until its config.json changes."""

    name = "model"

    def __init__(self) -> None:
        """Start with no model wanted."""
        self._wanted: frozenset[_Wanted] = frozenset()
        self._read: dict[_Wanted, tuple[float, ModelFiles]] = {}

    def want(self, models: Iterable[tuple[str, str]]) -> None:
        """Name the directories to read from now on, each with what is put instead of its config's values."""
        self._wanted = frozenset(models)

    def read(self) -> tuple[ModelFiles, ...]:
        """Return what each wanted model's files say; a model that cannot be read says why in ``declined``."""
        wanted = self._wanted
        unwanted = [each for each in self._read if each not in wanted]
        for each in unwanted[: max(0, len(unwanted) - _MOST_UNWANTED)]:
            del self._read[each]
        return tuple(self._files(each) for each in sorted(wanted))

    def close(self) -> None:
        """Nothing is held open."""

    def _files(self, wanted: _Wanted) -> ModelFiles:
        path, overrides = wanted
        try:
            changed = _config_file(Path(path)).stat().st_mtime
        except (OSError, ValueError):
            changed = 0.0
        before = self._read.pop(wanted, None)
        files = before[1] if before is not None and before[0] == changed else read_model_files(Path(path), overrides)
        self._read[wanted] = (changed, files)  # and so at the end: those first in line go first
        return files


def read_model_files(path: Path, overrides: str = "") -> ModelFiles:
    """Read a model directory, or a lone config.json. Never raises: what went wrong is in ``declined``.

    ``overrides`` is what a command line puts instead of the config's values (`EngineFlags.config_overrides`).
    """
    try:
        spec = parse_model(with_overrides(with_modelopt(read_config(path), _modelopt_file(path)), overrides))
    except (OSError, SourceUnavailable, SourceMalformed, ModelConfigError, DeclinedError) as error:
        return ModelFiles(path=str(path), spec=None, declined=str(error), weights=None, overrides=overrides)
    return ModelFiles(path=str(path), spec=spec, declined=None, weights=read_tensor_index(path), overrides=overrides)


def read_config(path: Path) -> Mapping[str, Any]:
    """Return the content of ``config.json`` in a directory, or of the file itself.

    Raises:
        SourceUnavailable: There is no such file, or it may not be read.
        SourceMalformed: It is not a JSON object, or absurdly large.
    """
    return _config(_config_file(path))


def _config(file: Path) -> Mapping[str, Any]:
    try:
        content = bounded.content(file, MOST_CONFIG_BYTES)
    except OSError as error:
        raise SourceUnavailable("config_unreadable", f"{file}: {error.strerror}") from error
    except ValueError as error:  # also a name that no file can have
        raise SourceMalformed("config_unreadable", f"{file}: {error}") from error
    return parse_config(content, str(file))


def parse_config(content: bytes, name: str) -> Mapping[str, Any]:
    """Return the object in a config.json; ``name`` says in errors which one it is.

    Raises:
        SourceMalformed: It is not a JSON object.
    """
    try:
        config = bounded.parsed(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SourceMalformed("config_not_json", f"{name}: {error}") from error
    if not isinstance(config, dict):
        raise SourceMalformed("config_not_json", f"{name}: a JSON object is needed, this is {type(config).__name__}")
    return config


def with_modelopt(config: Mapping[str, Any], modelopt: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the config with the quantisation that ModelOpt 0.29 and before keeps in a file of its own.

    vLLM reads ``hf_quant_config.json`` where config.json says nothing (``transformers_utils/config.py``, 0.33).
    """
    if modelopt is None or config.get("quantization_config") is not None:
        return config
    return {**config, "quantization_config": {"quant_method": "modelopt", **modelopt}}


def with_overrides(config: Mapping[str, Any], overrides: str) -> Mapping[str, Any]:
    """Return the config with values of the command line instead of its own.

    As vLLM does it (``config/model.py:_apply_dict_overrides``, 0.16): a config inside is changed key by key, any other
    object is replaced. Of the two names that rope's scaling has, the one that is given stands alone.
    """
    return _overridden(config, json.loads(overrides)) if overrides else config


def _overridden(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(config)
    if _ROPE & overrides.keys():
        changed = {name: value for name, value in changed.items() if name not in _ROPE}
    for name, value in overrides.items():
        inner = changed.get(name)
        is_config = name.endswith("_config") and name != "quantization_config"
        if is_config and isinstance(value, Mapping) and isinstance(inner, Mapping):
            changed[name] = _overridden(inner, value)
        else:
            changed[name] = value
    return changed


def _modelopt_file(path: Path) -> Mapping[str, Any] | None:
    file = path / MODELOPT_CONFIG
    if not path.is_dir() or not file.is_file():
        return None
    return _config(file)


def read_tensor_index(path: Path) -> TensorIndex | None:
    """Return what a model's files say of its weights: safetensors headers, else the index, else .bin files' sizes.

    None where they hold nothing: that is not to be taken for weights of no size.
    """
    try:
        found = _tensor_index(path) if path.is_dir() else None
    except (OSError, SourceMalformed, *WRONG_SHAPE):
        return None
    return found if found and found.total_bytes else None


def _tensor_index(path: Path) -> TensorIndex | None:
    shards = _shards(path)
    if shards:
        total, tensors = _of_all(shards)
        return TensorIndex(
            total_bytes=total,
            source="safetensors headers",
            tensors=tensors,
            mistral_format=(path / MISTRAL_CONFIG).is_file(),
        )
    index = path / SAFETENSORS_INDEX
    if index.is_file():
        return TensorIndex(total_bytes=_size(_read_index(index)["metadata"]["total_size"]), source="safetensors index")
    binaries = sorted(path.glob("pytorch_model*.bin"))
    return TensorIndex(total_bytes=sum(file.stat().st_size for file in binaries), source="file sizes")


def _shards(path: Path) -> list[Path]:
    """Return the files that vLLM would load: those of the index where one names them, never a second copy."""
    shards = sorted(path.glob("*.safetensors"))
    index = path / SAFETENSORS_INDEX
    if len(shards) > 1 and index.is_file():
        weight_map = _read_index(index).get("weight_map")
        named = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        listed = [shard for shard in shards if shard.name in named]
        if len(listed) == len(named) > 0:
            return listed
    # Mistral ships its weights twice, the second time as consolidated*.safetensors, which vLLM leaves alone.
    return [shard for shard in shards if not shard.name.startswith("consolidated")] or shards


def _read_index(file: Path) -> Any:
    return bounded.parsed(bounded.content(file, MOST_HEADER_BYTES))


def _of_all(shards: list[Path]) -> tuple[int, Mapping[str, TensorInfo]]:
    total = 0
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        more, found = safetensors_header(shard)
        total += more
        tensors.update(found)
        if len(tensors) > _MOST_TENSORS:
            raise SourceMalformed("not_safetensors", f"{shard.parent}: over {_MOST_TENSORS} tensors")
    return total, tensors


def safetensors_header(shard: Path) -> tuple[int, Mapping[str, TensorInfo]]:
    """Return (bytes of all tensors, the tensors by name) of one file, from its header alone.

    Raises:
        SourceMalformed: The header is not one of a safetensors file.
    """
    with bounded.opened(shard) as file:
        start = file.read(8)
        if len(start) < 8:
            raise SourceMalformed("not_safetensors", str(shard))
        (length,) = struct.unpack("<Q", start)
        if length > MOST_HEADER_BYTES:
            raise SourceMalformed("not_safetensors", f"{shard}: a header of {length} bytes")
        try:
            return parse_header(file.read(length))
        except WRONG_SHAPE as error:
            raise SourceMalformed("not_safetensors", f"{shard}: {error}") from error


def parse_header(text: bytes) -> tuple[int, Mapping[str, TensorInfo]]:
    """Return (bytes of all tensors, the tensors by name) that a safetensors header lists.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, OverflowError: It is not such a header.
    """
    total = 0
    tensors: dict[str, TensorInfo] = {}
    for name, entry in bounded.parsed(text, hook=_entry).items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, TensorEntry):
            raise ValueError(f"{name} is no tensor")  # noqa: TRY004 - of what stands in a file, one kind of error
        total += entry.size_bytes
        tensors[name] = entry.tensor
    return total, tensors


class TensorEntry(NamedTuple):
    """A tensor that a header lists."""

    size_bytes: int
    tensor: TensorInfo


def _entry(fields: dict[str, Any]) -> Any:
    """Return what an object of a header says of a tensor, any other object as it is.

    The tensors of a model are many and of few kinds: those alike are one object.
    """
    if not fields.keys() >= _ENTRY:
        return fields
    return tensor_entry(fields["dtype"], fields["shape"], fields["data_offsets"])


def tensor_entry(dtype: Any, shape: Any, data_offsets: Any) -> TensorEntry:
    """Return what a header's entry of a tensor says.

    Raises:
        ValueError, TypeError, OverflowError: It is none.
    """
    begin, end = data_offsets
    return TensorEntry(_size(end - begin), _tensor(str(dtype), tuple(_size(size) for size in shape)))


@lru_cache(maxsize=1024)
def _tensor(dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo(dtype, shape)


def _size(value: Any) -> int:
    """Return a number of bytes or elements.

    Raises:
        ValueError, TypeError, OverflowError: It is none.
    """
    size = int(value)
    if not 0 <= size < 2**63:
        raise ValueError(f"{size} is no size")
    return size


def _config_file(path: Path) -> Path:
    return path / "config.json" if path.is_dir() or path.suffix != ".json" else path

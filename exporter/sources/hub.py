"""A model on the hub, by its id: config.json and the headers of its weights, so that a fit is known before a download.

Nothing but config.json, the index and the first kilobytes of each weights file crosses the network. HF_ENDPOINT,
HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and a saved login count as they do for vLLM: the hub's own client reads them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.model import parse_model
from advisor.model_files import ModelFiles
from advisor.spec import DeclinedError, ModelConfigError
from advisor.weights import TensorIndex
from exporter.errors import SourceError, SourceMalformed, SourceUnavailable
from exporter.sources.model import (
    MISTRAL_CONFIG,
    MODELOPT_CONFIG,
    MOST_CONFIG_BYTES,
    WRONG_SHAPE,
    parse_config,
    read_model_files,
    tensor_entry,
    with_modelopt,
    with_overrides,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PATIENCE_SECONDS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """Where the hub is; None takes what the environment says."""

    endpoint: str | None = None
    token: str | None = None
    cache: Path | None = None

    def api(self) -> "HfApi":
        """Return the hub's client; its import costs a fifth of a second, which only a hub id should pay."""
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        return HfApi(endpoint=self.endpoint, token=self.token)


def read_hub_model(
    model_id: str, *, revision: str | None = None, overrides: str = "", hub: Hub | None = None
) -> ModelFiles:
    """Read a model by its id, such as ``Qwen/Qwen3-8B``. Never raises: what went wrong is in ``declined``.

    Without network, or in offline mode, what the local cache holds of it decides.
    """
    hub = hub or Hub()
    try:
        try:
            with _translated(model_id, revision):
                config = parse_config(_file(model_id, "config.json", revision, hub), model_id)
                if config.get("quantization_config") is None:
                    config = with_modelopt(config, _modelopt_file(model_id, revision, hub))
                spec = parse_model(with_overrides(config, overrides))
                weights = hub_tensors(model_id, revision=revision, hub=hub)
        except HubUnreachable:
            snapshot = cached_snapshot(model_id, revision=revision, hub=hub)
            if snapshot is None:
                raise
            return read_model_files(snapshot, overrides)
    except (SourceError, ModelConfigError, DeclinedError) as error:
        return ModelFiles(path=model_id, spec=None, declined=str(error), weights=None, overrides=overrides)
    return ModelFiles(path=model_id, spec=spec, declined=None, weights=weights, overrides=overrides)


def _file(model_id: str, name: str, revision: str | None, hub: Hub) -> bytes:
    """Return the content of a small file; it is not kept on disk.

    One question and no repetition: somebody waits for the answer, and the client's own download tries for a minute.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(model_id, name, revision=revision, endpoint=hub.endpoint)
    response = get_session().get(url, headers=build_hf_headers(token=hub.token), timeout=_PATIENCE_SECONDS)
    hf_raise_for_status(response)
    content = response.content
    if len(content) > MOST_CONFIG_BYTES:
        raise SourceMalformed("config_too_large", f"{model_id}: {name} has over {MOST_CONFIG_BYTES} bytes")
    return content


def _modelopt_file(model_id: str, revision: str | None, hub: Hub) -> Mapping[str, Any] | None:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return parse_config(_file(model_id, MODELOPT_CONFIG, revision, hub), f"{model_id}: {MODELOPT_CONFIG}")
    except EntryNotFoundError:
        return None


def hub_tensors(model_id: str, *, revision: str | None, hub: Hub) -> TensorIndex | None:
    """Return what the weights' files say, None for a model without weights or with none in its files.

    Raises:
        SourceMalformed: Headers or lists are not what they should be; whatever else the client raises is passed on.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, SafetensorsParsingError

    try:
        found = _tensor_index(hub.api(), model_id, revision)
    except LocalEntryNotFoundError:  # in some releases a ValueError, too
        raise
    except EntryNotFoundError as error:
        raise SourceMalformed(
            "not_safetensors", f"{model_id}: its index lists a weights file that is not there"
        ) from error
    except (SafetensorsParsingError, *WRONG_SHAPE) as error:  # the client takes what strangers wrote as it comes
        raise SourceMalformed(
            "not_safetensors", f"{model_id}: a weights file's header, or the list of them, cannot be read"
        ) from error
    return found if found.total_bytes else None


def _tensor_index(api: "HfApi", model_id: str, revision: str | None) -> TensorIndex:
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        metadata = api.get_safetensors_metadata(model_id, revision=revision)
    except NotASafetensorsRepoError:
        return _binaries(api, model_id, revision)
    listed = {
        name: tensor_entry(tensor.dtype, tensor.shape, tensor.data_offsets)
        for file in metadata.files_metadata.values()
        for name, tensor in file.tensors.items()
    }
    return TensorIndex(
        total_bytes=sum(each.size_bytes for each in listed.values()),
        source="safetensors headers",
        tensors={name: each.tensor for name, each in listed.items()},
        mistral_format=api.file_exists(model_id, MISTRAL_CONFIG, revision=revision),
    )


def cached_snapshot(model_id: str, *, revision: str | None, hub: Hub) -> Path | None:
    """Return the model's directory in the hub's local cache, None where it holds no config.json of it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model_id, "config.json", cache_dir=hub.cache, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _binaries(api: "HfApi", model_id: str, revision: str | None) -> TensorIndex:
    """Older models: the sizes of their .bin files."""
    siblings = api.model_info(model_id, revision=revision, files_metadata=True).siblings or ()
    sizes = [
        each.size or 0
        for each in siblings
        if each.rfilename.startswith("pytorch_model") and each.rfilename.endswith(".bin")
    ]
    return TensorIndex(total_bytes=sum(sizes), source="file sizes")


_UNREACHABLE = "hub_unreachable"
_NO_ANSWER = "no answer from the hub, and no copy in the local cache; a directory with its config.json does as well"


class HubUnreachable(SourceUnavailable):
    """There is no network, or offline mode is on."""


@contextmanager
def _translated(model_id: str, revision: str | None) -> Iterator[None]:
    """Say in this program's words what the hub's client raises; its own texts run over many lines."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The client's HTTP library differs by its release; this is that library's own base of every failure.
    http_error: type[BaseException] = HfHubHTTPError.__mro__[1]
    try:
        yield
    except HFValidationError as error:
        raise SourceUnavailable("not_a_model_id", f"{model_id!r} is neither a path here nor a hub id") from error
    except GatedRepoError as error:
        raise SourceUnavailable(
            "gated", f"{model_id}: accept its licence on the hub and set HF_TOKEN to a token of that account"
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceUnavailable(
            "no_such_model", f"{model_id}: the hub has none of this name, or it is private and HF_TOKEN is not set"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceUnavailable("no_such_revision", f"{model_id} has no revision {revision}") from error
    except LocalEntryNotFoundError as error:
        raise HubUnreachable(_UNREACHABLE, f"{model_id}: {_NO_ANSWER}") from error
    except EntryNotFoundError as error:
        raise SourceUnavailable("no_config", f"{model_id}: there is no config.json in it") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise SourceUnavailable("hub_refuses", f"{model_id}: the hub answers with {status}") from error
    except (http_error, OSError) as error:
        raise HubUnreachable(_UNREACHABLE, f"{model_id}: {_NO_ANSWER}") from error

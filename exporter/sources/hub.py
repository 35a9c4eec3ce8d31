"""A model on the hub, by its id: config.json and the headers of its weights, so that a fit is known before a download.

Nothing but config.json, the index and the first kilobytes of each weights file crosses the network. HF_ENDPOINT,
HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and a saved login count as they do for vLLM: the hub's own client reads them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.model import parse_model
from advisor.readings import ModelFiles
from advisor.spec import DeclinedError, ModelConfigError
from advisor.weights import TensorIndex, TensorInfo
from exporter.errors import SourceError, SourceMalformed, SourceUnavailable
from exporter.sources.model import read_config, read_tensor_index

if TYPE_CHECKING:
    from huggingface_hub import HfApi


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


def read_hub_model(model_id: str, *, revision: str | None = None, hub: Hub | None = None) -> ModelFiles:
    """Read a model by its id, such as ``Qwen/Qwen3-8B``. Never raises: what went wrong is in ``declined``."""
    hub = hub or Hub()
    try:
        config = hub_config(model_id, revision=revision, hub=hub)
        spec = parse_model(read_config(config))
        weights = hub_tensors(model_id, revision=revision, hub=hub, snapshot=config.parent)
    except (SourceError, ModelConfigError, DeclinedError) as error:
        return ModelFiles(path=model_id, spec=None, declined=str(error), weights=None)
    return ModelFiles(path=model_id, spec=spec, declined=None, weights=weights)


def hub_config(model_id: str, *, revision: str | None, hub: Hub) -> Path:
    """Return the path of the model's config.json in the local cache, where it is put unless it is there.

    Raises:
        SourceUnavailable: No such model, revision or file; a licence not accepted; no network and no copy.
    """
    with _translated(model_id, revision):
        return Path(hub.api().hf_hub_download(model_id, "config.json", revision=revision, cache_dir=hub.cache))


def hub_tensors(model_id: str, *, revision: str | None, hub: Hub, snapshot: Path) -> TensorIndex | None:
    """Return what the weights' headers say, None for a model without weights.

    Without network what stands in ``snapshot``, the model's directory in the local cache, decides.

    Raises:
        SourceUnavailable: The hub refuses.
        SourceMalformed: A header is not one of a safetensors file.
    """
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError

    api = hub.api()
    try:
        with _translated(model_id, revision):
            try:
                found = api.get_safetensors_metadata(model_id, revision=revision)
            except NotASafetensorsRepoError:
                return _binaries(api, model_id, revision)
            except SafetensorsParsingError as error:
                raise SourceMalformed("not_safetensors", f"{model_id}: {error}") from error
            except HfHubHTTPError:
                raise
    except HubUnreachable:
        return read_tensor_index(snapshot)
    tensors = {
        name: TensorInfo(tensor.dtype, tuple(tensor.shape))
        for file in found.files_metadata.values()
        for name, tensor in file.tensors.items()
    }
    total = sum(
        tensor.data_offsets[1] - tensor.data_offsets[0]
        for file in found.files_metadata.values()
        for tensor in file.tensors.values()
    )
    return TensorIndex(total_bytes=total, source="safetensors headers", tensors=tensors)


def _binaries(api: "HfApi", model_id: str, revision: str | None) -> TensorIndex | None:
    """Older models: the sizes of their .bin files."""
    siblings = api.model_info(model_id, revision=revision, files_metadata=True).siblings or ()
    sizes = [
        each.size or 0
        for each in siblings
        if each.rfilename.startswith("pytorch_model") and each.rfilename.endswith(".bin")
    ]
    return TensorIndex(total_bytes=sum(sizes), source="file sizes") if sizes else None


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
    http_error = HfHubHTTPError.__bases__[0]
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
        raise HubUnreachable(
            "hub_unreachable", f"{model_id}: no answer from the hub, and no copy in the local cache"
        ) from error
    except EntryNotFoundError as error:
        raise SourceUnavailable("no_config", f"{model_id}: there is no config.json in it") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise SourceUnavailable("hub_refuses", f"{model_id}: the hub answers with {status}") from error
    except (http_error, OSError) as error:
        raise HubUnreachable("hub_unreachable", f"{model_id}: {type(error).__name__}") from error

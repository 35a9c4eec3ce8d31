"""What a model's own files say. Apart from what servers and drivers say: a plan needs no server, nor its imports."""

from dataclasses import dataclass

from advisor.spec import ModelSpec
from advisor.weights import TensorIndex


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """What the model's directory says: its geometry and the bytes of its weights."""

    path: str
    spec: ModelSpec | None
    declined: str | None
    """Why there is no spec: an unknown architecture or layer kind, a file that cannot be read."""
    weights: TensorIndex | None
    overrides: str = ""
    """What the command line put instead of the config's values, as `EngineFlags.config_overrides` says it."""

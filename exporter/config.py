"""The configuration: defaults, then the file, then flags. Every key checked, every problem told at once."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError

from advisor.policy import Policy
from exporter.checked_yaml import Strict, read_mapping, spelled
from exporter.errors import UsageError

DEFAULT_PORT = 9738
DEFAULT_LISTEN_ADDRESS = f":{DEFAULT_PORT}"


def checked_url(url: str) -> str:
    """Return an engine's URL as given, or raise ValueError with what would be right."""
    parts = urlsplit(url)
    try:
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ValueError(f"{url!r} is not an address such as http://127.0.0.1:8000")
    if parts.username or parts.password:
        raise ValueError("credentials do not belong in a URL, where logs show them: use api_key_file")
    return url.rstrip("/")


class EngineConfig(Strict):
    """One vLLM server, named instead of discovered."""

    url: Annotated[str, AfterValidator(checked_url)] = Field(description="Where its API listens.")
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="Value of the engine label; host:port by default.",
    )
    api_key_file: Path | None = Field(default=None, description="File that holds the server's API key.")
    api_key_env: str | None = Field(default=None, description="Environment variable that holds it.")
    ca_file: Path | None = Field(default=None, description="Certificate authority of a server with its own.")


class Config(Strict):
    """The whole configuration file."""

    engines: tuple[EngineConfig, ...] = Field(
        default=(), description="Servers to watch; none: discover those on this host."
    )
    poll_interval: float = Field(default=5.0, ge=0.2, le=300, description="Seconds between two readings.")
    listen_address: str = Field(default=DEFAULT_LISTEN_ADDRESS, description="[host]:port to serve on.")
    state_dir: Path | None = Field(
        default=None, description="Directory for what must survive a restart; nothing is kept without one."
    )
    policy: dict[str, float] = Field(default_factory=dict, description="Thresholds; see docs/configuration.md.")

    def thresholds(self) -> Policy:
        """Return the policy with the file's changes."""
        return Policy(**self.policy)


def load(path: Path | None, overrides: dict[str, Any]) -> Config:
    """Return the configuration of a file, with the flags given on the command line over it.

    Raises:
        UsageError: Lists every problem as ``file: key.path: what is wrong``.
    """
    content = {} if path is None else read_mapping(path)
    problems: list[str] = []
    config = None
    try:
        config = Config.model_validate(content | overrides)
    except ValidationError as error:
        problems += [spelled(problem, Config) for problem in error.errors(include_url=False)]
    problems += _policy_problems(content.get("policy"))
    if config is not None:
        problems += _duplicates(config)
    if config is not None and path is not None:
        config = _resolved(config, path.parent)
    if problems or config is None:
        where = str(path) if path else "command line"
        raise UsageError("\n".join(f"{where}: {problem}" for problem in problems))
    return config


def _resolved(config: Config, directory: Path) -> Config:
    """Make the paths of the file relative to the file: a service has no directory of its own."""
    engines = tuple(
        engine.model_copy(
            update={
                key: directory / file
                for key in ("api_key_file", "ca_file")
                if (file := getattr(engine, key)) is not None
            }
        )
        for engine in config.engines
    )
    return config.model_copy(update={"engines": engines})


def _policy_problems(policy: Any) -> list[str]:
    if not isinstance(policy, dict):
        return []
    known = Policy.__dataclass_fields__
    problems = [
        f"policy.{key}: unknown key; known here: {', '.join(sorted(known))}" for key in policy if key not in known
    ]
    for key, value in policy.items():
        if key in known and isinstance(value, int | float):
            try:
                Policy(**{key: value})
            except ValueError as error:
                problems.append(f"{str(error).replace(' must', ': must', 1)} (given: {value!r})")
    return problems


def _duplicates(config: Config) -> list[str]:
    seen: dict[str, int] = {}
    problems = []
    for position, engine in enumerate(config.engines):
        if engine.url in seen:
            problems.append(f"engines[{position}].url: {engine.url} is listed already as engines[{seen[engine.url]}]")
        seen.setdefault(engine.url, position)
    return problems

"""The configuration: defaults, then the file, then flags. Every key checked, every problem told at once."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from advisor.policy import Policy
from exporter.checked_yaml import Number, Strict, read_mapping, spelled, unknown_key, with_paths
from exporter.errors import UsageError

DEFAULT_PORT = 9738
DEFAULT_LISTEN_ADDRESS = f":{DEFAULT_PORT}"


def checked_address(url: str, *, such_as: str, credentials: str) -> str:
    """Return an address without a slash at its end.

    Args:
        url: As given.
        such_as: One that would be right.
        credentials: Where they belong instead.

    Raises:
        ValueError: It is no address of a server, or has credentials in it, which the message does not repeat.
    """
    try:
        parts = urlsplit(url)
        is_fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_fine = is_fine and not parts.query and not parts.fragment and not re.search(r"\s", url)
    except ValueError:
        is_fine = False
    if "@" in (url.partition("://")[2] or url).partition("/")[0]:
        raise ValueError(f"credentials do not belong in a URL, which logs and process lists show: use {credentials}")
    if not is_fine:
        shown = re.split("[?#]", url)[0]  # where keys stand, too
        told = repr(shown if shown == url else f"{shown}{url[len(shown)]}...")
        raise ValueError(f"{told} is not an address such as {such_as}")
    return url.rstrip("/")


def checked_url(url: str) -> str:
    """Return an engine's URL without the /v1 that clients of its API want, or raise ValueError with what is right."""
    return checked_address(url, such_as="http://127.0.0.1:8000", credentials="api_key_file").removesuffix("/v1")


def split_listen_address(text: str) -> tuple[str, int]:
    """Return (host, port) of ``[host]:port``; an empty host means all interfaces.

    Raises:
        ValueError: It is not such an address.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not [HOST]:PORT, such as :9738 or 127.0.0.1:9738")
    return host.strip("[]"), int(port)


def checked_listen_address(text: str) -> str:
    """Return an address to listen on as given, or raise ValueError with what would be right."""
    split_listen_address(text)
    return text


def _gpu(name: object) -> object:
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


class EngineConfig(Strict):
    """One vLLM server, named instead of discovered."""

    url: Annotated[str, AfterValidator(checked_url)] = Field(description="Where its API listens.")
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="Value of the engine label; host:port by default.",
    )
    api_key_file: Path | None = Field(default=None, description="File that holds the server's API key.")
    api_key_env: str | None = Field(
        default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Environment variable that holds it."
    )
    ca_file: Path | None = Field(default=None, description="Certificate authority of a server with its own.")
    gpus: tuple[Annotated[str, BeforeValidator(_gpu)], ...] = Field(
        default=(),
        description="GPUs of its own, by index or UUID, where its workers are not found from its process, as Ray's are "
        "not: processes there that are no other server's are taken for them.",
    )

    @property
    def label(self) -> str:
        """Value of the engine label."""
        return self.name or urlsplit(self.url).netloc


def named_engine(option: str, url: str, *, api_key_file: Path | None, ca_file: Path | None = None) -> EngineConfig:
    """Return a server that an option of the command line names.

    Raises:
        UsageError: The URL is none.
    """
    try:
        return EngineConfig(url=checked_url(url), api_key_file=api_key_file, ca_file=ca_file)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


_MATCHERS = re.compile(
    r'[a-zA-Z_]\w*\s*(=~|!~|!=|=)\s*"(\\.|[^"\\\n])*"(\s*,\s*[a-zA-Z_]\w*\s*(=~|!~|!=|=)\s*"(\\.|[^"\\\n])*")*'
)


def checked_history_url(url: str) -> str:
    """Return the address of a Prometheus as given, or raise ValueError with what would be right."""
    address = checked_address(
        url, such_as="http://prometheus:9090", credentials="bearer_token_file, username with password_file, or ~/.netrc"
    )
    return address.removesuffix("/api/v1")


def checked_matchers(text: str) -> str:
    """Return label matchers as given, or raise ValueError with what would be right."""
    bare = text.strip().removeprefix("{").removesuffix("}").strip().rstrip(",")
    if not _MATCHERS.fullmatch(bare):
        raise ValueError(f'{text!r} is no list of label matchers such as cluster="eu",env=~"prod|test"')
    return bare


class PrometheusConfig(Strict):
    """A Prometheus, Thanos, Mimir or VictoriaMetrics that keeps the past."""

    url: Annotated[str, AfterValidator(checked_history_url)] = Field(
        description="Where its API is, without /api/v1: http://prometheus:9090, http://mimir/prometheus, "
        "http://victoriametrics:8428, http://vmselect:8481/select/0/prometheus."
    )
    selector: Annotated[str, AfterValidator(checked_matchers)] | None = Field(
        default=None, description='Label matchers that narrow what is read, such as cluster="eu".'
    )
    history_hours: Number = Field(default=168.0, gt=0, le=24 * 60, description="How far back to look.")
    replica_labels: tuple[str, ...] = Field(
        default=("replica", "prometheus_replica", "__replica__", "prometheus", "receive_replica", "job"),
        description="Labels in which copies of one engine differ: pairs of Prometheus servers, two jobs for a target.",
    )
    bearer_token_file: Path | None = Field(default=None, description="File that holds a bearer token.")
    username: str | None = Field(
        default=None, description="For basic auth; without one and without a token ~/.netrc is asked."
    )
    password_file: Path | None = Field(default=None, description="File that holds the password.")
    ca_file: Path | None = Field(default=None, description="Certificate authority of a server with its own.")
    tenant: str | None = Field(
        default=None, pattern=r"^[!-~]{1,150}$", description="Sent as X-Scope-OrgID, which Mimir and Thanos ask for."
    )

    @model_validator(mode="after")
    def _one_kind_of_credentials(self) -> Self:
        if self.bearer_token_file is not None and self.username is not None:
            raise ValueError("either bearer_token_file or username, not both")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together")
        return self


class Config(Strict):
    """The whole configuration file."""

    engines: tuple[EngineConfig, ...] = Field(
        default=(), description="Servers to watch; none: discover those on this host."
    )
    poll_interval: Number = Field(default=5.0, ge=0.2, le=300, description="Seconds between two readings.")
    listen_address: Annotated[str, AfterValidator(checked_listen_address)] = Field(
        default=DEFAULT_LISTEN_ADDRESS, description="[host]:port to serve on."
    )
    state_dir: Path | None = Field(
        default=None, description="Directory for what must survive a restart; nothing is kept without one."
    )
    prometheus: PrometheusConfig | None = Field(
        default=None, description="Keeps the past: what is known of the load is seeded from there at start."
    )
    policy: dict[str, Number] = Field(default_factory=dict, description="Thresholds; see docs/configuration.md.")

    def thresholds(self) -> Policy:
        """Return the policy with the file's changes."""
        return Policy(**self.policy)


def load(path: Path | None, flags: dict[str, Any]) -> Config:
    """Return the configuration of a file, with the flags given on the command line over it; one of None was not.

    Raises:
        UsageError: Lists every problem as ``file: key.path: what is wrong``.
    """
    content = {} if path is None else read_mapping(path)
    overrides = {key: value for key, value in flags.items() if value is not None}
    problems: list[str] = []
    config = None
    try:
        config = Config.model_validate(content | overrides | _both("prometheus", content, overrides))
    except ValidationError as error:
        problems += [spelled(problem, Config) for problem in error.errors(include_url=False)]
    problems += _policy_problems(content.get("policy"))
    if config is not None:
        problems += _duplicates(config)
    if config is not None and path is not None:
        config = _resolved(config, path.parent, but=overrides.keys())
    if problems or config is None:
        where = str(path) if path else "command line"
        raise UsageError("\n".join(f"{where}: {problem}" for problem in problems))
    return config


def _both(section: str, content: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return a section of the file with what a flag says of it over it: a flag names the address, the file the keys."""
    in_file, by_flag = content.get(section), overrides.get(section)
    return {section: in_file | by_flag} if isinstance(in_file, dict) and isinstance(by_flag, dict) else {}


def _resolved(config: Config, directory: Path, *, but: Collection[str]) -> Config:
    """Return a configuration with its paths made relative to its file; what a flag gave is the shell's to read."""
    engines = tuple(with_paths(engine, directory, ("api_key_file", "ca_file")) for engine in config.engines)
    history = config.prometheus
    if history is not None:
        history = with_paths(history, directory, ("bearer_token_file", "password_file", "ca_file"))
    changed = config.model_copy(update={"engines": engines, "prometheus": history})
    return changed if "state_dir" in but else with_paths(changed, directory, ("state_dir",))


def _policy_problems(policy: Any) -> list[str]:
    if not isinstance(policy, dict):
        return []
    known = Policy.__dataclass_fields__
    problems = [unknown_key(f"policy.{key}", known) for key in policy if key not in known]
    for key, value in policy.items():
        if key in known and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                Policy(**{key: value})
            except ValueError as error:
                problems.append(f"{str(error).replace(' must', ': must', 1)} (given: {value!r})")
    usual = Policy()
    warning = policy.get("oom_risk_warning_ratio", usual.oom_risk_warning_ratio)
    critical = policy.get("oom_risk_critical_ratio", usual.oom_risk_critical_ratio)
    if isinstance(warning, int | float) and isinstance(critical, int | float) and warning > critical:
        problems.append(
            f"policy.oom_risk_critical_ratio: must not be below oom_risk_warning_ratio ({critical!r} < {warning!r})"
        )
    return problems


def _duplicates(config: Config) -> list[str]:
    urls: dict[tuple[str, int, str], int] = {}
    labels: dict[str, int] = {}
    problems = []
    for position, engine in enumerate(config.engines):
        place = _place(engine.url)
        if place in urls:
            problems.append(f"engines[{position}].url: {engine.url} is listed already as engines[{urls[place]}]")
        elif engine.label in labels:
            problems.append(
                f"engines[{position}].name: {engine.label} is engines[{labels[engine.label]}] already: "
                "each needs a name of its own"
            )
        urls.setdefault(place, position)
        labels.setdefault(engine.label, position)
    return problems


def _place(url: str) -> tuple[str, int, str]:
    """Return host, port and path of an engine's URL, spelled in one way: a server listed twice would count twice."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return (
        "127.0.0.1" if host == "localhost" else host,
        parts.port or (443 if parts.scheme == "https" else 80),
        parts.path,
    )

"""A Prometheus, or what speaks its HTTP API: Thanos, Mimir, VictoriaMetrics. Reads the past, writes nothing."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth

from exporter.authority import require_authority
from exporter.config import PrometheusConfig
from exporter.errors import SourceError, SourceMalformed, SourceUnavailable
from exporter.secret import checked_key, secret_in

MOST_BODY_BYTES = 5 * 1024**2
"""Reading a range takes fifteen times that in memory, and the unit file grants a daemon 256 MB in all."""
MOST_POINTS = 11_000
"""Of one series in one answer: Prometheus refuses more."""
MOST_SERIES = 100_000
_SAID_AT_MOST = 300
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One series of an answer. A point that is NaN, which is how a stale one reads, or of no time is left out."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]
    """(Unix time, value), ascending."""


class Prometheus:
    """Asks one server. Safe to use from one thread at a time."""

    def __init__(
        self,
        config: PrometheusConfig,
        *,
        read_seconds: float = 60.0,
        most_body_bytes: int = MOST_BODY_BYTES,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take where it is and how to be let in.

        Raises:
            UsageError: As `open_session`.
        """
        self.config = config
        self.url = config.url
        self.warnings: dict[str, None] = {}
        """What the server said beside its answers, such as that a part is missing; in order, each once."""
        self._session = open_session(config)
        self._timeout = (_CONNECT_SECONDS, read_seconds)
        self._most_body_bytes = most_body_bytes
        self._steady = steady

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def query(self, expression: str, at_seconds: float) -> tuple[Series, ...]:
        """Return the value of an expression at one moment.

        Raises:
            SourceUnavailable: No answer, or an error; the message names the address and what the server says.
            SourceMalformed: What answers is no Prometheus.
        """
        return self._asked("query", {"query": expression, "time": f"{at_seconds:.3f}"})

    def query_range(
        self, expression: str, start_seconds: float, end_seconds: float, step_seconds: float
    ) -> tuple[Series, ...]:
        """Return the values of an expression at even steps.

        Raises:
            ValueError: More points a series than the API gives.
            SourceUnavailable: As in `query`.
            SourceMalformed: As in `query`.
        """
        if (end_seconds - start_seconds) / step_seconds + 1 > MOST_POINTS:
            raise ValueError(f"more than {MOST_POINTS} points")
        given = {
            "query": expression,
            "start": f"{start_seconds:.3f}",
            "end": f"{end_seconds:.3f}",
            "step": f"{step_seconds:.3f}",
        }
        return self._asked("query_range", given)

    def series(self, selector: str, start_seconds: float, end_seconds: float) -> tuple[Mapping[str, str], ...]:
        """Return the labels of every series that matched at some time in between.

        Raises:
            SourceUnavailable: As in `query`.
            SourceMalformed: As in `query`.
        """
        given = {"match[]": selector, "start": f"{start_seconds:.3f}", "end": f"{end_seconds:.3f}"}
        data = self._data("series", given)
        if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
            raise SourceMalformed("not_prometheus", f"{self.url}: the list of series is none")
        return tuple({str(name): str(value) for name, value in each.items()} for each in data)

    def _asked(self, endpoint: str, given: Mapping[str, str]) -> tuple[Series, ...]:
        try:
            return parse_series(self._data(endpoint, given))
        except SourceMalformed as error:
            raise SourceMalformed(error.reason, f"{self.url}: {error.detail}") from error

    def _data(self, endpoint: str, given: Mapping[str, str]) -> Any:
        url = f"{self.url}/api/v1/{endpoint}"
        deadline = self._steady() + sum(self._timeout)
        # A redirect leads to a page for people to log in on, not to another API.
        with (
            _translated(self.url),
            self._session.get(
                url,
                params=dict(given),
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
                verify=self._session.verify,  # said here, it wins over REQUESTS_CA_BUNDLE
            ) as response,
        ):
            status, kind = response.status_code, response.headers.get("Content-Type", "")
            body = self._body(response, deadline)
        try:
            answer = parse_answer(status, kind, body)
        except SourceError as error:
            raise type(error)(error.reason, f"{self.url}: {error.detail}") from error
        self.warnings.update(dict.fromkeys(answer.warnings))
        return answer.data

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        """Read the body, bounded in size and, against a peer that dribbles, in time."""
        parts = bytearray()
        while part := response.raw.read1(1024**2, decode_content=True):
            parts += part
            if len(parts) > self._most_body_bytes:
                raise SourceMalformed(
                    "body_too_large",
                    f"{self.url} answers over {self._most_body_bytes} bytes: prometheus.selector narrows what is asked",
                )
            if self._steady() > deadline:
                raise SourceUnavailable("timeout", f"{self.url}: the answer came too slowly")
        return bytes(parts)


class _Bearer(AuthBase):
    """A token that wins over ~/.netrc, which a plain header would not."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn what the HTTP libraries raise while ``url`` is read into our errors.

    Raises:
        SourceUnavailable: Refused, timed out, not trusted.
        SourceMalformed: What answers does not speak HTTP, or its answer is broken.
    """
    try:
        yield
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise SourceUnavailable("timeout", f"{url} gave no answer in time") from error
    except requests.exceptions.SSLError as error:
        raise SourceUnavailable("tls", f"{url}: its certificate is not trusted, or it does not speak TLS") from error
    except requests.exceptions.ConnectionError as error:
        raise SourceUnavailable("connection_refused", f"{url} cannot be reached") from error
    except requests.exceptions.RequestException as error:
        raise SourceMalformed("not_http", f"{url}: {type(error).__name__}") from error
    except OSError as error:  # requests raises it bare where the authority's file is gone
        raise SourceUnavailable("tls", f"{url}: {error}") from error
    except urllib3.exceptions.HTTPError as error:  # bodies are read past requests, which would translate this
        raise SourceMalformed("broken_body", f"{url}: {type(error).__name__}") from error


def open_session(config: PrometheusConfig) -> requests.Session:
    """Return a session with the credentials; without any, ~/.netrc and the proxies of the environment are used.

    Raises:
        UsageError: A file with credentials or the authority cannot be read, or holds none.
    """
    session = requests.Session()
    session.headers["User-Agent"] = "vllm-headroom"
    session.headers["Accept"] = "application/json"
    if config.ca_file is not None:
        require_authority(config.ca_file, config.url)
        session.verify = str(config.ca_file)
    if config.tenant is not None:
        session.headers["X-Scope-OrgID"] = config.tenant
    if config.bearer_token_file is not None:
        token = secret_in(config.bearer_token_file, "prometheus.bearer_token_file")
        session.auth = _Bearer(checked_key(token, f"prometheus.bearer_token_file: {config.bearer_token_file}"))
    elif config.username is not None and config.password_file is not None:
        password = secret_in(config.password_file, "prometheus.password_file")
        session.auth = HTTPBasicAuth(config.username.encode(), password.encode())
    return session


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a good answer holds."""

    data: Any
    warnings: tuple[str, ...]


def parse_answer(status: int, content_type: str, body: bytes) -> Answer:
    """Return what an answer of the API holds.

    Raises:
        SourceUnavailable: It is an error, in the server's own words.
        SourceMalformed: It is no answer of this API.
    """
    if status in (401, 403):
        raise SourceUnavailable(
            f"http_{status}", "wants other credentials: bearer_token_file, username with password_file, or ~/.netrc"
        )
    if 300 <= status < 400:
        raise SourceUnavailable(
            f"http_{status}", "leads elsewhere, most likely to a login page: credentials are missing"
        )
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        if status == 404:
            raise SourceUnavailable(
                "http_404",
                "has no Prometheus API there: Mimir's address ends in /prometheus, that of a VictoriaMetrics cluster "
                "in /select/0/prometheus",
            ) from error
        if status >= 400:
            raise SourceUnavailable(f"http_{status}", f"answers {status}: {_said(body)}") from error
        is_page = "html" in content_type or body.lstrip()[:1] == b"<"
        what = "a page for people" if is_page else "something that is not JSON"
        raise SourceMalformed("not_json", f"answers with {what}, not as a Prometheus does") from error
    if not isinstance(answer, dict) or answer.get("status") not in ("success", "error"):
        if status >= 400:
            raise SourceUnavailable(f"http_{status}", f"answers {status}: {_said(body)}")
        raise SourceMalformed("not_prometheus", "answers in JSON, but not as a Prometheus does")
    if answer["status"] == "error":
        reason = f"http_{status}" if status >= 400 else "query_failed"
        raise SourceUnavailable(reason, f"refuses: {_said(str(answer.get('error', '')).encode())}")
    warnings = answer.get("warnings")
    said = [_said(str(each).encode()) for each in warnings] if isinstance(warnings, list) else []
    if answer.get("isPartial") is True:  # a VictoriaMetrics cluster some of whose stores did not answer
        said.append("the answer is partial")
    return Answer(data=answer.get("data"), warnings=tuple(said))


def _said(body: bytes) -> str:
    text = " ".join(body[: 4 * _SAID_AT_MOST].decode("utf-8", errors="replace").split())
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return text if len(text) <= _SAID_AT_MOST else f"{text[:_SAID_AT_MOST]}..."


def parse_series(data: Any) -> tuple[Series, ...]:
    """Return the series of a ``vector`` or ``matrix``.

    Raises:
        SourceMalformed: It is neither.
    """
    try:
        kind, result = data["resultType"], data["result"]
        if kind not in ("vector", "matrix") or len(result) > MOST_SERIES:
            raise SourceMalformed("not_prometheus", f"{len(result)} series of type {kind!r} are not understood")
        return tuple(
            Series(
                labels={str(name): str(value) for name, value in each["metric"].items()},
                points=_points(each["values"] if kind == "matrix" else [each["value"]]),
            )
            for each in result
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SourceMalformed("not_prometheus", "the answer is not in Prometheus' shape") from error


def _points(values: Any) -> tuple[tuple[float, float], ...]:
    points = ((float(at), float(text)) for at, text in values)
    return tuple((at, value) for at, value in points if math.isfinite(at) and not math.isnan(value))

"""The web configuration file that Prometheus exporters share: TLS, basic auth, headers, a rate limit.

The format is exporter-toolkit's (docs/web-configuration.md there). What this server cannot do is refused by name
rather than ignored: a file that asks for protection must not be half obeyed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from exporter.checked_yaml import Strict, read_mapping, spelled, with_paths
from exporter.errors import UsageError

ClientAuth = Literal[
    "NoClientCert", "RequestClientCert", "RequireAnyClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"
]
TlsVersion = Literal["TLS10", "TLS11", "TLS12", "TLS13"]

CIPHERS: Mapping[str, str] = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
}
"""Go's names, which the format uses, to OpenSSL's (crypto/tls cipher_suites.go; RFC 8422, 5289, 7905)."""
TLS13_CIPHERS = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
"""Always on with TLS 1.3, in Go as here."""
CURVES: Mapping[str, str] = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}

_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")
_MOST_BCRYPT_COST = 17
"""The most that htpasswd makes, some ten seconds; each step doubles the time."""
_DURATION = re.compile(r"(?:\d+(?:ms|s|m|h))+|0")
_DURATION_PART = re.compile(r"(\d+)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_HEADER_VALUES = {"X-Content-Type-Options": ("nosniff",), "X-Frame-Options": ("deny", "sameorigin")}


def _version(name: str) -> str:
    if name in ("TLS10", "TLS11"):
        raise ValueError("TLS 1.0 and 1.1 are broken and not spoken here: TLS12 or TLS13")
    return name


def _client_auth(name: str) -> str:
    if name in ("RequestClientCert", "RequireAnyClientCert"):
        raise ValueError(
            "takes certificates that prove nothing, which this server does not: VerifyClientCertIfGiven or "
            "RequireAndVerifyClientCert"
        )
    return name


def _cipher(name: str) -> str:
    if name not in CIPHERS and name not in TLS13_CIPHERS:
        raise ValueError(f"unknown or insecure cipher suite; known here: {', '.join((*CIPHERS, *TLS13_CIPHERS))}")
    return name


def _curve(name: str) -> str:
    if name not in CURVES:
        raise ValueError(f"unknown curve; known here: {', '.join(CURVES)}")
    return name


def _hash(text: str) -> str:
    found = _BCRYPT.fullmatch(text)
    if not found:
        raise ValueError('not a bcrypt hash: `htpasswd -nBC 10 ""` makes one')
    if int(found[1]) > _MOST_BCRYPT_COST:
        raise ValueError(f"a hash of cost {int(found[1])} takes longer to check than any client waits: 10 is usual")
    return text


def _duration(value: object) -> float:
    if not isinstance(value, str | int) or isinstance(value, bool) or not _DURATION.fullmatch(str(value)):
        raise ValueError("not a duration such as 100ms, 1s or 1m30s")
    return sum(int(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(str(value)))


def _user(name: str) -> str:
    if ":" in name or not name:
        raise ValueError("a user name is not empty and has no colon: basic auth ends the name there")
    return name


def _headers(headers: dict[str, str]) -> dict[str, str]:
    known = ("Content-Security-Policy", "Strict-Transport-Security", "X-XSS-Protection", *_HEADER_VALUES)
    for name, value in headers.items():
        if name not in known:
            raise ValueError(f"{name} cannot be set; {', '.join(sorted(known))} can")
        allowed = _HEADER_VALUES.get(name, ())
        if value and allowed and value not in allowed:
            raise ValueError(f"{name} is one of: {', '.join(allowed)}")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"{name} holds what no header may hold")
    return headers


class TlsConfig(Strict):
    """How connections are encrypted, and whose certificate a client must show."""

    cert_file: Path | None = Field(default=None, description="Certificate (PEM), with its chain.")
    key_file: Path | None = Field(default=None, description="Its private key (PEM), without a passphrase.")
    cert: str | None = Field(default=None, description="The certificate itself, in place of cert_file.")
    key: str | None = Field(default=None, description="The key itself, in place of key_file.", repr=False)
    client_auth_type: Annotated[ClientAuth, AfterValidator(_client_auth)] = Field(
        default="NoClientCert",
        description="RequireAndVerifyClientCert lets only clients in whose certificate client_ca_file has signed; "
        "VerifyClientCertIfGiven also those without one.",
    )
    client_ca_file: Path | None = Field(default=None, description="Authority that signs clients' certificates.")
    client_ca: str | None = Field(default=None, description="The authority itself, in place of client_ca_file.")
    client_allowed_sans: tuple[str, ...] = Field(
        default=(), description="Names (DNS, IP, e-mail, URI) of which a client's certificate must hold one."
    )
    min_version: Annotated[TlsVersion, AfterValidator(_version)] = Field(
        default="TLS12", description="Oldest version spoken: TLS12 or TLS13."
    )
    max_version: Annotated[TlsVersion, AfterValidator(_version)] = Field(
        default="TLS13", description="Newest version spoken."
    )
    cipher_suites: tuple[Annotated[str, AfterValidator(_cipher)], ...] = Field(
        default=(), description="Cipher suites of TLS 1.2 by Go's names; those of TLS 1.3 are always on."
    )
    prefer_server_cipher_suites: bool = Field(default=True, description="Whose order of cipher suites counts.")
    curve_preferences: tuple[Annotated[str, AfterValidator(_curve)], ...] = Field(
        default=(), max_length=1, description="The one curve to use: CurveP256, CurveP384, CurveP521 or X25519."
    )


class HttpConfig(Strict):
    """How HTTP is spoken."""

    http2: bool = Field(default=True, description="Taken for the format's sake: HTTP/1.1 is spoken in either case.")
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        default_factory=dict,
        description="Set on every answer, in place of this server's own; an empty value leaves the header out: "
        "Content-Security-Policy, X-Frame-Options, X-Content-Type-Options, X-XSS-Protection, "
        "Strict-Transport-Security.",
    )


class RateLimit(Strict):
    """A token bucket over all requests; beyond it the answer is 429."""

    interval: Annotated[object, AfterValidator(_duration)] = Field(
        default=0.0, validate_default=False, description="Time in which one more request is let in; 0: no limit."
    )
    burst: int = Field(default=1, ge=1, description="Requests that are let in at once.")

    @property
    def interval_seconds(self) -> float:
        """The interval as a number."""
        return float(self.interval) if isinstance(self.interval, float | int) else 0.0


class WebConfig(Strict):
    """The whole web configuration file."""

    tls_server_config: TlsConfig | None = Field(default=None, description="Without it the server speaks plain HTTP.")
    http_server_config: HttpConfig = Field(default=HttpConfig(), description="HTTP and headers.")
    basic_auth_users: dict[Annotated[str, AfterValidator(_user)], Annotated[str, AfterValidator(_hash)]] = Field(
        default_factory=dict, repr=False, description="bcrypt hash by user name; with none everybody is let in."
    )
    rate_limit: RateLimit = Field(default=RateLimit(), description="Most requests in a time.")


def load_web_config(path: Path) -> WebConfig:
    """Return a web configuration; its paths are made relative to the file's own directory.

    Raises:
        UsageError: Lists every problem as ``file: key.path: what is wrong``; certificates are not looked at.
    """
    content = read_mapping(path)
    problems: list[str] = []
    config = None
    try:
        config = WebConfig.model_validate(content)
    except ValidationError as error:
        problems += [spelled(problem, WebConfig) for problem in error.errors(include_url=False)]
    tls = content.get("tls_server_config")
    if isinstance(tls, dict):
        problems += [f"tls_server_config: {problem}" for problem in _contradictions(tls)]
    if problems or config is None:
        raise UsageError("\n".join(f"{path}: {problem}" for problem in problems))
    if config.tls_server_config is None:
        return config
    tls_config = with_paths(config.tls_server_config, path.parent, ("cert_file", "key_file", "client_ca_file"))
    return config.model_copy(update={"tls_server_config": tls_config})


def _contradictions(tls: Mapping[str, object]) -> list[str]:
    """What the keys say together. Works on the raw section, so that it is told beside what is wrong with one key."""
    problems = [
        f"{name} and {name}_file are both given: one of them"
        for name in ("cert", "key", "client_ca")
        if tls.get(name) and tls.get(f"{name}_file")
    ]
    problems += [
        f"{name}_file is missing" for name in ("cert", "key") if not tls.get(name) and not tls.get(f"{name}_file")
    ]
    auth = tls.get("client_auth_type", "NoClientCert")
    has_authority = bool(tls.get("client_ca") or tls.get("client_ca_file"))
    if auth in ("RequireAndVerifyClientCert", "VerifyClientCertIfGiven") and not has_authority:
        problems.append(f"client_auth_type {auth} needs client_ca_file")
    if has_authority and auth == "NoClientCert":
        problems.append("client_ca_file has no effect without client_auth_type: RequireAndVerifyClientCert")
    if tls.get("client_allowed_sans") and auth != "RequireAndVerifyClientCert":
        problems.append("client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert")
    if (tls.get("min_version"), tls.get("max_version")) == ("TLS13", "TLS12"):
        problems.append("min_version is above max_version")
    suites = tls.get("cipher_suites")
    only_newest = isinstance(suites, list) and bool(suites) and set(map(str, suites)) <= TLS13_CIPHERS
    if only_newest and tls.get("min_version") != "TLS13":
        problems.append("cipher_suites names none for TLS 1.2: min_version: TLS13 says that it is not wanted")
    return problems

"""From the web configuration's TLS section to what encrypts connections."""

import ipaddress
import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporter.errors import UsageError
from exporter.web.config import CIPHERS, CURVES, TlsConfig

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


def build_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return the context of a section that `load_web_config` found good.

    Raises:
        UsageError: Lists what is wrong with the files, one a line, each with its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]
    context.set_alpn_protocols(["http/1.1"])
    if not tls.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    ciphers = [CIPHERS[name] for name in tls.cipher_suites if name in CIPHERS]
    if ciphers:
        context.set_ciphers(":".join(ciphers))
    for curve in tls.curve_preferences:
        context.set_ecdh_curve(CURVES[curve])
    problems = [*_load_certificate(context, tls), *_load_authority(context, tls)]
    if problems:
        raise UsageError("\n".join(f"tls_server_config.{problem}" for problem in problems))
    return context


def _load_certificate(context: ssl.SSLContext, tls: TlsConfig) -> Iterator[str]:
    problems = [*_unreadable("cert_file", tls.cert_file), *_unreadable("key_file", tls.key_file)]
    if problems:
        yield from problems
        return
    try:
        with _as_file(tls.cert, tls.cert_file) as cert, _as_file(tls.key, tls.key_file) as key:
            context.load_cert_chain(cert, key, password=_no_passphrase)
    except _PassphraseError:
        yield "key_file: the key asks for a passphrase, which nobody is there to type: keep it without one"
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            yield "key_file: this is not the key of the certificate in cert_file"
        else:
            yield f"cert_file, key_file: no certificate and key in PEM form ({error.reason or 'nothing found'})"


def _load_authority(context: ssl.SSLContext, tls: TlsConfig) -> Iterator[str]:
    if tls.client_auth_type == "NoClientCert":
        return
    problems = list(_unreadable("client_ca_file", tls.client_ca_file))
    if problems:
        yield from problems
        return
    try:
        context.load_verify_locations(cafile=tls.client_ca_file, cadata=tls.client_ca)
    except ssl.SSLError as error:
        yield f"client_ca_file: no certificate in PEM form ({error.reason or 'nothing found'})"
    context.verify_mode = _VERIFY[tls.client_auth_type]


class _PassphraseError(Exception):
    """The private key is encrypted."""


def _no_passphrase() -> str:
    """Stand in for OpenSSL's own question on the terminal, at which a daemon would wait for ever."""
    raise _PassphraseError


def _unreadable(key: str, path: Path | None) -> Iterator[str]:
    if path is None:
        return
    try:
        with path.open("rb"):
            return
    except OSError as error:
        yield f"{key}: {path}: {error.strerror}"


@contextmanager
def _as_file(inline: str | None, path: Path | None) -> Iterator[str]:
    """Give OpenSSL a path. What stands in the configuration itself never touches a disk."""
    if path is not None:
        yield str(path)
        return
    with os.fdopen(os.memfd_create("pem", os.MFD_CLOEXEC), "wb") as memory:
        memory.write((inline or "").encode())
        memory.flush()
        yield f"/proc/self/fd/{memory.fileno()}"


def is_allowed(certificate: Any, allowed: Sequence[str]) -> bool:
    """Tell whether a verified peer certificate (as ``ssl`` returns it) holds one of the allowed names."""
    if not allowed:
        return True
    names = {_spelled(value) for _, value in (certificate or {}).get("subjectAltName", ())}
    return not names.isdisjoint(map(_spelled, allowed))


def _spelled(name: str) -> str:
    """Return an address in its usual form: ``ssl`` writes 2001:DB8:0:0:0:0:0:1 for 2001:db8::1."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name

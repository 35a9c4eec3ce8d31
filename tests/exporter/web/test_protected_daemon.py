"""The daemon behind TLS, client certificates and passwords, as a scraper meets it."""

import base64
import os
import re
import signal
import socket
import ssl
import time
from pathlib import Path
from urllib.error import URLError

import bcrypt
import pytest

from exporter.web.tls import is_allowed
from tests.exporter.daemon import daemon
from tests.exporter.typed import typed
from tests.exporter.web.certificates import Authority

FAST = ("--poll-interval", "0.25")


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def hashed(password, rounds=4):
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds)).decode()


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def web(tmp_path):
    """Write a web configuration; return the flags that name it."""

    def write(text):
        (tmp_path / "web.new").write_text(text)
        (tmp_path / "web.new").replace(tmp_path / "web.yaml")
        return ("--web.config.file", str(tmp_path / "web.yaml"))

    return write


def client(authority, certificate=None):
    context = ssl.create_default_context(cafile=authority.file)
    if certificate:
        context.load_cert_chain(*certificate)
    return context


def shown_certificate(running):
    with socket.create_connection(("127.0.0.1", running.port), 5) as plain:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(plain) as encrypted:
            return encrypted.getpeercert(binary_form=True), encrypted.version()


TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_metrics_come_over_tls_and_plain_http_gets_nothing(authority, web, command):
    authority.issue("server")
    arguments = FAST if command == "serve" else ()
    with daemon(*web(TLS), *arguments, command=command) as running:
        assert any("https://127.0.0.1:" in line for line in running.log)
        with pytest.raises((URLError, ConnectionError)):
            running.get("/-/healthy")
        running.scheme, running.tls = "https", client(authority)
        assert running.value("headroom_build_info") == 1.0
        assert running.stop()[0] == 0


def test_a_renewed_certificate_counts_from_the_next_connection_on_and_a_bad_one_changes_nothing(
    tmp_path, authority, web
):
    authority.issue("server")
    with daemon(*web(TLS), *FAST) as running:
        first, _ = shown_certificate(running)
        authority.issue("server")
        second, _ = shown_certificate(running)
        assert second != first
        (tmp_path / "server.key").write_text("half a fi")
        assert shown_certificate(running)[0] == second
        running.scheme, running.tls = "https", client(authority)
        assert running.value("headroom_config_last_reload_successful") == 0.0
        assert sum("not reloaded" in line for line in running.log) == 1, "once a change, not once a connection"
        authority.issue("server")
        assert shown_certificate(running)[0] not in (first, second)
        assert running.value("headroom_config_last_reload_successful") == 1.0


def test_certificates_that_arrive_after_the_file_that_names_them_count_from_the_next_connection_on(
    tmp_path, authority, web
):
    authority.issue("server")
    with daemon(*web(TLS), *FAST) as running:
        first, _ = shown_certificate(running)
        web(TLS.replace("server.", "renewed."))
        assert shown_certificate(running)[0] == first
        authority.issue("renewed")
        assert shown_certificate(running)[0] != first
        running.scheme, running.tls = "https", client(authority)
        assert running.value("headroom_config_last_reload_successful") == 1.0


def test_the_oldest_version_spoken_is_the_one_that_was_asked_for(authority, web):
    authority.issue("server")
    with daemon(*web(TLS + "  max_version: TLS12\n"), *FAST) as running:
        assert shown_certificate(running)[1] == "TLSv1.2"
    with daemon(*web(TLS + "  min_version: TLS13\n"), *FAST) as running:
        running.scheme, running.tls = "https", client(authority)
        assert running.get("/-/healthy")
        running.tls.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(URLError):
            running.get("/-/healthy")


def test_only_certificates_of_the_authority_with_an_allowed_name_are_let_in(tmp_path, authority, web):
    authority.issue("server")
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").issue("prometheus", "prometheus.example")
    known = authority.issue("prometheus", "prometheus.example")
    unnamed = authority.issue("grafana", "grafana.example")
    file = web(
        TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: authority.pem\n"
        "  client_allowed_sans: [prometheus.example]\n"
    )
    with daemon(*file, *FAST) as running:
        running.scheme = "https"
        for refused in (None, stranger, unnamed):
            running.tls = client(authority, refused)
            with pytest.raises(OSError):  # noqa: PT011 - the moment of the refusal differs by TLS version
                running.get("/metrics")
        running.tls = client(authority, known)
        assert running.get("/-/healthy") == "healthy\n"


@pytest.mark.parametrize("allowed", ["2001:db8::1", "2001:DB8:0::1", "10.0.0.1", "prometheus.example"])
def test_an_allowed_address_is_one_however_it_is_spelled(allowed):
    names = (("DNS", "prometheus.example"), ("IP Address", "10.0.0.1"), ("IP Address", "2001:DB8:0:0:0:0:0:1"))
    assert is_allowed({"subjectAltName": names}, [allowed])
    assert not is_allowed({"subjectAltName": (("DNS", "other"), ("IP Address", "2001:DB8:0:0:0:0:0:2"))}, [allowed])


def test_a_password_is_asked_for_everywhere_and_checked_with_bcrypt_once(web):
    password = "open sesame"
    with daemon(*web(f"basic_auth_users:\n  prometheus: {hashed(password, 12)}\n"), *FAST) as running:
        for path in ("/", "/metrics", "/api/v1/status", "/-/healthy", "/nothing"):
            status, headers = running.refusal(path)
            assert (status, headers["WWW-Authenticate"]) == (401, "Basic")
        for wrong in (basic("prometheus", "wrong"), basic("nobody", password), "Basic !", "Bearer x", "Basic AAAA"):
            assert running.refusal("/metrics", Authorization=wrong)[0] == 401
        running.headers = {"Authorization": basic("prometheus", password)}
        before = running.value("process_cpu_seconds_total")
        for _ in range(20):
            running.get("/-/healthy")
        # One check of this hash takes about 0.2 s of CPU: twenty would take four seconds.
        assert running.value("process_cpu_seconds_total") - before < 2.0
        assert running.stop()[0] == 0
        assert not re.search(f"{password}|{running.headers['Authorization']}", "\n".join(running.log))


def test_a_changed_password_counts_at_the_next_request(web):
    with daemon(*web(f"basic_auth_users: {{p: {hashed('old')}}}\n"), *FAST) as running:
        assert running.get("/-/healthy", Authorization=basic("p", "old"))
        web(f"basic_auth_users: {{p: {hashed('new')}}}\n")
        assert running.get("/-/healthy", Authorization=basic("p", "new"))
        assert running.refusal("/-/healthy", Authorization=basic("p", "old"))[0] == 401
        web("basic_auth_users: {p: new}\n")
        assert running.get("/-/healthy", Authorization=basic("p", "new")), "a file gone bad opens no door"
        assert running.refusal("/-/healthy")[0] == 401


def test_a_password_longer_than_bcrypt_looks_at_is_compared_as_other_exporters_do(web):
    long = "x" * 72
    with daemon(*web(f"basic_auth_users: {{p: {hashed(long)}}}\n"), *FAST) as running:
        assert running.get("/-/healthy", Authorization=basic("p", long + "tail"))


def test_a_password_that_takes_long_to_check_holds_up_no_end(web):
    costly = hashed("x").replace("$04$", "$17$")
    guess = f"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: {basic('p', 'guess')}\r\n\r\n"
    with daemon(*web(f"basic_auth_users: {{p: {costly}}}\n"), *FAST) as running:
        stranger = socket.create_connection(("127.0.0.1", running.port), 5)
        stranger.sendall(guess.encode())
        running.wait_for(lambda: "_bcrypt" in Path(f"/proc/{running.process.pid}/maps").read_text(encoding="utf-8"))
        assert running.stop()[0] == 0, "which is waited for no longer than such a hash takes"
        stranger.close()


def test_what_protects_a_browser_is_on_every_answer_and_refusal(web):
    with daemon(*web(f"basic_auth_users: {{p: {hashed('pw')}}}\n"), *FAST) as running:
        password = {"Authorization": basic("p", "pw")}
        for status, path, headers in (
            (401, "/", {}),
            (404, "/nothing", password),
            (413, "/", {**password, "Content-Length": "100000000"}),
            (431, "/" + "x" * 15_900, {**password, "X": "y" * 600}),
        ):
            told, shown = running.refusal(path, **headers)
            assert told == status
            assert "default-src 'none'" in shown["Content-Security-Policy"]
            assert (shown["X-Frame-Options"], shown["X-Content-Type-Options"]) == ("DENY", "nosniff")


def test_headers_of_the_file_are_on_every_answer_and_an_empty_one_leaves_the_header_out(web):
    text = "http_server_config: {headers: {Strict-Transport-Security: max-age=1, X-Frame-Options: ''}}\n"
    with daemon(*web(text), *FAST) as running:
        for path, status in (("/-/healthy", 200), ("/nothing", 404)):
            with socket.create_connection(("127.0.0.1", running.port), 5) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
                answer = connection.makefile().read().lower()
            assert answer.startswith(f"http/1.1 {status}")
            assert "strict-transport-security: max-age=1" in answer
            assert "x-frame-options" not in answer


def test_over_the_rate_limit_the_answer_is_429(web):
    with daemon(*web("rate_limit: {interval: 1h, burst: 3}\n"), *FAST) as running:
        for _ in range(3):
            running.get("/-/healthy")
        status, headers = running.refusal("/-/healthy")
        assert (status, headers["Retry-After"]) == (429, "1")


def test_a_web_configuration_with_problems_stops_the_start_and_tells_them_all(web, tmp_path):
    flags = web("tls_server_config: {cert_file: a, colour: 1}\nbasic_auth_users: {b: plain}\n")
    result = typed("serve", *flags)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 3
    assert f"vllm-headroom: {tmp_path}/web.yaml: tls_server_config.colour: unknown key" in result.stderr
    assert "plain" not in result.stderr


def test_what_only_tls_and_passwords_need_is_not_loaded_without_them():
    with daemon(*FAST) as running:
        mapped = Path(f"/proc/{running.process.pid}/maps").read_text(encoding="utf-8")
        assert "_bcrypt" not in mapped


def test_turning_tls_on_needs_a_restart_and_says_so(authority, web):
    authority.issue("server")
    with daemon(*web("{}\n"), *FAST) as running:
        web(TLS)
        os.kill(running.process.pid, signal.SIGHUP)
        running.wait_for(lambda: any("turning TLS on or off needs a restart" in line for line in running.log))
        assert running.value("headroom_config_last_reload_successful") == 0.0


def test_silent_tls_connections_are_given_up(authority, web):
    authority.issue("server")
    with daemon(*web(TLS), *FAST) as running:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", running.port), 20) as silent:
            assert silent.recv(1) == b""
        assert 1 < time.monotonic() - began < 15

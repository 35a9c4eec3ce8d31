"""The shared web configuration format: what is taken, what is refused and how that is told."""

import pytest
from click.testing import CliRunner

from exporter.cli.check import command as check
from exporter.errors import UsageError
from exporter.web.config import load_web_config
from exporter.web.live import check_web_config
from tests.exporter.web.certificates import Authority

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"


def problems(tmp_path, text, load=load_web_config):
    file = tmp_path / "web.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(file)
    return [line.removeprefix(f"{file}: ") for line in str(caught.value).splitlines()]


def test_an_empty_file_means_plain_http_for_everybody(tmp_path):
    (tmp_path / "web.yaml").write_text("")
    config, context = check_web_config(tmp_path / "web.yaml")
    assert (config.tls_server_config, config.basic_auth_users, context) == (None, {}, None)


def test_the_formats_own_example_is_taken_whole(tmp_path):
    authority = Authority(tmp_path)
    authority.issue("server")
    (tmp_path / "web.yaml").write_text(f"""
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: authority.pem
  client_allowed_sans: [prometheus.example]
  min_version: TLS12
  max_version: TLS13
  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
  curve_preferences: [X25519]
http_server_config:
  http2: true
  headers:
    Strict-Transport-Security: max-age=31536000
    X-Frame-Options: sameorigin
basic_auth_users:
  prometheus: {HASH}
rate_limit:
  interval: 1m500ms
  burst: 20
""")
    config, context = check_web_config(tmp_path / "web.yaml")
    assert config.tls_server_config.cert_file == tmp_path / "server.crt"
    assert config.rate_limit.interval_seconds == 60.5
    assert {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"} == {
        "ECDHE-ECDSA-AES128-GCM-SHA256"
    }


def test_certificate_and_key_may_stand_in_the_file_itself(tmp_path):
    crt, key = Authority(tmp_path).issue("server")
    text = "".join(
        f"  {name}: |\n{''.join(f'    {line}' for line in path.read_text().splitlines(keepends=True))}"
        for name, path in (("cert", crt), ("key", key))
    )
    (tmp_path / "web.yaml").write_text(f"tls_server_config:\n{text}")
    config, context = check_web_config(tmp_path / "web.yaml")
    assert context is not None
    assert "PRIVATE KEY" not in repr(config)


def test_every_problem_of_the_file_is_told_at_once_with_its_path(tmp_path):
    found = problems(
        tmp_path,
        "tls_server_config:\n  cert_file: a.crt\n  min_version: TLS10\n  client_ca_file: ca.pem\n  colour: red\n"
        "  cipher_suites: [RC4]\n  curve_preferences: [CurveP256, X25519]\n"
        "http_server_config: {headers: {Server: me}}\nbasic_auth_users: {bob: hunter2, 'a:b': x}\n"
        "rate_limit: {interval: often, burst: 0}\nusers: 1\n",
    )
    assert [line.partition(":")[0] for line in found] == [
        "tls_server_config.min_version",
        "tls_server_config.cipher_suites[0]",
        "tls_server_config.curve_preferences",
        "tls_server_config.colour",
        "http_server_config.headers",
        "basic_auth_users.bob",
        "basic_auth_users.a",
        "basic_auth_users.a",
        "rate_limit.interval",
        "rate_limit.burst",
        "users",
        "tls_server_config",
        "tls_server_config",
    ]
    told = "\n".join(found)
    assert "known here: basic_auth_users, http_server_config, rate_limit, tls_server_config" in told
    assert "known here: cert, cert_file, cipher_suites, client_allowed_sans" in told
    assert "tls_server_config: key_file is missing" in told
    assert "tls_server_config: client_ca_file has no effect without client_auth_type" in told
    assert "hunter2" not in told


def test_a_hash_that_no_client_would_wait_for_is_refused_and_not_shown(tmp_path):
    (told,) = problems(tmp_path, "basic_auth_users: {bob: $2y$31$" + "a" * 53 + "}\n")
    assert told.startswith("basic_auth_users.bob: a hash of cost 31 takes longer to check than any client waits")
    assert "aaa" not in told


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("client_auth_type: RequireAndVerifyClientCert", "RequireAndVerifyClientCert needs client_ca_file"),
        ("client_auth_type: RequestClientCert", "takes certificates that prove nothing"),
        ("client_auth_type: Maybe", "must be 'NoClientCert'"),
        ("client_allowed_sans: [a]", "client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert"),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256]", "names none for TLS 1.2"),
        ("cert: x", "cert and cert_file are both given"),
    ],
)
def test_protection_that_would_be_half_obeyed_is_refused(tmp_path, section, problem):
    lines = problems(tmp_path, f"tls_server_config:\n  cert_file: a\n  key_file: b\n  {section}\n")
    assert any(problem in line for line in lines)


def test_a_versions_order_counts(tmp_path):
    text = "tls_server_config: {cert_file: a, key_file: b, min_version: TLS13, max_version: TLS12}\n"
    assert problems(tmp_path, text) == ["tls_server_config: min_version is above max_version"]


def test_files_that_are_missing_are_named(tmp_path):
    text = "tls_server_config: {cert_file: a.crt, key_file: a.key, client_ca_file: ca, client_auth_type: "
    found = problems(tmp_path, text + "RequireAndVerifyClientCert}\n", check_web_config)
    assert found == [
        f"tls_server_config.cert_file: {tmp_path}/a.crt: No such file or directory",
        f"tls_server_config.key_file: {tmp_path}/a.key: No such file or directory",
        f"tls_server_config.client_ca_file: {tmp_path}/ca: No such file or directory",
    ]


def test_another_certificates_key_a_sealed_key_and_text_that_is_no_certificate_are_told_apart(tmp_path):
    authority = Authority(tmp_path)
    authority.issue("one")
    authority.issue("two")
    authority.issue("sealed", passphrase=b"secret")
    (tmp_path / "empty").write_text("nothing\n")

    def problem(certificate, key):
        text = f"tls_server_config: {{cert_file: {certificate}, key_file: {key}}}\n"
        return problems(tmp_path, text, check_web_config)

    assert "not the key of the certificate" in problem("one.crt", "two.key")[0]
    assert "asks for a passphrase" in problem("sealed.crt", "sealed.key")[0]
    assert "no certificate and key in PEM form" in problem("empty", "one.key")[0]


@pytest.mark.parametrize(
    "value", ["*s3cret", "!s3cret", "!!s3cret", "!s3!cret x", "&s3cret &s3cret", "%s3cret", "@s3cret"]
)
def test_a_password_that_looks_like_yaml_is_placed_and_not_repeated(tmp_path, value):
    (told,) = problems(tmp_path, f"basic_auth_users:\n  bob: {value}\n")
    assert "s3" not in told
    assert "(line 2, column" in told


def test_a_broken_line_is_placed_and_not_repeated(tmp_path):
    (line,) = problems(tmp_path, f"basic_auth_users:\n  bob: [{HASH}\n")
    assert line.startswith("not YAML: ")
    assert "line 3" in line
    assert HASH not in line


def test_check_tells_of_both_files_at_once(tmp_path):
    (tmp_path / "web.yaml").write_text("tls: 1\n")
    (tmp_path / "c.yaml").write_text("poll: 1\n")
    both = ["--config", str(tmp_path / "c.yaml"), "--web.config.file", str(tmp_path / "web.yaml")]
    told = str(CliRunner().invoke(check, both).exception)
    assert "c.yaml: poll: unknown key" in told
    assert "web.yaml: tls: unknown key" in told


def test_check_says_what_a_good_file_does(tmp_path):
    Authority(tmp_path).issue("server")
    (tmp_path / "web.yaml").write_text(
        f"tls_server_config: {{cert_file: server.crt, key_file: server.key}}\nbasic_auth_users: {{a: {HASH}}}\n"
    )
    result = CliRunner().invoke(check, ["--web.config.file", str(tmp_path / "web.yaml")])
    assert (result.exit_code, result.output) == (0, f"{tmp_path}/web.yaml: good (TLS, 1 user)\n")


def test_check_without_a_file_is_wrong_use():
    assert CliRunner().invoke(check, []).exit_code == 2

"""``check`` on configuration files; rules and dashboards are in test_lint.py."""

from click.testing import CliRunner

from exporter.cli import cli


def check(file, content):
    file.write_text(content)
    return CliRunner().invoke(cli, ["check", "--config", str(file)])


def test_a_good_file_is_told_with_what_it_does(tmp_path):
    checked = check(tmp_path / "c.yaml", "engines: [{url: 'http://127.0.0.1:8000'}]\n")
    assert (checked.exit_code, checked.output) == (0, f"{tmp_path}/c.yaml: good (1 engine, every 5 s, on :9738)\n")


def test_a_key_that_is_not_there_yet_is_mentioned_and_no_fault_of_the_file(tmp_path):
    """systemd hands credentials over when the service starts, and a check comes before that."""
    checked = check(tmp_path / "c.yaml", "engines: [{url: 'http://127.0.0.1:8000', api_key_file: chat}]\n")
    assert checked.exit_code == 0
    assert checked.output.startswith(
        f"note: api_key_file of http://127.0.0.1:8000: {tmp_path}/chat cannot be read: "
        "without it the daemon does not start\n"
    )


def test_so_is_the_password_of_a_prometheus(tmp_path):
    checked = check(tmp_path / "c.yaml", "prometheus: {url: 'http://p:9090', bearer_token_file: token}\n")
    assert checked.exit_code == 0
    assert checked.output.startswith(
        f"note: prometheus.bearer_token_file: {tmp_path}/token cannot be read: without it the daemon does not start\n"
    )


def test_a_key_that_is_none_and_an_authority_without_a_certificate_are_problems_of_the_file(tmp_path):
    (tmp_path / "two").write_text("one key\nanother\n")
    (tmp_path / "later").write_text("")
    (tmp_path / "image").write_bytes(b"\x89PNG\xff")
    (tmp_path / "ca.pem").write_text("not yet\n")
    checked = check(
        tmp_path / "c.yaml",
        "engines:\n"
        "- {url: 'http://h:1', api_key_file: two}\n"
        "- {url: 'http://h:2', api_key_file: later}\n"
        "- {url: 'http://h:3', api_key_file: image}\n"
        "- {url: 'https://h:4', ca_file: ca.pem}\n"
        "- {url: 'http://h:5', api_key_file: absent}\n",
    )
    at, no_key = f"{tmp_path}/c.yaml: ", "holds what no key does: one line of ASCII without spaces is needed"
    assert checked.output.startswith("note: api_key_file of http://h:5: ")
    assert str(checked.exception).splitlines() == [
        f"{at}api_key_file of http://h:1: {tmp_path}/two {no_key}",
        f"{at}api_key_file of http://h:2: {tmp_path}/later is empty",
        f"{at}api_key_file of http://h:3: {tmp_path}/image is no text",
        f"{at}ca_file of https://h:4: {tmp_path}/ca.pem is not PEM, or holds no certificate",
    ]

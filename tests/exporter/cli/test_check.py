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

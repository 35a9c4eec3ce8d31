"""``vllm-headroom capture`` as it is typed."""

import pytest
from click.testing import CliRunner

from exporter.cli.capture import command
from exporter.errors import UsageError
from tests.exporter.daemon import FakeServer, vllm_page


@pytest.fixture
def server():
    running = FakeServer()
    running.page(vllm_page())
    yield running
    running.close()


def run(*words):
    return CliRunner().invoke(command, [str(word) for word in words])


def folder_of(server, directory):
    return directory / server.engine.replace(":", "_")


def test_pages_are_saved_byte_for_byte(server, tmp_path):
    assert run("--engine", server.url, tmp_path).exit_code == 0
    assert (folder_of(server, tmp_path) / "metrics").read_text() == vllm_page()
    assert (folder_of(server, tmp_path) / "version.json").read_text() == '{"version": "0.32.0"}'


def test_a_page_that_asks_for_a_key_is_told_and_fails_nothing_else(server, tmp_path):
    server.answers["/v1/models"] = (401, {}, b"{}")
    result = run("--engine", server.url, tmp_path)
    assert result.exit_code == 0
    assert "models.json: not saved: it answers 401" in result.stdout


def test_a_capture_without_metrics_is_no_success_and_keeps_no_older_ones(server, tmp_path):
    run("--engine", server.url, tmp_path)
    server.answers["/metrics"] = (500, {}, b"")
    result = run("--engine", server.url, tmp_path)
    assert result.exit_code == 1
    assert "metrics: not saved: it answers 500" in result.stdout
    assert not (folder_of(server, tmp_path) / "metrics").exists()


def test_engines_behind_one_address_do_not_overwrite_each_other(server, tmp_path):
    pages = dict(server.answers)
    for number, prefix in enumerate(("/chat", "/code")):
        server.answers |= {prefix + path: answer for path, answer in pages.items()}
        server.answers[f"{prefix}/metrics"] = (200, {}, vllm_page(running=number).encode())
    assert run("--engine", f"{server.url}/chat", "--engine", f"{server.url}/code/", tmp_path).exit_code == 0
    for number, name in enumerate(("chat", "code")):
        folder = folder_of(server, tmp_path)
        assert folder.with_name(f"{folder.name}_{name}").joinpath("metrics").read_text() == vllm_page(running=number)


def test_no_address_leads_out_of_the_directory(tmp_path):
    (tmp_path / "metrics").write_text("mine\n")
    assert run("--engine", "http://../", tmp_path / "here").exit_code == 1
    assert (tmp_path / "metrics").read_text() == "mine\n"


def test_nobody_there_is_told_in_words(tmp_path):
    result = run("--engine", "http://127.0.0.1:9", tmp_path)
    assert result.exit_code == 1
    assert "metrics: not saved: no connection" in result.stdout


def test_an_answer_that_breaks_off_is_told_in_words(server, tmp_path):
    server.answers["/metrics"] = (200, {"Content-Length": "9999"}, b"up 1")
    result = run("--engine", server.url, tmp_path)
    assert result.exit_code == 1
    assert "metrics: not saved: its answer is broken" in result.stdout


def test_a_directory_that_cannot_be_made_is_a_wrong_use(server, tmp_path):
    (tmp_path / "file").touch()
    result = run("--engine", server.url, tmp_path / "file" / "below")
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).endswith(": Not a directory")

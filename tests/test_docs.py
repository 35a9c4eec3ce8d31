"""What the handwritten pages claim, as far as the program can tell."""

import re
from pathlib import Path

import pytest
import yaml

from exporter.cli.systemd import unit_files
from exporter.config import load
from exporter.web.guard import MOST_BODY_BYTES, MOST_HEAD_BYTES
from exporter.web.server import Limits

PAGES = sorted([*Path().glob("*.md"), *Path("docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_to_a_file_leads_to_one(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_yaml_example_is_yaml(page):
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        yaml.safe_load(block)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_example_of_our_configuration_is_a_good_one(page, tmp_path):
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if "engines:" in block:
            (tmp_path / "c.yaml").write_text(block)
            load(tmp_path / "c.yaml", {})


def test_the_limits_that_the_security_page_lists_are_those_in_force():
    rows = dict(
        re.findall(
            r"^\| ([a-zTLS ]+) \| ([^|]+) \|", Path("docs/security.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    limits = Limits()
    assert rows["connections"] == str(limits.connections)
    assert rows["TLS handshake"] == f"{limits.handshake_seconds:g} s"
    assert rows["request head"] == f"{MOST_HEAD_BYTES // 1024} KiB, complete within {limits.head_seconds:g} s"
    assert rows["request body"] == f"{MOST_BODY_BYTES // 1024} KiB, with a length"
    assert rows["requests in progress"] == str(limits.requests_at_once)
    assert rows["taking an answer"] == f"{limits.answer_seconds:g} s"
    assert rows["idle connection"] == f"{limits.keep_alive_seconds:g} s"


def test_the_systemd_page_lists_every_file_that_is_exported():
    listed = re.findall(
        r"^\| `(vllm-headroom[^`]+)` \|", Path("docs/systemd.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {
        f"vllm-headroom.service.d/{name.rpartition('/')[2]}" if name.startswith("vllm-headroom.service.d") else name
        for name in listed
    } == {name for name, _ in unit_files()}


def test_every_picture_is_shown_somewhere_and_none_weighs_on_a_slow_line():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+\.png)\)", page.read_text(encoding="utf-8"))
    }
    pictures = {picture.resolve(): picture.stat().st_size for picture in Path("docs/pictures").iterdir()}
    assert shown == pictures.keys()
    assert {picture.name: size for picture, size in pictures.items() if size > 200_000} == {}

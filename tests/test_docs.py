"""What the handwritten pages claim, as far as the program can tell."""

import ast
import functools
import itertools
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from advisor.flags import EngineFlags
from exporter.cli import cli
from exporter.cli.systemd import unit_files
from exporter.config import load
from exporter.lint import own_names
from exporter.web.guard import MOST_BODY_BYTES, MOST_HEAD_BYTES
from exporter.web.server import Limits
from exporter.words import failing

PAGES = sorted([*Path().glob("*.md"), *Path("docs").rglob("*.md")])
QUOTING = [page for page in PAGES if re.match(r"(troubleshooting|faq|upgrading)", page.name)]
"""Here double quotes hold what this program says, with dots where it differs from time to time."""


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks_of(page, *kinds):
    """The fenced blocks of some kinds, such as ``sh``."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```", text_of(page), re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", body, flags=re.MULTILINE) for indent, kind, body in found if kind in kinds]


def prose_of(page):
    return re.sub(r"^ *```.*?^ *```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page):
    """The names that headings get on the usual code hosts: lower case, words joined by hyphens, no punctuation."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page):
    wrong = []
    for target in re.findall(r"\]\(((?!https?://)[^)\s]+)\)", prose_of(page)):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            wrong.append(target)
    assert wrong == []


def test_every_page_is_linked_from_another():
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(((?!https?://)[^)#\s]+)", prose_of(page))
    }
    assert {page for page in PAGES if page.resolve() not in linked} <= {Path("README.md")}


def commands_of(page):
    """Every call of the program in a page, as words: lines of shell blocks, tasks of a play, code within sentences."""
    lines = "\n".join(blocks_of(page, "sh")).replace("\\\n", " ").splitlines()
    lines += "\n".join(blocks_of(page, "yaml")).replace('"', "").splitlines()
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose_of(page))]
    for line in lines:
        if "vllm-headroom " not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for is_end, words in itertools.groupby(lexer, key=lambda word: set(word) <= set("|&;<>()")):
            call = list(words)
            names = [word.rpartition("/")[2] for word in call]
            if not is_end and "vllm-headroom" in names and not {"systemctl", "journalctl"} & set(names):
                yield call[names.index("vllm-headroom") + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_and_option_that_is_shown_exists(page):
    wrong = []
    for words in commands_of(page):
        own = words[: words.index("--")] if "--" in words else words
        command, known = cli, set()
        for word in own:
            known |= {option for each in command.params for option in each.opts} | {"--help", "-h", "--version"}
            name = word.partition("=")[0]
            if isinstance(command, click.Group) and not word.startswith("-"):
                command = command.get_command(click.Context(command), word)
                if command is None:
                    wrong.append(words)
                    break
            elif name.startswith("-") and name not in known:
                wrong.append([name, *words])
    assert wrong == []


def test_the_play_restarts_only_after_the_new_version_has_judged_what_is_configured():
    """A failing task drops the restarts notified before it: the run after it would be green and restart nothing."""
    blocks = [yaml.safe_load(block) for block in blocks_of(Path("docs/installation.md"), "yaml")]
    play = next(block[0] for block in blocks if isinstance(block, list) and block[0].get("hosts") == "gpu_servers")
    tasks = play["tasks"]
    (judging,) = [
        place
        for place, task in enumerate(tasks)
        if str(task.get("ansible.builtin.command")).startswith("{{ headroom_home }}/bin/vllm-headroom check ")
    ]
    flushing = [task.get("ansible.builtin.meta") for task in tasks].index("flush_handlers")
    notifying = [place for place, task in enumerate(tasks) if "notify" in task]
    writing_units = [place for place, task in enumerate(tasks) if "/etc/systemd/system/" in str(task)]
    assert all(judging < place < flushing for place in [*notifying, *writing_units])
    assert set(writing_units) <= set(notifying)
    # What runs has files of its own: pip writes none of them.
    assert [task["ansible.builtin.pip"]["virtualenv"] for task in tasks if "ansible.builtin.pip" in task] == [
        "{{ headroom_home }}"
    ]
    assert "{{ headroom_version }}" in play["vars"]["headroom_home"]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_flag_that_a_sentence_names_is_ours_or_vllms(page):
    known = {option for command in all_commands(cli) for each in command.params for option in each.opts}
    known |= {f"--{each.name.replace('_', '-')}" for each in fields(EngineFlags)} | OF_OTHERS
    named = re.findall(r"`(--[a-z0-9.-]+)[^`]*`", prose_of(page))
    assert set(named) - known == set()


OF_OTHERS = {
    "--help",  # click
    *("--gpus", "--pid", "--restart"),  # docker
    *("--force", "--force-reinstall"),  # pip, uv
    "--limit",  # ansible-playbook
}


def all_commands(group):
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield command
        if isinstance(command, click.Group):
            yield from all_commands(command)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_metric_of_ours_that_a_page_names_exists(page):
    names = own_names()
    wrong = set()
    families = "|".join({name.split("_")[1] for name in names})
    for name in re.findall(rf"\bheadroom_(?:{families})_[a-z0-9_]+", text_of(page)):
        if name not in names and not (name.endswith("_") and any(each.startswith(name) for each in names)):
            wrong.add(name)
    assert wrong == set()


@functools.cache
def sayings():
    """Every text in the program, docstrings not, with dots where it puts something in."""
    return {re.sub(r"%[sd]", "...", re.sub(r"\s+", " ", each)) for each in _sayings()}


def _sayings():
    for file in (*Path("advisor").rglob("*.py"), *Path("exporter").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | parts:
                yield node.value


@pytest.mark.parametrize("page", QUOTING, ids=str)
def test_every_message_that_a_page_quotes_is_said_by_the_program(page):
    wrong = []
    for quoted in re.findall(r'"([^"]+)"', prose_of(page)):
        pieces = [re.escape(piece) for piece in re.sub(r"\s+", " ", quoted).split("...")]
        wanted = re.compile(r"(?<!\w)" + ".*".join(pieces) + r"(?!\w)")
        if not any(wanted.search(each) for each in sayings()):
            wrong.append(quoted)
    assert wrong == []


MODELS = {
    row["model"]: row["config"] for row in map(json.loads, Path("bench/accuracy/models.jsonl").read_text().splitlines())
}


def planned(call, folder):
    """What a call of ``plan`` prints, its model by the configuration that lies here, without a network."""
    at = call.index("serve") + 1
    config = folder / "config.json"
    config.write_text(json.dumps(MODELS[call[at]]))
    printed = CliRunner().invoke(cli, [*call[:at], str(config), *call[at + 1 :]])
    assert printed.exit_code in (0, 1), printed.output
    return " ".join(printed.output.split())


@pytest.mark.parametrize("page", [page for page in PAGES if page.name.startswith("faq")], ids=str)
def test_what_plan_prints_in_a_page_is_what_it_prints(page, tmp_path):
    shown = re.findall(
        r"^```sh\nvllm-headroom (plan [^\n]+)\n```\n\n```\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE
    )
    assert shown
    for line, output in shown:
        printed = planned(shlex.split(line), tmp_path)
        for piece in output.split("..."):
            assert " ".join(piece.split()) in printed


@pytest.mark.parametrize("page", [page for page in PAGES if page.name.startswith("faq")], ids=str)
def test_what_a_page_says_of_max_num_seqs_and_releases_is_what_plan_prints(page, tmp_path):
    (line,) = re.findall(r"^vllm-headroom (plan .+--vllm-version 0.16.0.+)$", text_of(page), re.MULTILINE)
    rows = re.findall(r"^\| (\d[\d.]+) \| ([\d.]+) GiB \| ([\d.]+) GiB \| ([\d,]+) \|$", text_of(page), re.MULTILINE)
    assert len(rows) == 3
    for release, peak, cache, tokens in rows:
        printed = planned(shlex.split(line.replace("0.16.0", release)), tmp_path)
        for expected in (f"activation peak {peak}", f"KV cache {cache}", f"KV cache size, tokens {tokens}"):
            assert expected in printed


@pytest.mark.parametrize(
    ("english", "chinese"), [("README.md", "README.zh-CN.md"), ("docs/faq.md", "docs/faq.zh-CN.md")]
)
def test_the_chinese_page_is_of_the_same_state_as_the_english_one(english, chinese):
    """Sections, code, pictures and links: what a change of one leaves behind in the other."""

    def skeleton(page):
        code = re.findall(r"^```\w*\n.*?^```", text_of(page), re.DOTALL | re.MULTILINE)
        pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text_of(page))
        flags = {word for span in re.findall(r"`([^`]+)`", prose_of(page)) for word in re.findall(r"--[a-z-]+", span)}
        return (
            [len(marks) for marks in re.findall(r"^(#+) ", prose_of(page), re.MULTILINE)],
            [re.sub(r" +# .*", "", each) for each in code],
            pictures,
            flags,
            {target.replace(".zh-CN", "") for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page))},
        )

    assert skeleton(Path(english)) == skeleton(Path(chinese))


@pytest.mark.parametrize(
    ("english", "chinese"), [("README.md", "README.zh-CN.md"), ("docs/faq.md", "docs/faq.zh-CN.md")]
)
def test_no_figure_of_the_chinese_page_is_older_than_the_english_one(english, chinese):
    def figures(text):
        return set(re.findall(r"\d[\d.,]*\d", text))

    there, here = Path(english), Path(chinese)
    assert figures(prose_of(there)) - figures(prose_of(here)) == set(), "each is in the Chinese text"
    # It also says in words what the English of the output says by itself.
    assert figures(prose_of(here)) - figures(text_of(there)) == set(), "and it has none of its own"


def test_troubleshooting_explains_every_reason_that_a_source_can_fail_for():
    page = text_of(Path("docs/troubleshooting.md"))
    reasons = {each for each in sayings() if failing({each: 1}) != each}
    assert "connection_refused" in reasons, "they are found by their words"
    assert {reason for reason in reasons if f"`{reason}`" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_yaml_example_is_yaml(page):
    for block in blocks_of(page, "yaml"):
        yaml.safe_load(block)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_example_of_our_configuration_is_a_good_one(page, tmp_path):
    for block in blocks_of(page, "yaml"):
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

import json

import pytest

from exporter.errors import SourceUnavailable
from exporter.state import State


def read(content):
    if not isinstance(content, list):
        raise ValueError("not a list")  # noqa: TRY004 - what a reader of state raises
    return content


def test_what_is_saved_is_loaded(tmp_path):
    State(tmp_path / "new" / "folder", "notes").save([1, 2])
    assert State(tmp_path / "new" / "folder", "notes").load(read, []) == [1, 2]
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["notes.json"]


def test_without_a_directory_nothing_is_kept_and_nothing_fails():
    state = State(None, "notes")
    state.save([1])
    assert state.load(read, [7]) == [7]


def test_the_first_start_finds_no_file(tmp_path):
    assert State(tmp_path, "notes").load(read, [7]) == [7]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 99, "content": []}', '{"format": 1}', '{"format": 1, "content": {}}', "\udcff"],
)
def test_a_file_that_makes_no_sense_is_set_aside_and_told(tmp_path, caplog, text):
    (tmp_path / "notes.json").write_bytes(text.encode(errors="surrogateescape"))
    assert State(tmp_path, "notes").load(read, [7]) == [7]
    assert (tmp_path / "notes.unreadable").exists()
    assert not (tmp_path / "notes.json").exists()
    (record,) = caplog.records
    assert "notes.json" in record.getMessage()
    assert "notes.unreadable" in record.getMessage()


def test_a_folder_in_the_files_place_is_told_and_left(tmp_path, caplog):
    (tmp_path / "notes.json").mkdir()
    assert State(tmp_path, "notes").load(read, [7]) == [7]
    assert "starting without it" in caplog.text


def test_what_cannot_be_written_leaves_the_old_file_whole(tmp_path):
    state = State(tmp_path, "notes")
    state.save([1])
    (tmp_path / "notes.new").mkdir()
    with pytest.raises(SourceUnavailable, match="state_not_written"):
        state.save([2])
    assert json.loads((tmp_path / "notes.json").read_text())["content"] == [1]

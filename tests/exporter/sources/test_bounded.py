"""Files and JSON that others wrote: read whole, or refused before they cost anything."""

import os

import pytest

from exporter.sources import bounded


def test_a_file_is_read_whole_or_not_at_all(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert bounded.content(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ValueError, match="over 4 bytes"):
        bounded.content(tmp_path / "file", 4)


def test_a_pipe_that_nobody_writes_a_device_and_a_folder_keep_no_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(OSError, match=r"not a regular file|No such file"):
            bounded.content(path, 10)
    with pytest.raises(OSError, match="not a regular file"):
        bounded.opened(os.devnull)


@pytest.mark.parametrize("text", ["[" + "[]," * 600_000 + "[]]", b"[" + b"0," * 1_000_001 + b"0]"])
def test_json_of_more_parts_than_anything_real_has_is_not_unfolded(text):
    with pytest.raises(ValueError, match="over 1000000 parts"):
        bounded.parsed(text)


def test_json_is_read_with_its_objects_replaced_from_the_inside_out():
    assert bounded.parsed(b'{"a": {"b": [1]}}', hook=sorted) == ["a"]
    with pytest.raises(ValueError, match="utf-8"):
        bounded.parsed(b"\xff")

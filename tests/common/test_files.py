"""Files that appear whole or not at all, however their writing ends."""

import errno
import gzip
import os
import shutil

import pytest

from myna_plugin.common.errors import InputError
from myna_plugin.common.files import PARTIALS, check_disk, read_json, replacing, write_text


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_until_the_end_the_old_file_is_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert list(tmp_path.glob(PARTIALS)) == [partial]
    assert contents(tmp_path) == {"file": "new"}


def test_the_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    def look(descriptor):
        synced.append((os.fstat(descriptor).st_size, path.exists()))

    path, synced = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", look)
    with replacing(path) as partial:
        partial.write_text("whole")
    assert synced == [(5, False)]


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    def write_half():
        with replacing(path) as partial:
            partial.write_text("half")
            raise failure

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(failure):
        write_half()
    assert contents(tmp_path) == {"file": "old"}


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        write_text(path, "new")
    assert contents(tmp_path) == {"file": "old"}
    with pytest.raises(FileNotFoundError, match=rf"'{tmp_path}/gone/file'"):
        write_text(tmp_path / "gone" / "file", "new")


def test_a_place_that_cannot_take_what_comes_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=4_000_000))
    check_disk(tmp_path / "not" / "yet", 3_900_000)
    with pytest.raises(InputError, match=r"yet: 4\.10MB are needed, .* 4\.00MB left; free some"):
        check_disk(tmp_path / "not" / "yet", 4_100_000)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"{tmp_path}/file: cannot be written into"):
        check_disk(tmp_path / "file" / "yet", 0)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_unfinished_file_may_lie_in_another_folder(tmp_path):
    (tmp_path / "work").mkdir()
    with replacing(tmp_path / "file", tmp_path / "work") as partial:
        partial.write_text("new")
        assert partial.parent == tmp_path / "work"
    assert (tmp_path / "file").read_text() == "new"
    assert not list((tmp_path / "work").iterdir())


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "replaced") as partial:
        partial.touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("plain", "replaced")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("none.json", None),
        ("half.json", b'{"a": '),
        ("half.json.gz", b"no gzip"),
        ("a.json", b"\xff"),
    ],
)
def test_where_no_whole_json_is_the_default_is_taken(tmp_path, name, data):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert read_json(tmp_path / name, "default") == "default"
    with pytest.raises(InputError, match=name):
        read_json(tmp_path / name)


def test_what_is_packed_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(bytes(1 << 20)) * 257)
    with pytest.raises(InputError, match=r"bomb\.json\.gz: holds more than 268,435,456 bytes"):
        read_json(path)


def test_a_file_that_cannot_be_read_is_not_taken_for_a_missing_one(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path, "default")

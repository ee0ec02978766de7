import re

import numpy as np
import pytest
import soundfile
from commands import run_command

from myna_plugin.cli.prepare import prepare
from myna_plugin.pretraining.store.reading import Store, StoreSettings, shard_path


@pytest.fixture
def music(tmp_path):
    """Two files of 12 s and a text."""
    root = tmp_path / "music"
    root.mkdir()
    generator = np.random.default_rng(0)
    for name in ("a.flac", "b.wav"):
        soundfile.write(root / name, 0.1 * generator.standard_normal(12 * 16_000), 16_000)
    (root / "text.mp3").write_text("hello")
    return root


def command(*arguments):
    """The command's status, what it said, and the last line of its standard error."""
    status, said, errors = run_command(prepare, *arguments, "--workers", 1)
    return status, said, errors.splitlines()[-1] if errors else ""


def test_a_folder_becomes_a_store(music, tmp_path):
    status, said, _ = command(music, tmp_path / "store")
    assert status == 0
    assert "3 files, about 0.01 hours, 1 shards" in said
    assert re.search(r"disk needed: \d+kB; left where .* is: [\d.]+GB", said)
    # 12 s are 376 frames: a clip of 313 frames, and a rest of 63 that is too short.
    assert "store: 2 clips, 0.01 hours, 160kB" in said
    assert f"3 files: 2 stored, 1 reported in {tmp_path}/store/report.csv" in said
    opened = Store.open(tmp_path / "store")
    assert opened.frames.tolist() == [313, 313]


def test_options_cut_and_are_remembered(music, tmp_path):
    store = tmp_path / "store"
    options = ("--clip-seconds", 4, "--min-seconds", 3.5, "--shard-mb", 0.1)
    assert command(music, store, *options)[0] == 0
    expected = StoreSettings(clip_frames=126, min_frames=110, shard_frames=390)
    assert Store.open(store).settings == expected
    assert Store.open(store).frames.tolist() == [126, 126, 124] * 2
    assert command(music, store)[0] == 0
    assert command(music, store, "--extend")[0] == 0
    assert command(music, store, "--min-seconds", 3.5)[0] == 0
    status, _, error = command(music, store, "--clip-seconds", 5)
    assert status == 2
    assert "clip_frames 126, now 157" in error
    status, _, error = command(music, store, "--min-seconds", 9)
    assert status == 2
    assert "the shortest clip (282 frames)" in error


def test_parts_are_made_and_merged(music, tmp_path):
    parts = [tmp_path / f"part{i}" for i in (1, 2, 3, 4)]
    made = [command(music, part, "--shard", f"{i + 1}/4") for i, part in enumerate(parts)]
    # Three files in four parts: one at least is empty, which is no fault.
    assert any("0 files" in said for _, said, _ in made)
    assert [status for status, _, _ in made] == [0] * 4
    assert command("--merge", tmp_path / "store", *parts[1:])[0] == 2
    status, said, _ = command("--merge", tmp_path / "store", *parts)
    assert status == 0
    assert "3 files: 2 stored, 1 reported" in said
    assert len(Store.open(tmp_path / "store")) == 2


def test_a_flipped_bit_is_found(music, tmp_path):
    store = tmp_path / "store"
    command(music, store)
    status, said, _ = command("--verify", store)
    assert (status, said) == (0, f"{store}: 2 clips, all checksums are right\n")
    content = bytearray(shard_path(store, 0).read_bytes())
    content[-1] ^= 1
    shard_path(store, 0).write_bytes(content)
    status, _, error = command("--verify", store)
    assert status == 2
    assert error.startswith(f"prepare: {shard_path(store, 0)}: its checksum is not")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "store"], "nowhere: no such folder; give"),
        (["music", "store", "--extend"], "store: there is no store to extend"),
        (["--verify", "music"], "music: not a store"),
        (["--merge", "store", "music"], "music: not a store"),
        (["music", "store", "--min-seconds", "11"], "must .* not exceed a full one"),
    ],
)
def test_bad_input_is_one_line_and_status_2(music, monkeypatch, arguments, message):
    monkeypatch.chdir(music.parent)
    status, said, error = command(*arguments)
    assert (status, said) == (2, "")
    assert re.search(message, error)
    assert not (music.parent / "store").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["music"],
        ["a", "b", "c"],
        ["--merge", "store"],
        ["--verify", "a", "b"],
        ["music", "store", "--shard", "5/4"],
        ["music", "store", "--shard", "4"],
        ["music", "store", "--clips", "1"],
    ],
)
def test_wrong_use_exits_with_status_2(arguments):
    status, said, errors = run_command(prepare, *arguments)
    assert (status, said) == (2, "")
    assert errors.startswith("prepare: ")
    assert errors.count("\n") == 1


def test_a_store_without_a_clip_is_bad_input(music, tmp_path):
    (music / "a.flac").unlink()
    (music / "b.wav").unlink()
    status, _, error = command(music, tmp_path / "store")
    assert status == 2
    assert "none of the files could be used" in error


def test_very_loud_and_silent_passages_are_mentioned(tmp_path):
    (tmp_path / "music").mkdir()
    samples = 100 * np.random.default_rng(0).standard_normal(30 * 16_000)
    samples[: 15 * 16_000] = 0
    soundfile.write(tmp_path / "music" / "loud.wav", samples, 16_000, subtype="FLOAT")
    _, said, _ = command(tmp_path / "music", tmp_path / "store")
    assert "silent clips of stored files, left out: 1\n" in said
    assert re.search(r"clamped to float16's range: [\d,]+, in very loud files: 1\n", said)

"""A library brought up to date is, to the byte, the one that is made anew."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_library import write_model, write_noise

from myna_plugin.cli.main import main
from myna_plugin.common import memory
from myna_plugin.library.table import read_library
from myna_plugin.library.tracks import Track
from myna_plugin.library.update import Known, compare


def myna(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def embed(tmp_path):
    """`myna embed` of a folder into a library, by a tiny model."""
    model = write_model(tmp_path)

    def run(folder, out, *options):
        return myna("embed", folder, "--out", out, "--model", model, "--device", "cpu", *options)

    return run


@pytest.fixture
def music(tmp_path):
    """A hundred tracks: two units."""
    folder = tmp_path / "music"
    for i in range(100):
        write_noise(folder / f"{i:03d}.wav", 1_000 + 211 * i, i)
    return folder


def test_free_memory_is_given_back_while_tracks_are_embedded(embed, music, tmp_path, monkeypatch):
    given_back = []
    monkeypatch.setattr(memory, "EVERY_S", 0)
    monkeypatch.setattr(memory, "give_back_free_memory", lambda: given_back.append(True))
    assert embed(music, tmp_path / "library.parquet").exit_code == 0
    assert len(given_back) >= 100  # after every event of a track


def change(music):
    """Add, remove, edit, move, copy, touch and break; what `embed` says of it."""
    write_noise(music / "new.wav", 9_000, 200)
    write_noise(music / "010.wav", 1_000 + 211 * 10, 300)  # of the same size
    write_noise(music / "011.wav", 5_000, 301)
    for name in ("020.wav", "021.wav", "022.wav"):
        (music / name).unlink()
    (music / "elsewhere").mkdir()
    (music / "030.wav").rename(music / "elsewhere" / "z.wav")
    (music / "099.wav").rename(music / "000a.wav")
    shutil.copy(music / "040.wav", music / "copy.wav")
    os.utime(music / "050.wav")
    (music / "060.wav").write_bytes(b"no audio")
    for name, to in (("070.wav", "070.wav"), ("080.wav", "tagged and moved.wav")):
        content = (music / name).read_bytes()
        (music / name).unlink()
        (music / to).write_bytes(content + b"LIST\x10\0\0\0INFOINAM\4\0\0\0Neu\0")
    return "1 new, 1 copied, 3 changed, 1 with other tags, 3 moved, 3 gone, 90 as they were"


@pytest.mark.parametrize("options", [[], ["--timestamps", "--hop-ms", "500"]])
def test_an_update_is_the_library_made_anew(tmp_path, music, embed, options, monkeypatch):
    out, anew = tmp_path / "library.parquet", tmp_path / "anew.parquet"
    assert embed(music, out, *options).exit_code == 0
    expected = change(music)
    embedded = count_embedded(monkeypatch)

    result = embed(music, out, *options)

    assert result.exit_code == 1, "one is no audio any more"
    assert expected in result.output
    assert sorted(embedded) == [str(music / name) for name in ("010.wav", "011.wav", "new.wav")]
    assert embed(music, anew, *options).exit_code == 1
    assert out.read_bytes() == anew.read_bytes()
    report = tmp_path / "library.parquet.failed.csv"
    assert "060.wav" in report.read_text()

    again = embed(music, out, *options)

    assert again.exit_code == 1
    assert "1 failed before, 98 as they were" in again.output
    assert out.read_bytes() == anew.read_bytes()
    (music / "060.wav").unlink()
    assert embed(music, out, *options).exit_code == 0
    assert not report.exists()


def count_embedded(monkeypatch):
    """Paths of the tracks that are embedded from now on."""
    from myna_plugin.library import building

    paths, real = [], building.embed_tracks

    def watched(*arguments, **options):
        for number, row in real(*arguments, **options):
            if row.fault is None:
                paths.append(row.track.path)
            yield number, row

    monkeypatch.setattr(building, "embed_tracks", watched)
    return paths


def test_nothing_is_written_where_nothing_has_changed(tmp_path, music, embed):
    out = tmp_path / "library.parquet"
    assert embed(music, out).exit_code == 0
    before = (out.stat().st_mtime_ns, out.stat().st_ino)

    result = embed(music, out)

    assert (result.exit_code, result.output) == (
        0,
        f"{out}: 100 as they were\n{out}: 100 tracks\n",
    )
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "library.parquet",
        "music",
        "myna-hybrid.pth",
    ]


def test_a_link_to_a_library_stays_one(tmp_path, music, embed):
    (tmp_path / "disk").mkdir()
    there, link = tmp_path / "disk" / "real.parquet", tmp_path / "library.parquet"
    assert embed(music, there).exit_code == 0
    link.symlink_to(there)
    write_noise(music / "new.wav", 9_000, 200)

    assert embed(music, link).exit_code == 0

    assert link.is_symlink()
    assert "new.wav" in "".join(read_library(there).paths)
    assert [path.name for path in there.parent.iterdir()] == ["real.parquet"]


def test_new_embeds_all_again(tmp_path, music, embed, monkeypatch):
    out = tmp_path / "library.parquet"
    assert embed(music, out).exit_code == 0
    before, embedded = out.read_bytes(), count_embedded(monkeypatch)

    assert embed(music, out, "--new").exit_code == 0

    assert len(embedded) == 100
    assert out.read_bytes() == before


def test_an_update_that_is_stopped_goes_on(tmp_path, music, embed, monkeypatch):
    """Until the end the library is the former one, whole."""
    from myna_plugin.library import building

    out = tmp_path / "library.parquet"
    assert embed(music, out).exit_code == 0
    before = out.read_bytes()
    change(music)
    for i in range(90):
        write_noise(music / "more" / f"{i}.wav", 2_000, 500 + i)
    real = building.Parts.write

    def stop(self, unit, content):
        real(self, unit, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building.Parts, "write", stop)
        assert embed(music, out).exit_code == 130
    assert out.read_bytes() == before

    result = embed(music, out)

    assert "going on" in result.output
    anew = tmp_path / "anew.parquet"
    assert embed(music, anew).exit_code == 1
    assert out.read_bytes() == anew.read_bytes()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("tokens", "its tokens is 1.0, yours 0.25; give the options"),
        ("seconds", "its seconds is None, yours 60.0; give the options"),
        ("lost", "gone of its"),
        (
            "shard",
            "is finished; without --shard the command brings it up to date, with --new shards",
        ),
        ("old", "damaged, or made before libraries could be updated; give --new"),
    ],
)
def test_what_cannot_be_updated_is_a_line_and_stays(tmp_path, music, embed, case, message):
    import pyarrow.parquet as pq

    out = tmp_path / "library.parquet"
    assert embed(music, out).exit_code == 0
    options = []
    if case == "tokens":
        options = ["--tokens", "1/4"]
    elif case == "seconds":
        options = ["--seconds", "60"]
    elif case == "lost":
        for i in range(51):
            (music / f"{i:03d}.wav").unlink()
        message = "51 of its 100 tracks are not among the files named: is a disk missing"
    elif case == "shard":
        options = ["--shard", "1/2"]
    else:
        pq.write_table(pq.read_table(out).drop_columns(["content"]), out)
    before = out.read_bytes()

    result = embed(music, out, *options)

    assert result.exit_code == 2
    assert result.output.startswith(f"myna embed: {out}: ")
    assert message in result.output
    assert result.output.count("\n") == 1
    assert out.read_bytes() == before
    assert not list(tmp_path.glob("*.parts"))
    assert embed(music, out, *options, "--new").exit_code == 0


def test_shards_may_replace_a_library(tmp_path, music, embed):
    out = tmp_path / "library.parquet"
    assert embed(music, out).exit_code == 0
    before = out.read_bytes()
    for shard in ("1/2", "2/2"):
        assert embed(music, out, "--new", "--shard", shard).exit_code == 0
    assert myna("merge", out).exit_code == 0
    assert out.read_bytes() == before


def test_contents_are_read_only_where_a_size_agrees():
    rows = (Track("a", 1, 10), Track("b", 2, 10), Track("c", 3, 10), Track("d", 4, 10))
    known = Known([track.state for track in rows], ["A", "B", "C", "D"], list("wxyz"))
    tracks = [
        Track("a", 1, 10),  # as it was
        Track("b", 2, 11),  # touched
        Track("c", 3, 11),  # changed
        Track("e", 4, 11),  # d, moved
        Track("f", 4, 12),  # a copy of it
        Track("g", 5, 12),  # new
        Track("h", 6, 12),
    ]
    contents = {"b": "B", "c": "?", "e": "D", "f": "D"}
    sounds = {"c": "v", "g": "u", "h": None}

    changes = compare(tracks, known, {"h"}, contents.__getitem__, sounds.__getitem__)

    assert changes.rows == [0, 1, None, 3, 3, None, None]
    assert changes.counts == Counter(
        {"as they were": 2, "changed": 1, "moved": 1, "copied": 1, "new": 1, "failed before": 1}
        | {"gone": 0}
    )
    assert changes.tagged == set()
    assert compare([Track("a", -1, -1)], known, set(), Path, lambda path: None).rows == [None]


def test_sounds_are_compared_where_a_file_has_changed_or_may_have_moved():
    rows = (Track("a", 1, 10), Track("b", 2, 10), Track("c", 3, 10))
    known = Known([track.state for track in rows], ["A", "B", "C"], ["x", "y", "z"])
    sounds = {"a": "x", "n": "z", "m": "y", "o": "w"}
    tracks = [Track("a", 9, 11), Track("b", 2, 10), Track("n", 9, 12), Track("m", 9, 13)]
    tracks.append(Track("o", 9, 14))

    changes = compare(tracks, known, set(), {}.get, sounds.__getitem__)

    assert changes.rows == [0, 1, 2, 1, None]
    assert changes.tagged == {0, 2, 3}
    assert changes.counts == Counter(
        {"with other tags": 1, "as they were": 1, "moved": 1, "copied": 1, "new": 1, "gone": 0}
    )
    unheard = compare([*map(Track, "abc"), Track("n")], known, set(), {}.get, {"n": ""}.get)
    assert unheard.counts["new"] == 1, "nothing is missing that it could be"

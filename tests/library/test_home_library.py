"""A home library from its first embedding to its map, as its owner goes about it."""

import json
import os
import re
import unicodedata
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
from click.testing import CliRunner
from home_library import FORMATS, MIX_SECONDS, NFC, make_home_library, write_song
from tiny_library import write_model

from myna_plugin.cli.main import main
from myna_plugin.library.tracks import printable


def myna(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def change(root):
    """What happens to a library in a month."""
    write_song(root / "New Artist" / "D\u00e9but" / "01.flac", 2_000, artist="New Artist")
    write_song(root / "New Artist" / "D\u00e9but" / "02.mp3", 2_001, artist="New Artist")
    for song in (root / "Artist 3" / "Album 2").glob("0[012]*"):
        song.unlink()
    (root / "Artist 4" / "Album 0").rename(root / "Artist 4" / "Album 0 (2019)")
    write_song(next((root / "Artist 5" / "Album 0").glob("0?*.flac")), 3_000)  # another take
    retagged = next((root / "Artist 6" / "Album 1").glob("0?*.flac"))
    write_song(retagged, int(re.findall(r"Song (\d+)", retagged.name)[0]), artist="Somebody Else")
    for song in (root / "Artist 7" / "Album 0").glob("0?*"):
        os.utime(song)
    (root / "broken.mp3").unlink()
    return "2 new, 1 changed, 1 with other tags, 7 moved, 3 gone, 1 failed before"


def test_a_home_library_from_embedding_to_map(tmp_path):
    root, out = tmp_path / "music", tmp_path / "library.parquet"
    root.mkdir()
    expected = make_home_library(root)
    assert len(expected) > 180
    embed = ["embed", root, "--exclude", "Podcasts", "--model", write_model(tmp_path)]
    embed += ["--device", "cpu", "--tokens", "1/4"]

    check_embedding(root, expected, myna(*embed, "--out", out), out)
    counts = change(root)
    updated = myna(*embed, "--out", out)
    assert updated.exit_code == 1, "empty.flac is still there"
    assert counts in updated.output
    check_against_new(tmp_path, out, embed)
    check_search(root, out)
    check_map(tmp_path, out)


def check_embedding(root, expected, result, out):
    """Every file has its row or its line, and what is left aside is counted."""
    assert result.exit_code == 1
    assert "left out: 5 (#recycle 1, .Trash-1000 1, ._* 1, .hidden 1, @eaDir 1)" in result.output
    assert "files and folders left out by --exclude Podcasts: 1" in result.output
    assert "files that are not audio, passed over: 25 (.jpg 24, .txt 1)" in result.output
    assert "albums cut into tracks by their cue sheets: 1 (3 tracks)" in result.output
    assert "files that could not be used: 2" in result.output
    rows = pq.read_table(out).drop_columns(["embedding"]).to_pylist()
    bad = {str(root / "broken.mp3"), str(root / "empty.flac")}
    album = str(root / "Rips" / "Album.flac")
    there = Counter(row["path"] for row in rows)
    assert there == Counter([*map(printable, {*expected} - bad), album, album])
    by_path = {row["path"]: row for row in rows}
    odd = {path: row["warning"] for path, row in by_path.items() if row["warning"]}
    assert [*odd] == [str(root / "Silence" / f"{name}.wav") for name in "ab"]
    assert by_path[str(root / "Mixes" / "two hours.wav")]["duration_s"] == MIX_SECONDS
    titles = [row["title"] for row in rows if row["path"] == album]
    assert titles == ["Piece 0", "Piece 1", "Piece 2"]
    tagged = [row for row in rows if row["artist"] == "Artist 5"]
    assert len(tagged) > 10
    assert all(f"{row['title']}." in row["path"] for row in tagged)
    assert {os.path.splitext(path)[1] for path in there} == FORMATS.keys()


def check_against_new(tmp_path, out, embed):
    """The updated library is the one that is made anew."""
    anew = tmp_path / "anew.parquet"
    assert myna(*embed, "--out", anew, "--quiet").exit_code == 1
    assert out.read_bytes() == anew.read_bytes()


def check_search(root, out):
    """Each recording once, whatever it is called, in what format, and however often."""
    first = next((root / "Artist 0" / "Album 0").glob("00*"))
    copies = {first, root / "Downloads" / f"copy{first.suffix}", root / "Downloads"}
    rows = json.loads(myna("similar", first, out, "--count", 300, "--json").output)
    paths = [row["path"] for row in rows]
    assert not {*map(str, copies), str(root / "Downloads" / "other format.flac")} & {*paths}
    second = next((root / "Artist 1" / "Album 0").glob("00*"))
    linked = str(root / "Playlists" / f"linked{second.suffix}")
    (pair,) = [{row["path"], *row["copies"]} for row in rows if row["copies"]]
    assert pair == {str(second), linked}
    n_rows = pq.read_metadata(out).num_rows
    left_out = 4 + 2  # the seed with its two copies, one other copy, and two files of silence
    assert len(rows) == n_rows - left_out
    few = json.loads(
        myna("similar", first, out, "--count", 300, "--json", "--per-artist", 1).output
    )
    artists = Counter(row["artist"] for row in few if row["artist"])
    assert artists.keys() >= {NFC, "Ripped", "New Artist", "Somebody Else"}
    assert {*artists.values()} == {1}
    # Typed as another system composes it.
    typed = root / "New Artist" / "De\u0301but" / "01.flac"
    assert not typed.exists()
    as_it_is = root / "New Artist" / "D\u00e9but" / "01.flac"
    assert myna("similar", typed, out).output == myna("similar", as_it_is, out).output
    playlist = myna("similar", first, root / "Rips" / "Album.flac", out, "--m3u").output
    files = [line for line in playlist.splitlines() if not line.startswith("#")]
    assert len(files) == 10
    assert all(os.path.isfile(file) for file in files)


def check_map(tmp_path, out):
    """Every track is named in a page that fetches nothing."""
    page = tmp_path / "map.html"
    assert myna("plot", out, "--colour", "artist", "--out", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert len(data["points"]) == pq.read_metadata(out).num_rows
    names = [said.split("\n")[0] for said in data["texts"]]
    assert sum(unicodedata.normalize("NFC", name).startswith(f"{NFC} –") for name in names) == 6
    assert not re.search(r"https?:|src=", text)
    assert len(data["groups"]) <= 10
    assert np.isfinite([point[:2] for point in data["points"]]).all()

"""`myna similar`, `plot`, `info`, `report`, and the group itself."""

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner
from sound_encoding import encode
from tiny_library import FACTS, load_tiny, write_model, write_noise

from myna_plugin.cli.main import main
from myna_plugin.library.table import read_library, write_library
from myna_plugin.model.checkpoint import _say_which, save_checkpoint
from myna_plugin.model.identity import digest_weights


def myna(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def library(tmp_path):
    """A library of six tracks; the last is a copy of the first."""
    for i in range(6):
        write_noise(tmp_path / "music" / f"{i}.wav", 20_000 + 9_000 * (i % 5), i % 5)
    out = tmp_path / "library.parquet"
    model = write_model(tmp_path)
    assert myna("embed", tmp_path / "music", "--out", out, "--model", model).exit_code == 0
    return out


def write_like_2(folder):
    """A track whose vector is that of 2.wav, and which is another one: too short to tell."""
    samples, rate = soundfile.read(folder / "music" / "2.wav")
    samples[0] += 0.01
    soundfile.write(folder / "query.wav", samples, rate)
    return folder / "query.wav"


def test_copies_of_a_track_are_one_hit_and_none_of_their_own(tmp_path, library):
    music = tmp_path / "music"
    result = myna("similar", music / "0.wav", library, "--count", "9")

    assert result.exit_code == 0, result.output
    lines = [line.split("\t") for line in result.output.splitlines()]
    assert sorted(path for _, path in lines) == [str(music / f"{i}.wav") for i in (1, 2, 3, 4)]
    scores = [float(score) for score, _ in lines]
    assert scores == sorted(scores, reverse=True)
    rows = json.loads(myna("similar", music / "1.wav", library, "--json").output)
    both = [{row["path"], *row["copies"]} for row in rows if row["copies"]]
    assert both == [{str(music / "0.wav"), str(music / "5.wav")}]
    copy = shutil.copy(music / "0.wav", tmp_path / "x.wav")
    assert myna("similar", copy, library, "--count", "9").output == result.output


def test_a_silent_seed_is_told(tmp_path):
    write_noise(tmp_path / "music" / "0.wav", 30_000, 0)
    soundfile.write(tmp_path / "music" / "1.wav", np.zeros(30_000), 16_000)
    out, music = tmp_path / "library.parquet", tmp_path / "music"
    assert myna("embed", music, "--out", out, "--model", write_model(tmp_path)).exit_code == 0

    result = myna("similar", music / "1.wav", out)

    assert result.stderr == f"{music / '1.wav'}: silent: nothing above -80 dBFS\n"
    assert myna("similar", music / "0.wav", out).stderr == ""


def test_clicks_are_left_out_and_counted(tmp_path):
    for i in range(4):
        write_noise(tmp_path / "music" / f"{i}.wav", 700 if i == 3 else 30_000, i)
    out, music = tmp_path / "library.parquet", tmp_path / "music"
    assert myna("embed", music, "--out", out, "--model", write_model(tmp_path)).exit_code == 0

    result = myna("similar", music / "0.wav", out, "--csv")

    assert result.stderr == "left out, as shorter than 0.5 s: 1; --min-seconds 0 lists them\n"
    assert len(result.stdout.splitlines()) == 1 + 2
    for wanted in (["0.wav", "--min-seconds", 0], ["3.wav"]):
        result = myna("similar", music / wanted[0], out, *wanted[1:])
        assert (len(result.stdout.splitlines()), result.stderr) == (3, "")


def test_a_seed_is_heard_as_the_library_was(tmp_path):
    """In the middle alone: of two files of one length, and one middle, the vectors are one."""
    for i in range(4):
        write_noise(tmp_path / "music" / f"{i}.wav", 90_000, i)
    out, model = tmp_path / "library.parquet", write_model(tmp_path)
    made = myna("embed", tmp_path / "music", "--out", out, "--model", model, "--seconds", 2)
    assert made.exit_code == 0, made.output
    samples, rate = soundfile.read(tmp_path / "music" / "2.wav")
    samples[:20_000] = samples[-20_000:] = 0.5 * np.sin(np.arange(20_000))
    soundfile.write(tmp_path / "query.wav", samples, rate)

    first, *others = json.loads(myna("similar", tmp_path / "query.wav", out, "--json").output)

    assert first["path"] == str(tmp_path / "music" / "2.wav")
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert len(others) == 3


def test_several_seeds_in_every_layout(tmp_path, monkeypatch):
    """Named by their tags; a piece of an album by its place."""
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path)
    for i in range(5):
        tags = {"artist": f"Anna{i // 4}", "title": f'Song "{i}", é', "album": "Best of"}
        sound = np.random.default_rng(i).uniform(-0.3, 0.3, (1, 30_000)).astype(np.float32)
        encode(tmp_path / f"{i}.flac", "flac", sound, 16_000, tags=tags)
    write_noise(tmp_path / "z.wav", 50_000, 9)
    sheet = "".join(f" TRACK 0{i} AUDIO\n INDEX 01 00:0{i}:00\n" for i in (1, 2))
    (tmp_path / "z.cue").write_text(f"FILE z.wav WAVE\n{sheet}")
    assert myna("embed", ".", "--out", "all.parquet", "--model", model).exit_code == 0
    seeds = ["similar", "0.flac", "1.flac", "all.parquet"]

    rows = json.loads(myna(*seeds, "--json").output)

    assert len(rows) == 5
    by_path = {(row["path"], row["start_s"]): row for row in rows}
    song = by_path["./3.flac", None]
    assert (song["artist"], song["title"], song["album"]) == ("Anna0", 'Song "3", é', "Best of")
    assert (by_path["./z.wav", 1]["end_s"], by_path["./z.wav", 2]["end_s"]) == (2, None)
    table = list(csv.DictReader(io.StringIO(myna(*seeds, "--csv").output)))
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    assert [float(row["similarity"]) for row in table] == [row["similarity"] for row in rows]
    lines = [line.split("\t") for line in myna(*seeds).output.splitlines()]
    assert [line[1] for line in lines] == [row["path"] for row in rows]
    assert [f"{song['similarity']:.4f}", "./3.flac", "Anna0", 'Song "3", é', "Best of"] in lines
    playlist = myna(*seeds, "--m3u").output.splitlines()
    assert playlist[0] == "#EXTM3U"
    assert [os.path.relpath(p) for p in playlist[1:] if p[0] != "#"] == [
        row["path"].removeprefix("./") for row in rows
    ]
    place = playlist.index("#EXTVLCOPT:start-time=1.000")
    assert playlist[place - 1 : place + 3] == [
        *("#EXTINF:1,z", "#EXTVLCOPT:start-time=1.000", "#EXTVLCOPT:stop-time=2.000"),
        str(tmp_path / "z.wav"),
    ]
    one = json.loads(myna(*seeds, "--json", "--per-artist", "1").output)
    assert sorted(row["artist"] or "" for row in one) == ["", "", "Anna0", "Anna1"]
    album = json.loads(myna("similar", "z.wav", "all.parquet", "--json").output)
    assert [row["path"][-4:] for row in album] == ["flac"] * 5, "an album's tracks are seeds"


def test_a_playlist_names_no_file_that_it_cannot_name(tmp_path, monkeypatch):
    """Names with line breaks, or with bytes that a library's text does not hold."""
    monkeypatch.chdir(tmp_path)
    odd = (b"new\nline.wav", b"old\rline.wav", b"caf\xe9.wav")
    for i, name in enumerate((b"seed.wav", b"caf\xc3\xa9.wav", *odd)):
        write_noise(tmp_path / "new.wav", 16_000, i)
        os.rename("new.wav", name)
    model = write_model(tmp_path)
    assert myna("embed", ".", "--out", "all.parquet", "--model", model).exit_code == 0

    result = myna("similar", "seed.wav", "all.parquet", "--m3u")

    assert (
        result.stdout == "#EXTM3U\n#EXTINF:1,caf\u00e9\n" + str(tmp_path / "caf\u00e9.wav") + "\n"
    )
    assert result.stderr.count("left out, a playlist holds no name with a line break or") == 3
    lines = myna("similar", "seed.wav", "all.parquet").output.splitlines()
    assert [line.split("\t")[0] for line in lines] == sorted(
        (line[:6] for line in lines), reverse=True
    )
    assert {line.split("\t")[1] for line in lines} >= {"./new\\nline.wav", "./old\\rline.wav"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.wav"], "a.wav: name at least one library (.parquet, from myna embed) as well"),
        (["a.parquet"], "a.parquet: name at least one audio file as well"),
        (["gone.wav", "library.parquet"], "gone.wav: no such file"),
        (["a.wav", "a.parquet", "--csv", "--json"], "--csv --json: choose one of them"),
    ],
)
def test_what_is_missing_for_a_search_is_a_line(tmp_path, monkeypatch, library, arguments, told):
    monkeypatch.chdir(tmp_path)
    result = myna("similar", *arguments)
    assert (result.exit_code, result.output) == (2, f"myna similar: {told}\n")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_track_that_is_not_in_the_library_is_embedded(tmp_path, library, device):
    query = write_like_2(tmp_path)

    result = myna("similar", query, library, "--device", device)

    assert result.output.splitlines()[0] == f"1.0000\t{tmp_path / 'music' / '2.wav'}"


def test_who_searches_is_not_told_that_no_model_was_named(tmp_path, library, caplog):
    (tmp_path / "two").mkdir()
    for name in ("0.wav", "1.wav"):
        (tmp_path / "two" / name).symlink_to(tmp_path / "music" / name)
    packaged = tmp_path / "packaged.parquet"
    assert myna("embed", tmp_path / "two", "--out", packaged).exit_code == 0
    _say_which.cache_clear()
    caplog.clear()

    result = myna("similar", tmp_path / "music" / "2.wav", packaged)

    assert result.exit_code == 0, result.output
    assert "no model was named" not in caplog.text + result.output


def test_a_library_of_sequences_is_searched_with_their_mean(tmp_path, library):
    sequences = tmp_path / "sequences.parquet"
    options = ["--timestamps", "--timestamp-layer", "1", "--hop-ms", "200"]
    options += ["--model", tmp_path / "myna-hybrid.pth"]
    assert myna("embed", tmp_path / "music", "--out", sequences, *options).exit_code == 0
    query = write_like_2(tmp_path)

    result = myna("similar", query, sequences, "--device", "cpu")

    assert result.output.splitlines()[0] == f"1.0000\t{tmp_path / 'music' / '2.wav'}"
    mixed = myna("similar", query, library, sequences)
    assert mixed.exit_code == 2
    assert "sequences.parquet: made with another model" in mixed.output


def test_a_query_is_read_off_the_librarys_blocks(tmp_path, library):
    layers = tmp_path / "layers.parquet"
    options = ["--scene-layers", "1,2", "--scene-pooling", "mean-std"]
    options += ["--model", tmp_path / "myna-hybrid.pth"]
    assert myna("embed", tmp_path / "music", "--out", layers, *options).exit_code == 0
    query = write_like_2(tmp_path)
    rows = read_library(layers)
    assert (rows.facts["scene_layers"], rows.facts["scene_pooling"]) == ([1, 2], "mean-std")
    assert read_library(library).facts["scene_layers"] == [2]
    one = load_tiny(tmp_path, scene_layers=[1, 2], scene_pooling="mean-std")
    for path, row in zip(rows.paths, rows.embeddings, strict=True):
        assert np.allclose(row, one.embed(path), rtol=1e-4, atol=1e-5)

    result = myna("similar", query, layers, "--device", "cpu")

    assert result.output.splitlines()[0] == f"1.0000\t{tmp_path / 'music' / '2.wav'}"
    mixed = myna("similar", query, library, layers)
    assert mixed.exit_code == 2
    assert "layers.parquet: made with another model" in mixed.output


def test_a_library_of_a_share_of_the_tokens_is_searched_with_it(tmp_path, library):
    quick, model = tmp_path / "quick.parquet", tmp_path / "myna-hybrid.pth"
    options = ["--model", model, "--tokens", "1/4"]
    assert myna("embed", tmp_path / "music", "--out", quick, *options).exit_code == 0
    query = write_like_2(tmp_path)
    rows = read_library(quick)
    assert rows.facts["tokens"] == 0.25
    one = load_tiny(tmp_path, tokens=0.25)
    for path, row in zip(rows.paths, rows.embeddings, strict=True):
        assert np.allclose(row, one.embed(path), rtol=1e-4, atol=1e-5)

    alone, mixed = myna("similar", query, quick), myna("similar", query, quick, library)

    assert alone.output.splitlines()[0] == f"1.0000\t{tmp_path / 'music' / '2.wav'}"
    assert mixed.exit_code == 0
    assert f"{library}: made of 1.0 of the tokens, {quick} of 0.25: tracks of" in mixed.output


def test_other_weights_than_the_librarys_are_refused(tmp_path, library):
    query = write_noise(tmp_path / "query.wav", 9_000)
    (tmp_path / "myna-hybrid.pth").unlink()
    gone = myna("similar", query, library)
    assert gone.exit_code == 2
    assert "myna-hybrid.pth: no such file" in gone.output

    result = myna("similar", query, library, "--model", "")

    assert result.exit_code == 2
    assert "other weights" in result.output


def test_a_folder_is_no_query(tmp_path):
    result = myna("similar", tmp_path, "library.parquet")
    assert (result.exit_code, result.output) == (
        2,
        f"myna similar: {tmp_path}: is a folder; name one audio file, such as one in it\n",
    )


def test_plot(tmp_path, library):
    result = myna("plot", library, "--out", tmp_path / "a.png", "--max-tracks", "5")

    assert result.exit_code == 0, result.output
    assert "5 of 6 tracks" in result.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_plot_colours_by_any_column(tmp_path, library):
    table = pq.read_table(library)
    wider = tmp_path / "wider.parquet"
    genres = pa.array(["Caf\u00e9", "Cafe\u0301", "x", None, "x", "x"])
    pq.write_table(table.append_column("genre", genres), wider)
    out = tmp_path / "map.html"

    result = myna("plot", wider, "--colour", "genre", "--out", out)

    said = f"genre: 1 of 6 tracks have none\n{out}: written\n"
    assert (result.exit_code, result.output) == (0, said)
    text = out.read_text(encoding="utf-8")
    for name, count in (("x", 3), ("Café", 2), ("(none)", 1)):
        assert f'"name": "{name}", "count": {count}' in text
    assert str(tmp_path / "music" / "0.wav") in text
    assert myna("plot", library, "--colour", "duration_s", "--out", out).exit_code == 0
    for column in (pa.nulls(6), pa.array([np.nan] * 6)):
        pq.write_table(table.append_column("genre", column), wider)
        refused = myna("plot", wider, "--colour", "genre", "--out", tmp_path / "x.png")
        assert (refused.exit_code, refused.output) == (
            2,
            f"myna plot: {wider}: no track has 'genre'; give another --colour, or tag the files "
            "and give the same myna embed again\n",
        )
        assert not (tmp_path / "x.png").exists()
    for wrong in ("genre", "embedding"):
        refused = myna("plot", library, "--colour", wrong, "--out", out)
        assert refused.exit_code == 2
        assert refused.output.startswith(
            f"myna plot: {library}: no column {wrong!r}; there are path, duration_s, warning, size"
        )


@pytest.mark.parametrize("command", [["similar", "a.mp3"], ["plot", "--out", "x.png"]])
def test_a_library_without_tracks_is_a_line(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write_library(tmp_path / "empty.parquet", [], FACTS)
    result = myna(*command, "empty.parquet")
    assert result.exit_code == 2
    assert result.output.startswith(f"myna {command[0]}: empty.parquet: no tracks in it")
    assert result.output.count("\n") == 1


def test_a_full_disk_is_a_line_that_names_the_file(tmp_path, monkeypatch, library):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    below_a_file = myna("plot", library, "--out", library / "a.png")
    assert below_a_file.exit_code == 2
    assert below_a_file.output == (
        f"myna plot: {library}: cannot be written into; choose another folder\n"
    )
    monkeypatch.setattr(os, "fsync", refuse)
    model, there = tmp_path / "myna-hybrid.pth", sorted(tmp_path.rglob("*"))
    for arguments, name in (
        (["plot", library, "--out", tmp_path / "a.pdf"], "a.pdf"),
        (["export", "--to", "safetensors", "--model", model], "a.safetensors"),
        (["embed", tmp_path / "music", "--model", model], r"a.parquet.parts/plan.json"),
    ):
        out = [] if "--out" in arguments else ["--out", tmp_path / name.split("/")[0]]
        out = [str(path).removesuffix(".parts") for path in out]
        result = myna(*arguments, *out)
        assert (result.exit_code, result.output) == (
            1,
            f"myna {arguments[0]}: {tmp_path / name}: No space left on device; free some there, "
            "or write to another disk\n",
        )
    shutil.rmtree(tmp_path / "a.parquet.parts")
    assert sorted(tmp_path.rglob("*")) == there


def test_info_describes_a_checkpoint(tmp_path):
    path = write_model(tmp_path)

    facts = json.loads(myna("info", path, "--json").output)
    text = myna("info", path).output

    assert facts["patchings"] == ["square", "vertical"]
    assert facts["embedding size"] == 128
    assert (facts["scene layers"], facts["timestamp layer"]) == ([2], 2)
    assert facts["scene pooling"] == "mean"
    assert (facts["width"], facts["depth"], facts["heads"]) == (64, 2, 1)
    assert facts["weights"] == digest_weights(load_tiny(tmp_path).embedder.encoder.state_dict())
    assert "parameters       100,736" in text
    assert "not the published Myna" not in text
    packaged = myna("info").output
    assert "not the published Myna" in packaged
    assert "docs/model.md" in packaged
    assert myna("info", tmp_path / "nothing.pth").exit_code == 2


def test_info_tells_a_checkpoints_pooling(tmp_path):
    model = load_tiny(tmp_path).embedder.encoder
    model.config = replace(model.config, scene_pooling="mean-std")
    save_checkpoint(model, tmp_path / "a.safetensors")
    facts = json.loads(myna("info", tmp_path / "a.safetensors", "--json").output)
    assert (facts["scene pooling"], facts["embedding size"]) == ("mean-std", 256)


def test_help_imports_no_command():
    code = "import sys; from myna_plugin.cli.main import main; "
    code += "main(['--help'], standalone_mode=False); "
    code += "print([m for m in sys.modules if m.startswith(('myna_plugin.cli', 'pyarrow'))])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert result.stdout.splitlines()[-1] == "['myna_plugin.cli', 'myna_plugin.cli.main']"

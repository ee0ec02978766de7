"""`myna embed` and `myna merge`, as a user runs them."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner
from tiny_library import load_tiny, same, write_model, write_noise

from myna_plugin.cli.embed import read_inputs
from myna_plugin.cli.main import main
from myna_plugin.common.errors import InputError
from myna_plugin.library.fingerprint import fingerprint
from myna_plugin.library.table import read_library
from myna_plugin.model.audio import load_audio


def myna(*arguments, **options):
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False, **options)


@pytest.fixture
def music(tmp_path):
    """Seven tracks from a sample to a minute, in folders."""
    folder = tmp_path / "music"
    lengths = (1, 800, 16_000, 49_152, 70_000, 500_000, 960_000)
    for i, n_samples in enumerate(lengths):
        write_noise(folder / "ab"[i % 2] / f"{i}.{('wav', 'flac')[i % 2]}", n_samples, i)
    (folder / "cover.jpg").write_bytes(b"no audio")
    return folder


def test_a_folder_becomes_a_row_a_track(tmp_path, music):
    out = tmp_path / "library.parquet"
    model = write_model(tmp_path)

    result = myna("embed", music, "--out", out, "--model", model, "--device", "cpu")

    assert result.exit_code == 0, result.output
    library = read_library(out)
    assert library.paths == sorted(str(p) for p in music.rglob("*.*") if p.suffix != ".jpg")
    single = load_tiny(tmp_path)
    for path, duration_s, row in zip(
        library.paths, library.duration_s, library.embeddings, strict=True
    ):
        assert np.allclose(row, single.embed(path), rtol=1e-4, atol=1e-5)
        assert duration_s in np.array([1, 800, 16_000, 49_152, 70_000, 500_000, 960_000]) / 16_000
    assert library.facts["model"] == str(model)
    assert not list(tmp_path.glob("*.parts")), "tidied up"


def test_the_middle_of_a_track_alone_is_embedded(tmp_path, music):
    """And a track that is no longer is embedded whole, to the bit; all keep their own length."""
    out, whole, model = tmp_path / "a.parquet", tmp_path / "b.parquet", write_model(tmp_path)
    options = ["--model", model, "--device", "cpu"]

    result = myna("embed", music, "--out", out, "--seconds", 5, *options)

    assert result.exit_code == 0, result.output
    assert myna("embed", music, "--out", whole, *options).exit_code == 0
    middles, library = read_library(out), read_library(whole)
    assert (middles.facts["seconds"], library.facts["seconds"]) == (5.0, None)
    assert np.array_equal(middles.duration_s, library.duration_s)
    single, n_longer = load_tiny(tmp_path), 0
    for i, path in enumerate(library.paths):
        if library.duration_s[i] <= 5:
            assert np.array_equal(middles.embeddings[i], library.embeddings[i])
            assert middles.entries[i] == library.entries[i]
            continue
        n_longer += 1
        samples = load_audio(path).numpy()
        start = (len(samples) - 80_000) // 2
        expected = single.embed(samples[start : start + 80_000], 16_000)
        assert np.allclose(middles.embeddings[i], expected, rtol=1e-4, atol=1e-5)
        assert not np.allclose(middles.embeddings[i], library.embeddings[i], rtol=1e-4, atol=1e-5)
        assert middles.entries[i].content == library.entries[i].content
        assert middles.entries[i].fingerprint == fingerprint(samples[start : start + 80_000])
    assert n_longer == 2
    again = myna("embed", music, "--out", out, "--seconds", 5, *options)
    assert "7 as they were" in again.output


@pytest.mark.parametrize("layer", [None, 1])
def test_timestamps(tmp_path, music, layer):
    out = tmp_path / "library.parquet"
    options = ["--timestamps", "--hop-ms", "500", "--device", "cpu"]
    options += ["--timestamp-layer", layer] if layer else []
    result = myna("embed", music, "--out", out, "--model", write_model(tmp_path), *options)

    assert result.exit_code == 0, result.output
    single = load_tiny(tmp_path, hop_ms=500.0, timestamp_layer=layer)
    table = pq.read_table(out)
    assert json.loads(table.schema.metadata[b"myna"])["timestamp_layer"] == (layer or 2)
    for path, rows in zip(*table.select(["path", "embedding"]).to_pydict().values(), strict=True):
        assert np.array_equal(np.array(rows, np.float32), single.embed_timestamps(path)[0])


def test_what_is_left_aside_is_counted(tmp_path, music):
    out, model = tmp_path / "library.parquet", write_model(tmp_path)
    write_noise(music / "@eaDir" / "x.wav", 900)

    result = myna(
        "embed", music, "--out", out, "--model", model, "--exclude", "b", "--exclude", "c"
    )

    assert result.output.splitlines()[:4] == [
        "hidden and system files and folders, left out: 1 (@eaDir 1)",
        "files and folders left out by --exclude b: 1",
        "files and folders left out by --exclude c: 0",
        "files that are not audio, passed over: 1 (.jpg 1)",
    ]
    assert read_library(out).paths == [str(music / "a" / f"{i}.wav") for i in (0, 2, 4, 6)]
    refused = myna("embed", music, "--out", out, "--exclude", "../b")
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)


def test_a_quiet_run_says_what_cannot_be_used_alone(tmp_path, music):
    out, options = tmp_path / "library.parquet", ["--model", write_model(tmp_path), "--quiet"]
    write_noise(music / "@eaDir" / "x.wav", 900)

    first = myna("embed", music, "--out", out, *options)
    (music / "bad.wav").write_bytes(b"no audio")
    second = myna("embed", music, "--out", out, *options)

    assert (first.exit_code, first.output) == (0, "")
    assert second.exit_code == 1
    assert second.output.startswith(f"myna: {music}/bad.wav: cannot be decoded")
    assert second.output.count("\n") == 1


def test_paths_on_standard_input(tmp_path, music):
    paths = [str(music / "b" / "3.flac"), str(music / "a" / "0.wav")]
    out = tmp_path / "library.parquet"

    lines = "\n".join([*paths, "", paths[0]])
    result = myna("embed", "-", "--out", out, "--model", write_model(tmp_path), input=lines)

    assert result.exit_code == 0, result.output
    assert read_library(out).paths == paths, "in the order given, each once"


@pytest.mark.parametrize(
    ("content", "null", "expected"),
    [
        (b"a\nb c\r\n\na\n", False, ["a", "b c", "a"]),
        (b"\xef\xbb\xbfa\nb", False, ["a", "b"]),
        (b"caf\xe9\n", False, ["caf\udce9"]),
        (b"a\nb\0caf\xe9\0\0", True, ["a\nb", "caf\udce9"]),
        (b"", True, []),
        (b"a\0b\0", False, "standard input has NUL bytes: add --null"),
        (b"a\nb\n", True, "standard input has no NUL bytes: leave --null out"),
        ("ab\n".encode("utf-16-le"), False, "standard input has NUL bytes: add --null"),
        ("ab\n".encode("utf-16"), False, "standard input is UTF-16: convert it"),
        ("ab\n".encode("utf-16"), True, "standard input is UTF-16: convert it"),
    ],
)
def test_paths_are_read_as_bytes(monkeypatch, content, null, expected):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "ascii"))
    if isinstance(expected, list):
        assert read_inputs(["x", "-", "y"], null) == ["x", *expected, "y"]
    else:
        with pytest.raises(InputError, match=expected):
            read_inputs(["-"], null)


def test_names_of_any_bytes_have_rows_whatever_the_locale(tmp_path):
    out = tmp_path / "library.parquet"
    names = [os.fsencode(tmp_path) + b"/caf\xe9.wav", os.fsencode(tmp_path) + b"/two\nlines.wav"]
    for name in names:
        os.rename(write_noise(tmp_path / "a.wav", 1_000), name)
    bad = os.fsencode(tmp_path) + b"/bad\xe9.wav"
    Path(os.fsdecode(bad)).touch()
    arguments = ["embed", "-", "-0", "--out", out, "--model", write_model(tmp_path)]

    done = subprocess.run(
        [sys.executable, "-m", "myna_plugin.cli.main", *map(str, arguments)],
        input=b"".join(name + b"\0" for name in [*names, bad]),
        capture_output=True,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )

    assert done.returncode == 1, done.stderr
    assert b"files that could not be used: 1" in done.stderr
    expected = [str(tmp_path / "caf\ufffd.wav"), str(tmp_path / "two\nlines.wav")]
    assert read_library(out).paths == expected
    refused = myna("embed", "a.wav", "-0", "--out", out)
    assert refused.exit_code == 2
    assert refused.output == ("myna embed: --null is for paths on standard input: name - as well\n")


def test_odd_tracks_are_counted_and_marked(tmp_path):
    """Silent, cancelled and cut off: each has a row, with a warning."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 50_000)
    folder = tmp_path / "music"
    folder.mkdir()
    soundfile.write(folder / "cancelled.wav", np.stack([noise, -noise], 1), 16_000)
    soundfile.write(folder / "cut.wav", noise, 16_000)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:70_000])
    soundfile.write(folder / "good.wav", noise, 16_000)
    soundfile.write(folder / "silent.wav", 0 * noise, 16_000)
    out = tmp_path / "library.parquet"
    model = write_model(tmp_path)

    result = myna("embed", folder, "--out", out, "--model", model, "--device", "cpu")

    assert result.exit_code == 0, result.output
    table = pq.read_table(out)
    said = [text and text.split(":")[0] for text in table["warning"].to_pylist()]
    assert said == ["cancelled", "read short", None, "silent"]
    assert "column warning: tracks that are silent, cancelled, damaged or short: 3" in result.output
    assert f"myna: warning: {folder}/cut.wav: read short" in result.output
    rows = read_library(out).embeddings
    assert np.allclose(rows[0], rows[2], rtol=1e-4, atol=1e-5)  # the left channel is the other's


def test_of_250_files_five_broken_245_have_rows(tmp_path):
    n_tracks = 250
    folder, out = tmp_path / "music", tmp_path / "library.parquet"
    for i in range(n_tracks):
        write_noise(folder / f"{i:04d}.wav", 1_500 + 37 * i, i)
    broken = [folder / f"{i:04d}.wav" for i in (0, 7, 20, 21, n_tracks - 1)]
    for path in broken:
        path.write_bytes(b"no audio")

    result = myna("embed", folder, "--out", out, "--model", write_model(tmp_path))

    assert result.exit_code == 1
    library = read_library(out)
    assert library.paths == [str(p) for p in sorted(folder.iterdir()) if p not in broken]
    assert len(library.paths) == n_tracks - 5
    with (tmp_path / "library.parquet.failed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(path) for path in broken]
    assert all("cannot be decoded" in row["reason"] for row in rows)
    assert f"{broken[1]}: cannot be decoded" in result.output
    assert "files that could not be used: 5" in result.output


def start(*arguments, cwd):
    command = [sys.executable, "-m", "myna_plugin.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_run_that_is_stopped_resumes_to_the_same_file(tmp_path, number, status):
    folder, model = tmp_path / "music", write_model(tmp_path)
    for i in range(150):
        write_noise(folder / f"{i:03d}.wav", 1_000 + 411 * i, i)
    (folder / "099.wav").write_bytes(b"no audio")
    out, whole = tmp_path / "library.parquet", tmp_path / "whole.parquet"
    options = ["--model", model, "--workers", "2", "--batch-seconds", "6", "--device", "cpu"]
    assert myna("embed", folder, "--out", whole, *options).exit_code == 1

    process = start("embed", folder, "--out", out, *options, cwd=tmp_path)
    parts = tmp_path / "library.parquet.parts"
    while not list(parts.glob("*.parquet")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    # Ctrl-C goes to all processes of a terminal, others to the one.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status, said
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}

    again = myna("embed", folder, "--out", out, *options)

    assert again.exit_code == 1, again.output
    assert "going on" in again.output
    assert kept, "some work was done"
    assert out.read_bytes() == whole.read_bytes()


def test_shards_merge_to_what_one_machine_writes(tmp_path):
    folder, model = tmp_path / "music", write_model(tmp_path)
    for i in range(150):
        write_noise(folder / f"{i:03d}.wav", 1_000 + 211 * i, i)
    (folder / "003.wav").write_bytes(b"no audio")
    whole, out = tmp_path / "whole.parquet", tmp_path / "library.parquet"
    options = ["--model", model, "--device", "cpu"]
    assert myna("embed", folder, "--out", whole, *options).exit_code == 1

    assert myna("embed", folder, "--out", out, *options, "--shard", "2/2").exit_code == 0
    early = myna("merge", out)
    assert early.exit_code == 2
    assert "parts are missing" in early.output
    assert myna("embed", folder, "--out", out, *options, "--shard", "1/2").exit_code == 1
    merged = myna("merge", out)

    assert merged.exit_code == 1
    assert "003.wav: cannot be decoded" in merged.output
    assert same(read_library(out), read_library(whole))
    assert out.read_bytes() == whole.read_bytes()
    late, again = (
        myna("embed", folder, "--out", out, *options, "--shard", "2/2"),
        myna("merge", out),
    )
    assert [late.exit_code, again.exit_code] == [2, 2]
    assert f"myna embed: {out}: is finished; without --shard the command brings it" in late.output
    assert again.output == f"myna merge: {out}: is finished; there is nothing to merge\n"
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "library.parquet.parts").exists()


def test_what_is_damaged_is_made_again(tmp_path):
    out, whole = tmp_path / "library.parquet", tmp_path / "whole.parquet"
    music = write_noise(tmp_path / "a.wav", 9_000)
    options = ["--model", write_model(tmp_path), "--device", "cpu"]
    assert myna("embed", music, "--out", whole, *options).exit_code == 0
    assert myna("embed", music, "--out", out, *options, "--shard", "1/1").exit_code == 0
    parts = tmp_path / "library.parquet.parts"
    (part,) = parts.glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-99])
    early = myna("merge", out)
    assert early.exit_code == 2
    assert "1 of 1 parts are missing or damaged" in early.output
    (parts / "plan.json").write_text("{")
    # As if the run that made it had been killed before it tidied up.
    out.write_bytes(whole.read_bytes())

    result = myna("embed", music, "--out", out, *options)

    assert result.exit_code == 0, result.output
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()


OTHERS = {
    "a folder": lambda out: write(parts_of(out) / "precious.txt"),
    "parts of something else": lambda out: write(parts_of(out) / f"{'0' * 32}.parquet"),
    "a file": lambda out: write(parts_of(out)),
    "a link": lambda out: parts_of(out).symlink_to(out.parent / "music"),
    "a dangling link": lambda out: parts_of(out).symlink_to("nowhere"),
    "a list": lambda out: write(out.with_name(f"{out.name}.failed.csv")),
}
"""What of others' making may be where `myna embed` writes."""


def parts_of(out):
    return out.with_name(f"{out.name}.parts")


def write(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"precious")


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_of_others_is_removed_or_written_over(tmp_path, name):
    out = tmp_path / "library.parquet"
    track, model = write_noise(tmp_path / "music" / "a.wav", 1_000), write_model(tmp_path)
    OTHERS[name](out)
    (other,) = tmp_path.glob("library.*")
    before = [(path, path.lstat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]

    for arguments in (["embed", track, "--out", out, "--model", model], ["merge", out]):
        result = myna(*arguments)
        assert result.exit_code == 2
        assert result.output == (
            f"myna {arguments[0]}: {other}: was not made by myna embed; move it away, or give "
            "another --out\n"
        )
    assert [(path, path.lstat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--timestamp-layer", 1], "--timestamp-layer is for --timestamps"),
        (["--timestamps", "--timestamp-layer", 3], "timestamp_layer must be 1 to 2, got 3"),
        (
            ["--timestamps", "--timestamp-layer", 0],
            "Invalid value for '--timestamp-layer': must be at least 1",
        ),
        (["--timestamps", "--scene-layers", "1"], "--scene-layers is for one vector a track"),
        (["--timestamps", "--scene-pooling", "mean"], "--scene-pooling is for one vector a track"),
        (["--scene-pooling", "std"], "Invalid value for '--scene-pooling'"),
        (["--timestamps", "--tokens", "1/4"], "--tokens is for one vector a track"),
        (["--timestamps", "--seconds", "60"], "--seconds is for one vector a track"),
        (["--seconds", "0.0001"], "Invalid value for '--seconds': must be at least 0.001"),
        (["--tokens", "1/3"], "Invalid value for '--tokens': must be 1, 1/2, 1/4 or 1/8"),
        (
            ["--scene-layers", "1,3"],
            "scene_layers must list different blocks from 1 to 2, such as [2], got (1, 3)",
        ),
    ],
)
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_block_that_is_not_there_is_told_in_a_line(tmp_path, options, message, engine):
    """Before the track, which cannot be decoded, is opened, and before Ray is looked for."""
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    out = tmp_path / "library.parquet"
    options = [*options, "--model", write_model(tmp_path), "--engine", engine]

    result = myna("embed", tmp_path / "broken.wav", "--out", out, *options)

    assert result.exit_code == 2
    assert result.output.startswith(f"myna embed: {message}")
    assert result.output.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.wav", "myna-hybrid.pth"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.wav", "--out", "a.csv"], "a library's name ends in .parquet"),
        (["empty", "--out", "a.parquet"], "no audio files"),
        (["empty", "--out", "a.parquet", "--shard", "3/2"], "i/n with i from 1 to n"),
        (["x.wav", "--out", "a.parquet", "--model", "nothing.pth"], "nothing.pth: no such file"),
        (["x.wav", "--out", "a.parquet", "--device", "cuda:99"], "cuda:99"),
        (["x.wav", "--out", "here.parquet"], "here.parquet: was not made by myna embed"),
        (["x.wav", "--out", "a.parquet", "--workers", "0"], "must be at least 1"),
        (["typo", "--out", "a.parquet"], "typo: no such file or folder"),
        (["typo/b.wav", "c", "d", "e", "--out", "a.parquet"], "b.wav, c, d and 1 more: no such"),
    ],
)
def test_bad_input_is_a_line_and_exit_status_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "here.parquet").write_bytes(b"precious")
    write_noise(tmp_path / "x.wav", 800)

    if "--model" not in arguments:
        arguments = [*arguments, "--model", write_model(tmp_path)]
    result = myna("embed", *arguments)

    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert (tmp_path / "here.parquet").read_bytes() == b"precious"
    assert not [*tmp_path.glob("a.parquet*")]

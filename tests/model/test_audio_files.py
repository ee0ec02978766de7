import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from myna_plugin.model.audio import load_audio
from myna_plugin.model.audio_files import AUDIO_SUFFIXES, Exclusion, estimate_seconds, find_files
from myna_plugin.model.containers import FORMATS


def noise(seconds, rate=16_000, channels=1):
    generator = np.random.default_rng(0)
    return (0.1 * generator.standard_normal((int(seconds * rate), channels))).astype(np.float32)


def test_a_header_that_lies_does_not_inflate_the_estimate(tmp_path):
    """A FLAC header may claim 2^36 samples: 50 days at 16 kHz."""
    path = tmp_path / "liar.flac"
    soundfile.write(path, noise(5), 16_000)
    content = bytearray(path.read_bytes())
    assert content[:4] == b"fLaC"
    (packed,) = struct.unpack(">Q", content[18:26])
    content[18:26] = struct.pack(">Q", packed | (1 << 36) - 1)
    path.write_bytes(content)
    assert soundfile.info(path).duration > 1e6
    assert estimate_seconds(path) < 1000


def test_nothing_is_estimated_for_what_is_no_audio_file(tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("text.wav", "folder.wav", "pipe.wav", "gone.wav"):
        assert estimate_seconds(tmp_path / name) == 0


def test_all_endings_that_ffmpeg_names_for_its_formats_are_known():
    """But those of pictures, of subtitles, and of streams that are fetched in pieces."""
    named = {ending for name in FORMATS.split(",") for ending in endings_of(name)}
    no_music = {"avif", "heic", "heif", "mj2", "mks", "ism", "isma", "ismv", "psp"}
    assert {f".{ending}" for ending in named - no_music} <= AUDIO_SUFFIXES
    assert {".m4b", ".wv", ".tta", ".ac3", ".mka", ".mov", ".dsf", ".oga"} <= AUDIO_SUFFIXES


def endings_of(name):
    return av.ContainerFormat(name, "r").extensions


def found(root, *patterns):
    """Paths under a folder, and what is said of those that are left out."""
    said, exclusion = [], Exclusion(patterns)
    paths = [os.fsdecode(path) for path in find_files(root, said.append, exclusion)]
    exclusion.tell(said.append)
    return [os.path.relpath(path, root) for path in paths], said


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_what_is_hidden_or_a_systems_own_is_left_out_and_counted(tmp_path):
    names = ["#1 hits/a.mp3", "...And/.5.mp3", ".38 Special/a.mp3", "@ home/a.mp3", "a#recycle.mp3"]
    touch(tmp_path, *names)
    touch(tmp_path, "#recycle/a.mp3", "x/@eaDir/a.mp3", ".Trash-1000/a.mp3", ".hidden.mp3")
    touch(tmp_path, "._a.mp3", "x/._b.mp3", ".git/c.mp3", "$RECYCLE.BIN/a.mp3", ".@__thumb/a.mp3")

    paths, said = found(tmp_path)

    assert paths == names
    assert said == [
        "hidden and system files and folders, left out: 9 (._* 2, #recycle 1, $RECYCLE.BIN 1, "
        ".@__thumb 1, .Trash-1000 1, .git 1, .hidden.mp3 1, @eaDir 1)"
    ]
    assert len(found(tmp_path / ".git")[0]) == 1, "what is named is taken"


@pytest.mark.parametrize(
    ("pattern", "left_out", "count"),
    [
        ("live", ["live/a.mp3", "rock/live/b.mp3"], 2),
        ("live/", ["live/a.mp3", "rock/live/b.mp3"], 2),
        ("/live", ["live/a.mp3"], 1),
        ("rock/live", ["rock/live/b.mp3"], 1),
        ("*.mp3", ["live/a.mp3", "rock/live", "rock/live/b.mp3", "rock/x.mp3"], 3),
        ("rock/*.mp3", ["rock/live/b.mp3", "rock/x.mp3"], 2),
        ("a.mp3/", [], 0),
        ("LIVE", [], 0),
        ("Beyonc\u00e9", ["Beyonce\u0301/a.ogg"], 1),
        ("Beyonce\u0301", ["Beyonce\u0301/a.ogg"], 1),
    ],
)
def test_patterns_leave_out_names_and_paths(tmp_path, pattern, left_out, count):
    names = ["Beyonce\u0301/a.ogg", "live/a.mp3", "rock/live/b.mp3", "rock/x.mp3", "z.ogg"]
    touch(tmp_path, *names)

    paths, said = found(tmp_path, pattern)

    assert paths == [name for name in names if name not in left_out]
    assert said == [f"files and folders left out by --exclude {pattern}: {count}"]


def test_a_link_never_decides_a_folders_name(tmp_path):
    touch(tmp_path, "music/real/a.mp3", "music/z.mp3", "elsewhere/b.mp3")
    for link, target in (
        ("a link", "music/real"),
        ("outside", "elsewhere"),
        ("outside too", "elsewhere"),
        ("real/up", "music"),
    ):
        (tmp_path / "music" / link).symlink_to(tmp_path / target)
    (tmp_path / "music" / "0.mp3").symlink_to(tmp_path / "elsewhere" / "b.mp3")

    paths, _ = found(tmp_path / "music")

    assert paths == ["0.mp3", "real/a.mp3", "z.mp3", "outside/b.mp3"]


def test_a_name_that_is_not_utf8_is_read(tmp_path):
    soundfile.write(tmp_path / "plain.wav", noise(1), 16_000)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    (tmp_path / "plain.wav").rename(path)
    assert len(load_audio(path)) == 16_000
    assert estimate_seconds(path) == 1

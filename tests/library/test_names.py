"""Titles, artists and albums come from the tags of every format."""

import pytest
import soundfile
from sound_encoding import encode, tones

from myna_plugin.library.decoding_pool import LONGEST_NAME, read_names
from myna_plugin.library.tracks import Track
from myna_plugin.model.audio import digest_sound, load_audio, read_tags

TAGS = {"title": "E\u0301te\u0301  noir", "artist": "Anna & Cie", "album": "\u5929"}

FILES = {
    "a.mp3": ("libmp3lame", 44_100),
    "a.flac": ("flac", 44_100),
    "a.oga": ("flac", 44_100),
    "a.opus": ("libopus", 48_000),
    "a.m4a": ("aac", 44_100),
    "a.wma": ("wmav2", 44_100),
    "a.wav": ("pcm_s16le", 44_100),
    "a.aiff": ("pcm_s16be", 44_100),
    "a.mka": ("flac", 44_100),
}


@pytest.mark.parametrize("name", FILES)
def test_tags_are_read_composed_and_without_double_spaces(tmp_path, name):
    codec, rate = FILES[name]
    options = {"write_id3v2": "1"} if name == "a.aiff" else {}
    more = {"b": "64k"} if name == "a.wma" else {}
    sound = tones(0.5, rate, [440])
    encode(tmp_path / name, codec, sound, rate, tags=TAGS, options=options, **more)

    assert read_names(Track(str(tmp_path / name))) == ("Été noir", "Anna & Cie", "天")


@pytest.mark.parametrize("name", FILES)
def test_the_sound_is_that_of_a_file_with_other_tags_alone(tmp_path, name):
    codec, rate = FILES[name]
    options = {"write_id3v2": "1"} if name == "a.aiff" else {}
    more = {"b": "64k"} if name == "a.wma" else {}
    digests, heard = [], []
    for hertz, tags in ((440, TAGS), (440, {"title": "x" * 300}), (440, {}), (441, {})):
        sound = tones(0.5, rate, [hertz])
        encode(tmp_path / name, codec, sound, rate, tags=tags, options=options, **more)
        digests.append(digest_sound(tmp_path / name))
        heard.append(load_audio(tmp_path / name))
    assert digests[0] == digests[1] == digests[2] != digests[3]
    assert heard[0].equal(heard[1])
    assert heard[0].equal(heard[2])
    assert not heard[0].equal(heard[3])


def test_what_is_not_said_is_none_and_a_long_title_is_cut(tmp_path):
    path = tmp_path / "a.flac"
    encode(path, "flac", tones(0.5, 8_000, [440]), 8_000, tags={"title": "x" * 5_000, "album": " "})
    assert read_names(Track(str(path))) == ("x" * LONGEST_NAME, None, None)
    soundfile.write(tmp_path / "b.wav", tones(0.5, 8_000, [440])[0], 8_000)
    assert read_names(Track(str(tmp_path / "b.wav"))) == (None, None, None)
    encode(path, "flac", tones(0.5, 8_000, [440]), 8_000, tags={"album_artist": "Various"})
    assert read_names(Track(str(path))) == (None, "Various", None)


def test_tags_in_another_encoding_are_read_with_marks(tmp_path):
    name = "Björk".encode("latin-1")
    tag = b"IART" + len(name).to_bytes(4, "little") + name + b"\0"
    info = b"LIST" + (len(tag) + 4).to_bytes(4, "little") + b"INFO" + tag
    path = tmp_path / "a.wav"
    soundfile.write(path, tones(0.5, 8_000, [440])[0], 8_000)
    whole = path.read_bytes() + info
    path.write_bytes(whole[:4] + (len(whole) - 8).to_bytes(4, "little") + whole[8:])
    assert read_names(Track(str(path))) == (None, "Bj\ufffdrk", None)
    assert read_tags(path)["artist"] == "Bj\ufffdrk"

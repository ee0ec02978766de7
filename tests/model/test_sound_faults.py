"""Files whose headers, names or bytes are not what they should be."""

import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import soundfile
from sound_encoding import encode, level, tones

from myna_plugin.model import sound_files
from myna_plugin.model.audio import AudioError, AudioWarning, load_audio, read_info, stream_audio
from myna_plugin.model.audio_files import estimate_seconds

RATE = 44_100
FRAME_S = 1152 / RATE
NO_XING = {"write_xing": "0"}


def load(path):
    """Waveform and what is said about it, by kind."""
    notes = []
    waveform = load_audio(path, note=lambda path, text: notes.append(text)).numpy()
    return waveform, [note.split(":")[0] for note in notes]


def loud_then_quiet(seconds=18.0):
    """What makes a variable bit rate begin with a high one: a second of noise, then a tone."""
    sound = tones(seconds, RATE, [440.0, 440.0])
    sound[:, :RATE] = 0.5 * np.random.default_rng(0).uniform(-1, 1, (2, RATE))
    return sound


# -------- how long an MP3 is

SETTINGS = {"variable": {"q": "2"}, "average": {"b": "128k", "abr": "1"}, "constant": {"b": "128k"}}
FRONTS = {
    "": b"",
    "id3v2": b"ID3\x04\x00\x00" + bytes([0, 0, 8, 0]) + b"TIT2" + bytes(1020),
    "zeros": bytes(100_000),
    "junk": np.random.default_rng(1).bytes(3_000),
    "ape": b"APETAGEX" + (2000).to_bytes(4, "little") + bytes(20),
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A function that gives an MP3 of a bit rate, with or without the header that tells it."""

    @cache
    def encode_kind(kind, xing):
        path = tmp_path_factory.mktemp("encoded") / "a.mp3"
        options = {"write_xing": xing}
        encode(path, "libmp3lame", loud_then_quiet(), RATE, options=options, **SETTINGS[kind])
        return path.read_bytes()

    return encode_kind


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("xing", ["0", "1"])
@pytest.mark.parametrize("kind", SETTINGS)
def test_an_mp3_is_read_to_its_end(tmp_path, encoded, kind, xing, front):
    path = tmp_path / "a.mp3"
    path.write_bytes(FRONTS[front] + encoded(kind, xing))
    waveform, notes = load(path)
    # LAME begins with 1,105 samples of delay and fills its last frame, which only its header tells.
    assert -FRAME_S <= len(waveform) / 16_000 - 18.0 <= 3.1 * FRAME_S
    assert level(waveform, 440.0) == pytest.approx(0.95 * 0.3, rel=0.02)
    assert "read short" not in notes
    if front in ("", "id3v2"):
        assert not notes
    assert estimate_seconds(path) == pytest.approx(18.0, abs=0.2)


@pytest.mark.parametrize("xing", ["0", "1"])
def test_tags_at_the_end_are_no_damage(tmp_path, xing):
    path = tmp_path / "a.mp3"
    encode(path, "libmp3lame", loud_then_quiet(3.0), RATE, b="128k", options={"write_xing": xing})
    item = (4).to_bytes(4, "little") + bytes(4) + b"Title\0" + b"Song"
    sizes = (len(item) + 32).to_bytes(4, "little") + (1).to_bytes(4, "little")
    ends = [
        b"APETAGEX" + (2000).to_bytes(4, "little") + sizes + flags + bytes(8)
        for flags in (b"\0\0\0\xa0", b"\0\0\0\x80")
    ]
    ape = ends[0] + item + ends[1]
    for tags in (b"TAG" + b"x" * 125, ape, ape + b"TAG" + b"x" * 125):
        (tmp_path / "b.mp3").write_bytes(path.read_bytes() + tags)
        waveform, notes = load(tmp_path / "b.mp3")
        assert notes == []
        assert len(waveform) / 16_000 == pytest.approx(3.0, abs=3 * FRAME_S)


@pytest.mark.parametrize("options", [{}, NO_XING])
def test_two_joined_mp3_files_are_both_read(tmp_path, options):
    for name, frequency in (("a", 440.0), ("b", 1000.0)):
        sound = tones(6.0, RATE, [frequency, frequency])
        encode(tmp_path / f"{name}.mp3", "libmp3lame", sound, RATE, b="128k", options=options)
    joined = tmp_path / "joined.mp3"
    joined.write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    waveform, _ = load(joined)
    assert len(waveform) / 16_000 == pytest.approx(12.0, abs=6 * FRAME_S)
    assert level(waveform[: 6 * 16_000], 440.0) == pytest.approx(0.285, rel=0.02)
    assert level(waveform[6 * 16_000 :], 1000.0) == pytest.approx(0.285, rel=0.02)


@pytest.mark.parametrize(
    ("suffix", "codec", "settings"),
    [
        ("mp3", "libmp3lame", {"b": "128k", "options": NO_XING}),
        ("aac", "aac", {"b": "128k", "muxer": "adts"}),
    ],
)
@pytest.mark.parametrize(("rate", "n_channels"), [(32_000, 2), (RATE, 1)])
def test_rate_and_channels_may_change(tmp_path, suffix, codec, settings, rate, n_channels):
    one, other = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    encode(one, codec, tones(5.0, RATE, [440.0, 440.0]), RATE, **settings)
    encode(other, codec, tones(5.0, rate, [1000.0] * n_channels), rate, **settings)
    one.write_bytes(one.read_bytes() + other.read_bytes())
    waveform, _ = load(one)
    assert len(waveform) / 16_000 == pytest.approx(10.0, abs=0.3)
    assert level(waveform[: 5 * 16_000], 440.0) == pytest.approx(0.295, rel=0.05)
    assert level(waveform[5 * 16_000 :], 1000.0) == pytest.approx(0.295, rel=0.05)


# -------- damaged, cut off

CUT = {
    "a.mp3": ("libmp3lame", {"b": "128k"}),
    "headerless.mp3": ("libmp3lame", {"b": "128k", "options": NO_XING}),
    "a.m4a": ("aac", {"b": "128k", "options": {"movflags": "faststart"}}),
    "a.opus": ("libopus", {"b": "96k"}),
    "a.flac": ("flac", {}),
    "a.wav": ("pcm_s16le", {}),
    "a.w64": ("pcm_s16le", {}),
    "a.aiff": ("pcm_s16be", {}),
    "a.au": ("pcm_s16be", {}),
    "a.wv": ("wavpack", {}),
    "a.tta": ("tta", {"sample_format": "s16"}),
    "a.mka": ("aac", {"b": "128k"}),
    "a.wma": ("wmav2", {"b": "128k"}),
}


@pytest.mark.parametrize("name", CUT)
def test_what_was_cut_off_is_used_with_a_warning(tmp_path, name):
    codec, settings = CUT[name]
    path, rate = tmp_path / name, 48_000
    encode(path, codec, tones(8.0, rate, [440.0, 440.0]), rate, **settings)
    _, notes = load(path)
    assert notes == []
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 5 // 8 - 7])
    with pytest.warns(AudioWarning, match=f"{name}: .*(read short|damaged)"):
        waveform = load_audio(path)
    assert 4.0 < len(waveform) / 16_000 < 6.0
    assert level(waveform.numpy(), 440.0) == pytest.approx(0.3, rel=0.06)


@pytest.mark.parametrize("name", ["a.mp3", "headerless.mp3", "a.m4a", "a.flac", "a.mka"])
def test_damaged_bytes_cost_only_themselves(tmp_path, name):
    codec, settings = CUT[name]
    path, rate = tmp_path / name, 48_000
    encode(path, codec, tones(8.0, rate, [440.0, 440.0]), rate, **settings)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2_000] = b"\x55" * 2_000
    path.write_bytes(content)
    waveform, notes = load(path)
    assert set(notes) <= {"damaged", "read short"}
    assert notes
    # FFmpeg finds the next cluster of a Matroska file, which lasts seconds.
    assert len(waveform) / 16_000 == pytest.approx(8.0, abs=3.0 if name == "a.mka" else 0.5)
    for part in (waveform[: 16_000 * 3], waveform[-16_000 * 2 :]):
        assert level(part, 440.0) == pytest.approx(0.3, rel=0.06)


def test_the_least_damage_of_a_flac_is_noticed_and_what_follows_it_is_none(tmp_path):
    path, rate = tmp_path / "a.flac", 44_100
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (3 * rate, 2))
    soundfile.write(path, noise, rate)
    content = path.read_bytes()
    for at in np.linspace(9_000, len(content) - 100, 40).astype(int):
        path.write_bytes(content[:at] + bytes(9) + content[at + 9 :])
        assert load(path)[1], at
    for tail in (b"TAG" + bytes(125), bytes(5_000), b"junk" * 99):
        path.write_bytes(content + tail)
        assert load(path)[1] == []


def test_ffmpeg_goes_on_where_libsndfile_stops(tmp_path, monkeypatch):
    path = tmp_path / "a.flac"
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (60 * 16_000, 1))
    soundfile.write(path, noise, 16_000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 9_000] = bytes(9_000)
    path.write_bytes(content)
    both, notes = load(path)
    assert notes == ["read short"]
    assert 58 < len(both) / 16_000 < 60
    monkeypatch.setattr(sound_files, "_open_plain", lambda path: None)
    alone, _ = load(path)
    np.testing.assert_array_equal(both, alone)


# -------- named like something else

MISNAMED = {
    "aac.mp3": ("aac", {"muxer": "adts", "b": "128k"}),
    "m4a.mp3": ("aac", {"muxer": "ipod", "b": "128k"}),
    "flac.oga": ("flac", {"muxer": "flac"}),
    "mp3.wav": ("libmp3lame", {"muxer": "mp3", "b": "128k"}),
    "mp3.m4a": ("libmp3lame", {"muxer": "mp3", "b": "128k"}),
    "wav.mp3": ("pcm_s16le", {"muxer": "wav"}),
    "opus.mp3": ("libopus", {"muxer": "ogg", "b": "96k"}),
    "riff.wav": ("libmp3lame", {"muxer": "wav", "b": "128k"}),  # MP3 in a WAV
}


@pytest.mark.parametrize("name", MISNAMED)
def test_bytes_decide_and_not_names(tmp_path, name):
    codec, settings = MISNAMED[name]
    encode(tmp_path / name, codec, tones(4.0, 48_000, [440.0, 440.0]), 48_000, **settings)
    waveform, notes = load(tmp_path / name)
    assert notes == []
    assert len(waveform) / 16_000 == pytest.approx(4.0, abs=0.1)
    assert level(waveform, 440.0) == pytest.approx(0.295, rel=0.05)
    assert read_info(tmp_path / name).sample_rate == 48_000


ATTACKS = {
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{target}\n"
    "#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    "<Period><AdaptationSet><Representation><BaseURL>{target}</BaseURL></Representation>"
    "</AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("name", ["song.mp3", "song.wav", "song.m3u8"])
@pytest.mark.parametrize("kind", ATTACKS)
def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch, kind, name):
    target = tmp_path / "secret.wav"
    soundfile.write(target, np.full(64_000, 0.25), 16_000)
    for form in (target, f"file:{target}", target.name):
        (tmp_path / name).write_text(ATTACKS[kind].format(target=form))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(AudioError, match=f"{name}: cannot be decoded"):
            load_audio(tmp_path / name)
        assert estimate_seconds(tmp_path / name) == 0


# -------- silent, cancelled


def write(path, *channels, rate=16_000, subtype="PCM_16"):
    soundfile.write(path, np.stack(channels, 1), rate, subtype)
    return path


TONE = tones(30.0, 16_000, [440.0])[0]


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_cancelled_stereo_is_taken_from_one_side(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([TONE, -TONE], 1), 16_000)
    with pytest.warns(AudioWarning, match=rf"a\.{suffix}: cancelled: .* channel [12] alone"):
        waveform = load_audio(path)
    assert level(waveform.numpy(), 440.0) == pytest.approx(0.3, rel=0.01)


def test_the_whole_file_is_taken_from_one_side_or_none_of_it(tmp_path):
    rest = np.zeros_like(TONE)

    def check(name, channels, expected, notes, tolerance=1e-4, **options):
        waveform, told = load(write(tmp_path / name, *channels, **options))
        np.testing.assert_allclose(waveform, expected, rtol=0, atol=tolerance)
        assert told == notes

    late = np.r_[rest, TONE]
    check("late.wav", (late, -late), late, ["cancelled"])
    # Cancelled for half a minute, then not: the mix, for all of it.
    check("partly.wav", (np.r_[TONE, TONE], np.r_[-TONE, TONE]), late, [])
    check("one sided.wav", (TONE, rest), TONE / 2, [])
    check("unequal.wav", (TONE, -0.9 * TONE), TONE / 20, [])
    quiet = TONE / 1000
    check("quiet.wav", (quiet, quiet), quiet, [], 1e-6, subtype="FLOAT")
    check("three.wav", (TONE, -TONE / 2, -TONE / 2), TONE, ["cancelled"])


def test_silence_is_marked(tmp_path):
    rest = np.zeros(40_000)
    for path in (
        write(tmp_path / "mono.wav", rest),
        write(tmp_path / "stereo.wav", rest, rest),
        write(tmp_path / "offset.wav", rest + 0.25, rest + 0.25),
    ):
        assert load(path)[1] == ["silent"]
    click = rest.copy()
    click[20_000] = 0.001
    assert load(write(tmp_path / "click.wav", click))[1] == []


# -------- what is left behind

MEMORY = """
import resource, sys
from myna_plugin.model.audio import stream_audio
for file in sys.argv[1:]:
    n = sum(len(block) for block in stream_audio(file))
    print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_length(tmp_path):
    path, long = tmp_path / "minute.mp3", tmp_path / "long.mp3"
    sound = tones(60.0, RATE, [440.0, 620.0])
    encode(path, "libmp3lame", sound, RATE, b="64k", options=NO_XING)
    long.write_bytes(path.read_bytes() * 10)
    command = [sys.executable, "-c", MEMORY, path, long]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    used = [[int(number) for number in line.split()] for line in run.stdout.splitlines()]
    assert used[1][0] > 9 * used[0][0]
    assert used[1][1] - used[0][1] < 30  # megabytes; ten minutes are 38 as float32 at 16 kHz


def test_no_file_stays_open(tmp_path):
    paths = [tmp_path / name for name in ("a.mp3", "a.wav", "text.mp3")]
    encode(paths[0], "libmp3lame", tones(30.0, RATE, [440.0]), RATE, b="64k")
    write(paths[1], TONE)
    paths[2].write_text("no audio")
    before = len(os.listdir("/dev/fd"))
    for path in paths[:2]:
        blocks = stream_audio(path)
        next(blocks)
        assert len(os.listdir("/dev/fd")) > before
        blocks.close()
    with pytest.raises(AudioError):
        load_audio(paths[2])
    assert len(os.listdir("/dev/fd")) == before

"""Files of many formats, decoded and compared with the sines that were encoded."""

import warnings

import av
import numpy as np
import pytest
import soundfile
from sound_encoding import encode, level, tones

from myna_plugin.model import audio, sound_files
from myna_plugin.model.audio import AudioWarning, load_audio, read_info
from myna_plugin.model.audio_files import AUDIO_SUFFIXES, estimate_seconds

SECONDS = 3.0
FREQUENCIES = (440.0, 1000.0, 1600.0, 60.0, 2200.0, 800.0)  # the fourth of six is the bass channel
AMPLITUDE = 0.3

EXACT, NEAR = 2e-3, 0.03  # of the level: lossless, lossy


def check_tones(waveform, n_channels, tolerance, delay=0.0, amplitude=AMPLITUDE, lost=0.0):
    """The mean of the channels' sines, and nothing else, of the right length."""
    waveform = np.asarray(waveform)
    assert waveform.dtype == np.float32
    # FFmpeg's WMA encoder leaves out the last frame, 2,048 samples.
    assert -lost - 1e-3 <= len(waveform) / 16_000 - SECONDS <= delay + 1e-3
    wanted = amplitude / n_channels
    for frequency in FREQUENCIES[:n_channels]:
        assert level(waveform, frequency) == pytest.approx(wanted, rel=tolerance)
    middle = waveform[len(waveform) // 4 : len(waveform) * 3 // 4].astype(np.float64)
    power = n_channels * wanted**2 / 2
    assert np.mean(middle**2) == pytest.approx(power, rel=3 * tolerance)


# file, codec, further arguments of `encode`, tolerance of the level, what may be added, seconds
FORMATS = [
    ("a.wav", "pcm_u8", {}, 0.02, 0),
    ("a.wav", "pcm_s16le", {}, EXACT, 0),
    ("a.wav", "pcm_s24le", {}, EXACT, 0),
    ("a.wav", "pcm_s32le", {}, EXACT, 0),
    ("a.wav", "pcm_f32le", {}, EXACT, 0),
    ("a.wav", "pcm_f64le", {}, EXACT, 0),
    ("a.wav", "pcm_alaw", {}, 0.03, 0),
    ("a.wav", "adpcm_ima_wav", {}, 0.05, 0.1),
    ("a.w64", "pcm_s16le", {}, EXACT, 0),
    ("a.w64", "pcm_f32le", {}, EXACT, 0),
    ("a.rf64", "pcm_s24le", {"muxer": "wav", "options": {"rf64": "always"}}, EXACT, 0),
    ("a.aiff", "pcm_s16be", {}, EXACT, 0),
    ("a.aiff", "pcm_s24be", {}, EXACT, 0),
    ("a.aifc", "pcm_s16le", {"muxer": "aiff"}, EXACT, 0),
    ("a.au", "pcm_s16be", {}, EXACT, 0),
    ("a.caf", "pcm_s16be", {}, EXACT, 0),
    ("a.caf", "alac", {}, EXACT, 0.1),
    ("a.flac", "flac", {"sample_format": "s16"}, EXACT, 0),
    ("a.flac", "flac", {"sample_format": "s32"}, EXACT, 0),
    ("a.oga", "flac", {"muxer": "ogg"}, EXACT, 0),
    ("a.mka", "flac", {}, EXACT, 0),
    ("a.wv", "wavpack", {"sample_format": "fltp"}, EXACT, 0),
    ("a.wv", "wavpack", {"sample_format": "s16p"}, EXACT, 0),
    ("a.tta", "tta", {"sample_format": "s16"}, EXACT, 0),
    ("a.m4a", "alac", {"sample_format": "s16p"}, EXACT, 0.1),
    ("a.m4a", "alac", {"sample_format": "s32p"}, EXACT, 0.1),
    ("a.m4a", "aac", {"b": "128k"}, NEAR, 0.1),
    ("a.m4b", "aac", {"b": "128k", "muxer": "ipod"}, NEAR, 0.1),
    ("a.mp4", "aac", {"b": "128k"}, NEAR, 0.1),
    ("a.mov", "aac", {"b": "128k"}, NEAR, 0.1),
    ("a.3gp", "aac", {"b": "128k"}, NEAR, 0.1),
    ("a.aac", "aac", {"b": "128k", "muxer": "adts"}, NEAR, 0.15),
    ("a.mka", "aac", {"b": "128k"}, NEAR, 0.15),
    ("a.mp3", "libmp3lame", {"b": "128k"}, NEAR, 0.1),
    ("a.mp3", "libmp3lame", {"b": "128k", "options": {"write_xing": "0"}}, NEAR, 0.15),
    ("a.mp3", "libmp3lame", {"q": "2"}, NEAR, 0.1),
    ("a.mp3", "libmp3lame", {"q": "2", "options": {"write_xing": "0"}}, NEAR, 0.15),
    ("a.mp3", "libmp3lame", {"b": "128k", "abr": "1"}, NEAR, 0.1),
    ("a.mp2", "mp2", {"b": "160k"}, NEAR, 0.15),
    ("a.ogg", "libsndfile", {}, NEAR, 0.02),
    ("a.wma", "wmav2", {"b": "128k"}, NEAR, 0.25),
    ("a.ac3", "ac3", {"b": "192k"}, NEAR, 0.15),
    ("a.eac3", "eac3", {"b": "192k"}, NEAR, 0.15),
    ("a.webm", "libopus", {"b": "128k"}, NEAR, 0.1),
    ("a.opus", "libopus", {"b": "128k"}, NEAR, 0.1),
    ("a.mkv", "libopus", {"b": "128k"}, NEAR, 0.1),
]

OPUS_RATES = {22_050: 24_000, 44_100: 48_000}

LAME_GAIN = 0.95
"""What LAME turns its input down by; libsndfile, decoding with mpg123, gives the same level."""


def table():
    for file, codec, arguments, tolerance, delay in FORMATS:
        shapes = [(1, 22_050), (2, 44_100), (2, 48_000)]
        if codec in ("pcm_s16le", "flac", "aac", "ac3", "libopus"):
            shapes.append((6, 48_000))
        for n_channels, rate in shapes:
            if codec == "libopus":
                rate = OPUS_RATES.get(rate, rate)
            if codec in ("ac3", "eac3") and rate == 22_050:
                rate = 32_000
            said = "-".join(str(value) for value in arguments.values())
            name = f"{file[2:]}-{codec}-{said}-{n_channels}x{rate}"
            yield pytest.param(file, codec, arguments, tolerance, delay, n_channels, rate, id=name)


@pytest.mark.parametrize(
    ("file", "codec", "arguments", "tolerance", "delay", "n_channels", "rate"), [*table()]
)
def test_formats_hold_the_sines_that_were_encoded(
    tmp_path, file, codec, arguments, tolerance, delay, n_channels, rate
):
    path = tmp_path / file
    assert path.suffix in AUDIO_SUFFIXES
    if n_channels == 6:
        arguments = {key: value for key, value in arguments.items() if key != "b"}
        tolerance = max(tolerance, 0.05) if codec in ("aac", "ac3", "libopus") else tolerance
    sound = tones(SECONDS, rate, FREQUENCIES[:n_channels], AMPLITUDE)
    if codec == "libsndfile":  # FFmpeg's own Vorbis encoder is far from what goes into it
        soundfile.write(path, sound.T, rate)
    else:
        encode(path, codec, sound, rate, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AudioWarning)
        waveform = load_audio(path)
    gain = LAME_GAIN if codec == "libmp3lame" else 1.0
    lost = 0.05 if codec == "wmav2" else 0.0
    check_tones(waveform, n_channels, tolerance, delay, gain * AMPLITUDE, lost)
    info = read_info(path)
    assert (info.sample_rate, info.channels) == (rate if codec != "libopus" else 48_000, n_channels)
    assert info.duration_s == pytest.approx(len(waveform) / 16_000, abs=0.1)
    assert estimate_seconds(path) == pytest.approx(SECONDS, abs=0.3)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_ffmpeg_scales_samples_as_libsndfile_does(tmp_path, monkeypatch, subtype):
    path = tmp_path / "a.wav"
    sound = np.random.default_rng(0).uniform(-1, 1, (5_000, 2))
    sound[:2] = [[-1.0, 1.0], [0.0, 1 - 2**-15]]
    soundfile.write(path, sound, 44_100, subtype)
    expected, _ = soundfile.read(path, dtype="float32")
    monkeypatch.setattr(sound_files, "_open_plain", lambda path: None)
    (block,) = sound_files.read_blocks(path, 1.0, pytest.fail)
    assert block.sample_rate == 44_100
    np.testing.assert_array_equal(block.samples, expected)


def test_the_first_audio_stream_is_read_and_no_picture(tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as file:
        picture = file.add_stream("mjpeg", rate=25, pix_fmt="yuvj420p", width=64, height=48)
        sounds = [file.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for _ in range(75):
            file.mux(picture.encode(av.VideoFrame(64, 48, "yuvj420p")))
        for stream, frequency in zip(sounds, (440.0, 3_000.0), strict=True):
            values = (tones(SECONDS, 16_000, [frequency]) * 32_768).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(values, "s16", "mono")
            frame.sample_rate = 16_000
            file.mux([*stream.encode(frame), *stream.encode(None)])
    check_tones(load_audio(path), 1, EXACT)


BLOCKS = {
    "wav": ("pcm_s24le", {}),
    "flac": ("flac", {}),
    "mp3": ("libmp3lame", {"b": "128k"}),
    "m4a": ("aac", {"b": "128k"}),
    "opus": ("libopus", {"b": "256k"}),
}


@pytest.mark.parametrize("suffix", BLOCKS)
@pytest.mark.parametrize("cancelled", [False, True])
def test_the_length_of_a_block_leaves_no_trace(tmp_path, monkeypatch, suffix, cancelled):
    codec, settings = BLOCKS[suffix]
    path, rate = tmp_path / f"a.{suffix}", 48_000
    noise = 0.2 * np.random.default_rng(0).standard_normal(4 * rate).astype(np.float32)
    noise[: rate // 2] = 0
    sound = np.stack([noise, -noise if cancelled else np.roll(noise, 99)])
    encode(path, codec, sound, rate, **settings)
    results, notes = [], []
    for seconds in (10.0, 1.0, 0.0371):
        monkeypatch.setattr(audio, "BLOCK_SECONDS", seconds)
        notes.append([])
        note = lambda path, text: notes[-1].append(text)  # noqa: E731
        results.append(load_audio(path, note=note).numpy())
    assert notes[0] == notes[1] == notes[2]
    assert [text.split(":")[0] for text in notes[0]] == (["cancelled"] if cancelled else [])
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])

"""One recording in several formats is one; others are not, however alike."""

import numpy as np
import pytest
from sound_encoding import encode

from myna_plugin.library.fingerprint import LARGEST_ERROR, are_one, difference, fingerprint
from myna_plugin.model.audio import load_audio, resample

RATE = 44_100


def chords(seed, seconds=12):
    """Decaying notes, drawn at random, a take of their own."""
    draw = np.random.default_rng(seed)
    time = np.arange(RATE * seconds) / RATE
    sound = 0.02 * draw.standard_normal(len(time))
    for start in np.arange(0, seconds, draw.uniform(0.3, 0.6)):
        after = np.clip(time - start, 0, None)
        for pitch in draw.integers(0, 36, 3):
            wave = np.sin(2 * np.pi * 110 * 2 ** (pitch / 12) * after) * np.exp(-4 * after)
            sound += wave * (time >= start)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    """Fingerprints of four recordings, each as FLAC, and as MP3, Opus and AAC of few bits."""
    folder = tmp_path_factory.mktemp("takes")
    found = {}
    for seed in range(4):
        sound = chords(seed)
        for name, codec, rate, settings in (
            ("a.flac", "flac", RATE, {}),
            ("b.mp3", "libmp3lame", RATE, {"b": "64k"}),
            ("c.opus", "libopus", 48_000, {"b": "32k"}),
            ("d.m4a", "aac", RATE, {"b": "64k"}),
        ):
            path = folder / f"{seed}{name}"
            encode(path, codec, resample(sound, RATE, rate)[None], rate, **settings)
            found[seed, name] = load_audio(path).numpy()
    return found


def test_formats_of_one_recording_are_one_and_recordings_are_not(takes):
    """Far from the limit on both sides."""
    prints = {key: fingerprint(sound) for key, sound in takes.items()}
    apart = {(one, two): difference(prints[one], prints[two]) for one in prints for two in prints}
    same = [share for (one, two), share in apart.items() if one[0] == two[0]]
    strangers = [share for (one, two), share in apart.items() if one[0] != two[0]]
    assert max(same) < 0.15 < LARGEST_ERROR < 0.35 < min(strangers)
    assert are_one(prints[0, "a.flac"], prints[0, "b.mp3"])


def test_a_beginning_that_is_cut_off_and_loudness_do_not_matter(takes):
    sound = takes[0, "a.flac"]
    for cut in (100, 1_000, 16_000):
        assert are_one(fingerprint(sound), fingerprint(0.1 * sound[cut:]))
    assert not are_one(fingerprint(sound), fingerprint(sound[4 * 16_000 :])), "not by two seconds"


def test_what_does_not_change_or_is_short_has_none():
    hum = np.sin(2 * np.pi * 437 * np.arange(160_000) / 16_000).astype(np.float32)
    assert fingerprint(hum) == fingerprint(np.zeros(160_000, np.float32)) == b""
    assert fingerprint(chords(0)[: 3 * 16_000]) == b""
    assert not are_one(b"", b"")


def test_the_difference_is_that_of_the_bits_at_the_best_offset():
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 2, (60, 16), np.uint8)
    later = np.concatenate([draw.integers(0, 2, (7, 16), np.uint8), bits])
    later[9:12] ^= 1
    a, b = (np.packbits(rows, axis=1).tobytes() for rows in (bits, later))
    assert difference(a, b) == difference(b, a) == 3 / 60
    assert difference(a, b"") == difference(a, a[:40]) == 1

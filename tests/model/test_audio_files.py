import os
import struct
from pathlib import Path

import numpy as np
import soundfile

from myna_plugin.model.audio import load_audio
from myna_plugin.model.audio_files import estimate_seconds


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


def test_a_name_that_is_not_utf8_is_read(tmp_path):
    soundfile.write(tmp_path / "plain.wav", noise(1), 16_000)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    (tmp_path / "plain.wav").rename(path)
    assert len(load_audio(path)) == 16_000
    assert estimate_seconds(path) == 1

import numpy as np
import pytest
import torch

from myna_plugin.library.segments import (
    SEGMENT_CHUNKS,
    cut_segments,
    keep_blocks,
    largest_segment,
    window_length,
)
from myna_plugin.model.audio import HOP_LENGTH
from myna_plugin.model.spectrogram import MelSpectrogram

CHUNK = 96 * HOP_LENGTH
LENGTHS = (1, 2, 511, 1024, 1025, 2049, CHUNK - 1, CHUNK, CHUNK + 513)
LONG = tuple(SEGMENT_CHUNKS * CHUNK + extra for extra in (-1, 0, 512, 1024, 2 * CHUNK + 77))


def noise(n_samples):
    return np.random.default_rng(0).uniform(-1, 1, n_samples).astype(np.float32)


@pytest.mark.parametrize("n_samples", [*LENGTHS, *LONG])
@pytest.mark.parametrize("block", [400, 160_000])
@pytest.mark.parametrize("frames", [96, 98])
def test_frames_of_segments_are_those_of_the_whole_track(n_samples, block, frames):
    """Whatever the blocks a track comes in, its chunks have the whole track's spectrogram."""
    samples = noise(n_samples)
    block = max(block, n_samples // 50)
    mel = MelSpectrogram()
    whole = mel(torch.from_numpy(samples)[None])[0]

    pieces = []
    for segment in cut_segments(np.split(samples, range(block, n_samples, block)), frames):
        length = segment.full * frames + segment.partial_frames
        assert len(segment.samples) == window_length(length) <= largest_segment(frames)
        assert segment.full <= SEGMENT_CHUNKS
        pieces.append(mel.frames(torch.from_numpy(segment.samples)[None], 2, 2 + length)[0])
    joined = torch.cat(pieces, dim=1)

    assert joined.shape == whole.shape
    assert torch.allclose(joined, whole, rtol=1e-4, atol=1e-5 * whole.max())


def test_only_the_last_segment_has_a_partial_chunk():
    segments = list(cut_segments([noise(40 * CHUNK + 5_000)], 96))

    assert [s.full for s in segments] == [16, 16, 8]
    assert [s.partial_frames for s in segments] == [0, 0, 10]


def test_whole_tracks_come_as_they_are():
    samples = noise(2 * largest_segment(96) + 5)
    segments = list(keep_blocks([samples[:7], samples[7:]], 96))

    assert np.array_equal(np.concatenate([s.samples for s in segments]), samples)
    assert max(len(s.samples) for s in segments) <= largest_segment(96)

import numpy as np
import pytest
import torch
from nnAudio.features import MelSpectrogram as NnAudioMelSpectrogram

from myna_plugin.model.audio import MARGIN, frame_count
from myna_plugin.model.spectrogram import MelSpectrogram


@pytest.fixture(scope="module")
def mel():
    return MelSpectrogram()


@pytest.mark.parametrize("n_samples", [1025, 1536, 50_000, 163_840])
def test_equals_nnaudio(mel, n_samples):
    waveform = 0.3 * torch.randn(2, n_samples, generator=torch.Generator().manual_seed(n_samples))
    expected = NnAudioMelSpectrogram(sr=16000, n_mels=128, verbose=False)(waveform)
    actual = mel(waveform)
    assert actual.shape == expected.shape == (2, 128, frame_count(n_samples))
    assert (actual - expected).norm() / expected.norm() < 2e-6


@pytest.mark.parametrize("n_samples", [1, 2, 3, 511, 512, 1023, 1024, 1025, 1026])
def test_short_sounds_are_reflected_as_often_as_needed(mel, n_samples):
    waveform = torch.randn(1, n_samples, generator=torch.Generator().manual_seed(n_samples))
    padded = torch.from_numpy(np.pad(waveform.numpy(), ((0, 0), (MARGIN, MARGIN)), mode="reflect"))
    spectrum = torch.stft(
        padded, 2048, 512, window=torch.hann_window(2048), center=False, return_complex=True
    )
    expected = mel.basis @ spectrum.abs().square()
    torch.testing.assert_close(mel(waveform), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_samples", [700, 3000, 20_480, 20_479])
@pytest.mark.parametrize("step", [1, 5, 13])
def test_blocks_of_frames_are_slices_of_the_whole(mel, n_samples, step):
    waveform = torch.randn(2, n_samples, generator=torch.Generator().manual_seed(0))
    whole = mel(waveform)
    n_frames = frame_count(n_samples)
    blocks = [
        mel.frames(waveform, start, min(start + step, n_frames))
        for start in range(0, n_frames, step)
    ]
    torch.testing.assert_close(torch.cat(blocks, dim=-1), whole, rtol=1e-5, atol=1e-5)


def test_frames_outside_the_sound_are_refused(mel):
    with pytest.raises(ValueError, match="not within 0:3"):
        mel.frames(torch.zeros(1, 1024), 0, 4)
    with pytest.raises(ValueError, match="at least 1 sample"):
        mel(torch.zeros(1, 0))


def test_nothing_is_stored_in_the_state_dict(mel):
    assert mel.state_dict() == {}

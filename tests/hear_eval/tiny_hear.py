"""A HEAR module of some other project, for tests: statistics of a mel-like spectrogram."""

import torch

SAMPLE_RATE = 22050
N_FFT = 1024
HOP = 512
N_BANDS = 16


class TinyModel(torch.nn.Module):
    def __init__(self, gain=1.0):
        super().__init__()
        self.sample_rate = SAMPLE_RATE
        self.scene_embedding_size = 2 * N_BANDS
        self.timestamp_embedding_size = N_BANDS
        self.gain = gain
        edges = torch.logspace(0, 2.7, N_BANDS + 1).long()
        bands = torch.zeros(N_BANDS, N_FFT // 2 + 1)
        for band in range(N_BANDS):
            bands[band, edges[band] : edges[band + 1] + 1] = 1
        self.register_buffer("bands", bands)

    def forward(self, audio):
        window = torch.hann_window(N_FFT, device=audio.device)
        spectrum = torch.stft(audio, N_FFT, HOP, window=window, return_complex=True).abs()
        return self.gain * torch.log1p(self.bands @ spectrum)


def load_model(model_file_path="", gain=1.0):
    if model_file_path:
        gain = torch.load(model_file_path, weights_only=True)["gain"]
    return TinyModel(gain).eval()


def get_scene_embeddings(audio, model):
    frames = model(audio)
    return torch.cat([frames.mean(-1), frames.std(-1)], dim=1)


def get_timestamp_embeddings(audio, model):
    frames = model(audio).transpose(1, 2)
    times = torch.arange(frames.shape[1]) * 1000.0 * HOP / SAMPLE_RATE
    inside = times <= 1000.0 * audio.shape[1] / SAMPLE_RATE
    return frames[:, inside], times[inside].expand(len(audio), -1)

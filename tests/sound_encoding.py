"""Sounds encoded with FFmpeg's own encoders, to be decoded by what is tested."""

from fractions import Fraction

import av
import numpy as np

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def tones(seconds, rate, frequencies, amplitude=0.3):
    """A sine a channel, shape (C, S)."""
    times = np.arange(round(seconds * rate)) / rate
    waves = [np.sin(2 * np.pi * frequency * times) for frequency in frequencies]
    return (amplitude * np.array(waves)).astype(np.float32)


def encode(
    path,
    codec,
    samples,
    rate,
    *,
    muxer=None,
    sample_format=None,
    options=None,
    tags=None,
    **settings,
):
    """Write samples (C, S) as the only stream of a file.

    Args:
        path: the file.
        codec: FFmpeg's name of the encoder.
        samples: in [-1, 1].
        rate: Hz.
        muxer: FFmpeg's name of the format; None for what the file's name says.
        sample_format: what the encoder takes; None for its own choice.
        options: of the muxer.
        tags: of the file, such as {"artist": "Anna"}.
        settings: of the encoder, such as b="128k".
    """
    layout = LAYOUTS[len(samples)]
    with av.open(str(path), "w", format=muxer, options=options or {}) as file:
        file.metadata.update(tags or {})
        stream = file.add_stream(codec, rate=rate, layout=layout, options=settings)
        context = stream.codec_context
        if sample_format is not None:
            context.format = sample_format
        context.time_base = Fraction(1, rate)
        context.open()
        convert = av.AudioResampler(context.format.name, layout, rate, context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for ready in (*convert.resample(frame), *convert.resample(None), None):
            file.mux(stream.encode(ready))


def level(waveform, frequency, rate=16_000):
    """Amplitude of a sine in the middle of a waveform."""
    middle = waveform[len(waveform) // 4 : len(waveform) * 3 // 4]
    window = np.hanning(len(middle))
    wave = np.exp(-2j * np.pi * frequency * np.arange(len(middle)) / rate)
    return 2 * abs((middle * window * wave).sum()) / window.sum()

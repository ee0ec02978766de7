"""Decoders beside one another: from a file to mono at 16 kHz, CPU seconds a track of four minutes.

    python -m benchmarks.decoders
    python -m benchmarks.decoders --seconds 60 --rounds 3

Makes music-like noise as 44.1 kHz stereo MP3 (128 kbit/s), FLAC, Vorbis, Opus (48 kHz) and AAC.
Every decoder that is installed (`pip install miniaudio torchcodec`) reads each file, ten seconds at
a time where it can, in turn and on one core. All but the last mix and resample as ours does (mean,
soxr's "HQ"), so that decoders alone differ. Other samples than ours (by 1e-3) are told.
Prints a Markdown table: CPU milliseconds, and how many times ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
import torch

from benchmarks.library import RATE, write_track
from myna_plugin.model.audio import SAMPLE_RATE, average_channels, load_audio

BLOCK_S = 10

FORMATS: dict[str, tuple[str, str | None, int, int]] = {
    "MP3": ("mp3", "libmp3lame", RATE, 128_000),
    "FLAC": ("flac", None, RATE, 0),
    "Vorbis": ("ogg", None, RATE, 0),
    "Opus": ("opus", "libopus", 48_000, 96_000),
    "AAC": ("m4a", "aac", RATE, 128_000),
}
"""Ending, FFmpeg's encoder (None: libsndfile's), Hz, bits a second."""

Blocks = Iterator[tuple[int, np.ndarray]]


def by_soundfile(path: Path) -> Blocks:
    with soundfile.SoundFile(path) as file:
        buffer = np.empty((BLOCK_S * file.samplerate, file.channels), np.float32)
        while len(samples := file.read(out=buffer)):
            yield file.samplerate, samples


def by_av(path: Path) -> Blocks:
    """Frame by frame, without what `containers` looks after."""
    with av.open(str(path)) as container:
        queue, rate = av.AudioFifo(), 0
        for frame in container.decode(audio=0):
            frame.pts, rate = None, frame.sample_rate
            queue.write(frame)
            if queue.samples >= BLOCK_S * rate:
                yield rate, _planar(queue.read(BLOCK_S * rate))
        if queue.samples:
            yield rate, _planar(queue.read())


def _planar(frame: av.AudioFrame | None) -> np.ndarray:
    assert frame is not None
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype.kind == "i":
        return values.astype(np.float32) * np.float32(0.5 ** (8 * values.itemsize - 1))
    return values


def by_miniaudio(path: Path) -> Blocks:
    """dr_mp3, dr_flac and stb_vorbis."""
    import miniaudio

    about = miniaudio.get_file_info(str(path))
    rate, channels = about.sample_rate, about.nchannels
    kind = miniaudio.SampleFormat.FLOAT32
    for block in miniaudio.stream_file(str(path), kind, channels, rate, BLOCK_S * rate):
        yield rate, np.frombuffer(block, np.float32).reshape(-1, channels)


def by_torchcodec(path: Path) -> Blocks:
    """FFmpeg's libraries, decoding at once: by time it seeks."""
    from torchcodec.decoders import AudioDecoder

    samples = AudioDecoder(path).get_all_samples()
    for block in samples.data.split(BLOCK_S * samples.sample_rate, dim=1):
        yield samples.sample_rate, block.T.numpy()


def to_mono(blocks: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """Mixed and resampled as `load_audio` does."""
    stream, parts = None, []
    for rate, samples in blocks:
        stream = stream or soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        parts.append(stream.resample_chunk(average_channels(samples)))
    assert stream is not None
    parts.append(stream.resample_chunk(np.empty(0, np.float32), last=True))
    return np.concatenate(parts)


def _read(blocks: Callable[[Path], Blocks], path: Path) -> np.ndarray:
    return to_mono(blocks(path))


def by_torchcodec_alone(path: Path) -> np.ndarray:
    """Mixed and resampled by FFmpeg as well, another resampler."""
    from torchcodec.decoders import AudioDecoder

    decoder = AudioDecoder(path, sample_rate=SAMPLE_RATE, num_channels=1)
    return decoder.get_all_samples().data[0].numpy()


Decoder = Callable[[Path], np.ndarray]


def find_decoders() -> dict[str, Decoder]:
    """By name and version; ours first."""
    plain: dict[str, tuple[str, Callable[[Path], Blocks]]] = {
        "soundfile": ("libsndfile", by_soundfile),
        "av": ("PyAV alone", by_av),
        "miniaudio": ("miniaudio", by_miniaudio),
        "torchcodec": ("torchcodec", by_torchcodec),
    }
    found: dict[str, Decoder] = {"ours (`load_audio`)": lambda path: load_audio(path).numpy()}
    for module, (name, blocks) in plain.items():
        if importlib.util.find_spec(module):
            found[f"{name} ({module} {version(module)})"] = partial(_read, blocks)
    if importlib.util.find_spec("torchcodec"):
        found["torchcodec, resampling by FFmpeg"] = by_torchcodec_alone
    return found


def write(path: Path, encoder: str | None, rate: int, bits: int, seconds: float) -> None:
    """Music-like noise, of which FFmpeg's encoders take the same."""
    if encoder is None:
        write_track(path, seconds, 0)
        return
    source = path.with_suffix(".wav")
    write_track(source, seconds, 0)
    with av.open(str(source)) as given, av.open(str(path), "w") as file:
        stream = file.add_stream(encoder, rate=rate, layout="stereo")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = bits
        convert = av.AudioResampler(stream.format.name, "stereo", rate, 1024)
        for frame in (*given.decode(audio=0), None):
            for ready in convert.resample(frame):
                file.mux(stream.encode(ready))
        file.mux(stream.encode(None))
    source.unlink()


def differs(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether samples are not the same, but for some at the ends."""
    n = min(len(ours), len(theirs))
    return abs(len(ours) - len(theirs)) > SAMPLE_RATE or np.abs(ours[:n] - theirs[:n]).max() > 1e-3


def measure(path: Path, decoders: dict[str, Decoder], rounds: int) -> dict[str, float | str]:
    """CPU seconds of each, the least of some rounds in turn; or what is wrong."""
    results: dict[str, float | str] = {}
    ours = load_audio(path).numpy()
    for name, decode in decoders.items():
        try:
            samples = decode(path)
        except Exception as error:  # noqa: BLE001  # other people's decoders
            results[name] = f"no ({type(error).__name__})"
        else:
            results[name] = np.inf
            if "resampling" not in name and differs(ours, samples):
                print(f"{name}: other samples of {path.name}, {len(samples)} for {len(ours)}")
    for _ in range(rounds):
        for name, best in results.items():
            if isinstance(best, float):
                start = time.process_time()
                decoders[name](path)
                results[name] = min(best, time.process_time() - start)
    return results


def main() -> None:
    """Generate, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240.0, help="of a track (default: 240)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    options = parser.parse_args()
    torch.set_num_threads(1)
    decoders = find_decoders()
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, (suffix, encoder, rate, bits) in FORMATS.items():
            path = Path(folder) / f"track.{suffix}"
            write(path, encoder, rate, bits, options.seconds)
            table[kind] = measure(path, decoders, options.rounds)
    print(f"{platform.machine()}, {options.seconds:g} s, {time.strftime('%Y-%m-%d')}\n")
    print(f"| CPU ms (times ours) | {' | '.join(table)} |\n|---|{'---|' * len(table)}")
    for name in decoders:
        cells = []
        for results in table.values():
            took, ours = results[name], next(iter(results.values()))
            if isinstance(took, float) and isinstance(ours, float):
                cells.append(f"{1e3 * took:.0f} ({took / ours:.2f})")
            else:
                cells.append(str(took))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

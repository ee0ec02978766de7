"""From compressed files to embeddings: tracks a minute, where the time goes, the literal pipeline.

    python -m benchmarks.library                       # CUDA where there is one, else the CPU
    python -m benchmarks.library --device cuda --tracks 1200 --seconds 180
    python -m benchmarks.library --device cpu --tracks 12 --seconds 60

Makes music-like noise as 44.1 kHz stereo MP3, FLAC and OGG (a few distinct files, linked under many
names), and measures in this process

- each stage alone: decoding, mixing with resampling (one core each), mel and encoding (device);
- the literal pipeline, file after file: soundfile, mean of the channels, soxr, nnAudio, a plain
  float32 Vision Transformer on the same device (benchmarks/embed.py);
- `myna embed`'s own function, from the list of files to the merged Parquet file; on a CPU also as
  it was, one pass of the encoder after another on all cores, in turn.

Weights are random and shared. Prints Markdown tables. The rates of `myna embed` include starting
the worker processes (seconds), which weighs less the more tracks there are.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import soundfile
import soxr
import torch

from benchmarks.embed import LiteralPipeline
from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.library.building import build_library, describe
from myna_plugin.library.encoding import SceneEncoder
from myna_plugin.library.segments import cut_segments, window_length
from myna_plugin.library.table import read_library
from myna_plugin.library.tracks import look_at
from myna_plugin.model.audio import SAMPLE_RATE, average_channels, load_audio
from myna_plugin.model.embedding import Embedder
from myna_plugin.model.encoder import SIZES, EncoderConfig, MynaEncoder, initialise

RATE = 44_100
SUFFIXES = (".mp3", ".flac", ".ogg")
BOTH = ("square", "vertical")
PEER = "the literal pipeline"


def write_track(path: Path, seconds: float, seed: int) -> None:
    """Noise with a falling spectrum; a second at a time, long Vorbis overflows libsndfile."""
    noise = np.random.default_rng(seed).standard_normal((int(RATE * seconds), 2))
    spectrum = np.fft.rfft(noise, axis=0)
    spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1))[:, None]
    samples = np.fft.irfft(spectrum, len(noise), axis=0)
    samples *= 0.5 / np.abs(samples).max()
    with soundfile.SoundFile(path, "w", RATE, 2) as file:
        for start in range(0, len(samples), RATE):
            file.write(samples[start : start + RATE])


def generate(folder: Path, n_tracks: int, seconds: float, distinct: int) -> list[Path]:
    """Tracks in all formats in turn; after the distinct ones come links to them."""
    folder.mkdir()
    paths = [folder / f"{i:05d}{SUFFIXES[i % len(SUFFIXES)]}" for i in range(n_tracks)]
    first = paths[:distinct]
    # Threads: what takes time, transforms and encoding, lets others run.
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(write_track, first, [seconds] * len(first), range(len(first))))
    for i, path in enumerate(paths[distinct:]):
        os.link(first[i % distinct], path)
    return paths


def fastest(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Least seconds of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        wait_for(device)
        start = time.perf_counter()
        run()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_encoder(size: str) -> MynaEncoder:
    config = EncoderConfig.of_size(size, patchings=BOTH)
    return initialise(MynaEncoder(config), 0).eval().requires_grad_(False)


def make_embedder(device: torch.device, precision: str, size: str, tokens: float) -> Embedder:
    embedder = Embedder(make_encoder(size), BOTH, precision=precision, tokens=tokens)
    return embedder.to(device).eval()


class OnePassAtATime(SceneEncoder):
    """On a CPU: every pass on all cores, while nothing else is done."""

    def __init__(self, embedder: Embedder, batch_seconds: float | None = None) -> None:
        super().__init__(embedder, batch_seconds)
        self._passes, self._most = None, 1


def measure_files(paths: Sequence[Path], seconds: float, repeats: int) -> list[tuple[str, float]]:
    """Decoding by format, and mixing with resampling: seconds of audio a second on one core."""
    cpu, rows = torch.device("cpu"), []
    for suffix, path in zip(SUFFIXES, paths, strict=False):

        def decode(path: Path = path) -> None:
            with soundfile.SoundFile(path) as file:
                buffer = np.empty((10 * RATE, 2), np.float32)
                while len(file.read(out=buffer)):
                    pass

        rows.append(
            (f"decode {suffix[1:].upper()}, one core", seconds / fastest(decode, cpu, repeats))
        )
    samples, _ = soundfile.read(paths[0], dtype="float32", always_2d=True)

    def convert() -> None:
        stream = soxr.ResampleStream(RATE, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        for start in range(0, len(samples), 10 * RATE):
            stream.resample_chunk(average_channels(samples[start : start + 10 * RATE]))

    rows.append(("mix and resample, one core", seconds / fastest(convert, cpu, repeats)))
    both = [seconds / fastest(partial(load_audio, path), cpu, repeats) for path in paths[:3]]
    # Formats come in turn, so the mean is over times, not rates.
    rows.append(
        ("decode to 16 kHz mono, the three formats, one core", 3 / sum(1 / r for r in both))
    )
    return rows


@torch.inference_mode()
def measure_device(
    embedder: Embedder, precision: str, n_tracks: int, length: float, repeats: int
) -> list[tuple[str, float]]:
    """Mel, encoding, and both with the copy to the device: seconds of audio a second."""
    device = embedder.mel.window.device
    encoder = SceneEncoder(embedder)
    frames = embedder.encoder.config.chunk_frames
    seconds = encoder.batch * frames * 512 / SAMPLE_RATE
    windows = 0.1 * torch.randn(encoder.batch, window_length(frames), device=device)
    mel = embedder.mel.frames(windows, 2, 2 + frames)
    numbers = torch.arange(encoder.batch, device=device)
    times = {
        f"mel, {device.type}": lambda: embedder.mel.frames(windows, 2, 2 + frames),
        f"encode, {device.type}, {precision}": lambda: embedder.pool_chunks(mel, numbers),
    }
    rows = [(name, seconds / fastest(run, device, repeats)) for name, run in times.items()]
    waveform = 0.1 * np.random.default_rng(0).standard_normal(int(length * SAMPLE_RATE))
    segments = list(cut_segments([waveform.astype(np.float32)], frames))

    def encode_tracks() -> None:
        for track in range(n_tracks):
            for i, segment in enumerate(segments):
                encoder.add(track, segment, i == 0)
            encoder.finish(track, len(waveform))
        encoder.flush()

    whole = n_tracks * length / fastest(encode_tracks, device, repeats)
    return [*rows, (f"copy, mel, encode and pool tracks, {device.type}, {precision}", whole)]


@torch.inference_mode()
def measure_literal(paths: Sequence[Path], device: torch.device, size: str) -> float:
    """Seconds a track of the literal pipeline, file after file in one process."""
    model = LiteralPipeline(make_encoder(size)).eval().to(device)

    def embed(path: Path) -> np.ndarray:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE, quality="HQ")
        return model(torch.from_numpy(mono)[None].to(device))[0].cpu().numpy()

    embed(paths[0])
    start = time.perf_counter()
    for path in paths:
        embed(path)
    return (time.perf_counter() - start) / len(paths)


def measure_library(
    paths: Sequence[Path],
    embedder: Embedder,
    precision: str,
    workers: int,
    out: Path,
    encoder: type[SceneEncoder] = SceneEncoder,
) -> tuple[float, float]:
    """Seconds a track of `myna embed`, starting its workers included; CPU seconds without them."""
    facts = describe(embedder, "random", precision=precision, timestamps=False)
    warm_up(embedder)
    start, cpu = time.perf_counter(), time.process_time()
    with patch("myna_plugin.library.building.SceneEncoder", encoder):
        outcome = build_library(
            [look_at(str(path)) for path in paths],
            out,
            embedder,
            facts,
            workers=workers,
            say=lambda line: None,
        )
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert outcome.n_rows == len(paths), outcome.failed
    library = read_library(out)
    check = [embedder.embed_scenes(load_audio(path)[None])[0].cpu().numpy() for path in paths[:3]]
    error = np.linalg.norm(library.embeddings[:3] - check) / np.linalg.norm(check)
    assert error < 0.02, f"rows differ from embed_scenes by {error}"
    out.unlink()
    return elapsed / len(paths), cpu / len(paths)


def measure_passes(paths: Sequence[Path], embedder: Embedder, workers: int, out: Path) -> None:
    """Print how passes on all cores compare with a pass a core; the median of rounds in turn."""
    kinds = (OnePassAtATime, SceneEncoder)
    rounds = [
        [measure_library(paths, embedder, "float32", workers, out, k) for k in kinds]
        for _ in range(3)
    ]
    names = ("a pass after another on all cores", "passes side by side, a core each")
    for name, took in zip(names, np.median(np.array(rounds), axis=0), strict=True):
        print(f"{name}: {took[0]:.3f} s a track, {took[1]:.3f} CPU s of encoding")


def warm_up(embedder: Embedder) -> None:
    """Let the device choose its kernels, as it does once in a process."""
    encoder = SceneEncoder(embedder)
    noise = 0.1 * np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    for i, segment in enumerate(cut_segments([noise], embedder.encoder.config.chunk_frames)):
        encoder.add(0, segment, i == 0)
    encoder.finish(0, len(noise))
    encoder.flush()


def main() -> None:
    """Generate, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--size", choices=SIZES, default="vit-s", help="default: vit-s")
    parser.add_argument("--tokens", type=float, default=1.0, help="share of them (default: 1)")
    parser.add_argument("--tracks", type=int, help="default: 1200 on CUDA, 12 on a CPU")
    parser.add_argument("--seconds", type=float, help="of a track; default: 180, 30 on a CPU")
    parser.add_argument("--distinct", type=int, default=24, help="different files (default: 24)")
    parser.add_argument("--literal", type=int, help="tracks for the literal pipeline; default: 24")
    parser.add_argument("--repeats", type=int, default=3, help="of a stage (default: 3)")
    parser.add_argument("--workers", type=int, nargs="*", help="default: 1, 8 and one a core")
    options = parser.parse_args()
    device = torch.device(choose_device(options.device))
    on_cpu = device.type == "cpu"
    cores = available_cores()
    seconds = options.seconds or (30.0 if on_cpu else 180.0)
    n_tracks = options.tracks or (12 if on_cpu else 1200)
    n_literal = min(options.literal or 24, n_tracks)
    workers = options.workers or sorted({w for w in (1, 8, cores) if w <= cores})
    extent = (2, min(30.0, seconds)) if on_cpu else (100, 180.0)
    precisions = ("float32",) if on_cpu else ("float32", "bfloat16")
    folder = Path(tempfile.mkdtemp())
    try:
        paths = generate(folder / "music", n_tracks, seconds, min(options.distinct, n_tracks))
        name = f"{cores} cores" if on_cpu else f"{torch.cuda.get_device_name()}, {cores} cores"
        print(
            f"{n_tracks} tracks of {seconds:g} s, 44.1 kHz stereo, MP3, FLAC and OGG in turn; "
            f"{name}, {platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
        )
        print("\n| stage alone | seconds of audio a second | ms a track |\n|---|---|---|")
        stages = measure_files(paths, seconds, options.repeats)
        for precision in precisions:
            embedder = make_embedder(device, precision, options.size, options.tokens)
            stages += measure_device(embedder, precision, *extent, options.repeats)
        for stage, rate in dict(stages).items():
            print(f"| {stage} | {rate:,.0f} | {1e3 * seconds / rate:,.2f} |", flush=True)
        peer = measure_literal(paths[:n_literal], device, options.size)
        print(f"\n| whole | tracks a minute | seconds of audio a second | times {PEER} |")
        print("|---|---|---|---|")
        print_row(f"{PEER}, {n_literal} tracks", peer, peer, seconds)
        for precision in precisions:
            for count in workers:
                few = paths[: max(n_tracks * count // max(workers), min(n_tracks, 24))]
                out = folder / "library.parquet"
                embedder = make_embedder(device, precision, options.size, options.tokens)
                took, _ = measure_library(few, embedder, precision, count, out)
                row = f"myna embed, {precision}, {count} decoding, {len(few)} tracks"
                print_row(row, took, peer, seconds)
        if on_cpu:
            print()
            measure_passes(paths, embedder, cores, folder / "library.parquet")
    finally:
        shutil.rmtree(folder)


def print_row(name: str, took: float, peer: float, seconds: float) -> None:
    """A row of the table of wholes, from seconds a track."""
    print(f"| {name} | {60 / took:,.0f} | {seconds / took:,.0f} | {peer / took:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""How fast a folder of audio becomes a store, beside the plain loop that it replaces.

    python -m benchmarks.prepare [--minutes 60] [--workers N]

Generates music-like noise as 30-second stereo files at 44.1 kHz, in MP3, FLAC and WAV, and turns
them into float16 mel spectrograms in these ways, started from this one process:

- plain loop, nnAudio: decode, mix, resample, nnAudio's MelSpectrogram on one thread, a file each;
- plain loop, ours: the same with this package's MelSpectrogram;
- prepare: shards, checksums, index and report, with one worker and with N.

Prints a Markdown table. The plain loops run on one core, as does prepare with one worker; its
figures include starting the workers, which weighs less the more audio there is.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from myna_plugin.model.audio import HOP_LENGTH, SAMPLE_RATE, load_audio
from myna_plugin.model.spectrogram import MelSpectrogram
from myna_plugin.pretraining.store.preparation import prepare, settings_of

FILE_SECONDS = 30
RATE = 44_100
SUFFIXES = (".mp3", ".flac", ".wav")


def generate(folder: Path, n_files: int) -> None:
    """Write noise with a falling spectrum, shifted differently in every file."""
    steps = np.random.default_rng(0).standard_normal((RATE * FILE_SECONDS, 2))
    spectrum = np.fft.rfft(steps, axis=0)
    spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1))[:, None]
    noise = np.fft.irfft(spectrum, axis=0)
    noise *= 0.5 / np.abs(noise).max()
    folder.mkdir()
    for i in tqdm(range(n_files), "generate", unit="file"):
        path = folder / f"{i:05d}{SUFFIXES[i % len(SUFFIXES)]}"
        soundfile.write(path, np.roll(noise, 1000 * i, axis=0), RATE)


def plain_loop(mel: Callable[[Tensor], Tensor]) -> Callable[[Path, Path], None]:
    """One file after the other, the whole spectrogram of each into a file of its own."""

    def run(audio_dir: Path, out: Path) -> None:
        out.mkdir()
        for path in sorted(audio_dir.iterdir()):
            with torch.inference_mode():
                power = mel(load_audio(path)[None])[0].T
            np.save(out / f"{path.stem}.npy", power.half().numpy())

    return run


def with_workers(workers: int) -> Callable[[Path, Path], None]:
    """The store, in shards of five minutes, so that a small benchmark keeps all workers busy."""

    def run(audio_dir: Path, out: Path) -> None:
        prepare(audio_dir, out, settings_of(shard_mb=2), workers=workers, say=lambda line: None)

    return run


def require_spectrograms(out: Path, hours: float) -> None:
    """Refuse to time what was not done: values that are not finite, or frames that lack."""
    frames = 0
    for path in out.rglob("*.npy"):
        power = np.load(path, mmap_mode="r")
        if power.ndim != 2 or not np.isfinite(power).all():
            raise SystemExit(f"{path}: holds no finite spectrogram")
        frames += len(power)
    if frames * HOP_LENGTH / SAMPLE_RATE < 0.95 * 3600 * hours:
        raise SystemExit(f"{out}: {frames} frames are not {hours:.2f} hours")


def main() -> None:
    """Generate, time, print."""
    # Workers import this script once more, but not what only the peer needs.
    from nnAudio.features import MelSpectrogram as NnAudioMelSpectrogram

    parser = argparse.ArgumentParser(description="Measure the preparation of a store.")
    parser.add_argument("--minutes", type=float, default=60, help="audio to generate (default: 60)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts (default: 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    peer = "plain loop, nnAudio"
    ways = {
        peer: plain_loop(NnAudioMelSpectrogram(sr=16_000, n_mels=128, verbose=False)),
        "plain loop, ours": plain_loop(MelSpectrogram()),
        "prepare, 1 worker": with_workers(1),
        f"prepare, {options.workers} workers": with_workers(options.workers),
    }
    n_files = max(1, round(60 * options.minutes / FILE_SECONDS))
    hours = n_files * FILE_SECONDS / 3600
    seconds = dict.fromkeys(ways, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        audio_dir = Path(folder) / "audio"
        generate(audio_dir, n_files)
        for repeat in range(options.repeats):
            for i, (name, run) in enumerate(ways.items()):
                start = time.perf_counter()
                run(audio_dir, Path(folder) / f"{repeat}-{i}")
                seconds[name] = min(seconds[name], time.perf_counter() - start)
                require_spectrograms(Path(folder) / f"{repeat}-{i}", hours)
    print(
        f"{n_files} files, {hours:.2f} hours; {platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}; fastest of {options.repeats}\n"
    )
    print(f"| | hours of audio a minute | times '{peer}' |\n|---|---|---|")
    for name, elapsed in seconds.items():
        print(f"| {name} | {60 * hours / elapsed:.2f} | {seconds[peer] / elapsed:.2f} |")


if __name__ == "__main__":
    main()

"""How fast clips are rendered on one core, step by step, and how fast from samples on a device.

    python -m benchmarks.rendered.speed
    python -m benchmarks.rendered.speed --sampled cuda

Prints a Markdown table in processor time, so that other processes do not spoil it. What a device
does is told in seconds that pass, warmed up and without playing the samples, beside the same clips
by the synthesiser.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from myna_plugin.common.devices import DeviceError, choose_device
from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.pretraining.store.preparation import cut_clips, settings_of
from recipes.rendered.composer import compose_scores
from recipes.rendered.noises import NOISES
from recipes.rendered.performance import Performance, draw_performance
from recipes.rendered.recording import Conditions, Recording, draw_recording
from recipes.rendered.recording_chain import apply_recording, tabulate
from recipes.rendered.render import render_clip
from recipes.rendered.sampler import instruments_of, make_bank, tabulate_notes
from recipes.rendered.scores import Score, ScoreError, read_scores
from recipes.rendered.shards import Drawn, render_drawn
from recipes.rendered.soundfonts import SoundfontError, find_soundfonts, load_soundfont

BATCH = 256


class Stopwatch:
    """Processor seconds by step: what another process takes does not count."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        began = time.process_time()
        yield
        self.seconds[name] += time.process_time() - began


def measure(
    scores: list[Score], soundfont: str, clip_seconds: float, n_clips: int, seed: int
) -> tuple[dict[str, float], int]:
    """Processor seconds of each step over some clips, and the number of clips rendered."""
    load_soundfont(soundfont)
    settings = settings_of(clip_seconds=clip_seconds, min_seconds=clip_seconds)
    rng = np.random.default_rng(seed)
    # Once before counting, so that tables, plans and noises are there.
    noise = torch.rand(round(SAMPLE_RATE * clip_seconds))
    for kind in NOISES:
        apply_recording(noise.numpy(), Recording((Conditions(noises=((kind, 1.0),)),)))
    cut_clips(noise, settings)
    watch, rendered = Stopwatch(), 0
    while rendered < n_clips:
        score = scores[int(rng.integers(len(scores)))]
        with watch.step("draw passage and performance"):
            performance = draw_performance(score, clip_seconds, rng)
            recording = draw_recording(rng, clip_seconds, changing=True)
        if performance is None:
            continue
        with watch.step("dry: synthesiser, decimation, labels"):
            clip = render_clip(score, performance, soundfont, clip_seconds)
        with watch.step("rooms, microphones, noise"):
            waveform = apply_recording(clip.waveform, recording)
        with watch.step("mel, float16"):
            cut_clips(torch.from_numpy(waveform), settings)
        rendered += 1
    return dict(watch.seconds), rendered


def measure_sampled(
    scores: list[Score],
    soundfont: str,
    clip_seconds: float,
    n_clips: int,
    seed: int,
    device: str,
    workers: int,
) -> dict[str, float]:
    """Seconds a clip of each step from samples, in batches of at most `BATCH` clips."""
    rng = np.random.default_rng(seed)
    clips: list[tuple[Score, Performance, str]] = []
    recordings: list[Recording] = []
    while len(clips) < n_clips:
        score = scores[int(rng.integers(len(scores)))]
        performance = draw_performance(score, clip_seconds, rng)
        if performance is not None:
            clips.append((score, performance, soundfont))
            recordings.append(draw_recording(rng, clip_seconds, changing=True))
    bank = make_bank(instruments_of([soundfont]), workers, device)
    n_samples = round(SAMPLE_RATE * clip_seconds)
    spent: dict[str, float] = defaultdict(float)
    # The first round is not counted: tables, transforms and memory are made in it.
    for counted in (False, True):
        for start in range(0, n_clips, BATCH):
            part = slice(start, start + BATCH)
            began = time.perf_counter()
            notes = tabulate_notes(clips[part], clip_seconds, bank.index)
            drawn = Drawn([], notes, tabulate(recordings[part], n_samples))
            tabulated = time.perf_counter()
            # Ends in the CPU's memory, so nothing is under way.
            render_drawn(drawn, bank, clip_seconds)
            if counted:
                spent["what is played, as tables, one core"] += tabulated - began
                spent[f"all else, {device}"] += time.perf_counter() - tabulated
    return {step: seconds / n_clips for step, seconds in spent.items()}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scores", metavar="DIR", help="default: composed works")
    parser.add_argument("--soundfont", metavar="FILE")
    parser.add_argument("--clip-seconds", type=float, default=15.0)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sampled", metavar="DEVICE", help="cpu, cuda, ...: sample, too")
    parser.add_argument("--workers", type=int, default=1, help="to play the samples")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        report(options)
    except (DeviceError, ScoreError, SoundfontError) as error:
        parser.error(str(error))


def report(options: argparse.Namespace) -> None:
    """Measure and print."""
    scores = read_scores(options.scores) if options.scores else compose_scores(60, options.seed)
    found = [options.soundfont] if options.soundfont else [str(p) for p in find_soundfonts()[:1]]
    if not found:
        raise SoundfontError("no soundfont found on this machine; name one with --soundfont")
    seconds, rendered = measure(scores, found[0], options.clip_seconds, options.clips, options.seed)
    total = sum(seconds.values())
    print("| step | ms a clip | share | times real time |\n|---|---|---|---|")
    for name, spent in [*seconds.items(), ("**all**", total)]:
        print(
            f"| {name} | {1000 * spent / rendered:.1f} | {spent / total:.0%} "
            f"| {options.clip_seconds * rendered / spent:,.0f} |"
        )

    if options.sampled:
        device = choose_device(options.sampled)
        sampled = measure_sampled(
            scores,
            found[0],
            options.clip_seconds,
            options.clips,
            options.seed,
            device,
            options.workers,
        )
        print("\n| from samples | ms a clip | times real time | times the synthesiser |")
        print("|---|---|---|---|")
        for name, each in sampled.items():
            print(
                f"| {name} | {1000 * each:.2f} | {options.clip_seconds / each:,.0f} "
                f"| {total / rendered / each:.1f} |"
            )


if __name__ == "__main__":
    main()

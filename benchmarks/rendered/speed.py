"""How fast clips are rendered on one core, step by step.

    python -m benchmarks.rendered.speed

Prints a Markdown table in processor time, so that other processes do not spoil it.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.rendered.composer import compose_scores
from benchmarks.rendered.performance import draw_performance
from benchmarks.rendered.recording import NOISES, apply_recording, draw_recording, noise_bank
from benchmarks.rendered.render import render_clip
from benchmarks.rendered.scores import Score, read_scores
from benchmarks.rendered.soundfonts import find_soundfonts, load_soundfont
from myna_plugin.pretraining.preparation import cut_clips, settings_of


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
    for kind in NOISES:
        noise_bank(kind)
    settings = settings_of(clip_seconds=clip_seconds, min_seconds=clip_seconds)
    rng = np.random.default_rng(seed)
    # Once before counting, so that tables and plans are there.
    cut_clips(torch.rand(round(16_000 * clip_seconds)), settings)
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


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scores", metavar="DIR", help="default: composed works")
    parser.add_argument("--soundfont", metavar="FILE")
    parser.add_argument("--clip-seconds", type=float, default=15.0)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scores = read_scores(options.scores) if options.scores else compose_scores(60, options.seed)
    found = [options.soundfont] if options.soundfont else [str(p) for p in find_soundfonts()[:1]]
    if not found:
        parser.error("no soundfont found on this machine; name one with --soundfont")
    seconds, rendered = measure(scores, found[0], options.clip_seconds, options.clips, options.seed)
    total = sum(seconds.values())
    print("| step | ms a clip | share | times real time |\n|---|---|---|---|")
    for name, spent in [*seconds.items(), ("**all**", total)]:
        print(
            f"| {name} | {1000 * spent / rendered:.1f} | {spent / total:.0%} "
            f"| {options.clip_seconds * rendered / spent:,.0f} |"
        )


if __name__ == "__main__":
    main()

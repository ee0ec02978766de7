"""Plans of rendered stores, and the blocks drawn from them; `store` says what a block is."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from myna_plugin.pretraining.store.reading import StoreError
from recipes.rendered.performance import Performance, draw_instruments, draw_performance, draw_start
from recipes.rendered.recording import Recording, draw_recording
from recipes.rendered.scores import Score, ScoreError
from recipes.rendered.soundfonts import programs_of
from recipes.rendered.sources import Sources

RECORDINGS = ("changing", "clip", "block")

TRIALS = 200
"""Passages tried for a block before the scores are called unusable."""


@dataclass(frozen=True)
class StorePlan:
    """What decides every block.

    Attributes:
        sources: of the works.
        soundfonts: paths; each instrumentation uses one of them.
        passages: of a block, each of another work where there are enough.
        instrumentations: of a block.
        transpositions: of a block, different ones within an octave, at most 12.
        clip_seconds: length of a clip.
        recording: how recordings are drawn: "changing" within each clip, one for each "clip", or
            one for all clips of a "block".
        percussion: share of blocks with added percussion.
        seed: of everything.
        sampled: whether clips are put together from samples of the soundfonts' notes (see
            `sampler`) instead of being played.
    """

    sources: Sources
    soundfonts: tuple[str, ...]
    passages: int = 2
    instrumentations: int = 2
    transpositions: int = 4
    clip_seconds: float = 15.0
    recording: str = "changing"
    percussion: float = 0.5
    seed: int = 0
    sampled: bool = False

    def __post_init__(self) -> None:
        if min(self.passages, self.instrumentations, self.transpositions) < 1:
            raise StoreError("a block needs at least one of everything")
        if self.transpositions > 12:
            raise StoreError(f"an octave has 12 transpositions, not {self.transpositions}")
        if self.recording not in RECORDINGS:
            raise StoreError(f"recording is one of {', '.join(RECORDINGS)}, not {self.recording}")
        if not self.soundfonts:
            raise StoreError("at least one soundfont is needed")

    @property
    def clips_per_block(self) -> int:
        """Clips of a block."""
        return self.passages * self.instrumentations * self.transpositions


@dataclass(frozen=True)
class ClipPlan:
    """One clip to render, and what its row in the store is called."""

    name: str
    score: Score
    performance: Performance
    soundfont: str
    recording: Recording


def draw_block(plan: StorePlan, number: int, attempt: int = 0) -> list[ClipPlan]:
    """The clips of a block, in the order of their rows: by passage, instrumentation, transposition.

    Args:
        plan: of the store.
        number: of the block.
        attempt: another number gives another block.

    Raises:
        ScoreError: hardly any passage of the scores sounds for most of a clip's length.
    """
    rng = np.random.default_rng([plan.seed, number, attempt])
    passages = _draw_passages(plan, rng)
    instrumentations = [_draw_instrumentation(plan, rng) for _ in range(plan.instrumentations)]
    transpositions = rng.choice(np.arange(-6, 6), plan.transpositions, replace=False).tolist()
    shared = draw_recording(rng, plan.clip_seconds)
    clips = []
    for (score, performance), (players, (programs, gains_db, soundfont)), transposition in product(
        passages, enumerate(instrumentations), transpositions
    ):
        recording = shared
        if plan.recording != "block":
            changing = plan.recording == "changing"
            recording = draw_recording(rng, plan.clip_seconds, changing=changing)
        listed = "-".join(map(str, programs[: max(score.n_parts, 1)]))
        name = (
            f"{plan.seed}/{number:07d}/{score.corpus}/{score.work} "
            f"from {performance.start_s:.2f} s/"
            # Their number, too: two may have been given the same instruments.
            f"{players} {Path(soundfont).stem} {listed}/{transposition:+d}"
        )
        played = replace(
            performance, programs=programs, gains_db=gains_db, transposition=transposition
        )
        clips.append(ClipPlan(name, score, played, soundfont, recording))
    return clips


def _draw_instrumentation(
    plan: StorePlan, rng: np.random.Generator
) -> tuple[tuple[int, ...], tuple[float, ...], str]:
    """Programs, levels and a soundfont; those that it lacks give way to others that it has."""
    programs, gains_db = draw_instruments(rng)
    soundfont = str(rng.choice(plan.soundfonts))
    own = programs_of(soundfont)
    # Soundfonts with all programs cost no chance here: their clips are what they were.
    kept = tuple(p if p in own else int(rng.choice(own)) for p in programs)
    return kept, gains_db, soundfont


def _draw_passages(plan: StorePlan, rng: np.random.Generator) -> list[tuple[Score, Performance]]:
    scores = plan.sources.load()
    weights = _weights(plan.sources)
    found: list[tuple[Score, Performance]] = []
    taken: set[int] = set()
    for _ in range(TRIALS):
        row = int(rng.choice(len(scores), p=weights))
        if row in taken and len(scores) > 2 * plan.passages:
            continue
        score = scores[row]
        if not found:
            performance = draw_performance(
                score, plan.clip_seconds, rng, percussion=plan.percussion
            )
        else:
            first = found[0][1]
            start_s = draw_start(score, plan.clip_seconds * first.tempo, rng)
            performance = None if start_s is None else replace(first, start_s=start_s)
        if performance is not None:
            taken.add(row)
            found.append((score, performance))
        if len(found) == plan.passages:
            return found
    raise ScoreError(
        f"of {TRIALS} works drawn, fewer than {plan.passages} have {plan.clip_seconds:g} s that "
        "mostly sound; give longer scores or a smaller --clip-seconds"
    )


@functools.lru_cache(maxsize=2)
def _weights(sources: Sources) -> np.ndarray:
    """Chance of each work: long works have more to tell, but not in proportion."""
    roots = np.sqrt([score.duration_s for score in sources.load()])
    return roots / roots.sum()

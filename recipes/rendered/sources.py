"""Sources of works: folders of scores, folders of MIDI files, the composer."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from recipes.rendered.composer import compose_scores
from recipes.rendered.scores import Score, ScoreError, read_midi_folder, read_scores, select_scores


@dataclass(frozen=True)
class Sources:
    """Where works come from.

    Attributes:
        scores: folders for `read_scores`.
        midi: folders for `read_midi_folder`.
        composed: number of works to compose.
        split: the only one to take; None for all.
        licence: the only one to take; None for all.
        seed: of the composer.
    """

    scores: tuple[str, ...] = ()
    midi: tuple[str, ...] = ()
    composed: int = 0
    split: str | None = None
    licence: str | None = None
    seed: int = 0

    def load(self) -> list[Score]:
        """All works; ScoreError if there are none, or a folder cannot be read."""
        return _load_sources(self)


@functools.lru_cache(maxsize=2)
def _load_sources(sources: Sources) -> list[Score]:
    works = [score for folder in sources.scores for score in read_scores(folder)]
    works += [score for folder in sources.midi for score in read_midi_folder(folder)]
    works += compose_scores(sources.composed, sources.seed)
    if not works:
        raise ScoreError("no scores: give --scores, --midi or --composed")
    kept = select_scores(works, split=sources.split, licence=sources.licence)
    if not kept:
        raise ScoreError(
            f"none of the {len(works)} works are left with split {sources.split or 'any'} and "
            f"licence {sources.licence or 'any'}; give other --split, --licence, or more scores"
        )
    return kept

"""Blocks rendered by samples: what is drawn on the CPU, and the mel power a device makes of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from myna_plugin.model.audio import SAMPLE_RATE
from myna_plugin.model.spectrogram import MelSpectrogram, frame_count
from myna_plugin.pretraining.store.preparation import FLOAT16_MAX, SILENCE_AMPLITUDE
from recipes.rendered.blocks import ClipPlan, Plan, draw_block
from recipes.rendered.recording_chain import apply_recordings, tabulate
from recipes.rendered.sampler import NoteBank, NoteIndex, PlayedNotes, mix, tabulate_notes, to_peak

Attempt = tuple[int, int]
"""A block's number, and how often it has been drawn before."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Clips of some blocks, everything about them drawn."""

    clips: list[ClipFacts]
    notes: PlayedNotes
    pieces: np.ndarray


@dataclass(frozen=True)
class ClipFacts:
    """What a store tells of a clip."""

    name: str
    work: str
    licence: str

    @classmethod
    def of(cls, clip: ClipPlan) -> ClipFacts:
        """Facts of a clip that is planned."""
        score = clip.score
        return cls(clip.name, f"{score.corpus}/{score.work}", score.licence)


@dataclass(frozen=True, eq=False)
class RenderedClips:
    """Clips as a store holds them.

    Attributes:
        mels: mel power, float16 (clips, frames, 128).
        clamped: values of each clip that float16 cannot hold, int64.
        silent: which clips are silent.
    """

    mels: np.ndarray
    clamped: np.ndarray
    silent: np.ndarray


def draw_blocks(attempts: Iterable[Attempt], plan: Plan, index: NoteIndex) -> Drawn:
    """Draw some blocks."""
    clips = [clip for attempt in attempts for clip in draw_block(plan, *attempt)]
    n_samples = round(SAMPLE_RATE * plan.clip_seconds)
    return Drawn(
        [ClipFacts.of(clip) for clip in clips],
        tabulate_notes(
            [(clip.score, clip.performance, clip.soundfont) for clip in clips],
            plan.clip_seconds,
            index,
        ),
        tabulate([clip.recording for clip in clips], n_samples),
    )


@torch.inference_mode()
def render_drawn(drawn: Drawn, bank: NoteBank, seconds: float) -> RenderedClips:
    """Render what was drawn, clips of some length, on the bank's device."""
    waveforms = to_peak(mix(bank, drawn.notes, seconds))
    waveforms = apply_recordings(waveforms, drawn.pieces)
    low, high = torch.aminmax(waveforms, dim=1)
    mel = _mel_spectrogram(waveforms.device)
    power = mel.frames(waveforms, 0, frame_count(waveforms.shape[1])).transpose(1, 2)
    return RenderedClips(
        power.clamp(max=FLOAT16_MAX).half().contiguous().cpu().numpy(),
        (power > FLOAT16_MAX).sum((1, 2)).cpu().numpy(),
        ((high - low) / 2 < SILENCE_AMPLITUDE).cpu().numpy(),
    )


@functools.cache
def _mel_spectrogram(device: torch.device) -> MelSpectrogram:
    return MelSpectrogram().to(device)

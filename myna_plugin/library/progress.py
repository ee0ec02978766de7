"""How far a library is, and how fast."""

from __future__ import annotations

from myna_plugin.common.progress import ProgressBar

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Tracks that are done, and how many times as fast as it plays audio is embedded.

    Args:
        total: tracks of this run's share.
        done: of them by earlier runs.
        quiet: whether to say nothing.
    """

    def __init__(self, total: int, done: int = 0, quiet: bool = False) -> None:
        self._audio_s = 0.0
        # Of bursts, as batches of tracks end together, the mean alone tells what remains.
        self._bar = ProgressBar(
            total=total,
            initial=done,
            desc="embed",
            smoothing=0,
            mininterval=0.5,
            bar_format=BAR,
            disable=quiet,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def heard(self, seconds: float) -> None:
        """Count audio."""
        self._audio_s += seconds
        speed = self._audio_s / max(self._bar.format_dict["elapsed"], 1e-3)
        described = f"{speed:,.{0 if speed >= 10 else 1}f} times real time"
        self._bar.set_postfix_str(described, refresh=False)
        self._bar.update(0)

    def done(self, tracks: int = 1) -> None:
        """Count tracks."""
        self._bar.update(tracks)

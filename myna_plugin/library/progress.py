"""How far a run is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

LINE_S = 30.0
"""Between lines where there is no terminal."""

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Tracks that are done, and how many times as fast as it plays audio is embedded.

    Args:
        total: tracks of this run's share.
        done: of them by earlier runs.
        say: takes lines; None to say nothing.
        is_terminal: whether a bar can be drawn; None to look.
        now: seconds, from whenever.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        say: Callable[[str], None] | None = None,
        *,
        is_terminal: bool | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._n, self._before, self._say, self._now = total, done, done, say, now
        self._audio_s, self._start = 0.0, now()
        self._told = self._start
        drawn = sys.stderr.isatty() if is_terminal is None else is_terminal
        # Of bursts, as batches of tracks end together, the mean alone tells what remains.
        self._bar = tqdm(
            total=total,
            initial=done,
            desc="embed",
            smoothing=0,
            mininterval=0.5,
            bar_format=BAR,
            disable=say is None or not drawn,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def heard(self, seconds: float) -> None:
        """Count audio."""
        self._audio_s += seconds
        self._bar.set_postfix_str(self._speed(), refresh=False)
        self._tell(0)

    def done(self, tracks: int = 1) -> None:
        """Count tracks."""
        self._n += tracks
        self._tell(tracks)

    def _speed(self) -> str:
        speed = self._audio_s / max(self._now() - self._start, 1e-3)
        return f"{speed:,.{0 if speed >= 10 else 1}f} times real time"

    def _tell(self, tracks: int) -> None:
        self._bar.update(tracks)
        if not self._bar.disable or self._say is None or self._now() - self._told < LINE_S:
            return
        self._told = self._now()
        line = f"embed: {self._n:,} of {self._total:,} tracks, {self._speed()}"
        if new := self._n - self._before:
            left_s = (self._told - self._start) / new * (self._total - self._n)
            line += f", about {tqdm.format_interval(round(left_s))} left"
        self._say(line)

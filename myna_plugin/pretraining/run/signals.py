"""A run is stopped between two steps, after a checkpoint."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any


class Signals:
    """Notes SIGTERM and SIGINT instead of dying of them; the second one of a kind is not caught.

    Attributes:
        received: the first that came.
    """

    WATCHED = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in self.WATCHED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, self._before[self.received])
        print(
            f"\n{self.received.name}: saving a checkpoint and stopping", file=sys.stderr, flush=True
        )

"""Ctrl-C and SIGTERM, wherever they strike: a line, a status, and nothing left behind.

Importing this takes no time, so that what takes some can be imported inside `importing`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from myna_plugin.common.launch import launched_rank

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

TERMINATED = 143
"""Exit status after SIGTERM, as shells have it."""

AGAIN = "the same command goes on from here"


class Terminated(KeyboardInterrupt):
    """SIGTERM: what tidies up after Ctrl-C tidies up after it."""


_came: list[int] = []
"""Signals that `raise_stopped` has heard while the command runs."""


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C and SIGTERM while a command runs."""
    _came.append(number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


RAISING = (signal.default_int_handler, raise_stopped)
"""Handlers that raise wherever the program happens to be."""


@contextmanager
def stoppable(program: str, stopped: str = AGAIN) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM end the block in a line and an exit status.

    So does any error that comes after them: a C extension that is struck may raise its own in place
    of the one that it was given, such as "cannot read" in the middle of a file. Of the processes of
    `torchrun` the first alone speaks.

    Args:
        program: what the line starts with.
        stopped: what else it says.
    """
    before: dict[int, Any] = {}
    if _in_main_thread():
        for number, usual in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
        ):
            if signal.getsignal(number) == usual:
                before[number] = signal.signal(number, raise_stopped)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not _came and not isinstance(error, KeyboardInterrupt):
            raise
        terminated = isinstance(error, Terminated) or signal.SIGTERM in _came
        _say_stopped(program, stopped)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    finally:
        for replaced, handler in before.items():
            signal.signal(replaced, handler)
        if before:
            _came.clear()


@contextmanager
def importing(program: str) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM end this process at once while it imports, in a line and a status.

    Raised in the middle of an import, an exception may be swallowed by what imports (C extensions
    do that), and a module is left that is half there. Nothing has begun that must be tidied up.

    Args:
        program: what the line starts with.
    """

    def end(number: int, frame: FrameType | None) -> None:
        _say_stopped(program, AGAIN)
        os._exit(INTERRUPTED if number == signal.SIGINT else TERMINATED)

    before: dict[int, Any] = {}
    if _in_main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler in (*RAISING, signal.SIG_DFL):
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for replaced, handler in before.items():
            signal.signal(replaced, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _say_stopped(program: str, stopped: str) -> None:
    if launched_rank() == 0:
        # A terminal has just shown ^C, without an end of line.
        begin = "\n" * sys.stderr.isatty() + program
        print(f"{begin}: stopped; {stopped}", file=sys.stderr, flush=True)


class Interrupts:
    """Holds Ctrl-C and SIGTERM back from now on, until a moment at which no lock is held.

    A KeyboardInterrupt that strikes inside `concurrent.futures` can leave a future's lock shut, and
    its executor then waits for it without end.
    """

    def __init__(self) -> None:
        self._came: int | None = None
        self._before: dict[int, Any] = {}
        if _in_main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in RAISING:
                    self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = number

    def raise_if_any(self) -> None:
        """Do what came."""
        if self._came is not None:
            number, self._came = self._came, None
            self._before[number](number, None)

    def restore(self) -> None:
        """Hold back no longer."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.raise_if_any()


@contextmanager
def unstopped() -> Iterator[None]:
    """Processes that begin in the block never hear Ctrl-C, from their first moment on.

    It reaches the whole process group; their parent alone decides what follows from it. Nor does
    the parent leave them while they begin: one that imports does not see that it is alone.
    """
    from multiprocessing import resource_tracker

    interrupts = Interrupts()
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    if masks:
        # The first process would start it, and that lets SIGINT through again.
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        interrupts.restore()


def ignore_signals() -> None:
    """Nothing is left to stop: for the time that the interpreter takes to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

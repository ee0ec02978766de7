"""Ctrl-C and SIGTERM, wherever they strike: a line, a status, and nothing left behind.

Importing this takes no time, so that what takes some can be imported inside `importing`.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
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


_sending = threading.Lock()
"""Held while one is about to come again."""


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C and SIGTERM while a command runs."""
    _came.append(number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


RESEND_SECONDS = 0.02
"""After which a signal comes again that struck where Python drops what is raised."""

HEARD = (signal.SIGINT, signal.SIGTERM)
"""Signals that stop a command."""

RAISING = (signal.default_int_handler, raise_stopped)
"""Handlers that raise wherever the program happens to be."""


@contextmanager
def stoppable(program: str, stopped: str = AGAIN) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM end the block in a line and an exit status.

    So does any error that comes after them: a C extension that is struck may raise its own in place
    of the one that it was given, such as "cannot read" in the middle of a file. Where Python drops
    whatever is raised (in `__del__`), the signal comes again a moment later. Of the processes of
    `torchrun` the first alone speaks.

    Args:
        program: what the line starts with.
        stopped: what else it says.
    """
    before = _take_over(
        {signal.SIGINT: [signal.default_int_handler], signal.SIGTERM: [signal.SIG_DFL]},
        raise_stopped,
    )
    hook = sys.unraisablehook
    if before:
        sys.unraisablehook = partial(_send_again, hook)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not _came and not isinstance(error, KeyboardInterrupt):
            raise
        terminated = isinstance(error, Terminated) or signal.SIGTERM in _came
        _say_stopped(program, stopped)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    finally:
        _give_back(before)
        if before:
            sys.unraisablehook = hook
            _came.clear()


def _send_again(hook: Callable[[Any], object], dropped: Any) -> None:
    """`sys.unraisablehook` while a command runs: what was raised to stop it is not to be lost."""
    if not (_came and issubclass(dropped.exc_type, KeyboardInterrupt)):
        hook(dropped)
        return
    if not _sending.acquire(blocking=False):  # it is on its way
        return
    number, main = signal.Signals(_came[-1]), threading.main_thread().ident
    assert main is not None  # of a thread that has begun

    def send() -> None:
        time.sleep(RESEND_SECONDS)
        _sending.release()
        if not _came:  # the command has ended
            return
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main, number)
        else:  # Windows, where nothing ends a system call that waits
            _thread.interrupt_main(number)

    threading.Thread(target=send, daemon=True).start()


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

    before = _take_over(dict.fromkeys(HEARD, (*RAISING, signal.SIG_DFL)), end)
    try:
        yield
    finally:
        _give_back(before)


def _take_over(
    usual: Mapping[int, Sequence[Any]], handler: Callable[[int, FrameType | None], None]
) -> dict[int, Any]:
    """Have signals handled anew where theirs are the usual handlers; which they were, by signal.

    Only the main thread may; elsewhere nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in usual}
    return {
        number: signal.signal(number, handler)
        for number, current in before.items()
        if current in usual[number]
    }


def _give_back(before: Mapping[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


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
        self._before = _take_over(dict.fromkeys(HEARD, RAISING), self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = number

    def raise_if_any(self) -> None:
        """Do what came."""
        if self._came is not None:
            number, self._came = self._came, None
            self._before[number](number, None)

    def restore(self) -> None:
        """Hold back no longer."""
        _give_back(self._before)
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
    for number in HEARD:
        signal.signal(number, signal.SIG_IGN)

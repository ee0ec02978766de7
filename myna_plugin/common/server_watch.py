"""Imported by a server of workers before all else: it ends with its parent while it imports.

It looks for its parent only after that, and importing torch takes seconds, many on busy cores.
A timer and not a thread, because a process with threads is not one to fork; forks have no timer.
"""

import atexit
import os
import signal
from types import FrameType

LOOK_S = 0.5

PARENT = os.getppid()


def look(number: int, frame: FrameType | None) -> None:
    """End this process if another has become its parent."""
    if os.getppid() != PARENT:
        os._exit(1)


signal.signal(signal.SIGALRM, look)
signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)
# Python takes its handlers away as it ends, and the signal alone would end it otherwise.
atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)

"""Memory that nothing uses any more, given back to the system."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any


def give_back_free_memory() -> None:
    """Have the C library return the holes in its heap; elsewhere than beside glibc nothing happens.

    By itself glibc returns only what is free at the heap's end, or larger than a threshold that
    grows with what was freed (to 32 MB): a process that takes and frees large blocks of many sizes
    for hours grows. It takes about a millisecond.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], Any] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)

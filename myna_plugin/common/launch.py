"""What `torchrun` tells a process that it starts."""

from __future__ import annotations

import os


def launched_rank() -> int:
    """This process's number as `torchrun` tells it, before any group exists; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def launched_world_size() -> int:
    """Processes that `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))

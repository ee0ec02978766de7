"""Processes that end with the one that started them, which may be killed at any moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from multiprocessing.context import ForkServerContext, SpawnContext


def make_server(preload: Iterable[str]) -> ForkServerContext | SpawnContext:
    """Where workers come from: the forks of one process, which has imported what they need.

    On Windows, which has no forks, each is begun anew.

    Args:
        preload: modules that workers find already imported, if this process has no server yet.
    """
    # Not "fork": torch's threads do not survive it. Not "spawn": every worker would import
    # torch anew, a second and 200 MB each.
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["myna_plugin.common.server_watch", *preload])
    return context


def end_with_parent() -> None:
    """Have this process end when its parent is gone, which it would wait for without end."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent is not None, "not a process of multiprocessing"
    connection.wait([parent.sentinel])
    os._exit(1)

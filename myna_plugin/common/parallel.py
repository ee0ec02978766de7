"""Many small jobs on all cores, under a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TypeVar

from myna_plugin.common.cores import available_cores
from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.threads import map_as_done

Key = TypeVar("Key")
Value = TypeVar("Value")


def run_in_threads(
    jobs: Mapping[Key, Callable[[], Value]], description: str, unit: str
) -> Iterator[tuple[Key, Value]]:
    """Run the jobs, one thread for each core, and yield (key, result) as each is done.

    An exception that a job raises is raised here, after the jobs then running have ended; the
    rest are not begun.

    Args:
        jobs: by key.
        description: what the progress bar says.
        unit: what the progress bar counts.

    >>> dict(run_in_threads({2: lambda: "two"}, "counting", "number"))
    {2: 'two'}
    """
    with closing(map_as_done(lambda key: jobs[key](), jobs, available_cores())) as done:
        yield from ProgressBar(done, description, len(jobs), unit=unit, leave=False)

"""Many small jobs on all cores, under a progress bar.

In threads: soundfile, soxr and hashlib leave Python's lock while they work, so that threads use
every core without the seconds that each new process would take to import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from tqdm import tqdm

from myna_plugin.cores import available_cores

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
    with ThreadPoolExecutor(available_cores()) as pool:
        keys = {pool.submit(job): key for key, job in jobs.items()}
        try:
            for future in tqdm(
                as_completed(keys),
                desc=description,
                total=len(keys),
                unit=unit,
                leave=False,
                disable=None,
            ):
                yield keys[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

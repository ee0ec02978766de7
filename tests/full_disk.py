"""A disk that fills up."""

from contextlib import contextmanager

import pytest


@contextmanager
def full_disk():
    """No file can grow beyond 4 kB, which fails as a full disk does.

    Only around the code under test: the limit holds for pytest's own output too.
    """
    resource = pytest.importorskip("resource", reason="file size limits are POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

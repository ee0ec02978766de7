"""Free memory that is given back."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from myna_plugin.common import memory
from myna_plugin.common.memory import give_back_free_memory


def resident_mb() -> float:
    (kb,) = re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kb) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_holes_in_the_heap_are_given_back():
    if memory._malloc_trim() is None:
        pytest.skip("the C library is not glibc")
    blocks = [np.ones(12_000) for _ in range(2_000)]  # 96 kB each: below what is mapped alone
    full = resident_mb()
    kept = blocks[::10]
    del blocks
    give_back_free_memory()
    assert resident_mb() < full - 100
    assert all(block[-1] == 1 for block in kept)


def test_without_that_function_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    give_back_free_memory()

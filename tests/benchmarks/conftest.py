"""Lets tests import `benchmarks` from the checkout that they lie in."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

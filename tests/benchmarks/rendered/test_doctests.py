"""Examples in the docstrings of the renderer and its benchmark hold."""

import doctest
import importlib

import pytest

MODULES = (
    *("percussion", "performance", "scores", "composer", "soundfont_writer"),
    *("instruments", "tasks", "table", "claims"),
    *("baselines.mel_statistics", "baselines.chroma", "baselines.krumhansl"),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    module = importlib.import_module(f"benchmarks.rendered.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0

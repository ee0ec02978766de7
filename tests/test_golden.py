"""The packaged models give packaged clips the vectors that they gave when they were released."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from myna_plugin.model import sources
from myna_plugin.model.checkpoint import to_safetensors
from myna_plugin.model.layouts import read_weights

TOOL = Path(__file__).parents[1] / "tools" / "make_golden.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """`tools/make_golden.py`, which is not part of the package."""
    spec = importlib.util.spec_from_file_location("make_golden", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def largest_error(tool: ModuleType) -> float:
    """Of all vectors, the largest difference from the golden one relative to its norm."""
    actual = tool.embed()
    with np.load(tool.GOLDEN) as golden:
        assert sorted(golden) == sorted(actual)
        return max(
            float(np.linalg.norm(actual[name] - golden[name], axis=-1).max() / norms.min())
            for name in golden
            for norms in [np.linalg.norm(golden[name], axis=-1)]
        )


def test_vectors_are_the_golden_ones(tool):
    assert largest_error(tool) < 1e-4


@pytest.mark.parametrize("file", sources.PACKAGED_FILES.values())
def test_other_weights_of_the_same_shape_are_noticed(tool, tmp_path, monkeypatch, file):
    tensors, metadata = read_weights(sources.PACKAGED_WEIGHTS / file)
    name = "transformer.layers.3.1.net.1.weight"
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(tensors[name].shape, generator=generator).to(tensors[name].dtype)
    tensors[name] = tensors[name] + 0.01 * tensors[name].std() * noise
    for packaged in sources.PACKAGED_FILES.values():
        (tmp_path / packaged).symlink_to(sources.PACKAGED_WEIGHTS / packaged)
    (tmp_path / file).unlink()
    (tmp_path / file).write_bytes(to_safetensors(tensors, metadata))
    monkeypatch.setattr(sources, "PACKAGED_WEIGHTS", tmp_path)
    assert largest_error(tool) > 2e-4

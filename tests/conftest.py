"""Shared fixtures: sounds, and state dicts in the published key layout."""

from __future__ import annotations

import sys

import pytest
import torch
from skip_guard import pytest_configure  # noqa: F401 (a hook of pytest)
from torch import Tensor

PATCHINGS = {"base": 1, "vertical": 1, "hybrid": 2}


def published_state_dict(
    tokenizers: int, dim: int = 64, depth: int = 2, mlp_dim: int = 128, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights under the names and shapes that published checkpoints use, projector too."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.1, around: float = 0.0) -> Tensor:
        return around + scale * torch.randn(*shape, generator=generator)

    weights = {}

    def add_norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = draw(width, around=1.0)
        weights[f"{name}.bias"] = draw(width)

    def add_linear(name: str, width_in: int, width_out: int, bias: bool = True) -> None:
        weights[f"{name}.weight"] = draw(width_out, width_in, scale=width_in**-0.5)
        if bias:
            weights[f"{name}.bias"] = draw(width_out)

    for name in ("to_patch_embedding", "to_patch_embedding_b")[:tokenizers]:
        add_norm(f"{name}.1", 256)
        add_linear(f"{name}.2", 256, dim)
        add_norm(f"{name}.3", dim)
    for i in range(depth):
        block = f"transformer.layers.{i}"
        add_norm(f"{block}.0.norm", dim)
        add_linear(f"{block}.0.to_qkv", dim, 3 * dim, bias=False)
        add_linear(f"{block}.0.to_out", dim, dim, bias=False)
        add_norm(f"{block}.1.net.0", dim)
        add_linear(f"{block}.1.net.1", dim, mlp_dim)
        add_linear(f"{block}.1.net.3", mlp_dim, dim)
    add_norm("transformer.norm", dim)
    add_linear("linear_head", dim, 50)
    return weights


@pytest.fixture
def sound() -> Tensor:
    """Twelve seconds of decaying chords with noise, shape (1, 192000)."""
    generator = torch.Generator().manual_seed(7)
    time = torch.arange(192_000) / 16_000
    chord = torch.zeros_like(time)
    for frequency in (220.0, 277.2, 329.6, 880.0):
        chord += torch.sin(2 * torch.pi * frequency * time) * torch.exp(-(time % 0.75) * 3)
    return (0.15 * chord + 0.02 * torch.randn(time.shape, generator=generator)).unsqueeze(0)


@pytest.fixture
def checkpoint(tmp_path):
    """A hybrid checkpoint, 64 wide and 2 deep."""
    torch.save(published_state_dict(2), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def import_folder(tmp_path, monkeypatch):
    """An empty folder on the import path, forgotten after the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(folder)):
            del sys.modules[name]

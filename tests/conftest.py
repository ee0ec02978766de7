"""Shared fixtures: sounds, and state dicts in the published key layout. No skips in CI but known.

With the environment variable CI set, a test that is skipped for another reason than those of
`ALLOWED_SKIPS` fails the run: what CI does not have, it has to install.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

ALLOWED_SKIPS = re.compile(r"\bCUDA\b|\bTriton\b|^shared reference data\b")
"""Reasons to skip in CI: no GPU, no Triton, or facts about real data that lie beside a checkout."""

PATCHINGS = {"base": 1, "vertical": 1, "hybrid": 2}


class SkipGuard:
    """Fails a run in which a test was skipped for a reason that is not allowed."""

    def __init__(self) -> None:
        self.unexpected: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that was skipped."""
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that was skipped."""
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not ALLOWED_SKIPS.search(reason):
            self._add([f"{report.nodeid}: {reason}"])

    def _add(self, lines: Iterable[str]) -> None:
        self.unexpected += [line for line in lines if line not in self.unexpected]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker process has noted: of modules it alone is told."""
        self._add(getattr(node, "workeroutput", {}).get("unexpected_skips", []))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let the run fail; of a worker process, tell the others' parent."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["unexpected_skips"] = self.unexpected
        if self.unexpected and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why."""
        if self.unexpected:
            terminalreporter.section("skipped in CI: install what they need", red=True)
            for line in self.unexpected:
                terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    """Watch for skips where CI runs."""
    if os.environ.get("CI"):
        config.pluginmanager.register(SkipGuard(), "skip-guard")


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

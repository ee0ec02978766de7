"""No skips in CI but known: with the environment variable CI set, any other fails the run.

What CI does not have, it has to install.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

import pytest

ALLOWED_SKIPS = re.compile(r"\bCUDA\b|\bTriton\b|^shared reference data\b")
"""Reasons to skip in CI: no GPU, no Triton, or facts about real data that lie beside a checkout."""


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

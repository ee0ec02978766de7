"""What the command says: how far it is, and what the user has to put right."""

from __future__ import annotations

from typing import IO, Any

import click

SHOWN_AT_MOST = 20
"""Faults printed before the rest is only counted."""


class BadInputError(click.ClickException):
    """Input that cannot be used: one line for each fault, naming the file and what to do.

    >>> BadInputError("a.wav is silent: replace it").lines
    ('a.wav is silent: replace it',)
    """

    exit_code = 2

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the faults, each on its own line, to `file` (standard error unless given)."""
        for line in self.lines[:SHOWN_AT_MOST]:
            click.echo(f"hear-eval: {line}", file=file, err=file is None)
        hidden = len(self.lines) - SHOWN_AT_MOST
        if hidden > 0:
            click.echo(f"hear-eval: and {hidden} more like these", file=file, err=file is None)


def say(message: str) -> None:
    """A line for whoever waits; standard output is left to the table."""
    click.echo(message, err=True)


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception as a single line: its type, and its message without line breaks.

    >>> one_line(ValueError("two\\nlines"))
    'ValueError: two lines'
    """
    message = " ".join(str(error).split())
    if len(message) > limit:
        message = message[: limit - 1] + "…"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__

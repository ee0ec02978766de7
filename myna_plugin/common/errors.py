"""What a user has to put right: one kind of error, one place to print it, one set of statuses."""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from myna_plugin.common.launch import launched_rank
from myna_plugin.common.stopping import ignore_signals, stoppable

FAILED = 1
"""Exit status where something could not be done, or was done but for files that are named."""

BAD_INPUT = 2
"""Exit status where input cannot be used: nothing was done."""

EXTRAS = {
    **dict.fromkeys(("mir_eval", "scipy"), "probe"),
    **dict.fromkeys(("yaml", "tensorboard"), "pretrain"),
    "matplotlib": "plot",
    "umap": "umap",
    **dict.fromkeys(("pytorch_lightning", "pandas", "torchinfo", "sed_eval"), "hear-eval"),
}
"""Optional package -> the extra of ours that installs it, the smallest one."""

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "; free some there, or write to another disk"),
    **dict.fromkeys((errno.EROFS, errno.ENOTDIR), "; write to another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "; change its permissions, or take another place"),
}
"""What to do about an error of the system, by its number."""

SHOWN_AT_MOST = 20
"""Faults printed before the rest is only counted."""

LONGEST = 1000
"""Characters of a line; in the middle of a longer one stands what a file holds."""


class InputError(ValueError):
    """Something from outside that cannot be used; the message names it, the fault and the remedy.

    >>> InputError("a.wav is silent: replace it", "b.wav is empty: replace it").lines
    ('a.wav is silent: replace it', 'b.wav is empty: replace it')
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class MissingPackageError(InputError, ImportError):
    """An optional package that is not installed; the message says how to install it."""


class UnfinishedError(RuntimeError):
    """Work that broke off for a reason outside the code (a full disk, a process that died …)."""


@contextmanager
def told(program: str, stopped: str = "the same command goes on from here") -> Iterator[None]:
    """Run a command's work; what its user has to know ends it in a line and an exit status.

    Other errors are faults in the code, which a traceback shows. Of the processes of `torchrun` the
    first alone speaks.

    Args:
        program: what the lines start with.
        stopped: what is said after Ctrl-C and SIGTERM.

    >>> with told("myna"):
    ...     raise InputError("no such thing")
    Traceback (most recent call last):
    SystemExit: 2
    """
    try:
        with stoppable(program, stopped):
            yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        _tell(program, (f"{error.format_message()}{where}",))
        sys.exit(BAD_INPUT)
    except InputError as error:
        _tell(program, error.lines or (str(error),))
        sys.exit(BAD_INPUT)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        install = f"pip install 'myna-plugin[{EXTRAS[package]}]'"
        _tell(program, (f"{package} is not installed: {install}",))
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        raise
    except (UnfinishedError, OSError) as error:
        _tell(program, (_name_file(error) if isinstance(error, OSError) else str(error),))
        sys.exit(FAILED)


def _name_file(error: OSError) -> str:
    """A fault of a file or its disk: the file, the fault and, where it is known, the remedy.

    >>> _name_file(OSError(errno.EROFS, "Read-only file system", "a.wav"))
    'a.wav: Read-only file system; write to another place'
    """
    if error.filename is None or error.errno is None:
        return str(error)
    # Not its own words: Arrow's are many.
    return f"{error.filename}: {os.strerror(error.errno)}{REMEDIES.get(error.errno, '')}"


class ToldCommand(click.Command):
    """A command that ends its known errors as `told` does, with its name before the line."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        shown = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
        options["context_settings"] = shown | (options.get("context_settings") or {})
        super().__init__(*arguments, **options)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run as a program."""
        try:
            return super().main(*arguments, **options)
        finally:
            # Before all that modules have tidied up at the end: what comes last goes first.
            atexit.register(ignore_signals)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Read the arguments."""
        with told(self._program(parent)):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with told(self._program(ctx.parent)):
            return super().invoke(ctx)

    def _program(self, parent: click.Context | None) -> str:
        return f"{parent.command.name} {self.name}" if parent else str(self.name)


class ToldGroup(ToldCommand, click.Group):
    """A group of commands."""


def _tell(program: str, lines: tuple[str, ...]) -> None:
    if launched_rank() != 0:
        return
    for line in lines[:SHOWN_AT_MOST]:
        say(f"{program}: " + "\n".join(map(_shorten, line.split("\n"))))
    if len(lines) > SHOWN_AT_MOST:
        say(f"{program}: and {len(lines) - SHOWN_AT_MOST} more like these")


def _shorten(line: str) -> str:
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"


def say(message: str) -> None:
    """A line for whoever waits; standard output is left to results."""
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


def reason(error: BaseException) -> str:
    """Why something failed, on one line, for a message that has named the file already.

    >>> reason(PermissionError(13, "Permission denied", "a.wav"))
    'Permission denied'
    """
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(text.split())

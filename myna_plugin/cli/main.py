"""The `myna` command: a table of sub-commands, each imported when it is asked for."""

from __future__ import annotations

import importlib
import warnings
from typing import Any, TextIO

import click

from myna_plugin.common.errors import told

COMMANDS = {
    "embed": ("myna_plugin.cli.embed:embed", "Embed a music library: one row a track."),
    "merge": ("myna_plugin.cli.merge:merge", "Join what the shards of `myna embed` have made."),
    "similar": ("myna_plugin.cli.similar:similar", "List the tracks nearest to a track."),
    "plot": ("myna_plugin.cli.plot:plot", "Draw a library as a picture."),
    "info": ("myna_plugin.cli.info:info", "Describe a checkpoint."),
    "report": ("myna_plugin.recipes.report:main", "Join probe results into one table and page."),
    "export": ("myna_plugin.cli.export:export", "Write a model in another toolkit's format."),
}
"""Name -> where the click command is, and its line in `myna --help`."""

EPILOG = """
Examples:

\b
  myna embed music --out library.parquet
  myna similar song.mp3 library.parquet
  myna plot library.parquet --out library.png
  myna info myna-hybrid.safetensors

Exit status: 0 done, 1 done but for files that are named, 2 input that cannot be used,
130 stopped by Ctrl-C.
"""


class LazyGroup(click.Group):
    """A group that imports a sub-command when it is called, and prints known faults as a line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a sub-command; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing what it names."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run; what a user has to put right becomes a line and exit status 2."""
        with told("myna"):
            return super().invoke(ctx)


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="myna-plugin", prog_name="myna")
def main() -> None:
    """Music embeddings from Myna: embed a library, search it, draw it."""
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as a line, without the place in the code."""
    click.echo(f"myna: {message}", err=True)


if __name__ == "__main__":
    main()

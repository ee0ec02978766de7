"""The `myna` command: a table of sub-commands, each imported when it is asked for."""

from __future__ import annotations

import importlib
import warnings
from typing import TextIO

import click
from click.shell_completion import CompletionItem

from myna_plugin.common.errors import ToldGroup, say, told
from myna_plugin.common.stopping import importing

COMMANDS = {
    "embed": "Embed a music library: one row a track.",
    "merge": "Join what the shards of `myna embed` have made.",
    "similar": "List the tracks nearest to a track.",
    "plot": "Draw a library as a picture.",
    "info": "Describe a checkpoint.",
    "import": "Keep weights that were downloaded by hand under their name.",
    "export": "Write a model in another toolkit's format.",
    "prepare": "Make a store to train from of a folder of audio.",
    "pretrain": "Train an encoder on a store.",
    "recipes": "List the recipes to train and evaluate by, or copy them.",
    "sweep": "Train once for every value of a setting, and compare.",
    "probe": "Score a module on a task by the paper's protocol.",
    "report": "Join probe results into one table and page.",
    "table1": "Score modules on the tasks of the paper's Table 1, beside its rows.",
    "export-task": "Write a probe task for hear-eval or MARBLE.",
    "score-keys": "Add weighted key scores to what hear-eval has scored.",
}
"""Name -> its line in `myna --help`. `a-b` is the command `a_b` of the module `cli.a_b`."""

WORDS_OF_PYTHON = {"import": "import_weights"}
"""Names that no module can have -> its name."""

EPILOG = """
Examples:

\b
  myna embed music --out library.parquet
  myna similar song.mp3 library.parquet
  myna info myna-hybrid.safetensors
  myna prepare music store
  myna pretrain --store store --out run
  myna probe --task gtzan --root data/gtzan --out out/gtzan

`myna COMMAND --help` has more of each.

\b
To have the shell complete commands and options, add to ~/.bashrc
  eval "$(_MYNA_COMPLETE=bash_source myna)"
or the same with zsh_source to ~/.zshrc; for fish, to ~/.config/fish/completions/myna.fish
  _MYNA_COMPLETE=fish_source myna | source

Exit status: 0 done, 1 failed, or done but for files that are named, 2 input that cannot be used,
130 stopped by Ctrl-C, 143 by SIGTERM.
"""


def import_command(name: str) -> click.Command:
    """A command by its name; who stops it while it is imported sees a line."""
    module = WORDS_OF_PYTHON.get(name, name.replace("-", "_"))
    with told(f"myna {name}"), importing(f"myna {name}"):
        command = getattr(importlib.import_module(f"myna_plugin.cli.{module}"), module)
    assert isinstance(command, click.Command)
    return command


class LazyGroup(ToldGroup):
    """A group that imports a sub-command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a sub-command; None if there is none of this name."""
        return import_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing what it names."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and options that start so, without importing anything."""
        names = [
            CompletionItem(name, help=line)
            for name, line in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group("myna", cls=LazyGroup, epilog=EPILOG)
@click.version_option(package_name="myna-plugin", prog_name="myna")
def main() -> None:
    """Music embeddings from Myna: embed a library, search it; train and score models."""
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
    say(f"myna: {message}")


if __name__ == "__main__":
    main()

"""Commands run as a user runs them, in this process."""

from click import Command
from click.testing import CliRunner


def run_command(command: Command, *arguments: object) -> tuple[int, str, str]:
    """A command's exit status, and what it wrote to standard output and standard error."""
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr

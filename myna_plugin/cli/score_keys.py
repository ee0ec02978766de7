"""`myna score-keys`: weighted key scores of what hear-eval has predicted."""

from __future__ import annotations

from pathlib import Path

import click

from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.options import PATH
from myna_plugin.probing.tasks import key_scores
from myna_plugin.probing.tasks.hear_predictions import read_test_predictions

EPILOG = """
Example:

\b
  myna score-keys embeddings/myna_plugin/giantsteps

heareval knows accuracy only. This reads the test predictions that it left beside the embeddings,
and adds mir_eval's weighted score, with both readings of the fifth, per clip and (GiantSteps) per
track, by the mean of its clips' probabilities. Takes about a second.
"""


@click.command("score-keys", cls=ToldCommand, epilog=EPILOG)
@click.argument("folder", type=PATH)
def score_keys(folder: Path) -> None:
    """Print the weighted key scores of a key task whose embeddings are in FOLDER."""
    scores = key_scores.score_keys(read_test_predictions(folder))
    click.echo(key_scores.format_table(scores))

"""One setting varied: one run a value, and one table and figure of all of them."""

from __future__ import annotations

import csv
import gc
import io
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from myna_plugin.common.errors import FAILED, UnfinishedError, say
from myna_plugin.common.files import write_text
from myna_plugin.common.launch import launched_rank
from myna_plugin.common.stopping import INTERRUPTED
from myna_plugin.model.encoder import MynaEncoder
from myna_plugin.pretraining.run.configuration import apply_file, read_yaml, to_yaml
from myna_plugin.pretraining.run.monitoring import draw_sweep
from myna_plugin.pretraining.run.plan import plan_run
from myna_plugin.pretraining.run.run_files import RunFolder
from myna_plugin.pretraining.run.settings import PretrainSettings, SettingsError
from myna_plugin.pretraining.run.trainer import DivergedError, Outcome, train
from myna_plugin.pretraining.store.reading import Store

SCORES = {
    "monitor_loss": "contrastive loss",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "rank": "effective rank",
}
"""Columns of train.csv that runs are compared by, and their names in the table."""

Scores = dict[str, dict[str, float]]
"""Test scores of a run by task and metric, the primary metric first."""

NOTE = """\
Measured at the end of each run on the same pairs of whole crops: contrastive loss (decoupled),
alignment (lower: views of a clip closer) and uniformity (lower: clips more evenly spread; Wang and
Isola 2020), effective rank of the embeddings (RankMe)."""

NO_TASKS = "These are no scores on any task; probe_tasks adds some."

TASKS_NOTE = """\
Of each task: the primary metric on test, of the head that is best on validation among those
of the {grid} grid. For a comparison of these runs; published scores come of a larger grid."""


class RunProbe(Protocol):
    """Scores encoders on tasks."""

    def __call__(self, encoder: MynaEncoder) -> Mapping[str, float]:
        """Scores on validation by task."""

    def test_file(self, weights: Path, kept: Path) -> Scores:
        """Scores of a checkpoint on test, from the file `kept` if they are there already."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep's YAML says.

    Attributes:
        vary: the setting that differs.
        runs: settings of each run by the value, as written.
    """

    vary: str
    runs: dict[str, PretrainSettings]


def read_sweep(path: Path, changes: dict[str, object]) -> Sweep:
    """A sweep from its YAML: `vary`, `values`, and `settings` of all runs.

    Raises:
        SettingsError: a part is missing or unknown, or a setting is wrong.
    """
    content = read_yaml(path)
    vary, values = content.get("vary"), content.get("values")
    common = content.get("settings") or {}
    unknown = set(content) - {"vary", "values", "settings"}
    if unknown or not isinstance(vary, str) or not isinstance(common, dict):
        raise SettingsError(
            f"{path}: must hold vary (a setting), values (a list) and settings (of all runs)"
            + (f"; it holds {', '.join(sorted(map(str, unknown)))} too" if unknown else "")
        )
    if not isinstance(values, list) or not values:
        raise SettingsError(f"{path}: values must be a list of at least one value of {vary}")
    if vary in changes:
        raise SettingsError(f"{vary}: this sweep varies it; change the values in {path}")
    if vary.startswith("probe_"):
        raise SettingsError(f"{path}: {vary}: all runs of a sweep are probed alike")
    base = apply_file(PretrainSettings(), path, common).with_changes(changes)
    return Sweep(vary, {str(value): apply_file(base, path, {vary: value}) for value in values})


def run_sweep(sweep: Sweep, store: Store, out: Path, probe: RunProbe | None = None) -> int:
    """Train every run that is not finished, and score those that are not scored; the exit status.

    Raises:
        ProbeError: a run cannot be scored; it is trained, and its row lacks only that.
    """
    outcomes: dict[str, Outcome | None] = {}
    scores: dict[str, Scores] = {}
    for value, settings in sweep.runs.items():
        folder = out / f"{sweep.vary}={value.replace('/', '_')}"
        if launched_rank() == 0:
            print(folder, flush=True)
        try:
            with RunFolder(folder).writing():
                plan = plan_run(settings, store, folder, resume=True)
                if launched_rank() == 0:
                    write_text(folder / "config.yaml", to_yaml(settings))
                outcome = train(plan, probe=probe if settings.probe_every else None)
        except DivergedError as error:
            if launched_rank() == 0:
                say(f"sweep: {error}")
            outcomes[value] = None
        else:
            if outcome.stopped_by:
                return INTERRUPTED if outcome.stopped_by == signal.SIGINT else 0
            outcomes[value] = outcome
        if launched_rank() == 0:
            write_results(sweep, outcomes, scores, out)
            if probe is not None and outcomes[value]:
                scores[value] = score_run(probe, folder)
                write_results(sweep, outcomes, scores, out)
        # The run's graph and tensors hold each other: free the GPU for the next.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if launched_rank() == 0:
        print((out / "table.md").read_text(encoding="utf-8"), end="")
    return FAILED if None in outcomes.values() else 0


class ProbeError(UnfinishedError):
    """A trained run that cannot be scored on a task; the message names the file."""


def score_run(probe: RunProbe, folder: Path) -> Scores:
    """Test scores of a finished run, kept in its folder."""
    try:
        return probe.test_file(folder / "final.safetensors", folder / "probe.json")
    except ValueError as error:  # what audio, tasks, features and checkpoints raise
        raise ProbeError(f"{folder}: trained, but not scored: {error}") from error


def write_results(
    sweep: Sweep, outcomes: dict[str, Outcome | None], scores: dict[str, Scores], out: Path
) -> None:
    """Write the table, as Markdown and CSV, and the figure of the runs so far."""
    measured = {
        value: _measures(outcome) | _primary_scores(scores.get(value, {}))
        for value, outcome in outcomes.items()
    }
    names = [name for measures in measured.values() for name in measures]
    columns = list(dict.fromkeys([*SCORES.values(), *names]))
    header = [sweep.vary, "steps", *columns]
    rows = [
        [value, str(outcome.step) if outcome else "diverged"]
        + [f"{measured[value][name]:.3f}" if name in measured[value] else "" for name in columns]
        for value, outcome in outcomes.items()
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    write_text(out / "table.md", "\n".join([*lines, "", *_notes(sweep, scores), ""]))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(out / "table.csv", text.getvalue())
    draw_sweep(out / "figure.png", sweep.vary, measured, columns)


def _measures(outcome: Outcome | None) -> dict[str, float]:
    """By name in the table; nothing of a run that diverged."""
    if outcome is None:
        return {}
    return {title: float(outcome.last_row[name]) for name, title in SCORES.items()}


def _primary_scores(scores: Scores) -> dict[str, float]:
    """Every task's primary score by name in the table, and their mean if there are several."""
    told = {
        f"{task}, {next(iter(found))}": next(iter(found.values())) for task, found in scores.items()
    }
    mean = {"mean of tasks": sum(told.values()) / len(told)} if len(told) > 1 else {}
    return told | mean


def _notes(sweep: Sweep, scores: dict[str, Scores]) -> list[str]:
    if not scores:
        return [NOTE, NO_TASKS]
    grid = next(iter(sweep.runs.values())).probe_grid
    return [NOTE, "", TASKS_NOTE.format(grid=grid)]

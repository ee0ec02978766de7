"""Test the paper's claims on the rendered tasks: train every variant with several seeds, compare.

\b
    python -m benchmarks.rendered.claims STORE TASKS --out out/claims
    python -m benchmarks.rendered.claims STORE TASKS --out out/claims --seeds 1 \\
        --variants hybrid,vertical max_steps=500

STORE is made by `recipes.rendered.store`, TASKS by `benchmarks.rendered.tasks`. A variant is
the recipe `rendered` (--settings) with some settings changed; further KEY=VALUE change all of them
alike. Every run is probed by `benchmarks.rendered.table`.

OUT receives claims.md and a folder for each run. The same command goes on where it was stopped: a
run that is trained and scored is kept if its settings.yaml is the one asked for. So several
such commands can share the work, each with some of the --variants; --only-report then tells of all.
"""

from __future__ import annotations

import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.contestants import Contestant
from benchmarks.rendered.reading import read_tasks
from benchmarks.rendered.rows import COLUMNS, KEY_TASK, STYLE_TASK, TAGS_TASK
from benchmarks.rendered.table import BATCH_SIZES, make_table
from myna_plugin.cli.recipe_files import list_recipes
from myna_plugin.cli.task_options import PATIENCE_OPTION
from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import ToldCommand, UnfinishedError
from myna_plugin.common.files import read_json, write_text
from myna_plugin.common.options import DEVICE, FILE, FOLDER, PATH, POSITIVE_INT, WORKERS
from myna_plugin.pretraining.run.configuration import (
    apply_file,
    read_changes,
    read_yaml,
    to_yaml,
)
from myna_plugin.pretraining.run.settings import PretrainSettings, SettingsError
from myna_plugin.probing.embeddings import cache_folder
from myna_plugin.probing.experiment import Protocol
from myna_plugin.probing.heads import GRIDS
from myna_plugin.probing.report.tables import Rows, markdown

SETTINGS = list_recipes()["rendered"].path

REPORT = "claims.md"

SETTINGS_COPY = "settings.yaml"
"""In the folder of a run: what it was trained with."""

KEY = (KEY_TASK, "weighted_key_score")
STYLE = (STYLE_TASK, "accuracy")
TAGS = (TAGS_TASK, "average_precision_macro")

Score = tuple[str, str]
"""A task and a metric, one of `table.COLUMNS`."""

SQUARE = {"patchings": ["square"]}

VARIANTS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "square": SQUARE,
    "vertical": {"patchings": ["vertical"]},
    "masked auto-encoder": {"objective": "mae"},
    "no blocks": {"clips_per_block": 1},
    "pitch shifts": {"clips_per_block": 1, "versions": 4},
    "other instruments": {"versions": 2, "version_stride": 4, "version_share": 0.5},
    "log mel": {"log_mel": True},
    "chunks of 6 s": {"crop_frames": 192},
    "square half masked": {**SQUARE, "mask_ratio": 0.5},
    "square 3/4 masked": {**SQUARE, "mask_ratio": 0.75},
    "square 95 % masked": {**SQUARE, "mask_ratio": 0.95},
    "square batch 1024": {**SQUARE, "batch_size": 1024},
}
"""What each variant changes. A smaller batch takes more steps, so all see as many examples.

Masks and batches are compared with square patches, as the paper does (Figure 4, Table 2). The
versions are those of a store's blocks as they are by default: each passage with 2 instrumentations
in 4 keys, the keys next to each other. Pitch shifts are without blocks, where few other clips of
one passage are in a batch, so they are compared with "no blocks".
"""


@dataclass(frozen=True)
class Claim:
    """That one variant scores above another.

    Attributes:
        text: the claim.
        better: the variant that should be better.
        worse: the other.
        score: on what.
    """

    text: str
    better: str
    worse: str
    score: Score


CLAIMS = (
    Claim("vertical beats square on key", "vertical", "square", KEY),
    Claim("hybrid keeps vertical's key", "hybrid", "vertical", KEY),
    Claim("hybrid keeps square's style", "hybrid", "square", STYLE),
    Claim("hybrid keeps square's instruments", "hybrid", "square", TAGS),
    Claim("90 % masked beats half masked on key", "square", "square half masked", KEY),
    Claim("90 % masked beats half masked on style", "square", "square half masked", STYLE),
    Claim("90 % masked beats half masked on instruments", "square", "square half masked", TAGS),
    Claim("90 % masked beats 3/4 masked on key", "square", "square 3/4 masked", KEY),
    Claim("90 % masked beats 95 % masked on key", "square", "square 95 % masked", KEY),
    Claim("batch 4096 beats 1024 on key", "square", "square batch 1024", KEY),
    Claim("batch 4096 beats 1024 on style", "square", "square batch 1024", STYLE),
    Claim("contrast beats the masked auto-encoder on key", "hybrid", "masked auto-encoder", KEY),
    Claim("shifting the pitch of views hurts the key", "no blocks", "pitch shifts", KEY),
    Claim("shifting the pitch of views hurts the style", "no blocks", "pitch shifts", STYLE),
    Claim("views by other instruments help the key", "other instruments", "hybrid", KEY),
    Claim("a log mel helps the key", "log mel", "hybrid", KEY),
    Claim("a log mel helps the style", "log mel", "hybrid", STYLE),
    Claim("chunks of 6 s help the key", "chunks of 6 s", "hybrid", KEY),
    Claim("batches in blocks help the key", "hybrid", "no blocks", KEY),
)

Results = dict[str, dict[int, dict[Score, float]]]
"""Test scores by variant and seed."""


def variant_settings(base: PretrainSettings, variant: str, seed: int) -> PretrainSettings:
    """Settings of a run.

    Raises:
        SettingsError: the variant does not go with the base.

    >>> base = PretrainSettings(batch_size=4096, max_steps=10)
    >>> variant_settings(base, "square batch 1024", 3).max_steps
    40
    """
    settings = base.with_changes({**VARIANTS[variant], "seed": seed})
    if settings.batch_size == base.batch_size or base.max_steps is None:
        return settings
    return settings.with_changes(
        {"max_steps": base.max_steps * base.batch_size // settings.batch_size}
    )


def run_folder(variant: str, seed: int) -> str:
    """Name of a run's folder.

    >>> run_folder("square 3/4 masked", 1)
    'square-3-4-masked-1'
    """
    return "-".join([*re.findall(r"[a-z0-9]+", variant.lower()), str(seed)])


def train(settings: PretrainSettings, store: Path, run: Path) -> Path:
    """Train in a process of its own, or go on with it; the weights.

    Raises:
        UnfinishedError: the recipe failed; it has said why.
    """
    run.mkdir(parents=True, exist_ok=True)
    config = run.with_name(SETTINGS_COPY)
    write_text(config, to_yaml(settings))
    command = [sys.executable, "-m", "myna_plugin.recipes.pretrain", "--store", str(store)]
    command += ["--out", str(run), "--config", str(config), "--resume"]
    if status := subprocess.run(command, check=False).returncode:
        raise UnfinishedError(f"{run}: pre-training ended with exit status {status}")
    return run / "final.safetensors"


def check_kept(results: Path, settings: PretrainSettings) -> None:
    """Refuse a run that was scored with other settings: the report would call it what it is not.

    Raises:
        SettingsError: names its folder.
    """
    copy = results.with_name(SETTINGS_COPY)
    if results.is_file() and copy.is_file() and copy.read_text("utf-8") != to_yaml(settings):
        raise SettingsError(
            f"{copy}: that run had other settings; say them again, give another --out, or remove "
            f"{copy.parent}"
        )


def read_scores(results: Path) -> dict[Score, float]:
    """Test scores of a run's results.json, of the part chosen on validation."""
    (tasks,) = read_json(results)["models"].values()
    return {
        (task, metric): score["mean"]
        for task, content in tasks.items()
        for metric, score in content["scores"].items()
        if (task, metric) in COLUMNS
    }


def scores_of(variant: str, score: Score, results: Results) -> dict[int, float]:
    """A variant's score by seed, of the seeds that have it."""
    by_seed = results.get(variant, {})
    return {seed: scores[score] for seed, scores in by_seed.items() if score in scores}


def compare(claim: Claim, results: Results) -> list[float]:
    """By how much the better variant is better, seed by seed, of the seeds that both have."""
    better = scores_of(claim.better, claim.score, results)
    worse = scores_of(claim.worse, claim.score, results)
    return [better[seed] - worse[seed] for seed in sorted(better.keys() & worse.keys())]


def judge(differences: Sequence[float]) -> str:
    """What the differences of all seeds say together.

    >>> [judge(d) for d in ([0.1, 0.2, 0.1], [-0.1, -0.2, -0.1], [0.1, -0.1, 0.1], [0.1], [])]
    ['holds', 'does not hold', 'undecided', 'too few seeds', 'not tested']
    """
    if len(differences) < 3:
        return "too few seeds" if differences else "not tested"
    if min(differences) > 0:
        return "holds"
    return "does not hold" if max(differences) < 0 else "undecided"


def show(values: Sequence[float]) -> str:
    """Mean and deviation of some scores; "" for none.

    >>> show([0.7, 0.8]), show([0.7]), show([])
    ('0.750 ± 0.071', '0.700', '')
    """
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def claim_rows(results: Results) -> Rows:
    """A row for each claim."""
    rows = [["claim", "score", "better", "worse", "difference", "here"]]
    for claim in CLAIMS:
        sides = [
            show([*scores_of(variant, claim.score, results).values()])
            for variant in (claim.better, claim.worse)
        ]
        differences = compare(claim, results)
        rows.append(
            [claim.text, COLUMNS[claim.score], *sides, show(differences), judge(differences)]
        )
    return rows


def variant_rows(results: Results) -> Rows:
    """A row for each variant that has been run."""
    runs = [scores for by_seed in results.values() for scores in by_seed.values()]
    scored = [score for score in COLUMNS if any(score in run for run in runs)]
    rows = [["variant", "seeds", *(COLUMNS[score] for score in scored)]]
    for variant, by_seed in results.items():
        cells = [show([*scores_of(variant, score, results).values()]) for score in scored]
        rows.append([variant, str(len(by_seed)), *cells])
    return rows


def describe(results: Results, base: PretrainSettings, command: str) -> str:
    """The report, Markdown."""
    steps = "" if base.max_steps is None else f"{base.max_steps:,} steps of "
    return (
        f"`{command}`: {steps}batch {base.batch_size}, {base.size}. Test scores, mean ± deviation "
        "over seeds of pre-training. A claim holds if the better variant is better with every "
        "seed, does not hold if it is worse with every seed, and is undecided otherwise.\n\n"
        f"{markdown(claim_rows(results))}\n\n{markdown(variant_rows(results))}\n"
    )


def parse_variants(text: str) -> list[str]:
    """Variants of "all" or of names joined by commas.

    Raises:
        SettingsError: there is none of that name.
    """
    names = list(VARIANTS) if text == "all" else text.split(",")
    for name in names:
        if name not in VARIANTS:
            raise SettingsError(f"--variants {name}: there are {', '.join(VARIANTS)}")
    return names


@click.command("benchmarks.rendered.claims", cls=ToldCommand, help=__doc__)
@click.argument("store", type=PATH)
@click.argument("tasks", type=PATH)
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", required=True, type=FOLDER, help="Results folder.")
@click.option("--settings", type=FILE, default=SETTINGS, help="YAML.")
@click.option("--variants", default="all", show_default=True, help=", ".join(VARIANTS))
@click.option("--seeds", type=POSITIVE_INT, default=3, show_default=True)
@click.option("--grid", type=click.Choice(list(GRIDS)), default="fast", show_default=True)
@PATIENCE_OPTION
@DEVICE
@WORKERS
@click.option("--only-report", is_flag=True, help="Tell of the runs that are done; make none.")
def main(
    store: Path,
    tasks: Path,
    changes: tuple[str, ...],
    out: Path,
    settings: Path,
    variants: str,
    seeds: int,
    grid: str,
    patience: int,
    device: str,
    workers: int | None,
    only_report: bool,
) -> None:
    command = shlex.join(["python", "-m", "benchmarks.rendered.claims", *sys.argv[1:]])
    results: Results = {}
    base = apply_file(PretrainSettings(), settings, read_yaml(settings))
    base = base.with_changes(read_changes(changes))
    names, device = parse_variants(variants), choose_device(device)
    planned = {(name, s): variant_settings(base, name, s) for s in range(seeds) for name in names}
    workers = workers or available_cores()
    scored = {run: out / run_folder(*run) / "results.json" for run in planned}
    if only_report:
        planned = {run: planned[run] for run, path in scored.items() if path.is_file()}
    for run, run_settings in planned.items():
        check_kept(scored[run], run_settings)
    # Once for all runs, and only if there is one to score.
    done = all(scored[run].is_file() for run in planned)
    tasks_read = [] if done else read_tasks(tasks, workers, progress=False)
    for (name, seed), run_settings in planned.items():
        folder = out / run_folder(name, seed)
        if not scored[name, seed].is_file():
            weights = train(run_settings, store, folder / "run")
            make_table(
                [Contestant(name, "myna_plugin", str(weights))],
                tasks_read,
                folder,
                Protocol(grid, device=device, patience=patience),
                workers=workers,
                batch_size=BATCH_SIZES[device.partition(":")[0]],
                cache=cache_folder() / "rendered",
                command=command,
            )
        results.setdefault(name, {})[seed] = read_scores(scored[name, seed])
        # After each run, so that one that is stopped leaves a report of what it did.
        write_text(out / REPORT, describe(results, base, command))
    if not results:
        raise SettingsError(f"{out}: no run is done, so there is nothing to report")
    click.echo((out / REPORT).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

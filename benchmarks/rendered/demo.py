"""The rendered benchmark in small, on a CPU: render a few hundred clips and print the table.

\b
    python -m benchmarks.rendered.demo out/demo
    python -m benchmarks.rendered.demo out/demo --midi ~/midi --weights myna.safetensors

Scores are composed unless --scores or --midi gives some. The model is the packaged one, or
--weights; beside it stand mel statistics, chroma and key templates, each with four linear heads.
The numbers are of a small set and rise with its size: compare them with one another, not with those
of `benchmarks.rendered.tasks` and `benchmarks.rendered.table`, which make the whole benchmark.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from benchmarks.rendered.scores import ScoreError
from benchmarks.rendered.soundfonts import SoundfontError
from benchmarks.rendered.table import (
    BATCH_SIZES,
    baseline,
    make_table,
    parse_weights,
    read_tasks,
)
from benchmarks.rendered.tasks import choose_soundfonts, gather_scores, make_tasks
from myna_plugin.audio import AudioError
from myna_plugin.cores import available_cores
from myna_plugin.experiment.modules import ExperimentError
from myna_plugin.tasks import TaskError
from myna_plugin.tasks.task import SPLITS

COMPOSED = 200
"""Works to compose where no scores are given."""

SIZES = (240, 60, 120)

CLIP_SECONDS = 5.0

NOTES_CLIPS = 10

BASELINES = ("mel_statistics", "chroma", "krumhansl")

FOLDER = click.Path(path_type=Path)
SIZE = click.IntRange(min=1)


@click.command(help=__doc__)
@click.argument("out", type=FOLDER)
@click.option("--scores", multiple=True, type=FOLDER, help="Folder with works.jsonl and notes.npz.")
@click.option("--midi", multiple=True, type=FOLDER, help="Folder of MIDI files.")
@click.option("--weights", help="FILE or NAME=FILE. Default: the packaged weights.")
@click.option("--soundfonts", multiple=True, type=FOLDER, help="To train and validate with.")
@click.option("--test-soundfonts", multiple=True, type=FOLDER, help="To test with alone.")
@click.option("--sizes", type=(SIZE, SIZE, SIZE), default=SIZES, show_default=True, help="Clips.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Processes. Default: cores.")
def main(
    out: Path,
    scores: tuple[Path, ...],
    midi: tuple[Path, ...],
    weights: str | None,
    soundfonts: tuple[Path, ...],
    test_soundfonts: tuple[Path, ...],
    sizes: tuple[int, int, int],
    seed: int,
    workers: int | None,
) -> None:
    command = shlex.join(["python", "-m", "benchmarks.rendered.demo", *sys.argv[1:]])
    workers, progress = workers or available_cores(), sys.stderr.isatty()
    try:
        model = parse_weights(weights or "myna=", "myna_plugin", {})
        contestants = [model, *map(baseline, BASELINES)]
        if not (out / "tasks").exists():
            works = gather_scores(scores, midi, 0 if scores or midi else COMPOSED, seed)
            out.mkdir(parents=True, exist_ok=True)
            lines = make_tasks(
                works,
                out / "tasks",
                sizes=dict(zip(SPLITS, sizes, strict=True)),
                notes_sizes=dict.fromkeys(SPLITS, NOTES_CLIPS),
                soundfonts=choose_soundfonts(soundfonts, test_soundfonts, out / "soundfonts"),
                seconds=CLIP_SECONDS,
                seed=seed,
                workers=workers,
                command=command,
            )
            click.echo("\n".join(lines))
        else:
            click.echo(f"{out / 'tasks'}: kept; remove {out} to render anew", err=True)
        text = make_table(
            contestants,
            read_tasks(out / "tasks", workers, progress),
            out / "table",
            grid="linear",
            seeds=1,
            device="cpu",
            workers=workers,
            batch_size=BATCH_SIZES["cpu"],
            cache=out / "embeddings",
            command=command,
            progress=progress,
        )
    except (
        *(ScoreError, SoundfontError, TaskError, AudioError, ExperimentError, OSError),
    ) as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from error
    click.echo(text)


if __name__ == "__main__":
    main()

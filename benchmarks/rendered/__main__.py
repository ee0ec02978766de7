"""The rendered benchmark in one command: render the tasks, probe models on them, print the table.

\b
    python -m benchmarks.rendered out/small --small
    python -m benchmarks.rendered out/small-midi --small --midi ~/midi --weights myna.safetensors
    python -m benchmarks.rendered out/whole --scores data/scores --soundfonts FluidR3Mono_GM.sf3

The whole benchmark has 12,500 clips of ten seconds and trains 216 heads for each task and each of
three seeds, which wants a GPU; --small has 420 clips of five seconds and linear heads, and
takes a minute or two on a CPU. Small numbers rise with the number of clips: compare them with one
another alone.

Scores are composed unless --scores or --midi gives some. The model is the packaged one, or
--weights; the baselines stand beside it. A run that was stopped goes on where it was when the same
command is given again: OUT/tasks is rendered once, OUT/table has a file for every score.
`benchmarks.rendered.tasks` and `benchmarks.rendered.table` are the two halves, with more options.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.contestants import BASELINES, baseline, parse_weights
from benchmarks.rendered.reading import read_tasks
from benchmarks.rendered.table import BATCH_SIZES, make_table
from benchmarks.rendered.tasks import (
    CLIP_SECONDS,
    NOTES_SIZES,
    SIZE,
    SIZES,
    choose_soundfonts,
    count_works,
    make_tasks,
)
from myna_plugin.common.cores import available_cores
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import ToldCommand, say
from myna_plugin.common.files import read_json
from myna_plugin.common.options import DEVICE, FILE, FOLDER, POSITIVE_INT, SEED, WORKERS
from myna_plugin.probing.experiment import Protocol
from myna_plugin.probing.heads import GRIDS, PATIENCE
from myna_plugin.probing.tasks import TaskError
from myna_plugin.probing.tasks.task import SPLITS
from recipes.rendered.soundfonts import digest_soundfonts
from recipes.rendered.sources import Sources

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Extent:
    """How large a benchmark is.

    Attributes:
        sizes: clips to train, validate and test with.
        notes_sizes: how many of them the notes task takes.
        clip_seconds: their length.
        composed: works to compose where no scores are given.
        grid: heads, a name in `GRIDS`.
        seeds: of the probe.
        baselines: names in `BASELINES`.
        patience: evaluations without a new best after which a head stops.
    """

    sizes: Sizes
    notes_sizes: Sizes
    clip_seconds: float
    composed: int
    grid: str
    seeds: int
    baselines: tuple[str, ...]
    patience: int = PATIENCE


WHOLE = Extent(
    sizes=SIZES,
    notes_sizes=NOTES_SIZES,
    clip_seconds=CLIP_SECONDS,
    composed=1000,
    grid="full",
    seeds=3,
    baselines=BASELINES,
)

SMALL = Extent(
    sizes=(240, 60, 120),
    notes_sizes=(10, 10, 10),
    clip_seconds=5.0,
    composed=200,
    grid="fast",
    seeds=1,
    baselines=("mel-statistics", "chroma", "krumhansl"),
)


def check_tasks(
    tasks: Path,
    asked: Mapping[str, Any],
    soundfonts: Mapping[str, Sequence[Path]],
) -> None:
    """Refuse tasks that were rendered otherwise: their scores would pass for those asked for.

    Args:
        tasks: a folder of `make_tasks`.
        asked: what its provenance must say, by name.
        soundfonts: those named, by split; one without any may have been played by whichever.

    Raises:
        TaskError: names what differs.
    """
    made = read_json(tasks / "provenance.json", {})
    differing = [name for name, value in asked.items() if made.get(name) != value]
    for split, paths in soundfonts.items():
        digests = digest_soundfonts(map(str, paths))
        if digests and made.get("soundfonts", {}).get(split) != digests:
            differing.append(f"soundfonts ({split})")
    if differing:
        raise TaskError(
            f"{tasks}: was rendered with other {', '.join(differing)}; give the same options, "
            "another OUT, or remove it to render anew"
        )


@click.command("benchmarks.rendered", cls=ToldCommand, help=__doc__)
@click.argument("out", type=FOLDER)
@click.option("--small", is_flag=True, help="Few and short clips, four heads: for a CPU.")
@click.option("--scores", multiple=True, type=FOLDER, help="Folder with works.jsonl and notes.npz.")
@click.option("--midi", multiple=True, type=FOLDER, help="Folder of MIDI files.")
@click.option(
    "--weights",
    multiple=True,
    default=("myna=",),
    help="FILE or NAME=FILE; may be repeated. Default: the packaged weights.",
)
@click.option("--soundfonts", multiple=True, type=FILE, help="To train and validate with.")
@click.option("--test-soundfonts", multiple=True, type=FILE, help="To test with alone.")
@click.option(
    "--sizes",
    type=(SIZE, SIZE, SIZE),
    help=f"Clips. Default: {WHOLE.sizes}, {SMALL.sizes} if small.",
)
@click.option(
    "--grid",
    type=click.Choice(list(GRIDS)),
    help=f"Default: {WHOLE.grid}, {SMALL.grid} if small.",
)
@click.option(
    "--seeds",
    type=POSITIVE_INT,
    help=f"Of the probe. Default: {WHOLE.seeds}, {SMALL.seeds} if small.",
)
@DEVICE
@SEED
@WORKERS
def main(
    out: Path,
    small: bool,
    scores: tuple[Path, ...],
    midi: tuple[Path, ...],
    weights: tuple[str, ...],
    soundfonts: tuple[Path, ...],
    test_soundfonts: tuple[Path, ...],
    sizes: Sizes | None,
    grid: str | None,
    seeds: int | None,
    device: str,
    seed: int,
    workers: int | None,
) -> None:
    command = shlex.join(["python", "-m", "benchmarks.rendered", *sys.argv[1:]])
    plan = SMALL if small else WHOLE
    workers = workers or available_cores()
    device = choose_device(device)
    contestants = [parse_weights(text, "myna_plugin", {}) for text in weights]
    contestants += map(baseline, plan.baselines)
    composed = 0 if scores or midi else plan.composed
    works = Sources(tuple(map(str, scores)), tuple(map(str, midi)), composed, seed=seed).load()
    clips = dict(zip(SPLITS, sizes or plan.sizes, strict=True))
    if (out / "tasks").exists():
        asked = {"clips": clips, "clip_seconds": plan.clip_seconds, "seed": seed}
        asked["works"] = count_works(works)
        check_tasks(out / "tasks", asked, {"train": soundfonts, "test": test_soundfonts})
        say(f"{out / 'tasks'}: kept; remove {out} to render anew")
    else:
        out.mkdir(parents=True, exist_ok=True)
        lines = make_tasks(
            works,
            out / "tasks",
            sizes=clips,
            notes_sizes=dict(zip(SPLITS, plan.notes_sizes, strict=True)),
            soundfonts=choose_soundfonts(soundfonts, test_soundfonts, out / "soundfonts"),
            seconds=plan.clip_seconds,
            seed=seed,
            workers=workers,
            command=command,
        )
        click.echo("\n".join(lines))
    text = make_table(
        contestants,
        read_tasks(out / "tasks", workers, progress=True),
        out / "table",
        Protocol(grid or plan.grid, seeds or plan.seeds, device, plan.patience),
        workers=workers,
        batch_size=BATCH_SIZES[device.partition(":")[0]],
        cache=out / "embeddings",
        command=command,
        progress=True,
    )
    click.echo(text)


if __name__ == "__main__":
    main()

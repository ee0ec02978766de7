"""`myna embed`: audio files become one row a track."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from myna_plugin.api import Myna
from myna_plugin.cli.options import (
    EMBEDDING,
    MODEL,
    SCENE_LAYERS,
    SCENE_POOLING,
    TOKENS,
    PatternType,
    ShardType,
    hop_ms_option,
)
from myna_plugin.common.cores import available_cores
from myna_plugin.common.errors import FAILED, SHOWN_AT_MOST, InputError, ToldCommand, say
from myna_plugin.common.options import (
    DEVICE,
    FILE,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    WORKERS,
    NamedPath,
    Number,
)
from myna_plugin.library.building import Outcome, build_library, describe
from myna_plugin.library.parts import Parts
from myna_plugin.library.tracks import find_tracks
from myna_plugin.model.audio import SHORTEST_S
from myna_plugin.model.embedding import PRECISIONS

EPILOG = """
Examples:

\b
  myna embed music --out library.parquet
  myna embed song.mp3 other.flac --out two.parquet --model myna-hybrid
  find /music -name '*.mp3' -print0 | myna embed - --null --out library.parquet
  myna embed music --out library.parquet --exclude Podcasts --exclude '*.tmp.mp3'
  myna embed music --out sequences.parquet --timestamps --hop-ms 500
  myna embed music --out quick.parquet --tokens 1/4 --seconds 60

\b
  on four machines that share a disk, or by a scheduler's array of jobs:
  myna embed music --out library.parquet --shard 1/4     (2/4, 3/4, 4/4)
  myna merge library.parquet

Given again, the same command brings the library up to date: it embeds what is new or has changed,
drops what is gone, keeps the rows of files that were moved or given other tags, and says how many
of each. A library is never left half updated.

On a terminal a bar shows how far it is, elsewhere a line every half minute; --quiet keeps to what
cannot be used.

While it works, results are kept in OUT.parts; a run that was stopped, even killed, goes on where it
was when the same command is given again. Files that cannot be used are listed in OUT.failed.csv.

Exit status: 0 every file has a row, 1 all but those listed, 2 input that cannot be used.
"""


@click.command("embed", cls=ToldCommand, epilog=EPILOG)
@click.argument("inputs", nargs=-1, required=True, type=NamedPath(), metavar="FILES…|FOLDER…|-")
@click.option(
    "--out",
    required=True,
    type=FILE,
    metavar="LIBRARY",
    help="File to write, .parquet.",
)
@click.option(
    "--null", "-0", is_flag=True, help="Paths on standard input end in NUL bytes, not in lines."
)
@click.option(
    "--exclude",
    multiple=True,
    type=PatternType(),
    metavar="PATTERN",
    help="Leave out of folders what has this name, or with a slash this path from the folder on; "
    "* stands for any characters. May be given several times.",
)
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but what cannot be used.")
@click.option("--new", is_flag=True, help="Embed all, also what the library has already.")
@MODEL
@EMBEDDING
@SCENE_LAYERS
@SCENE_POOLING
@TOKENS
@click.option(
    "--seconds",
    type=Number(float, SHORTEST_S),
    metavar="S",
    help="Embed only so much from the middle of each track, and decode no more.  [default: all]",
)
@click.option("--timestamps", is_flag=True, help="A sequence of vectors a track instead of one.")
@hop_ms_option(
    "Milliseconds between vectors, with --timestamps.  [default: the checkpoint's, or 50]", None
)
@click.option(
    "--timestamp-layer",
    type=POSITIVE_INT,
    metavar="N",
    help="Transformer block, from 1, that --timestamps reads off.  [default: the checkpoint's]",
)
@DEVICE
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="float32",
    show_default=True,
    help="What the encoder computes in; halves are for CUDA, bfloat16 for CPUs with it as well.",
)
@WORKERS
@click.option(
    "--batch-seconds",
    type=POSITIVE_FLOAT,
    help="Audio that the encoder takes at a time.  [default: 25 on a CPU, 50 with a share of the "
    "tokens, 4000 on CUDA]",
)
@click.option(
    "--shard",
    type=ShardType(),
    help="Do only the i-th of n shares of the library; join them with `myna merge`.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: on a Ray cluster, each actor with --workers processes (pip install ray).",
)
def embed(
    inputs: tuple[str, ...],
    out: Path,
    null: bool,
    quiet: bool,
    exclude: tuple[str, ...],
    model: str,
    device: str,
    shard: tuple[int, int] | None,
    engine: str,
    **options: Any,
) -> None:
    """Embed audio files, or all under a folder, or those whose paths come on standard input (-).

    Audio of any length and of every kind that FFmpeg's libraries, which are built in, can decode:
    WAV, FLAC, OGG, Opus, MP3, M4A, AAC, WMA, AIFF, WavPack, the sound of MP4 and WebM, and so on.
    Of a folder, hidden files and folders are left out, and the bins and thumbnails of NAS systems;
    what is no audio is counted by ending. A cue sheet cuts an album that is one file. One row a
    track: path, duration_s, embedding, title, artist, album, and a warning where the file is
    silent, damaged or cut off.
    """
    if engine == "ray" and shard is not None:
        raise InputError("--engine ray divides the work itself: leave --shard out")
    check_options(options)
    new, timestamps, workers, batch_seconds, seconds = (
        options.pop(name) for name in ("new", "timestamps", "workers", "batch_seconds", "seconds")
    )
    given = {name: value for name, value in options.items() if value is not None}
    told = None if quiet else say
    tracks = find_tracks(read_inputs(inputs, null), told, exclude)
    myna = Myna.from_pretrained(model, device="cpu" if engine == "ray" else device, **given)
    precision = options["precision"]
    facts = describe(
        myna.embedder, model, precision=precision, timestamps=timestamps, seconds=seconds
    )
    run_units = None
    if engine == "ray":
        from myna_plugin.library.ray_engine import RayEngine

        run_units = RayEngine(
            {"name": model, "device": device, **given},
            facts,
            workers=workers,
            batch_seconds=batch_seconds,
        ).run
    outcome = build_library(
        tracks,
        out,
        myna.embedder,
        facts,
        workers=workers or available_cores(),
        batch_seconds=batch_seconds,
        shard=shard,
        anew=new,
        run_units=run_units,
        say=told,
    )
    sys.exit(tell(out, outcome, shard, quiet))


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of what is not asked for."""
    if options["timestamp_layer"] is not None and not options["timestamps"]:
        raise InputError("--timestamp-layer is for --timestamps: add that, or leave it out")
    for name in ("scene_layers", "scene_pooling", "tokens", "seconds"):
        if options[name] is not None and options["timestamps"]:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} is for one vector a track: leave --timestamps out")


def read_inputs(inputs: Sequence[str], null: bool = False) -> list[str]:
    """What was given, "-" replaced by the paths on standard input, bytes of whatever encoding.

    Args:
        inputs: paths.
        null: whether those on standard input end in NUL bytes, not in lines.

    Raises:
        InputError: they end otherwise, or are UTF-16; or `null` without "-".
    """
    if "-" not in inputs:
        if null:
            raise InputError("--null is for paths on standard input: name - as well")
        return list(inputs)
    content = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError("standard input is UTF-16: convert it, iconv -f UTF-16 -t UTF-8")
    if null and content and b"\0" not in content:
        raise InputError("standard input has no NUL bytes: leave --null out")
    if not null and b"\0" in content:
        raise InputError(
            "standard input has NUL bytes: add --null (find -print0), or convert it (UTF-16)"
        )
    ends = content.split(b"\0") if null else [line.rstrip(b"\r") for line in content.split(b"\n")]
    piped = [os.fsdecode(path) for path in ends if path]
    return [path for given in inputs for path in (piped if given == "-" else [given])]


def tell(
    out: Path, outcome: Outcome, shard: tuple[int, int] | None = None, quiet: bool = False
) -> int:
    """Say what was done and what was not, `quiet` the latter alone; the exit status."""
    if quiet:
        outcome = replace(outcome, warned=[])
    for listed, kind in ((outcome.failed, ""), (outcome.warned, "warning: ")):
        for path, text in listed[:SHOWN_AT_MOST]:
            say(f"myna: {kind}{path}: {text}")
        if (hidden := len(listed) - SHOWN_AT_MOST) > 0:
            say(f"myna: {kind}and {hidden} more")
    if quiet:
        return FAILED if outcome.failed else 0
    if shard is not None:
        say(
            f"{out}: shard {shard[0]}/{shard[1]} is done, {outcome.n_tracks:,} tracks, "
            f"{len(outcome.failed):,} of which failed; when all are: myna merge {out}"
        )
    else:
        say(f"{out}: {outcome.n_rows:,} tracks")
        if outcome.failed:
            say(f"{Parts(out).report}: files that could not be used: {len(outcome.failed):,}")
    if outcome.warned:
        odd = "tracks that are silent, cancelled, damaged or short"
        say(f"column warning: {odd}: {len(outcome.warned):,}")
    return FAILED if outcome.failed else 0

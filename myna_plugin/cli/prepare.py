"""`myna prepare`: a folder of audio becomes a store to train from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from tqdm import tqdm

from myna_plugin.cli.options import ShardType
from myna_plugin.common.cores import available_cores
from myna_plugin.common.errors import ToldCommand
from myna_plugin.common.options import PATH, POSITIVE_FLOAT, WORKERS
from myna_plugin.pretraining.store import preparation, writing
from myna_plugin.pretraining.store.reading import Index, Store, StoreError, StoreSettings

SETTINGS = {
    "clip_seconds": "clip_frames",
    "min_seconds": "min_frames",
    "shard_mb": "shard_frames",
    "part": "part",
}
"""Option of the command line -> the field of `StoreSettings` that follows from it."""

EPILOG = """
Examples:

\b
  myna prepare music store
  myna prepare music store --workers 16
  myna prepare more_music store --extend

\b
  on four machines, each with its own part, and then on one of them:
  myna prepare music part1 --shard 1/4
  myna prepare --merge store part1 part2 part3 part4

\b
  check a store that was copied:
  myna prepare --verify store

\b
Disk: 29 MB an hour of audio.
Memory: 0.3 GB a worker, and 2.3 GB while it reads an hour-long stereo file.

Exit status: 0 done, 1 failed (disk full, ...), 2 bad input or too little disk, 130 stopped by
Ctrl-C, 143 by SIGTERM.
"""


@click.command("prepare", cls=ToldCommand, epilog=EPILOG)
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=PATH,
    metavar="AUDIO_DIR STORE | --merge STORE PART… | --verify STORE",
)
@click.option(
    "--extend",
    is_flag=True,
    help="Add files to a complete STORE, and try those in its report again.",
)
@WORKERS
@click.option(
    "--clip-seconds",
    type=POSITIVE_FLOAT,
    help=f"Length of a clip; longer files are cut.  [default: {preparation.CLIP_SECONDS:g}]",
)
@click.option(
    "--min-seconds",
    type=POSITIVE_FLOAT,
    help="Shortest file, and shortest last piece of a file, to be kept; a training crop is 3.07 s."
    f"  [default: {preparation.MIN_SECONDS:g}]",
)
@click.option(
    "--shard-mb",
    type=POSITIVE_FLOAT,
    help="Size of the files that STORE is made of, and of the pieces of work.  "
    f"[default: {preparation.SHARD_MB:g}]",
)
@click.option(
    "--shard",
    "part",
    type=ShardType(),
    help="Prepare only the i-th of n parts of AUDIO_DIR, divided by the files' names.",
)
@click.option("--merge", is_flag=True, help="Make one STORE of the PARTs, which stay as they are.")
@click.option("--verify", is_flag=True, help="Compare the checksums of all of STORE's files.")
def prepare(
    paths: tuple[Path, ...],
    extend: bool,
    workers: int | None,
    merge: bool,
    verify: bool,
    **cutting: float | tuple[int, int] | None,
) -> None:
    """Make a store of clips from a folder of audio.

    Every audio file under AUDIO_DIR is decoded, mixed to mono at 16 kHz, made a mel spectrogram
    (128 bands, float16) and cut into clips, which are written to the folder STORE.

    Everything that FFmpeg's libraries decode, which are built in, is read. Hidden files and
    folders are left out, and the bins and thumbnails of NAS systems. A file that is unreadable,
    silent or too short goes into STORE/report.csv with the reason; so does one that is stored
    although it is damaged or cut off. An interrupted run, even a killed one, goes on where it
    stopped when the same command is given again.
    """
    if verify:
        if len(paths) != 1:
            raise click.UsageError("--verify takes one STORE")
        opened = Store.open(paths[0])
        opened.verify()
        click.echo(f"{paths[0]}: {len(opened):,} clips, all checksums are right")
    elif merge:
        if len(paths) < 2:
            raise click.UsageError("--merge takes the new STORE and at least one PART")
        summarise(paths[0], writing.merge(paths[0], paths[1:]))
    else:
        if len(paths) != 2:
            raise click.UsageError(f"AUDIO_DIR and STORE are needed, got {len(paths)} paths")
        audio_dir, store = paths
        settings = read_settings(store, {k: v for k, v in cutting.items() if v is not None})
        workers = workers or available_cores()
        summarise(
            store,
            preparation.prepare(audio_dir, store, settings, extend=extend, workers=workers),
        )


def read_settings(store: Path, given: dict[str, float | tuple[int, int]]) -> StoreSettings:
    """The options given; for the others those that the store was begun with, or the defaults."""
    asked = preparation.settings_of(**given)  # type: ignore[arg-type]
    if not (store / "store.json").exists():
        return asked
    changes = {SETTINGS[name]: getattr(asked, SETTINGS[name]) for name in given}
    return replace(StoreSettings.read(store), **changes)


def summarise(store: Path, index: Index) -> None:
    """Say what a store holds.

    Raises:
        StoreError: nothing.
    """
    hours = int(index.shards["frames"].sum()) / preparation.FRAMES_PER_HOUR
    n_reported = len(index.reported)
    click.echo(
        f"{store}: {len(index.clips):,} clips, {hours:,.2f} hours, "
        f"{tqdm.format_sizeof(int(index.shards['bytes'].sum()), 'B')}"
    )
    click.echo(
        f"{len(index.files):,} files: {len(index.files) - n_reported:,} stored, "
        f"{n_reported:,} reported in {store / 'report.csv'}"
    )
    if n_warned := len(index.warned):
        click.echo(f"stored, but damaged, cut off or cancelled, listed there too: {n_warned:,}")
    if silent := int(index.files["silent_clips"].sum()):
        click.echo(f"silent clips of stored files, left out: {silent:,}")
    if clamped := int(index.files["clamped"].sum()):
        n_files = int((index.files["clamped"] > 0).sum())
        click.echo(
            f"values clamped to float16's range: {clamped:,}, in very loud files: {n_files:,}"
        )
    if not len(index.clips) and StoreSettings.read(store).part[1] == 1:
        raise StoreError(f"{store}: none of the files could be used")

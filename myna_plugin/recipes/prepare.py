"""`python -m myna_plugin.recipes.prepare`: a folder of audio becomes a store to train from."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from myna_plugin.common.worker_pool import WorkerDiedError
from myna_plugin.pretraining.store.preparation import (
    CLIP_SECONDS,
    FRAMES_PER_HOUR,
    MIN_SECONDS,
    SHARD_MB,
    prepare,
    settings_of,
)
from myna_plugin.pretraining.store.reading import PREPARE, Index, Store, StoreError, StoreSettings
from myna_plugin.pretraining.store.writing import merge

BAD_INPUT = 2
INTERRUPTED = 130
FAILED = 1

SETTINGS = {
    "clip_seconds": "clip_frames",
    "min_seconds": "min_frames",
    "shard_mb": "shard_frames",
    "part": "part",
}
"""Option of the command line -> the field of `StoreSettings` that follows from it."""

DESCRIPTION = """\
Decode every audio file under AUDIO_DIR, mix it to mono at 16 kHz, compute its mel spectrogram
(128 bands, float16), cut it into clips, and write them to the folder STORE.

Everything that FFmpeg's libraries decode, which are built in, is read: WAV, FLAC, OGG, Opus, MP3,
M4A, AAC, WMA, AIFF, the sound of MP4 and WebM, and so on. What is named `._*` (macOS's metadata) or
lies in `.git` is left out. A file that is unreadable, silent or too short goes into
STORE/report.csv with the reason; so does one that is stored although it is damaged or cut off.
An interrupted run, even a killed one, goes on where it stopped when the same command is given
again."""

EXAMPLES = f"""\
examples:
  {PREPARE} music store
  {PREPARE} music store --workers 16
  {PREPARE} more_music store --extend

  on four machines, each with its own part, and then on one of them:
  {PREPARE} music part1 --shard 1/4
  {PREPARE} --merge store part1 part2 part3 part4

  check a store that was copied:
  {PREPARE} --verify store

disk: 29 MB an hour of audio
memory: 0.3 GB a worker, and 2.3 GB while it reads an hour-long stereo file
exit status: 0 done, 1 failed (disk full, ...), 2 bad input or too little disk, 130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return _run(parser, options)
    except StoreError as error:
        return _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _fail("stopped; the same command goes on with what is left", INTERRUPTED)
    except (OSError, WorkerDiedError) as error:
        return _fail(f"{error}; the same command goes on with what is left", FAILED)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    paths: list[Path] = options.paths
    if options.verify:
        if len(paths) != 1:
            parser.error("--verify takes one STORE")
        opened = Store.open(paths[0])
        opened.verify()
        print(f"{paths[0]}: {len(opened):,} clips, all checksums are right")
        return 0
    if options.merge:
        if len(paths) < 2:
            parser.error("--merge takes the new STORE and at least one PART")
        return _summarise(paths[0], merge(paths[0], paths[1:]))
    if len(paths) != 2:
        parser.error(f"AUDIO_DIR and STORE are needed, got {len(paths)} paths")
    audio_dir, store = paths
    settings = _settings(store, options)
    index = prepare(audio_dir, store, settings, extend=options.extend, workers=options.workers)
    return _summarise(store, index)


def _settings(store: Path, options: argparse.Namespace) -> StoreSettings:
    """The options given; for the others those that the store was begun with, or the defaults."""
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name)}
    asked = settings_of(**given)
    if not (store / "store.json").exists():
        return asked
    changes = {SETTINGS[name]: getattr(asked, SETTINGS[name]) for name in given}
    return replace(StoreSettings.read(store), **changes)


def _summarise(store: Path, index: Index) -> int:
    """Say what a store holds; the exit status."""
    n_frames = int(index.shards["frames"].sum())
    n_reported = len(index.reported)
    n_warned = len(index.warned)
    print(
        f"{store}: {len(index.clips):,} clips, {n_frames / FRAMES_PER_HOUR:,.2f} hours, "
        f"{tqdm.format_sizeof(int(index.shards['bytes'].sum()), 'B')}"
    )
    print(
        f"{len(index.files):,} files: {len(index.files) - n_reported:,} stored, "
        f"{n_reported:,} reported in {store / 'report.csv'}"
    )
    if n_warned:
        print(f"stored, but damaged, cut off or cancelled, listed there too: {n_warned:,}")
    if silent := int(index.files["silent_clips"].sum()):
        print(f"silent clips of stored files, left out: {silent:,}")
    if clamped := int(index.files["clamped"].sum()):
        n_files = int((index.files["clamped"] > 0).sum())
        print(f"values clamped to float16's range: {clamped:,}, in very loud files: {n_files:,}")
    if not len(index.clips) and StoreSettings.read(store).part[1] == 1:
        return _fail(f"{store}: none of the files could be used", BAD_INPUT)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"prepare: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PREPARE,
        usage="%(prog)s [options] AUDIO_DIR STORE\n"
        "       %(prog)s --merge STORE PART [PART ...]\n"
        "       %(prog)s --verify STORE",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--extend",
        action="store_true",
        help="add files to a complete STORE, and try those in its report again",
    )
    parser.add_argument(
        "--workers",
        type=_positive_int,
        default=_available_cores(),
        help="processes (default: one a core, here %(default)s)",
    )
    parser.add_argument(
        "--clip-seconds",
        type=_positive_float,
        help=f"length of a clip; longer files are cut (default: {CLIP_SECONDS:g})",
    )
    parser.add_argument(
        "--min-seconds",
        type=_positive_float,
        help="shortest file, and shortest last piece of a file, to be kept; a training crop is "
        f"3.07 s (default: {MIN_SECONDS:g})",
    )
    parser.add_argument(
        "--shard-mb",
        type=_positive_float,
        help="size of the files that STORE is made of, and of the pieces of work "
        f"(default: {SHARD_MB:g})",
    )
    parser.add_argument(
        "--shard",
        dest="part",
        type=_part,
        metavar="i/n",
        help="prepare only the i-th of n parts of AUDIO_DIR, divided by the files' names",
    )
    parser.add_argument(
        "--merge", action="store_true", help="make one STORE of the PARTs, which stay as they are"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare the checksums of all of STORE's files"
    )
    return parser


def _available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return number


def _part(text: str) -> tuple[int, int]:
    i, slash, n = text.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"must be i/n with i from 1 to n, got {text!r}")
    return int(i), int(n)


if __name__ == "__main__":
    sys.exit(main())

"""`myna similar`: the recordings of a library nearest to some tracks."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from myna_plugin.api import Myna
from myna_plugin.common.devices import choose_device
from myna_plugin.common.errors import InputError, ToldCommand, say
from myna_plugin.common.files import digest_path
from myna_plugin.common.options import DEVICE, POSITIVE_INT, NamedPath, Number
from myna_plugin.library.decoding_pool import find_sound
from myna_plugin.library.fingerprint import SECONDS, fingerprint
from myna_plugin.library.neighbours import (
    TELLING_S,
    Neighbour,
    Seed,
    find_rows,
    join_libraries,
    nearest,
)
from myna_plugin.library.table import Entry, Library
from myna_plugin.model.audio import SAMPLE_RATE, load_audio, stream_audio, stream_middle
from myna_plugin.model.identity import digest_weights
from myna_plugin.model.sources import resolve

EPILOG = """
Examples:

\b
  myna similar song.mp3 library.parquet
  myna similar song.mp3 other.flac library.parquet --count 20 --per-artist 1
  myna similar song.mp3 rock.parquet jazz.parquet --json
  myna similar song.mp3 library.parquet --m3u > like-song.m3u8

Prints similarity, path, artist, title and album, most similar first, separated by tabs; a tab or
line break in a name is written \\t, \\n. Each recording is listed once: files of the same content,
or that sound the same by a fingerprint and are of one length, are copies of the first, and those of
the seeds are left out, as are silent files and, beside longer ones, what tells too little by being
shorter than half a second. A seed that is in the library takes its row from there,
an album all its tracks' rows; any other audio file is embedded with the library's model. Similarity
is the cosine of vectors standardised over the library (of fewer than 20 tracks: as they are), to
the mean of the seeds.
"""


@click.command("similar", cls=ToldCommand, epilog=EPILOG)
@click.argument("inputs", nargs=-1, required=True, type=NamedPath(), metavar="SEED… LIBRARY…")
@click.option(
    "--count", type=POSITIVE_INT, default=10, show_default=True, help="Recordings to list."
)
@click.option("--per-artist", type=POSITIVE_INT, help="At most so many of an artist, by tags.")
@click.option(
    "--min-seconds",
    type=Number(float, 0),
    metavar="S",
    help=f"Leave out what is shorter.  [default: {TELLING_S:g}, or 0 where a seed is shorter, or "
    "all but the seeds]",
)
@click.option("--json", is_flag=True, help="Print JSON, with copies and lengths.")
@click.option("--csv", is_flag=True, help="Print CSV with a header.")
@click.option("--m3u", is_flag=True, help="Print a playlist, with absolute paths.")
@click.option(
    "--model",
    metavar="CHECKPOINT",
    help="The library's model, where it is no longer at the place that the library names.",
)
@DEVICE
def similar(
    inputs: tuple[str, ...],
    count: int,
    per_artist: int | None,
    min_seconds: float | None,
    model: str | None,
    device: str,
    **layouts: bool,
) -> None:
    """List the recordings of LIBRARY (.parquet) that are most similar to the audio files SEED."""
    chosen = [name for name, is_chosen in layouts.items() if is_chosen]
    if len(chosen) > 1:
        raise InputError(f"{' '.join(f'--{name}' for name in chosen)}: choose one of them")
    libraries = [Path(path) for path in inputs if path.endswith(".parquet")]
    paths = [path for path in inputs if not path.endswith(".parquet")]
    if not (libraries and paths):
        missing = "audio file" if libraries else "library (.parquet, from myna embed)"
        raise InputError(f"{', '.join(inputs)}: name at least one {missing} as well")
    for path in paths:
        if os.path.isdir(path):
            raise InputError(f"{path}: is a folder; name one audio file, such as one in it")
    library = join_libraries(libraries, say)
    seeds = find_seeds(paths, library, model, device)
    hits = nearest(library, seeds, count, per_artist, min_seconds, say)
    click.echo(LAYOUTS[chosen[0] if chosen else "lines"](library, hits), nl=False)


def find_seeds(
    paths: Sequence[str], library: Library, model: str | None, device: str
) -> list[Seed]:
    """The rows of some files, or, of those that have none, their vectors by the library's model."""
    seeds: list[Seed] = []
    seconds = library.facts.get("seconds")
    myna = None
    for path in paths:
        content = digest_path(Path(path)) if os.path.isfile(path) else None
        rows = find_rows(library, path) or [
            row
            for row, entry in enumerate(library.entries)
            if content and entry.content == content and entry.start_s is None
        ]
        for warning in dict.fromkeys(filter(None, (library.entries[row].warning for row in rows))):
            say(f"{path}: {warning}")
        for row in rows:
            duration_s = float(library.duration_s[row])
            seeds.append(Seed(library.embeddings[row], duration_s, library.entries[row], row))
        if not rows:
            myna = myna or load_model_of(library, model, device)
            # A library of sequences is searched by their means, which no scene embedding need be
            # like.
            over_time = library.facts["timestamps"]
            if over_time:
                vector = myna.embed_timestamps(path)[0].mean(0)
            else:
                vector = myna.embed(load_audio(path, seconds=seconds), SAMPLE_RATE)
            seeds.append(Seed(vector, *_listen(path, content, seconds)))
    return seeds


def _listen(path: str, content: str | None, seconds: float | None) -> tuple[float, Entry]:
    """A file's length in seconds, and its fingerprint, or that of its middle."""

    def note(path: Path, text: str) -> None:
        """What is odd about the file has been said."""

    length_s, blocks = None, stream_audio(path, note=note)
    if seconds:
        length_s, blocks = stream_middle(path, seconds, note=note)
    n_samples, beginning = 0, []
    for block in blocks:
        if n_samples < SECONDS * SAMPLE_RATE:
            beginning.append(block)
        n_samples += len(block)
    heard = fingerprint(np.concatenate(beginning))
    duration_s = n_samples / SAMPLE_RATE if length_s is None else length_s
    return duration_s, Entry(content, heard, sound=find_sound(path))


def load_model_of(library: Library, model: str | None, device: str) -> Myna:
    """The model that made a library.

    Raises:
        InputError: the model at hand is another one.
    """
    facts = library.facts
    patchings = facts["patchings"]
    scenes = ("scene_layers", "scene_pooling", "tokens")
    names = ("hop_ms", "timestamp_layer") if facts["timestamps"] else scenes
    options: dict[str, Any] = {name: facts[name] for name in names if facts.get(name)}
    source = facts["model"] if model is None else model
    myna = Myna.from_pretrained(
        source or resolve("")[0],  # by its path: the library has named its model
        embedding="hybrid" if len(patchings) > 1 else patchings[0],
        precision=facts["precision"],
        device="cpu",
        **options,
    )
    if digest_weights(myna.embedder.encoder.state_dict()) != facts["weights"]:
        raise InputError(
            f"the library was made with other weights than {facts['model'] or 'the default'!r} "
            "has now; name the right ones with --model"
        )
    # Half precision is slow on a CPU; the rounded weights give the same vector in float32.
    myna.embedder.encoder.float()
    return Myna(myna.embedder.to(choose_device(device)))


BREAKS = "\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What ends a field of the plain output, or a line for one reader or another."""

FIELDS = ("similarity", "path", "artist", "title", "album", "start_s", "end_s", "duration_s")


def _describe(library: Library, hit: Neighbour) -> dict[str, Any]:
    """What is said of a recording."""
    entry = library.entries[hit.row]
    known = {
        "similarity": round(hit.similarity, 4),
        "path": library.paths[hit.row],
        "duration_s": round(float(library.duration_s[hit.row]), 3),
    }
    return {name: known[name] if name in known else getattr(entry, name) for name in FIELDS}


def _on_a_line(text: str | None) -> str:
    r"""Text without the characters that end a field or a line, as Python writes those.

    >>> _on_a_line("a\nb")
    'a\\nb'
    """
    return "".join(
        repr(character)[1:-1] if character in BREAKS else character for character in text or ""
    )


def _as_lines(library: Library, hits: Sequence[Neighbour]) -> str:
    rows = [[*_describe(library, hit).values()][:5] for hit in hits]
    lines = [[f"{first:.4f}", *map(_on_a_line, rest)] for first, *rest in rows]
    return "".join("\t".join(line).rstrip("\t") + "\n" for line in lines)


def _as_json(library: Library, hits: Sequence[Neighbour]) -> str:
    copies = [[library.paths[row] for row in hit.copies] for hit in hits]
    rows = [
        _describe(library, hit) | {"copies": paths} for hit, paths in zip(hits, copies, strict=True)
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def _as_csv(library: Library, hits: Sequence[Neighbour]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, FIELDS, lineterminator="\n")
    table.writeheader()
    table.writerows(_describe(library, hit) for hit in hits)
    return text.getvalue()


def _as_playlist(library: Library, hits: Sequence[Neighbour]) -> str:
    """Extended M3U; where a track is a piece of an album, VLC's words say which."""
    lines = ["#EXTM3U"]
    for hit in hits:
        track = _describe(library, hit)
        if set(track["path"]) & set("\n\r\ufffd"):
            kinds = "with a line break or with bytes that are no UTF-8"
            say(f"{track['path']!r}: left out, a playlist holds no name {kinds}")
            continue
        title = track["title"] or os.path.splitext(os.path.basename(track["path"]))[0]
        name = " - ".join(filter(None, (track["artist"], title)))
        lines.append(f"#EXTINF:{round(track['duration_s'])},{name}")
        for word, time in (("start", track["start_s"]), ("stop", track["end_s"])):
            if time is not None:
                lines.append(f"#EXTVLCOPT:{word}-time={time:.3f}")
        lines.append(os.path.abspath(track["path"]))
    return "\n".join(lines) + "\n"


LAYOUTS: dict[str, Callable[[Library, Sequence[Neighbour]], str]] = {
    "lines": _as_lines,
    "json": _as_json,
    "csv": _as_csv,
    "m3u": _as_playlist,
}

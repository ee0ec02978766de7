"""Make a store of waveforms, mono, 22.05 kHz, 16 bits, of a folder of audio.

\b
Examples:
  python -m recipes.clmr.waveforms music waves
  python -m recipes.clmr.waveforms music waves --workers 16

STORE/waveforms.int16 has all sounds end to end; STORE/index.jsonl says of each file how many
samples it has there and their SHA-256, or why it has none. A run that was stopped, even killed,
goes on where it was when the same command is given again.
Exit status: 0 done, 1 failed (disk full, ...), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np

from myna_plugin.common.cores import available_cores
from myna_plugin.common.errors import InputError, ToldCommand
from myna_plugin.common.files import parse_json, read_text, replacing
from myna_plugin.common.locks import locked
from myna_plugin.common.options import FOLDER, WORKERS
from myna_plugin.model.audio import AudioError, load_audio
from myna_plugin.model.audio_files import AUDIO_SUFFIXES, find_files
from myna_plugin.peers.clmr import SAMPLE_RATE
from recipes.rendered.render import run_in_workers

FULL_SCALE = 32_767

LOCK = "lock"
"""File in a store or a run that whoever writes there holds."""


class Waveforms:
    """A finished store, opened.

    Attributes:
        path: its folder.
        starts: first sample of each sound, int64.
        lengths: samples of each, int64.
        digest: of what sounds it holds, by its index.

    Raises:
        InputError: there is none, it is not finished, or its files do not agree.
    """

    def __init__(self, store: Path) -> None:
        rows = _read_index(store)
        if not rows or "sounds" not in rows[-1]:
            raise InputError(
                f"{store}: no finished store of waveforms; "
                f"`python -m recipes.clmr.waveforms AUDIO {store}` makes one, or goes on with it"
            )
        self.path = store
        self.lengths = np.array([row["samples"] for row in rows if "samples" in row], np.int64)
        self.digest = hashlib.sha256(json.dumps(rows[1:]).encode()).hexdigest()
        self.starts = np.cumsum(self.lengths) - self.lengths
        if self.samples.size != self.lengths.sum():
            raise InputError(f"{store}: waveforms.int16 and index.jsonl do not agree; make it anew")

    @property
    def samples(self) -> np.ndarray:
        """Of all sounds, int16, memory-mapped."""
        return _map(self.path / "waveforms.int16")


@cache
def _map(path: Path) -> np.ndarray:
    """Once in every process: what is pickled for another one would be read whole."""
    return np.memmap(path, "<i2", mode="r")


def _read_index(store: Path) -> list[dict[str, Any]]:
    """Rows of the index; a last one that a killed run left unfinished is none."""
    path = store / "index.jsonl"
    lines = read_text(path).split("\n")[:-1] if path.is_file() else []
    rows = [parse_json(line, f"{path}: line {i + 1}") for i, line in enumerate(lines)]
    for i, row in enumerate(rows):
        names = ("audio",) if i == 0 else ("path", "sounds")
        if not isinstance(row, dict) or not any(name in row for name in names):
            raise InputError(f"{path}: line {i + 1}: no index of waveforms; give another STORE")
    return rows


def _as_text(name: str) -> str:
    r"""A file's name with the bytes that are not UTF-8 written out.

    >>> _as_text("caf\udce9.wav")
    'caf\\xe9.wav'
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def decode(path: str) -> np.ndarray | str:
    """A file's samples at 22.05 kHz, int16, or why it has none."""
    try:
        sound = load_audio(path, SAMPLE_RATE).numpy()
    except AudioError as error:
        return str(error)
    if not sound.any():
        return f"{path}: silent"
    return np.round(sound.clip(-1, 1) * FULL_SCALE).astype("<i2")


def write_waveforms(audio: Path, store: Path, workers: int) -> list[str]:
    """Decode what a store still lacks; returns what is wrong with files that are left out.

    Raises:
        InputError: no file can be used, the store was begun with another folder, or another
            process is writing it.
    """
    if not audio.is_dir():
        raise InputError(f"{audio}: no such folder")
    store.mkdir(parents=True, exist_ok=True)
    busy = f"{store}: another run is writing there; wait for its end, or give another STORE"
    with locked(store / LOCK, busy):
        return _write(audio, store, workers)


def _write(audio: Path, store: Path, workers: int) -> list[str]:
    root = os.path.abspath(audio)
    found = (os.fsdecode(path) for path in find_files(Path(root), say=click.echo))
    files = [path for path in found if os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES]
    rows = [row for row in _read_index(store) if "sounds" not in row]
    head = {"audio": _as_text(root), "sample_rate": SAMPLE_RATE}
    if rows and rows[0] != head:
        raise InputError(f"{store}: was begun with {rows[0].get('audio')}; give another STORE")
    done = {row["path"] for row in rows[1:]}
    left = [path for path in files if _as_text(os.path.relpath(path, root)) not in done]
    rows = rows or [head]
    with replacing(store / "index.jsonl") as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with (
        open(store / "waveforms.int16", "ab") as waveforms,
        open(store / "index.jsonl", "a", encoding="utf-8", buffering=1) as index,
    ):
        waveforms.truncate(2 * sum(row.get("samples", 0) for row in rows))
        decoded = run_in_workers(
            decode, left, workers, total=len(left), description="decode", unit="file"
        )
        for path, got in zip(left, decoded, strict=True):
            row: dict[str, Any] = {"path": _as_text(os.path.relpath(path, root))}
            if isinstance(got, str):
                row["fault"] = _as_text(got)
            else:
                data = got.tobytes()
                waveforms.write(data)
                waveforms.flush()
                os.fsync(waveforms.fileno())  # before the row that says it is there
                row |= {"samples": len(got), "sha256": hashlib.sha256(data).hexdigest()}
            index.write(json.dumps(row) + "\n")
            rows.append(row)
        n_sounds = sum("samples" in row for row in rows)
        if not n_sounds:
            raise InputError(f"{audio}: no file in it can be used; see {store / 'index.jsonl'}")
        index.write(json.dumps({"sounds": n_sounds}) + "\n")
    return [row["fault"] for row in rows if "fault" in row]


@click.command("waveforms", cls=ToldCommand, help=__doc__)
@click.argument("audio", metavar="AUDIO", type=FOLDER)
@click.argument("store", metavar="STORE", type=FOLDER)
@WORKERS
def main(audio: Path, store: Path, workers: int | None) -> None:
    for fault in write_waveforms(audio, store, workers or available_cores()):
        click.echo(f"left out: {fault}", err=True)
    lengths = Waveforms(store).lengths
    click.echo(f"{store}: {len(lengths):,} sounds, {lengths.sum() / SAMPLE_RATE / 3600:.2f} hours")


if __name__ == "__main__":
    main()

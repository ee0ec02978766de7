"""Writing a store: files that appear whole or not at all, shards, the report, merging."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from myna_plugin.common.files import PARTIALS, check_disk, read_json, write_json
from myna_plugin.common.files import replacing as replacing_path
from myna_plugin.common.locks import locked
from myna_plugin.common.progress import ProgressBar
from myna_plugin.model.spectrogram import N_MELS
from myna_plugin.pretraining.store.reading import (
    FRAME_BYTES,
    MADE_OF,
    SHARD,
    Index,
    Store,
    StoreError,
    StoreSettings,
    shard_checksum,
    shard_path,
)

WORK = "store.unfinished"
"""Folder inside a store for what is needed only until it is complete."""

INDEX_BYTES_PER_FILE = 200
"""Disk that a file's rows and its path take, generously."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when the block ends well, complete and on disk."""
    with replacing_path(path) as partial, partial.open("wb") as file:
        yield file
    _sync_folder(path.parent)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file atomically."""
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write_shard_file(store: Path, number: int, pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Write a shard atomically.

    Args:
        store: the store's folder.
        number: number of the shard.
        pieces: clips, float16, each of shape (frames, 128), at least one.

    Returns:
        The shard's row of dtype `SHARD`, shape (1,).
    """
    n_frames = sum(len(piece) for piece in pieces)
    header = io.BytesIO()
    description = {"descr": "<f2", "fortran_order": False, "shape": (n_frames, N_MELS)}
    np.lib.format.write_array_header_1_0(header, description)
    digest = hashlib.sha256()
    path = shard_path(store, number)
    with replacing(path) as file:
        file.write(header.getvalue())
        digest.update(header.getvalue())
        for piece in pieces:
            block = piece.astype("<f2", copy=False).tobytes()
            file.write(block)
            digest.update(block)
    row = np.zeros(1, SHARD)
    row["number"], row["frames"], row["bytes"] = number, n_frames, path.stat().st_size
    row["checksum"] = np.frombuffer(digest.digest(), np.uint8)
    return row


def write_settings(store: Path, settings: StoreSettings) -> None:
    """Write store.json, which makes a folder a store, and make room for its shards."""
    with replacing(store / "store.json") as file:
        file.write(settings.to_json().encode())
    (store / "shards").mkdir(exist_ok=True)


def publish(store: Path, index: Index) -> None:
    """Write the report and then the index, which makes the store complete in one instant."""
    with replacing(store / "report.csv") as file:
        # Names that are not UTF-8 keep their bytes.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        rows = csv.writer(text)
        rows.writerow(["path", "reason", "stored"])
        for row in np.union1d(index.reported, index.warned).tolist():
            texts = os.fsdecode(index.paths[row]), os.fsdecode(index.reasons[row])
            rows.writerow([*texts, "yes" if index.files["clips"][row] else "no"])
        text.flush()
        text.detach()
    write_arrays(store / "index.npz", index.columns())


@contextlib.contextmanager
def writing(store: Path) -> Iterator[None]:
    """Hold a store's folder for writing, made if there is none; it has a `WORK` folder meanwhile.

    Left-over temporary files are removed first. If nothing was written, nothing stays.

    Raises:
        StoreError: another process holds it, or the folder is something else than a store.
    """
    if store.exists() and not store.is_dir():
        raise StoreError(f"{store}: is a file; give a folder for the store")
    present = list(store.iterdir()) if store.exists() else []
    ours = [path for path in present if path.name == WORK or path.match("store.json.*.tmp")]
    if len(ours) < len(present) and not (store / "store.json").exists():
        raise StoreError(f"{store}: holds other things than a store; give a new or empty folder")
    work = store / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{store}: cannot be written ({error.strerror})") from error
    busy = f"{store}: another run is writing it; wait until that has ended"
    with locked(work / "lock", busy, StoreError):
        try:
            for folder in (store, work, store / "shards"):
                for left_over in folder.glob(PARTIALS):
                    left_over.unlink(missing_ok=True)
            yield
        finally:
            if not (work / "plan.npz").exists():
                shutil.rmtree(work)
            if not (store / "store.json").exists():
                store.rmdir()


def merge(store: Path, parts: Sequence[Path], say: Callable[[str], None] = print) -> Index:
    """Make one store of several complete ones.

    Shards are hard-linked where the parts lie on the same disk, which takes no space and no time;
    elsewhere they are copied and their checksums compared. The parts stay as they are. A merge
    that was interrupted is begun again and takes over what is there. What the parts tell of what
    they are made of is kept.

    Args:
        store: folder of the new store.
        parts: folders of the parts, in the order that their clips shall have.
        say: takes lines for the user.

    Returns:
        The index of the new store.

    Raises:
        StoreError: a part is missing, damaged or cut in another way; a file is in two parts; the
            disk is too small; or `store` is a complete store.
    """
    opened = [Store.open(part) for part in parts]
    settings = _common_settings(opened)
    _refuse_repeated_files(opened)
    records = [part.path / MADE_OF for part in opened]
    made_of = [read_json(path) for path in records if path.exists()]
    with writing(store):
        if (store / "index.npz").exists() or (store / WORK / "plan.npz").exists():
            raise StoreError(f"{store}: is a store already; merging makes a new one")
        device = store.stat().st_dev
        copied = [part.index for part in opened if part.path.stat().st_dev != device]
        needed = sum(int(index.shards["frames"].sum()) * FRAME_BYTES for index in copied)
        needed += INDEX_BYTES_PER_FILE * sum(len(part.index.files) for part in opened)
        check_disk(store, needed, StoreError)
        write_settings(store, settings)
        merged = Index.concatenate([part.index for part in opened])
        sources = [
            shard_path(part.path, number)
            for part in opened
            for number in part.index.shards["number"].tolist()
        ]
        merged.shards["number"] = np.arange(len(sources))
        for source, row in zip(
            ProgressBar(sources, "merge", unit="shard"), merged.shards, strict=True
        ):
            _take_over(source, shard_path(store, row["number"]), row["checksum"].tobytes())
        if made_of:
            write_json(store / MADE_OF, {"parts": made_of}, indent=1)
        publish(store, merged)
    return merged


def _common_settings(parts: Sequence[Store]) -> StoreSettings:
    """What all parts are cut with; StoreError if they differ or do not make up a collection."""
    first = parts[0]
    for part in parts:
        if replace(part.settings, part=first.settings.part) != first.settings:
            raise StoreError(
                f"{part.path}: cut in another way than {first.path} ({part.settings}, "
                f"{first.settings}); prepare it anew with the same options"
            )
    n_parts = max(part.settings.part[1] for part in parts)
    given = sorted(part.settings.part for part in parts)
    if n_parts > 1 and given != [(i, n_parts) for i in range(1, n_parts + 1)]:
        listed = ", ".join(f"{i}/{n}" for i, n in given)
        raise StoreError(
            f"these are the parts {listed}: give 1/{n_parts} to {n_parts}/{n_parts}, each once"
        )
    return replace(first.settings, part=(1, 1))


def _refuse_repeated_files(parts: Sequence[Store]) -> None:
    # The only place, with `--extend`, where every path is an object for a while.
    seen: set[bytes] = set()
    for part in parts:
        for path in part.index.paths:
            if path in seen:
                raise StoreError(
                    f"{part.path}: {os.fsdecode(path)} is in another part as well; "
                    "merge stores of different files"
                )
            seen.add(path)


def _take_over(source: Path, target: Path, checksum: bytes) -> None:
    """Link or copy a shard, unless it is there already."""
    if target.exists() and (target.samefile(source) or shard_checksum(target) == checksum):
        return
    linked = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, linked)
    except OSError:
        # Another disk, or a file system without hard links.
        with source.open("rb") as original, replacing(target) as file:
            shutil.copyfileobj(original, file, 1 << 22)
        if shard_checksum(target) != checksum:
            target.unlink()
            raise StoreError(
                f"{source}: its checksum is not the recorded one, so the file has changed; "
                "restore it from a copy"
            ) from None
    else:
        linked.replace(target)


def _sync_folder(folder: Path) -> None:
    """Make renames within a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

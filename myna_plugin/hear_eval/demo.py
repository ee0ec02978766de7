"""The two demo tasks that come with the package, unpacked for heareval.

A scene task (the key of a three-second progression, 24 classes) and an event task (note onsets,
labelled by pitch class). Both are synthetic; `tools/make_demo_tasks.py` makes them.
"""

from __future__ import annotations

from pathlib import Path

from myna_plugin.common.files import check_disk, write_whole
from myna_plugin.common.progress import ProgressBar
from myna_plugin.model.audio import SAMPLE_RATE, load_audio, read_info
from myna_plugin.probing.tasks.clips import SAMPLE_BYTES, write_wav

PACKED = Path(__file__).parent / "demo_tasks"


def unpack_demo_tasks(folder: Path) -> Path:
    """Write the demo tasks as heareval reads them, with 16 kHz WAV files.

    Files that are there already are left alone, so an interrupted call is resumed by the next.
    Each file appears whole or not at all; a task's metadata appears last.

    Args:
        folder: the tasks directory to fill; made if missing.

    Returns:
        `folder`, for `--tasks-dir`: it holds one folder a task.

    Raises:
        FileNotFoundError: the installation lacks the packed tasks.
        InputError: the folder cannot be written into, or its disk has too little room.
        OSError: a file cannot be written; names it.
        AudioError: a packed file cannot be decoded, as when libsndfile is built without Opus.
    """
    packed = sorted(path for path in PACKED.glob("*/**/*") if path.is_file())
    if not packed:
        raise FileNotFoundError(f"{PACKED}: no demo tasks; reinstall myna-plugin")
    targets = {source: folder / _unpacked_name(source) for source in packed}
    missing = {source: target for source, target in targets.items() if not target.exists()}
    check_disk(folder, sum(map(_unpacked_bytes, missing)))
    in_order = sorted(missing, key=lambda path: (path.name == "task_metadata.json", path))
    for source in ProgressBar(in_order, "Unpacking demo tasks", unit="file", disable=not missing):
        _unpack(source, missing[source])
    return folder


def _unpacked_name(source: Path) -> Path:
    """Where a packed file goes, relative to the tasks directory."""
    relative = source.relative_to(PACKED)
    return relative.with_suffix(".wav") if relative.suffix == ".ogg" else relative


def _unpacked_bytes(source: Path) -> int:
    """What a packed file takes when it is unpacked."""
    if source.suffix != ".ogg":
        return source.stat().st_size
    return round(read_info(source).duration_s * SAMPLE_RATE) * SAMPLE_BYTES


def _unpack(source: Path, target: Path) -> None:
    """Copy one file, decoding audio, so that `target` is never seen half-written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".ogg":
        write_wav(target, load_audio(source).numpy(), SAMPLE_RATE)
    else:
        write_whole(target, source.read_bytes())

"""The two demo tasks that come with the package, unpacked for heareval.

A scene task (the key of a three-second progression, 24 classes) and an event task (note onsets,
labelled by pitch class). Both are synthetic; `tools/make_demo_tasks.py` makes them.
"""

from __future__ import annotations

from pathlib import Path

import soundfile
from tqdm import tqdm

from myna_plugin.common.files import replacing
from myna_plugin.model.audio import SAMPLE_RATE, load_audio

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
        AudioError: a packed file cannot be decoded, as when libsndfile is built without Opus.
    """
    packed = sorted(path for path in PACKED.glob("*/**/*") if path.is_file())
    if not packed:
        raise FileNotFoundError(f"{PACKED}: no demo tasks; reinstall myna-plugin")
    targets = {source: folder / _unpacked_name(source) for source in packed}
    missing = {source: target for source, target in targets.items() if not target.exists()}
    in_order = sorted(missing, key=lambda path: (path.name == "task_metadata.json", path))
    for source in tqdm(in_order, "Unpacking demo tasks", unit="file", disable=not missing):
        _unpack(source, missing[source])
    return folder


def _unpacked_name(source: Path) -> Path:
    """Where a packed file goes, relative to the tasks directory."""
    relative = source.relative_to(PACKED)
    return relative.with_suffix(".wav") if relative.suffix == ".ogg" else relative


def _unpack(source: Path, target: Path) -> None:
    """Copy one file, decoding audio, so that `target` is never seen half-written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        if source.suffix == ".ogg":
            samples = load_audio(source).numpy()
            soundfile.write(partial, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
        else:
            partial.write_bytes(source.read_bytes())

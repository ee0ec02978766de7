"""What is in a task's audio files: length, rate, channels, silence; remembered between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from myna_plugin.common.files import digest_path, read_json_object, write_json
from myna_plugin.common.parallel import run_in_threads
from myna_plugin.model import containers, sound_files
from myna_plugin.model.audio import AudioError, load_audio, read_info, warn


@dataclass(frozen=True)
class AudioFacts:
    """What an audio file holds.

    Attributes:
        frames: samples in each channel.
        sample_rate: Hz.
        channels: 1 for mono.
        silent: every sample of the mono mix is zero.
        digest: SHA-256 of the mono mix, whatever the format.
    """

    frames: int
    sample_rate: int
    channels: int
    silent: bool
    digest: str

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate


class AudioCheck:
    """Facts about audio files; those of an unchanged file are remembered in `cache`.

    Args:
        cache: JSON file, read now and written by `save`.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.known: dict[str, dict[str, Any]] = read_json_object(cache, {})
        self.seen: dict[str, dict[str, Any]] = {}
        # What another version of it found may have been wrong.
        self.decoder = [digest_path(Path(str(m.__file__))) for m in (sound_files, containers)]

    def inspect(
        self, paths: Iterable[Path], description: str
    ) -> tuple[dict[Path, AudioFacts], dict[Path, AudioError]]:
        """Decode every file that is new or changed.

        Args:
            paths: files.
            description: what the progress bar says.

        Returns:
            The facts of each file that can be used, and an error for each that cannot.
        """
        jobs = {path: partial(self._look, path) for path in paths}
        facts: dict[Path, AudioFacts] = {}
        faults: dict[Path, AudioError] = {}
        for path, found in run_in_threads(jobs, description, unit="file"):
            if isinstance(found, AudioFacts):
                facts[path] = found
            else:
                faults[path] = found
        return facts, faults

    def save(self) -> None:
        """Remember, for the next run, what was found in this one."""
        write_json(self.cache, self.seen, indent=None)

    def _look(self, path: Path) -> AudioFacts | AudioError:
        try:
            about = {"stamp": stamp_of(path), "decoder": self.decoder}
            known = self.known.get(str(path))
            if not isinstance(known, dict) or {**known, **about} != known:
                known = {**about, "facts": asdict(inspect_file(path))}
        except AudioError as error:
            return error
        self.seen[str(path)] = known
        return AudioFacts(**known["facts"])


def inspect_file(path: Path) -> AudioFacts:
    """Decode one file and say what it holds.

    Raises:
        AudioError: it is missing, cannot be decoded, is empty, or holds NaN or infinite samples.
    """
    header = read_info(path)
    samples = load_audio(path, header.sample_rate, _note).numpy()
    return AudioFacts(
        frames=len(samples),
        sample_rate=header.sample_rate,
        channels=header.channels,
        silent=not samples.any(),
        digest=hashlib.sha256(samples.data).hexdigest(),
    )


def _note(path: Path, text: str) -> None:
    """Warn, except of silence, which is among the facts."""
    if not text.startswith("silent"):
        warn(path, text)


def stamp_of(path: Path) -> list[int]:
    """Size and time of change, which tell whether a file was changed since.

    Raises:
        AudioError: there is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}") from error
    return [status.st_size, status.st_mtime_ns]

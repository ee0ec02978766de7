"""Processes that decode tracks into shared memory, for one process that takes what is ready.

Every worker has slots of its own in shared memory and a pipe of its own to the parent, each with
one writer and one reader: there is no lock that a killed worker, or Ctrl-C, could leave shut. A
worker waits when its slots are full, so memory does not grow with the length of a track.
"""

from __future__ import annotations

import os
import signal
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from myna_plugin.common.errors import reason
from myna_plugin.common.files import digest_path
from myna_plugin.common.orphans import end_with_parent, make_server
from myna_plugin.common.stopping import unstopped
from myna_plugin.library.fingerprint import SECONDS, fingerprint
from myna_plugin.library.segments import (
    Segment,
    cut_segments,
    keep_blocks,
    largest_segment,
)
from myna_plugin.library.tracks import LibraryError, Track
from myna_plugin.model.audio import (
    SAMPLE_RATE,
    AudioError,
    digest_sound,
    read_tags,
    stream_audio,
    stream_middle,
)

SLOTS = 4
"""Segments that a worker may be ahead: three minutes of audio, 13 MB."""

AHEAD = 2
"""Tracks that a worker is given at a time, so that it need not wait for the next."""

READY = "ready"
SEGMENT = "segment"
FINISHED = "finished"
FAILED = "failed"

ATTEMPTS = 2

LONGEST_NAME = 1_000
"""Characters of a title that are kept."""


class Decoded(NamedTuple):
    """Some audio of a track; its samples are valid until the next event is asked for.

    Attributes:
        track: number of the track.
        segment: its next segment.
        first: whether the track begins here, perhaps anew.
    """

    track: int
    segment: Segment
    first: bool


class Details(NamedTuple):
    """What is kept of a track's file beside the embedding.

    Attributes:
        content: SHA-256 of the file, in hexadecimal digits.
        sound: SHA-256 of the file's sound as it is stored, whatever its tags.
        fingerprint: of the track's sound as it is heard, so far as it was decoded.
        title: by the file's tags, or the cue sheet; None where they do not say.
        artist: likewise.
        album: likewise.
    """

    content: str
    sound: str | None
    fingerprint: bytes
    title: str | None = None
    artist: str | None = None
    album: str | None = None


class Finished(NamedTuple):
    """A track that has been decoded to its end.

    Attributes:
        track: number of the track.
        n_samples: its length in samples at 16 kHz.
        details: what is kept of its file beside the embedding.
        warning: what is odd about it, "" for nothing; see `load_audio`'s `note`.
    """

    track: int
    n_samples: int
    details: Details
    warning: str = ""


class Failed(NamedTuple):
    """A track that cannot be decoded, and why."""

    track: int
    reason: str


Event = Decoded | Finished | Failed


class DecodingPool:
    """Worker processes that decode; close it, or use it as a context manager.

    Args:
        n_workers: number of processes, >= 1.
        chunk_frames: frames of a full chunk.
        whole: whether tracks come as they are instead of cut into chunks with margins.
        seconds: only as much from the middle of each; None for all.
    """

    def __init__(
        self,
        n_workers: int,
        chunk_frames: int,
        *,
        whole: bool = False,
        seconds: float | None = None,
    ) -> None:
        if n_workers < 1:
            raise ValueError(f"at least 1 worker is needed, got {n_workers}")
        context = make_server([__name__])
        kind = _Kind(chunk_frames, whole, seconds)
        self._lanes = [_Lane(context, kind) for _ in range(n_workers)]

    def __enter__(self) -> DecodingPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(self, tracks: Iterable[tuple[int, Track]]) -> Iterator[Event]:
        """Decode tracks, several at a time; events of different tracks come mixed.

        Args:
            tracks: numbered, taken one by one as workers get free.

        Yields:
            For every track its segments in order, then `Finished`; or `Failed`, perhaps after
            some segments. After a worker has died its track begins anew; a second death fails it.

        Raises:
            LibraryError: a worker died as it started.
        """
        remaining = iter(tracks)
        lanes = {lane.connection: lane for lane in self._lanes}
        while True:
            for _ in range(AHEAD):
                for lane in self._lanes:
                    if len(lane.tracks) < AHEAD and (track := next(remaining, None)) is not None:
                        lane.give(track)
            busy = [lane.connection for lane in self._lanes if lane.tracks]
            if not busy:
                return
            for ready in connection.wait(busy):
                assert isinstance(ready, connection.Connection)
                lane = lanes[ready]
                try:
                    message = ready.recv()
                except (EOFError, ConnectionResetError):
                    del lanes[ready]
                    failed = lane.revive()
                    lanes[lane.connection] = lane
                    if failed is not None:
                        yield failed
                    continue
                yield from lane.understand(message)

    def close(self) -> None:
        """End all workers; they have nothing to lose."""
        for lane in self._lanes:
            lane.stop()


class _Kind(NamedTuple):
    """What is made of tracks; see `DecodingPool`."""

    chunk_frames: int
    whole: bool
    seconds: float | None


class _Lane:
    """One worker process, its pipe, its slots and the tracks that it was given."""

    def __init__(self, context: Any, kind: _Kind) -> None:
        self._context, self._kind = context, kind
        self._memory = context.RawArray("f", SLOTS * largest_segment(kind.chunk_frames))
        self._slots = np.frombuffer(self._memory, np.float32).reshape(SLOTS, -1)
        self.tracks: deque[tuple[int, Track]] = deque()
        self._attempts = 1  # at the first of them
        self._start()

    def _start(self) -> None:
        self.connection, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_work,
            args=(theirs, self._memory, self._kind),
            daemon=True,
        )
        with unstopped():
            self._process.start()
        theirs.close()
        self._is_ready, self._begun = False, False

    def give(self, track: tuple[int, Track]) -> None:
        """One more track for the worker."""
        self.tracks.append(track)
        self._send(track)

    def _send(self, message: object) -> None:
        try:
            self.connection.send(message)
        except BrokenPipeError:
            # The worker is dead. What it wrote before is still to be read; its end comes after.
            return

    def understand(self, message: Any) -> Iterator[Event]:
        """The event that a message is; the slot goes back when the event has been used."""
        kind, *content = message
        if kind == READY:
            self._is_ready = True
        elif kind == SEGMENT:
            slot, length, full, partial_frames = content
            segment = Segment(self._slots[slot, :length], full, partial_frames)
            first, self._begun = not self._begun, True
            yield Decoded(self.tracks[0][0], segment, first)
            self._send(slot)
        else:
            track, _ = self.tracks.popleft()
            self._attempts, self._begun = 1, False
            yield Finished(track, *content) if kind == FINISHED else Failed(track, *content)

    def revive(self) -> Failed | None:
        """A new process in place of one that died; the failure, where it is one."""
        self._process.join()
        if not self._is_ready:
            raise LibraryError(
                "a decoding process died as it started, probably for want of memory: "
                "run again with fewer --workers"
            )
        failed = None
        if self._attempts == ATTEMPTS:
            track, _ = self.tracks.popleft()
            reason = "the process that decoded it died twice: a crash of the decoder, or no memory"
            failed = Failed(track, reason)
            self._attempts = 0
        self._attempts += 1
        self.connection.close()
        self._start()
        for waiting in self.tracks:
            self._send(waiting)
        return failed

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _work(link: connection.Connection, memory: Any, kind: _Kind) -> None:
    """The life of a worker: it ends with its parent."""
    # Ctrl-C reaches the whole process group; the parent alone decides what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    # Decoders written in C talk over the progress bar; what matters comes back as a message.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    slots = np.frombuffer(memory, np.float32).reshape(SLOTS, -1)
    free, tracks = deque(range(SLOTS)), deque[Track]()

    def listen() -> None:
        message = link.recv()
        if isinstance(message, int):
            free.append(message)
        else:
            tracks.append(message[1])

    try:
        link.send((READY,))
        while True:
            while not tracks:
                listen()
            _decode_into(slots, free, link.send, listen, tracks.popleft(), kind)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone


def find_sound(path: str) -> str | None:
    """Digest of a file's sound as it is stored; None of what libsndfile alone can read."""
    try:
        return digest_sound(path)
    except AudioError:
        return None


def read_names(track: Track) -> tuple[str | None, str | None, str | None]:
    """Title, artist and album, composed (NFC); None for what is not said."""
    if track.start_s is not None:
        return track.title, track.artist, track.album
    try:
        tags = read_tags(track.path)
    except AudioError:  # what libsndfile alone can read has been decoded
        tags = {}
    title, artist, album = (_clean(tags.get(name)) for name in ("title", "artist", "album"))
    return title, artist or _clean(tags.get("album_artist")), album


def _clean(text: str | None) -> str | None:
    words = unicodedata.normalize("NFC", (text or "")[:LONGEST_NAME]).split()
    return " ".join(words) or None


def _decode_into(
    slots: np.ndarray,
    free: deque[int],
    send: Callable[[tuple[Any, ...]], None],
    listen: Callable[[], None],
    track: Track,
    kind: _Kind,
) -> None:
    """Decode one track into slots as they get free, and say so."""
    n_samples, n_in_all = 0, None
    notes: list[str] = []
    beginning: list[np.ndarray] = []
    cut = keep_blocks if kind.whole else cut_segments

    def note(_: Path, text: str) -> None:
        notes.append(text)

    def counted() -> Iterator[np.ndarray]:
        nonlocal n_samples, n_in_all
        span = (track.start_s or 0.0, track.end_s)
        if kind.seconds is None:
            blocks = stream_audio(track.path, SAMPLE_RATE, note, span)
        else:
            length_s, blocks = stream_middle(track.path, kind.seconds, SAMPLE_RATE, note, span)
            n_in_all = round(length_s * SAMPLE_RATE)
        for block in blocks:
            if n_samples < SECONDS * SAMPLE_RATE:
                beginning.append(block)
            n_samples += len(block)
            yield block

    try:
        # Before the sound: of a file that is changed meanwhile it shows when the two are compared.
        content = digest_path(Path(track.path)) if os.path.isfile(track.path) else ""
        for samples, full, partial_frames in cut(counted(), kind.chunk_frames):
            while not free:
                listen()
            slot = free.popleft()
            slots[slot, : len(samples)] = samples
            send((SEGMENT, slot, len(samples), full, partial_frames))
        tags = read_names(track)
        sound = find_sound(track.path)
        details = Details(content, sound, fingerprint(np.concatenate(beginning)), *tags)
        answer: tuple[Any, ...] = FINISHED, n_in_all or n_samples, details, "; ".join(notes)
    except AudioError as error:
        answer = FAILED, str(error).removeprefix(f"{Path(track.path)}: ")
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise  # the parent is gone
    except OSError as error:
        answer = FAILED, f"cannot be decoded ({reason(error)})"
    # Decoders are other people's code and files come from anywhere: whatever one of them raises,
    # it must not stop the other hundred thousand.
    except Exception as error:  # noqa: BLE001
        answer = FAILED, f"cannot be decoded ({type(error).__name__}: {error})"
    send(answer)

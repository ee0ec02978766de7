"""Sound files that FFmpeg's libraries read, in this process, opening no file but the one."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import av
import numpy as np

from myna_plugin.model.mp3_headers import frame_bytes, has_length

FORMATS = (
    "3gp,aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,iff,loas,matroska,mlp,mov,"
    "mp3,mpc,mpc8,mpeg,mpegts,nut,ogg,oma,qcp,rm,shn,sox,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
"""FFmpeg's formats that hold sound themselves; playlists, which open other files, are not there."""

EXACT_FORMATS = ("flac", "wv", "tta", "ape", "aiff", "caf", "au", "w64", "wav", "dsf")
"""Their headers state the length to the sample."""

STATED_FORMATS = (*EXACT_FORMATS, "mov", "matroska", "asf")
"""Their headers state the length, of all streams together or rounded."""

LENGTH_TOLERANCE_S = 0.25
"""How far a header may be off where it counts in milliseconds, or with what an encoder adds."""

LAST_OGG_PAGE_BYTES = 1 << 17
"""A page of OGG has 65,307 bytes at most."""

BUFFER_BYTES = 1 << 18

TAGS_AS_BYTES: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
)
"""Tags that are not UTF-8 are kept, as PyAV 19 and newer always do, which lost the argument."""

LEAD_S = 1.0
"""What is decoded before the part that is wanted, and dropped: decoders remember a little."""


class DecodingError(Exception):
    """Why a file cannot be decoded, without its name."""


class Block(NamedTuple):
    """Some samples: their rate in Hz, and float32 of shape (n, C), n >= 1."""

    sample_rate: int
    samples: np.ndarray


@dataclass(frozen=True)
class Header:
    """What a file states, or where it states nothing what its packets add up to.

    Attributes:
        sample_rate: Hz.
        n_samples: in each channel.
        channels: 1 for mono.
        format: of the file, in capitals, such as WAV or MP3.
        is_deep: whether 16 bits do not hold its samples.
    """

    sample_rate: int
    n_samples: int
    channels: int
    format: str
    is_deep: bool

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


def read_short(there_s: float, stated_s: float) -> str:
    return f"read short: {there_s:.2f} s of the {stated_s:.2f} s that its header states"


class Container:
    """A file opened with FFmpeg's libraries; it opens no other one, and nothing elsewhere."""

    def __init__(self, path: Path) -> None:
        with ExitStack() as opening:
            self._file = opening.enter_context(open(path, "rb"))
            self._container = opening.enter_context(_open_container(self._file))
            if not self._container.streams.audio:
                raise DecodingError("holds no audio")
            self._opened = opening.pop_all()
        self._stream = self._container.streams.audio[0]
        self._context = self._stream.codec_context
        # Workers decode one file each; more threads would only take cores from the others.
        self._context.thread_count = 1
        if self._context.name == "flac":  # else it plays what its checksums tell to be damaged
            self._context.options = {"err_detect": "crccheck+explode"}
        self._format = self._container.format.name.split(",")[0]
        self._n_damaged = self._first_position = self._ticks = 0
        self._last_packet: av.Packet | None = None
        self._decoded_s, self._failure = 0.0, ""
        self._skip_to: int | None = None  # packets before this timestamp are passed over
        self._is_left = False  # before its end

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def tags(self) -> dict[str, str]:
        # Ogg keeps them with the stream, others with the file.
        found = {**self._stream.metadata, **self._container.metadata}
        return {
            name.lower(): value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            for name, value in found.items()
        }

    def digest(self) -> str:
        """SHA-256 of the sound as it is stored, which tags and pictures do not change."""
        digest, first = hashlib.sha256(), None
        for packet in self._packets():
            if packet.size:
                first = packet.pts if first is None else first
                digest.update(memoryview(packet))
        about = (self._context.name, self._context.sample_rate, self._context.channels, first)
        digest.update(repr(about).encode())
        return digest.hexdigest()

    def blocks(
        self, seconds: float, start_s: float = 0.0, stop_s: float = math.inf
    ) -> Iterator[Block]:
        """Samples from `start_s` to `stop_s`, or a little longer, at most `seconds` a block.

        DecodingError if there are none because all are damaged.
        """
        queue, kind, rate = av.AudioFifo(), ("", "", 0), 0
        for frame, n_before in self._frames_from(start_s):
            frame.pts = None  # or gaps would be refused
            now = frame.format.name, frame.layout.name, frame.sample_rate
            if now != kind:  # the queue itself would crash
                yield from _drain(queue, rate)
                queue, kind, rate = av.AudioFifo(), now, frame.sample_rate
            queue.write(frame)
            if n_before:
                queue.read(n_before)
            self._decoded_s += (frame.samples - n_before) / rate
            size = max(int(seconds * rate), 1)
            while queue.samples >= size:
                yield Block(rate, _to_float(queue.read(size)))
            if self._decoded_s >= stop_s:
                self._is_left = True
                break
        yield from _drain(queue, rate)
        if not self._decoded_s and (self._failure or self._n_damaged):
            raise DecodingError(self._failure or "all of it is damaged")

    def _frames_from(self, start_s: float) -> Iterator[tuple[av.AudioFrame, int]]:
        """Frames that hold samples, with the number of those at their beginning to be dropped.

        Packets up to `LEAD_S` before `start_s` are read and not decoded: going by timestamps alone
        is exact where an index of the file is not. They count from the first sample.
        """
        frames = (frame for frame in self._frames() if frame.sample_rate and frame.samples)
        passed_s, origin_s = 0.0, None
        for frame in frames:
            begin_s = passed_s if frame.time is None else frame.time - (origin_s or 0.0)
            if start_s and frame.time is not None and origin_s is None:
                origin_s, begin_s = frame.time, 0.0
                if start_s > LEAD_S:
                    self._skip_before(origin_s + start_s - LEAD_S)
            n_before = max(round((start_s - begin_s) * frame.sample_rate), 0)
            if n_before < frame.samples:
                break
            passed_s += frame.samples / frame.sample_rate
        else:
            self._is_left = start_s > 0  # what there is has not been added up
            return
        if start_s:
            self._n_damaged, self._failure, self._decoded_s = 0, "", start_s
        yield frame, n_before if start_s else 0
        for frame in frames:
            yield frame, 0

    def _skip_before(self, time_s: float) -> None:
        """Pass over packets before a time, by the file's own timestamps; decoders forget."""
        if self._stream.time_base:
            self._skip_to = int(time_s / self._stream.time_base)
            self._context.flush_buffers()

    def _frames(self) -> Iterator[av.AudioFrame]:
        for packet in self._packets():
            try:
                frames = packet.decode()
            except (av.InvalidDataError, av.PatchWelcomeError, ValueError) as error:
                self._n_damaged += 1
                self._failure = self._failure or _reason(error)
                continue
            for frame in frames:
                assert isinstance(frame, av.AudioFrame)
                self._n_damaged += frame.is_corrupt
                yield frame

    def _packets(self) -> Iterator[av.Packet]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self._n_damaged += 1
                self._failure = _reason(error)
                return
            if packet.size:
                self._ticks += packet.duration or 0
                if self._last_packet is None:
                    self._first_position = packet.pos or 0
                self._last_packet = packet
                if self._skip_to is not None and (packet.pts or 0) < self._skip_to:
                    continue
            yield packet

    def fault_of_packets(self) -> str:
        """The first of `faults` that shows without decoding."""
        self._decoded_s = self.count_seconds()
        return next(self.faults(), "")

    def count_seconds(self) -> float:
        """What all packets add up to, seconds; 0 where they have no lengths."""
        for _ in self._packets():
            pass
        return float(self._ticks * (self._stream.time_base or 0))

    def faults(self) -> Iterator[str]:
        """What is wrong with a file whose blocks have been read."""
        if self._n_damaged:
            parts = "1 part was" if self._n_damaged == 1 else f"{self._n_damaged:,} parts were"
            yield f"damaged: {parts} passed over"
        if self._is_left:
            return
        stated_s, tolerance_s = self.stated_s(), LENGTH_TOLERANCE_S
        if self._format in EXACT_FORMATS:
            tolerance_s = 0.5 / max(self._context.sample_rate, 1)
        if stated_s - self._decoded_s > tolerance_s:
            yield read_short(self._decoded_s, stated_s)
        elif self._format == "ogg" and not _has_last_page(self._file):
            yield "read short: its last page is missing"
        elif self._ends_in_frame():
            yield "read short: it ends within a frame"

    def _ends_in_frame(self) -> bool:
        last = self._last_packet
        return (
            self._format == "mp3"
            and last is not None
            and (last.size < frame_bytes(bytes(last)[:4]))
        )

    def stated_s(self) -> float:
        """Length that the file states, seconds; 0 if it states none."""
        is_stated = self._format in STATED_FORMATS
        if self._format == "mp3":
            is_stated = has_length(self._file, self._first_position)
        if not is_stated:
            return 0.0
        if self._stream.duration is not None and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        others = [s for s in self._container.streams if s.type in ("audio", "video")]
        if len(others) > 1 or self._container.duration is None:
            return 0.0  # the length of the longest of several is not that of this one
        return self._container.duration / av.time_base

    def header(self) -> Header:
        """What the file says; packets are counted, not decoded, where it says no length."""
        first = next((f for f in self._frames() if f.sample_rate and f.samples), None)
        if first is None:
            raise DecodingError(self._failure or "holds no samples")
        duration_s = self.stated_s()
        if not duration_s and self._format == "ogg" and self._stream.duration:
            duration_s = float(self._stream.duration * (self._stream.time_base or 0))
        n_samples = round(duration_s * first.sample_rate)
        if not n_samples:
            n_samples = round(self.count_seconds() * first.sample_rate)
        codec = self._context.codec
        return Header(
            first.sample_rate,
            n_samples,
            first.layout.nb_channels,
            self._format.upper(),
            bool(codec.lossless) and first.format.bytes > 2,
        )


def _open_container(file: io.BufferedReader) -> av.container.InputContainer:
    try:
        return av.open(
            _Nameless(file),
            "r",
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "none"},
            io_open=_refuse,
            buffer_size=BUFFER_BYTES,
            **TAGS_AS_BYTES,
        )
    except av.FFmpegError as error:
        raise DecodingError(_reason(error)) from error


class _Nameless:
    """A file without a name, from which FFmpeg would guess what is in it."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _refuse(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError(f"leads to another file ({url}), which is not opened")


def _drain(queue: av.AudioFifo, rate: int) -> Iterator[Block]:
    if queue.samples:
        yield Block(rate, _to_float(queue.read()))


def _to_float(frame: av.AudioFrame | None) -> np.ndarray:
    """Samples as float32, shape (n, C)."""
    assert frame is not None  # as only an empty queue gives
    values = frame.to_ndarray()
    channels = frame.layout.nb_channels
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) * np.float32(0.5 ** (8 * values.itemsize - 1))
    return values.astype(np.float32, copy=False)


def _has_last_page(file: io.BufferedReader) -> bool:
    """Whether an OGG file ends with a whole page that is marked as the last of its stream."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - LAST_OGG_PAGE_BYTES, 0))
    tail = file.read()
    file.seek(place)
    start = tail.rfind(b"OggS")
    if start < 0 or len(tail) < start + 27:
        return False
    lengths = tail[start + 27 : start + 27 + tail[start + 26]]
    return bool(tail[start + 5] & 4) and len(tail) >= start + 27 + len(lengths) + sum(lengths)


def _reason(error: Exception) -> str:
    """What is wrong, the same on every run."""
    if isinstance(error, av.FFmpegError):
        said = getattr(error, "strerror", None) or type(error).__name__
        return f"not audio, or damaged: {said}"
    return str(error)

"""The few facts of MP3 headers that tell whether a file is whole.

Source: ISO/IEC 11172-3 §2.4.1.3 and 13818-3 (frame header); the Xing, Info and VBRI headers as
encoders write them into the first frame.
"""

from __future__ import annotations

from typing import BinaryIO

BIT_RATES = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
"""kbit/s of layer III by index, for MPEG 1 and for the lower sample rates."""

SAMPLE_RATES = (44_100, 48_000, 32_000)
"""Hz by index, of MPEG 1; half of it for MPEG 2, a quarter for MPEG 2.5."""


def frame_bytes(head: bytes) -> int:
    """Length of the layer III frame with these first four bytes; 0 if they begin none.

    >>> frame_bytes(bytes.fromhex("fffb9064"))  # 128 kbit/s, 44.1 kHz
    417
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, rate, bits = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3:
        return 0
    is_first = version == 3
    sample_rate = SAMPLE_RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    kbit = BIT_RATES[is_first][bits]
    padding = head[2] >> 1 & 1
    return (144_000 if is_first else 72_000) * kbit // sample_rate + padding if kbit else 0


def has_length(file: BinaryIO, first_frame: int) -> bool:
    """Whether an MP3 file begins with a frame that states how many there are.

    It counts only as the first in the file, or behind an ID3v2 tag: FFmpeg looks nowhere else.

    Args:
        file: an MP3 file; it is left where it is.
        first_frame: where the first frame with sound begins, bytes.
    """
    place = file.tell()
    file.seek(0)
    start, head = 0, file.read(10)
    while head[:3] == b"ID3" and len(head) == 10:
        a, b, c, d = head[6:]
        start += 10 + (a << 21 | b << 14 | c << 7 | d)
        file.seek(start)
        head = file.read(10)
    file.seek(start)
    before = file.read(frame_bytes(head))
    file.seek(place)
    is_next = start + len(before) == first_frame
    return is_next and any(mark in before for mark in (b"Xing", b"Info", b"VBRI"))

"""A music library as people have it at home: about 200 short files, and what lies around them."""

from __future__ import annotations

import os
import shutil
import struct
import wave
from pathlib import Path

import numpy as np
import soundfile
from sound_encoding import encode

RATE = 16_000
SECONDS = 4.0

FORMATS = {
    ".mp3": ("libmp3lame", RATE, {"b": "64k"}),
    ".flac": ("flac", RATE, {}),
    ".m4a": ("aac", RATE, {"b": "64k"}),
    ".opus": ("libopus", RATE, {"b": "48k"}),
    ".wav": ("pcm_s16le", RATE, {}),
    ".oga": ("flac", RATE, {}),
    ".aiff": ("pcm_s16be", RATE, {}),
    ".m4b": ("aac", RATE, {"b": "64k"}),
    ".wv": ("wavpack", RATE, {}),
    ".tta": ("tta", RATE, {}),
    ".ac3": ("ac3", 48_000, {"b": "96k"}),
    ".mka": ("flac", RATE, {}),
    ".mov": ("pcm_s16le", RATE, {}),
    ".wma": ("wmav2", RATE, {"b": "32k"}),
    ".caf": ("pcm_s16le", RATE, {}),
}
"""Ending -> FFmpeg's encoder, rate in Hz, settings."""

UNTAGGED = (".ac3", ".aiff", ".caf")
"""Endings of files that take no tags here."""

N_ARTISTS, N_ALBUMS, N_SONGS = 8, 3, 7

NFC, NFD = "Beyonc\u00e9", "Beyonce\u0301"

MIX_SECONDS = 7_200

PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55")


def play(seed: int, seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    """Decaying notes and a little noise, drawn from a seed, float32, shape (S,)."""
    draw = np.random.default_rng(seed)
    sound = 0.02 * draw.standard_normal(round(seconds * rate))
    step = draw.uniform(0.15, 0.4)
    for start in np.arange(0, seconds - 0.1, step):
        first = round(start * rate)
        time = np.arange(min(rate // 2, len(sound) - first)) / rate
        for pitch in draw.integers(0, 36, 2):
            hertz = 110 * 2 ** (pitch / 12)
            sound[first : first + len(time)] += np.sin(2 * np.pi * hertz * time) * np.exp(-6 * time)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def write_song(path: Path, seed: int, **tags: str) -> Path:
    """A song in the format that the name says, with tags if it takes some."""
    codec, rate, settings = FORMATS[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = {} if path.suffix in UNTAGGED else tags
    encode(path, codec, play(seed, rate=rate)[None], rate, tags=tags, **settings)
    return path


def add_cover(path: Path) -> None:
    """Put an ID3 tag with a picture before an MP3 file's own."""
    body = b"\0image/png\0\3\0" + PIXEL
    frame = b"APIC" + struct.pack(">IH", len(body), 0) + body
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + size + frame + path.read_bytes())


def write_mix(path: Path) -> None:
    """Two hours of quiet noise at 8 kHz, 58 MB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    minute = np.random.default_rng(1).integers(120, 137, 60 * 8_000, np.uint8).tobytes()
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 1, 8_000, 0, "NONE", ""))
        for _ in range(MIX_SECONDS // 60):
            file.writeframes(minute)


def make_home_library(root: Path) -> list[str]:
    """Make it; the paths of all tracks that a library of it has, sorted, some of them broken."""
    endings, seed = [*FORMATS], 0
    for artist in range(N_ARTISTS):
        for album in range(N_ALBUMS):
            folder = root / f"Artist {artist}" / f"Album {album}"
            for song in range(N_SONGS):
                ending = endings[seed % len(endings)]
                tags = {"artist": f"Artist {artist}", "album": f"Album {album}"}
                path = folder / f"{song:02d} Song {seed}{ending}"
                write_song(path, seed, title=f"Song {seed}", **tags)
                seed += 1
            (folder / "cover.jpg").write_bytes(PIXEL)
    for spelling in (NFC, NFD):
        for song in range(3):
            title = f"{spelling} {song}"
            write_song(root / spelling / f"{title}.mp3", seed, artist=spelling, title=title)
            seed += 1
    add_cover(root / NFC / f"{NFC} 0.mp3")
    deep = root.joinpath(*(f"level {i}" for i in range(12)))
    write_song(deep / "it's a \u2019quoted\u2019 \U0001f3b5  name .mp3", seed)
    write_song(root / "...And Dots" / ".38.flac", seed + 1)
    os.rename(
        write_song(root / "latin.flac", seed + 2), os.fsencode(root) + b"/Latin \xe9t\xe9.flac"
    )
    write_mix(root / "Mixes" / "two hours.wav")
    for name in ("a", "b"):
        (root / "Silence").mkdir(exist_ok=True)
        silence = np.zeros(RATE * (2 if name == "a" else 3))
        soundfile.write(root / "Silence" / f"{name}.wav", silence, RATE)
    _add_album_with_sheet(root / "Rips")
    _add_copies(root)
    _add_what_is_left_out(root)
    (root / "broken.mp3").write_bytes(b"no audio")
    (root / "empty.flac").touch()
    return sorted(_expected(root))


def _add_album_with_sheet(folder: Path) -> None:
    folder.mkdir()
    sound = np.concatenate([play(seed) for seed in (900, 901, 902)])
    soundfile.write(folder / "Album.flac", sound, RATE)
    tracks = "".join(
        f'  TRACK {i + 1:02d} AUDIO\n    TITLE "Piece {i}"\n    INDEX 01 00:{4 * i:02d}:00\n'
        for i in range(3)
    )
    head = 'PERFORMER "Ripped"\nTITLE "Rip"\nFILE "Album.wav" WAVE\n'
    (folder / "Album.cue").write_text(head + tracks)


def _add_copies(root: Path) -> None:
    """Files of songs that are there: byte for byte, in another format, linked."""
    first = next((root / "Artist 0" / "Album 0").glob("00*"))
    second = next((root / "Artist 1" / "Album 0").glob("00*"))
    (root / "Downloads").mkdir()
    shutil.copy(first, root / "Downloads" / f"copy{first.suffix}")
    write_song(root / "Downloads" / "other format.flac", 0)
    (root / "Playlists").mkdir()
    (root / "Playlists" / f"linked{second.suffix}").symlink_to(second)
    (root / "AAA").symlink_to(root / "Artist 2")
    (root / "Playlists" / "up").symlink_to(root)


def _add_what_is_left_out(root: Path) -> None:
    song = next((root / "Artist 0" / "Album 0").glob("00*"))
    for name in (".Trash-1000", "#recycle", "Artist 1/@eaDir", ".hidden/deep", "Podcasts"):
        (root / name).mkdir(parents=True)
        shutil.copy(song, root / name / f"x{song.suffix}")
    (root / "._song.mp3").write_bytes(b"metadata")
    (root / "notes.txt").write_text("no audio")


def _expected(root: Path) -> list[str]:
    """Walked naively; a link to a folder is not entered, all such lead back to what is here."""
    found = []
    for folder, folders, files in os.walk(root):
        hidden = {".Trash-1000", "#recycle", "@eaDir", ".hidden", "Podcasts"}
        folders[:] = [name for name in folders if name not in hidden]
        names = [n for n in files if os.path.splitext(n)[1] in FORMATS and not n.startswith("._")]
        found += [os.path.join(folder, name) for name in names]
    return found

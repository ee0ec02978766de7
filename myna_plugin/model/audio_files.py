"""Which files of a music folder are audio, and how long they are about."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from myna_plugin.model.audio import AudioError, read_info

AUDIO_SUFFIXES = {
    *(".wav", ".wave", ".bwf", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".flac", ".wv", ".tta", ".ape", ".apl", ".mac", ".tak", ".shn", ".dsf", ".dff", ".mlp"),
    *(".mp3", ".mp2", ".mp1", ".mpa", ".m2a", ".aac", ".adts", ".loas", ".latm", ".mpc", ".mpp"),
    *(".ogg", ".oga", ".ogx", ".opus", ".spx", ".ogv", ".mka", ".mkv", ".mk3d", ".webm", ".weba"),
    *(".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".f4a", ".f4v", ".3gp", ".3g2", ".amr"),
    *(".wma", ".asf", ".wmv", ".xwma", ".avi", ".flv", ".mpg", ".mpeg", ".vob", ".m2ts", ".mts"),
    *(".ac3", ".eac3", ".ec3", ".dts", ".dtshd", ".thd", ".truehd", ".ra", ".rm", ".rmvb"),
    *(".oma", ".omg", ".aa3", ".8svx", ".voc", ".sox", ".qcp", ".nut"),
}
"""Endings of the files that are taken from a folder; what is in them their bytes decide."""

LOWEST_BYTE_RATE = 1_000
"""Bytes a second that no real recording falls below (8 kbit/s); bounds what a header claims."""

LEFT_OUT = re.compile(
    r"\.[^.\d\s].*|#recycle|#snapshot|@eaDir|@Recycle|@Recently-Snapshot|@tmp|\$RECYCLE\.BIN"
    r"|System Volume Information|lost\+found",
    re.DOTALL,
)
"""Names of what is hidden, and of what systems keep for themselves: bins, thumbnails, metadata.

There are bands and records whose names begin with dots, so a digit or another dot hides nothing.
"""

SHOWN_NAMES = 8


class Exclusion:
    """What is not taken of a folder: hidden and system names, and what patterns name.

    A pattern is a name, or a path from the folder on where it has a slash that is not its last
    character; `*`, `?` and `[…]` stand for any characters, slashes too. One that ends in a slash
    means folders. Composed and decomposed letters (NFC, NFD) are the same.

    Args:
        patterns: such as "live", "*.part" or "podcasts/2019*".
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.patterns = list(patterns)
        self.by_pattern = Counter(dict.fromkeys(patterns, 0))
        self.hidden: Counter[str] = Counter()

    def leaves_out(self, relative: str, is_folder: bool) -> bool:
        """Whether a file or folder is left out; it is counted.

        Args:
            relative: its path under the folder that is searched.
            is_folder: whether it is a folder.
        """
        relative = unicodedata.normalize("NFC", relative.replace(os.sep, "/"))
        name = relative.rpartition("/")[2]
        if LEFT_OUT.fullmatch(name):
            self.hidden["._*" if name.startswith("._") else name] += 1
            return True
        for pattern in self.patterns:
            path = unicodedata.normalize("NFC", pattern).rstrip("/")
            whole = relative if "/" in path else name
            if fnmatchcase(whole, path.lstrip("/")) and (is_folder or pattern[-1] != "/"):
                self.by_pattern[pattern] += 1
                return True
        return False

    def tell(self, say: Callable[[str], None]) -> None:
        """Say how many files and folders were left out."""
        if self.hidden:
            total = self.hidden.total()
            say(f"hidden and system files and folders, left out: {total:,} ({_most(self.hidden)})")
        for pattern, count in self.by_pattern.items():
            say(f"files and folders left out by --exclude {pattern}: {count:,}")


def find_files(
    root: Path, say: Callable[[str], None] = print, exclusion: Exclusion | None = None
) -> Iterator[bytes]:
    """Paths of the files under a folder, in an order that names alone decide.

    Links to folders are followed, after all that is there without them: each folder is visited
    once, under its own name if it has one under `root`, however often it is linked.

    Args:
        root: the folder; its own name leaves nothing out.
        say: told of folders that cannot be read, and, where there is no `exclusion`, of what is
            left out.
        exclusion: what is left out; None for what is hidden, or systems' own.
    """
    left_out = Exclusion() if exclusion is None else exclusion
    top = os.fsencode(root)
    prefix = len(os.path.join(top, b""))
    visited: set[tuple[int, int]] = set()
    waiting, links = [(top, True)], deque[bytes]()
    while waiting or links:
        path, is_folder = waiting.pop() if waiting else (links.popleft(), True)
        if not is_folder:
            yield path
            continue
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(path) as found:
                entries = sorted(
                    (entry.path, _is_folder(entry), entry.is_symlink()) for entry in found
                )
        except OSError as error:
            say(f"{os.fsdecode(path)}: left out, cannot be read ({error.strerror})")
            continue
        kept = [e for e in entries if not left_out.leaves_out(os.fsdecode(e[0][prefix:]), e[1])]
        links.extend(path for path, is_folder, is_link in kept if is_folder and is_link)
        inside = [(path, folder) for path, folder, is_link in kept if not (folder and is_link)]
        waiting += reversed(inside)
    if exclusion is None:
        left_out.tell(say)


def tell_ignored(kinds: Counter[str], say: Callable[[str], None]) -> None:
    """Say how many files are not audio, by ending.

    Args:
        kinds: files by ending, in lower case, audio among them.
        say: takes a line.
    """
    ignored = Counter(
        {kind or "no ending": n for kind, n in kinds.items() if kind not in AUDIO_SUFFIXES}
    )
    if ignored:
        say(f"files that are not audio, passed over: {ignored.total():,} ({_most(ignored)})")


def _most(counts: Counter[str]) -> str:
    listed = ", ".join(f"{name} {n:,}" for name, n in counts.most_common(SHOWN_NAMES))
    return listed + (", …" if len(counts) > SHOWN_NAMES else "")


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    # A link that leads round in a circle makes `DirEntry.is_dir` raise.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def estimate_seconds(path: Path) -> float:
    """How long a file is by its header or the number of its packets; 0 if it cannot be read.

    A header that claims more than the file's size allows is not believed.
    """
    try:
        return min(read_info(path).duration_s, os.path.getsize(path) / LOWEST_BYTE_RATE)
    except (AudioError, OSError):
        return 0.0

"""Albums that are one file become tracks, as if each had been a file."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner
from tiny_library import write_model, write_noise

from myna_plugin.cli.main import main
from myna_plugin.library.cue import cut, read_sheet
from myna_plugin.library.table import read_library
from myna_plugin.library.tracks import find_tracks

SHEET = """\ufeffREM GENRE "Noise"
PERFORMER "Anna"
TITLE "All of it"
FILE "C:\\rips\\album.wav" WAVE
  TRACK 01 AUDIO
    TITLE "One"
    PERFORMER "Berta"
    INDEX 00 00:00:00
    INDEX 01 00:00:00
  TRACK 02 AUDIO
    TITLE "Two, \u00e9t\u00e9"
    INDEX 00 00:02:37
    INDEX 01 00:03:00
  TRACK 03 AUDIO
    INDEX 01 00:08:00
"""


def embed(folder, out, model):
    arguments = ["embed", folder, "--out", out, "--model", model, "--device", "cpu"]
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def album(tmp_path):
    """Twelve seconds in three pieces, beside a track of its own."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 12 * 16_000)
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "music" / "Album.flac", noise, 16_000)
    (tmp_path / "music" / "album.cue").write_text(SHEET, encoding="utf-8")
    write_noise(tmp_path / "music" / "other.wav", 9_000)
    for i, (start, end) in enumerate(((0, 3), (3, 8), (8, 12))):
        piece = tmp_path / "pieces" / f"{i}.flac"
        piece.parent.mkdir(exist_ok=True)
        soundfile.write(piece, noise[16_000 * start : 16_000 * end], 16_000)
    return tmp_path / "music" / "Album.flac"


def test_the_pieces_of_an_album_are_embedded_as_files_of_their_own_are(tmp_path, album):
    out, pieces, model = tmp_path / "a.parquet", tmp_path / "b.parquet", write_model(tmp_path)

    result = embed(tmp_path / "music", out, model)

    assert result.exit_code == 0, result.output
    assert "albums cut into tracks by their cue sheets: 1 (3 tracks)" in result.output
    assert "no audio" not in result.output
    table = pq.read_table(out)
    rows = table.select(["path", "start_s", "end_s", "title", "artist", "album"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (str(album), 0.0, 3.0, "One", "Berta", "All of it"),
        (str(album), 3.0, 8.0, "Two, été", "Anna", "All of it"),
        (str(album), 8.0, None, None, "Anna", "All of it"),
        (str(tmp_path / "music" / "other.wav"), None, None, None, None, None),
    ]
    assert embed(tmp_path / "pieces", pieces, model).exit_code == 0
    one, other = read_library(out), read_library(pieces)
    assert one.duration_s[:3].tolist() == other.duration_s.tolist() == [3, 5, 4]
    assert np.array_equal(one.embeddings[:3], other.embeddings)


def test_a_sheet_that_changes_is_followed(tmp_path, album):
    out, anew, model = tmp_path / "a.parquet", tmp_path / "b.parquet", write_model(tmp_path)
    assert embed(tmp_path / "music", out, model).exit_code == 0
    sheet = album.with_name("album.cue")
    sheet.write_text(SHEET.replace("One", "Eins").replace("00:08:00", "00:09:00"))

    result = embed(tmp_path / "music", out, model)

    assert "2 new, 1 moved, 2 gone, 1 as they were" in result.output
    assert embed(tmp_path / "music", anew, model).exit_code == 0
    assert out.read_bytes() == anew.read_bytes()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "cp1252"])
def test_sheets_are_read_in_the_encodings_that_programs_write(tmp_path, encoding):
    text = SHEET.removeprefix("\ufeff") if encoding == "cp1252" else SHEET
    (tmp_path / "a.cue").write_bytes(text.encode(encoding))
    assert read_sheet(tmp_path / "a.cue") == cut(SHEET.removeprefix("\ufeff"))
    (tmp_path / "a.cue").write_bytes((text + "\0").encode(encoding))
    with pytest.raises(ValueError, match="no cue sheet"):
        read_sheet(tmp_path / "a.cue")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "no cue sheet"),
        (SHEET.replace("00:08:00", "00:01:00"), "track 3 begins before track 2"),
        (SHEET.replace("00:08:00", "eight"), "'eight' is no time"),
        (SHEET.replace("00:08:00", f"{'9' * 400}:00:00"), f"'{'9' * 39} is no time"),
        (SHEET.replace("album.wav", "../x.flac"), ""),
        ("\0", "no cue sheet"),
        ("x" * 2_000_000, "no cue sheet"),
    ],
)
def test_a_sheet_that_is_no_good_is_named_and_the_file_stays_whole(tmp_path, album, text, said):
    """A name that leads elsewhere is looked for beside the sheet alone."""
    write_noise(tmp_path / "x.flac", 9_000)
    sheet = album.with_name("album.cue" if said else "elsewhere.cue")
    album.with_name("album.cue").unlink()
    sheet.write_text(text, encoding="utf-8")
    heard = []

    tracks = find_tracks([str(tmp_path / "music")], heard.append)

    assert [(track.path, track.start_s) for track in tracks] == [
        (str(album), None),
        (str(album.with_name("other.wav")), None),
    ]
    expected = said or "there is no x.flac beside it"
    assert heard[0].startswith(f"{sheet}: cue sheet not used ({expected}")


def test_a_sheet_with_a_file_a_track_cuts_nothing():
    text = SHEET.replace("  TRACK 02", 'FILE "b.wav" WAVE\n  TRACK 02')
    text = text.replace("  TRACK 03", 'FILE "c.wav" WAVE\n  TRACK 03')
    assert cut(text) == []


def test_a_piece_beyond_the_end_fails_alone(tmp_path, album):
    out = tmp_path / "a.parquet"
    album.with_name("album.cue").write_text(SHEET.replace("00:08:00", "10:00:00"))

    result = embed(tmp_path / "music", out, write_model(tmp_path))

    assert result.exit_code == 1
    assert f"{album}: ends before 600.00 s" in result.output
    assert len(read_library(out).paths) == 3


def test_names_with_quotes_in_them_stay_whole():
    text = 'FILE "a "b".wav" WAVE\nTRACK 01 AUDIO\nTITLE "One "and" a half"\nINDEX 01 00:00:00\n'
    text += 'TRACK 02 AUDIO\nTITLE "12" Mix"\nPERFORMER ""\nINDEX 01 01:00:00\n'
    first, second = cut(text)
    assert (first.file, first.title) == ('a "b".wav', 'One "and" a half')
    assert (second.title, second.artist) == ('12" Mix', None)


@pytest.mark.parametrize("kind", ["WAVE", "wave", ""])
def test_names_without_quotes_are_all_that_follows(kind):
    text = f"PERFORMER Anna and the Noise\nTITLE All of it\nFILE  my album.wav {kind} \n"
    text += "TRACK 01 AUDIO\nTITLE  One  of many \nINDEX 01 00:00:00\n"
    text += 'TRACK 02 AUDIO\nTITLE "Two" x\nINDEX 01 01:00:00'

    first, second = cut(text)

    assert first == ("my album.wav", 0, 60, "One  of many", "Anna and the Noise", "All of it")
    assert (second.file, second.title) == ("my album.wav", "Two")


@pytest.mark.parametrize("name", ["TITLE", "FILE", "TRACK", "INDEX 01"])
def test_a_line_of_nothing_but_spaces_takes_no_time(name):
    spaces = " " * 200_000  # hours, where each is tried as the last one
    text = f'{name}{spaces}a{spaces}b\n{SHEET.removeprefix(chr(0xFEFF))}{spaces}TITLE "Three"'
    assert [piece.start_s for piece in cut(text)] == [0.0, 3.0, 8.0]


def test_a_name_may_hold_what_breaks_lines_elsewhere():
    (piece, *_) = cut(SHEET.replace('"One"', '"One\u2028 and\x0b a half\x85"'))
    assert piece.title == "One\u2028 and\x0b a half\x85"

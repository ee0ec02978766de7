"""Tiny copies of each task's data in its three real layouts: real names and syntax, made audio.

`BUILDERS[task][layout](root)` fills an empty folder. The audio is a sine whose pitch follows the
clip's first label, so that even a small model can tell classes apart.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
from sound_encoding import encode, tones

from myna_plugin.probing.tasks.emotify import EMOTIONS, GENRES
from myna_plugin.probing.tasks.jamendo import GENRES as JAMENDO_GENRES
from myna_plugin.probing.tasks.jamendo import INSTRUMENTS as JAMENDO_INSTRUMENTS
from myna_plugin.probing.tasks.jamendo import MOODS, TOP_50
from myna_plugin.probing.tasks.magnatagatune import TAGS
from myna_plugin.probing.tasks.mridangam import TONICS
from myna_plugin.probing.tasks.openmic import INSTRUMENTS as OPENMIC_INSTRUMENTS
from myna_plugin.probing.tasks.task import SPLITS
from myna_plugin.probing.tasks.vocalset import SINGERS as VOCALSET_SINGERS

RATE = 8_000
"""Hz: the lowest that MP3 has."""


@cache
def encoded_tone(suffix: str, pitch: int, seconds: float) -> bytes:
    """An audio file's bytes: a sine `pitch` semitones above 220 Hz."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 220 * 2 ** (pitch / 12) * time)
    file = BytesIO()
    soundfile.write(file, tone.astype(np.float32), RATE, format=suffix.strip(".").upper())
    return file.getvalue()


def write_tone(path: Path, pitch: int, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded_tone(path.suffix, pitch, seconds))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_table(path: Path, rows: Sequence[Sequence[str]], delimiter: str, quoting: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(rows)


def write_jsonl(path: Path, lines: Sequence[dict]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


MARBLE_SPLITS = {"train": "train", "valid": "val", "test": "test"}


def marble_line(path: str, label: object, seconds: float, **others: object) -> dict:
    """What MARBLE says of a clip."""
    facts = {"duration": seconds, "sample_rate": RATE, "num_samples": round(seconds * RATE)}
    facts |= {"bit_depth": 16, "channels": 1}
    return {"audio_path": f"data/{path}", "label": label, **facts, **others}


# --- GTZAN

GTZAN_LISTS = {
    "train": [f"{genre}.{n:05}" for genre in ("blues", "jazz", "rock") for n in (0, 1, 2, 54)],
    "valid": [f"{genre}.{n:05}" for genre in ("blues", "jazz", "rock") for n in (3, 4)],
    "test": [f"{genre}.{n:05}" for genre in ("blues", "jazz", "rock") for n in (5, 6)],
}
GTZAN_GENRES = ("blues", "jazz", "rock")


def _gtzan_audio(root: Path) -> None:
    for names in GTZAN_LISTS.values():
        for name in names:
            genre = name.split(".")[0]
            pitch = 4 * GTZAN_GENRES.index(genre)
            write_tone(root / "genres" / genre / f"{name}.wav", pitch, 30.0)


def gtzan_folder(root: Path) -> None:
    _gtzan_audio(root)
    # In none of the lists: the filter left it out.
    write_tone(root / "genres/pop/pop.00037.wav", 0, 30.0)


def gtzan_jukemir(root: Path) -> None:
    _gtzan_audio(root)
    entries = {}
    for split, names in GTZAN_LISTS.items():
        for name in names:
            uid = hashlib.sha256(name.encode()).hexdigest()
            entries[uid] = {
                "extra": {"id": name, "uid": uid},
                "split": split,
                "y": name.split(".")[0],
            }
    write_text(root / "gtzan_ff.json", json.dumps(entries))


def gtzan_marble(root: Path) -> None:
    folder = root / "data" / "GTZAN"
    _gtzan_audio(folder)
    for split, marble in MARBLE_SPLITS.items():
        lines = [
            marble_line(f"GTZAN/genres/{genre}/{name}.wav", genre, 30.0)
            for name in GTZAN_LISTS[split]
            for genre in [name.split(".")[0]]
        ]
        write_jsonl(folder / f"GTZANGenre.{marble}.jsonl", lines)


# --- MagnaTagATune: (clip, split, mp3_path, artist, track number, tags)

FIRST_TAGS, SECOND_TAGS = TAGS[:25], TAGS[25:]
MTT_CLIPS = (
    ("12", "train", "0/american_bach_soloists-heinrich_schutz__musicalische_exequien-02-0-29.mp3"),
    ("64", "train", "4/seth_carlin-schubert__works_for_solo_piano-08-moments_musicaux-30-59.mp3"),
    ("66", "train", "b/tilopa-out_of_the_blue-03-home-59-88.mp3"),
    ("14", "valid", "c/lvx_nova-lvx_nova-01-contimune-30-59.mp3"),
    ("19", "valid", "c/lvx_nova-lvx_nova-01-contimune-175-204.mp3"),
    ("21", "valid", "c/lvx_nova-lvx_nova-01-contimune-233-262.mp3"),
    ("35", "test", "f/the_headroom_project-jetuton_andawai-01-linda_morena-0-29.mp3"),
    ("37", "test", "d/the_headroom_project-jetuton_andawai-01-linda_morena-59-88.mp3"),
    ("115", "test", "e/tilopa-turkishauch-01-1x3-0-29.mp3"),
)
MTT_EMPTY = ("35644", "6/norine_braun-now_and_zen-08-gently-117-146.mp3")
INFO_COLUMNS = [
    *("clip_id", "track_number", "title", "artist", "album", "url", "segmentStart", "segmentEnd"),
    *("original_url", "mp3_path"),
]
MTT_URL = "http://www.magnatune.com/artists/albums/lvxnova-lvxnova/"


def _mtt_tags(index: int) -> tuple[str, ...]:
    """Every tag is on one clip in three; every third clip has none of the 50."""
    return (FIRST_TAGS, SECOND_TAGS, ())[index % 3]


def _mtt_audio(folder: Path) -> None:
    for index, (_, _, path) in enumerate(MTT_CLIPS):
        write_tone(folder / path, 5 * (index % 3), 29.1)
    write_text(folder / MTT_EMPTY[1], "")


def magnatagatune_folder(root: Path) -> None:
    _mtt_audio(root / "mp3")
    columns = [*sorted(TAGS), "baroque", "violins"]
    rows = [["clip_id", *columns, "mp3_path"]]
    for index, (clip, _, path) in enumerate(MTT_CLIPS):
        tags = _mtt_tags(index)
        rows.append([clip, *(str(int(c in tags or c == "baroque")) for c in columns), path])
    rows.append([MTT_EMPTY[0], *(str(int(c in ("guitar", "fast"))) for c in columns), MTT_EMPTY[1]])
    write_table(root / "annotations_final.csv", rows, "\t", csv.QUOTE_ALL)
    info = [INFO_COLUMNS]
    for clip, _, path in (*MTT_CLIPS, (MTT_EMPTY[0], "", MTT_EMPTY[1])):
        name = path.split("/")[1].split("-")
        info.append([clip, "1", name[-3], name[0], name[1], MTT_URL, name[-2], "0", "", path])
    # Known to the site, never annotated.
    info.append(["215", "1", "A Solfing Song", "Phantasm", "", MTT_URL, "30", "59", "", ""])
    write_table(root / "clip_info_final.csv", info, "\t", csv.QUOTE_ALL)


def magnatagatune_jukemir(root: Path) -> None:
    _mtt_audio(root / "mp3")
    entries = {}

    def add(clip: str, split: str | None, path: str, tags: Sequence[str] | None) -> None:
        entry = {
            "clip": {
                "audio_duration": 349.0,
                "audio_uid": [MTT_URL, "1"],
                "clip_idx": 0,
                "clip_offset": 30.0,
            },
            "extra": {
                "artist": path.split("/")[-1].split("-")[0] or "Phantasm",
                "clip_id": clip,
                "mp3_path": path,
                "track_number": "1",
                "url": MTT_URL,
            },
            "split": split,
            "y": tags,
            "y_all": tags if tags is None else [*tags, "baroque"],
        }
        if split:
            entry["clip"]["clip_duration"] = 29.124
        entries[clip.zfill(5)] = entry

    for index, (clip, split, path) in enumerate(MTT_CLIPS):
        add(clip, split, path, sorted(_mtt_tags(index)))
    add(MTT_EMPTY[0], None, MTT_EMPTY[1], ["guitar", "fast"])
    add("215", None, "", None)
    write_text(root / "magnatagatune.json", json.dumps(entries))


def magnatagatune_marble(root: Path) -> None:
    folder = root / "data" / "MTT"
    _mtt_audio(folder / "mp3")
    for split, marble in MARBLE_SPLITS.items():
        lines = [
            marble_line(f"MTT/mp3/{path}", list(_mtt_tags(index)), 29.1, bit_depth=None)
            for index, (_, of_split, path) in enumerate(MTT_CLIPS)
            if of_split == split
        ]
        write_jsonl(folder / f"MTT.{marble}.jsonl", lines)


# --- EmoMusic: (song, artist, official set, split, arousal, valence)

EMO_SONGS = (
    ("2", "The New Mystikal Troubadours", "development", "valid", 3.1, 3.0),
    ("3", "Kevin MacLeod", "evaluation", "test", 4.2, 4.9),
    ("4", "Kevin MacLeod", "development", "valid", 5.7, 5.2),
    ("5", "My Bubba & Mi", "development", "train", 4.4, 5.3),
    ("7", "Arne Bang Huseby", "development", "train", 5.8, 6.4),
    ("8", "My Bubba & Mi", "development", "train", 2.9, 4.1),
    ("9", "Phoephus", "development", "train", 6.7, 5.0),
    ("10", "WHO'S PANDA", "development", "train", 7.1, 6.6),
    ("12", "Vieux Farka Touré", "evaluation", "test", 6.0, 6.2),
    ("13", "Sláinte", "evaluation", "test", 5.1, 3.3),
)
SONG_COLUMNS = (
    "song_id,file_name,Artist,Song title,start of the segment (min.sec),"
    "end of the segment (min.sec),Genre,Mediaeval 2013 set"
)


def _emomusic_targets() -> list[list[float]]:
    """Z-scores by the development set's mean and deviation, written out slowly."""
    targets = []
    for column in (4, 5):
        known = [song[column] for song in EMO_SONGS if song[2] == "development"]
        mean = sum(known) / len(known)
        deviation = (sum((x - mean) ** 2 for x in known) / len(known)) ** 0.5
        targets.append([(song[column] - mean) / deviation for song in EMO_SONGS])
    return [list(pair) for pair in zip(*targets, strict=True)]


def _emomusic_audio(folder: Path, suffix: str, zeros: int) -> None:
    for song, *_, arousal, _ in EMO_SONGS:
        write_tone(folder / f"{song.zfill(zeros)}{suffix}", round(3 * arousal), 45.0)


def emomusic_folder(root: Path) -> None:
    _emomusic_audio(root / "clips_45seconds", ".mp3", 0)
    songs = [SONG_COLUMNS.split(",")]
    ratings = [["song_id", "mean_arousal", "std_arousal", "mean_valence", "std_valence"]]
    for song, artist, official, _, arousal, valence in EMO_SONGS:
        songs.append([song, f"{song}.mp3", artist, "Tonight\t", "0.48", "1.33", "Blues", official])
        ratings.append([song, str(arousal), "0.99443", str(valence), "0.66667"])
    write_table(root / "songs_info.csv", songs, ",", csv.QUOTE_MINIMAL)
    write_table(root / "static_annotations.csv", ratings, ",", csv.QUOTE_MINIMAL)


def emomusic_jukemir(root: Path) -> None:
    _emomusic_audio(root / "clips_45seconds", ".mp3", 0)
    entries = {
        song.zfill(4): {
            "clip": {
                "audio_duration": 93.0,
                "audio_uid": [artist, "Tonight"],
                "clip_duration": 45.036,
                "clip_idx": 0,
                "clip_offset": 48.0,
            },
            "extra": {"songs_info": {"song_id": song, "Mediaeval 2013 set": official}},
            "split": split,
            "y": target,
        }
        for (song, artist, official, split, *_), target in zip(
            EMO_SONGS, _emomusic_targets(), strict=True
        )
    }
    write_text(root / "emomusic.json", json.dumps(entries))


def emomusic_marble(root: Path) -> None:
    folder = root / "data" / "EMO"
    _emomusic_audio(folder / "emomusic" / "wav", ".wav", 4)
    for split, marble in MARBLE_SPLITS.items():
        lines = [
            marble_line(f"EMO/emomusic/wav/{song[0].zfill(4)}.wav", target, 45.0)
            for song, target in zip(EMO_SONGS, _emomusic_targets(), strict=True)
            if song[3] == split
        ]
        write_jsonl(folder / f"EMO.{marble}.jsonl", lines)


# --- GiantSteps: (track, artists, key as annotated, split, seconds)

GS_TRAIN_TRACKS = (
    (5061, "Philippe Van Mullem", "D# minor", "train", 120.0),
    (5881, "Brainbashers, Lance Madden", "A major ", "train", 120.0),
    (14720, "Willie Morales, Robbie Rivera", "D minor", "valid", 120.0),
    (37779, "Solid Slide", "A# major", "valid", 120.0),
    (297010, "The Sidewinder", "C minor", "valid", 81.6),
)
GS_UNUSED_TRACKS = (
    (10981, "Sterac", "-", "0"),
    # Puts Robbie Rivera, by hash of the training set, beside an artist of the validation set.
    (16484, "Robbie Rivera, Solid Slide", "A minor", "1"),
    (19999, "Ferry Corsten", "G# minor / B major", "2"),
    (4311630, "Speedy J", " ", "0"),
)
GS_TEST_TRACKS = ((10089, "D major", 120.0), (1004923, "Eb minor", 120.0))
GS_KEYS = {"D# minor": "Eb minor", "A major ": "A major", "A# major": "Bb major"}
MTG, KEY = "giantsteps-mtg-key-dataset", "giantsteps-key-dataset-master"
KEY_FORMAT = "#@format: key\ttimestamp(float)\tkey(string)"


def _gs_pitch(key: str) -> int:
    return ["A", "A#", "B", "C", "C#", "D", "D#", "E"].index(key.split()[0].replace("Eb", "D#"))


def _gs_audio(root: Path) -> None:
    for track, _, key, _, seconds in GS_TRAIN_TRACKS:
        write_tone(root / MTG / f"audio/{track}.LOFI.mp3", _gs_pitch(key), seconds)
    for track, key, seconds in GS_TEST_TRACKS:
        write_tone(root / KEY / f"audio/{track}.LOFI.mp3", _gs_pitch(key), seconds)


def giantsteps_folder(root: Path) -> None:
    _gs_audio(root)
    notes = root / MTG / "annotations"
    annotated = [(track, artist, key, "2") for track, artist, key, *_ in GS_TRAIN_TRACKS]
    table, metadata = "ID\tMANUAL KEY\tC\n", "ID\tARTIST\tSONG TITLE\tMIX\tLABEL\tBP GENRE\n"
    for track, artist, key, confidence in (*annotated, *GS_UNUSED_TRACKS):
        table += f"{track}\t{key}\t{confidence}\n"
        metadata += f"{track}\t{artist}\tCanopy\tOriginal Mix\tBonzai Classics\tTrance\n"
        line = f"{key.lower()}\t{confidence}\t\n"
        write_text(notes / f"key/{track}.LOFI.key", line)
        full = f"{KEY_FORMAT}\t[confidence(int)]\t[comment(string)]\nkey\t0\t{line}"
        write_text(notes / f"giantsteps/{track}.LOFI.key", full)
    write_text(notes / "annotations.txt", table)
    write_text(notes / "beatport_metadata.txt", metadata)
    for track, key, _ in GS_TEST_TRACKS:
        write_text(root / KEY / f"annotations/key/{track}.LOFI.key", key)
        full = f"{KEY_FORMAT}\nkey 0 {key}\n"
        write_text(root / KEY / f"annotations/giantsteps/{track}.LOFI.key", full)


def _gs_clips() -> list[tuple[int, str, str, int, str | None]]:
    """(track, split, key, number of the clip, artists)."""
    tracks = [*GS_TRAIN_TRACKS]
    tracks += [(track, None, key, "test", seconds) for track, key, seconds in GS_TEST_TRACKS]
    return [
        (track, split, GS_KEYS.get(key, key), number, artist)
        for track, artist, key, split, seconds in tracks
        for number in range(int(seconds // 30))
    ]


def giantsteps_jukemir(root: Path) -> None:
    _gs_audio(root)
    entries = {}
    for track, split, key, number, artist in _gs_clips():
        extra: dict[str, object] = {"genre": "trance\n", "id": track, "key": "d# minor\t2\t\n"}
        if artist:
            extra["beatport_metadata"] = {"ARTIST": artist, "ID": str(track)}
        # The last clip of some test tracks is short of 30 seconds by a codec's delay.
        duration = 29.9815 if (split, number) == ("test", 3) else 30.0
        entries[f"{track:07}-{number}"] = {
            "clip": {
                "audio_duration": 120.058776,
                "audio_uid": f"{track:07}",
                "clip_duration": duration,
                "clip_idx": number,
                "clip_offset": 30.0 * number,
            },
            "extra": extra,
            "split": split,
            "y": key,
        }
    write_text(root / "giantsteps_clips.json", json.dumps(entries))


def giantsteps_marble(root: Path) -> None:
    folder = root / "data" / "GS"
    for split, marble in MARBLE_SPLITS.items():
        lines = []
        for track, of_split, key, number, _ in _gs_clips():
            if of_split == split:
                name = f"giantsteps_clips/wav/{track:07}-{number}.wav"
                write_tone(folder / name, 0, 30.0)
                lines.append(marble_line(f"GS/{name}", key, 30.0, ori_uid=f"{track:07}"))
        write_jsonl(folder / f"GS.{marble}.jsonl", lines)


# --- Emotify and Mridangam strokes, which have one layout each


def write_emotify(root: Path, numbers: Sequence[int] = range(1, 9), artists: int = 4) -> None:
    """A few of the tracks of every genre, by some artists each."""
    lines = [", ".join(("track id", "genre", *EMOTIONS, "mood", "age"))]
    for g, genre in enumerate(GENRES):
        folder = root / "emotifymusic" / genre
        folder.mkdir(parents=True)
        for artist in range(artists):
            sound, tags = tones(0.3, 16_000, [220 * 2**g]), {"artist": f"{genre} {artist}"}
            encode(root / f"{artist}.mp3", "mp3", sound, 16_000, tags=tags)
        for number in numbers:
            (folder / f"{number}.mp3").write_bytes((root / f"{number % artists}.mp3").read_bytes())
            votes = [[int(number > 4), g % 2, *[0] * 7], [1, 1, *[1] * 7]]
            lines += [",".join(map(str, (100 * g + number, genre, *v, 3, 30))) for v in votes]
    (root / "data.csv").write_text("\n".join(lines) + "\n")


def write_strokes(
    root: Path, strokes: Sequence[str] = ("dhin", "ta"), tonics: Sequence[str] = TONICS
) -> None:
    for i, stroke in enumerate(strokes):
        (root / "train" / stroke).mkdir(parents=True)
        for tonic in tonics:
            for n in (1, 2):
                name = f"{2240 + i}__akshaylaya__{stroke}-{tonic}-{n:03}.wav"
                write_tone(root / "train" / stroke / name, 7 * i, 0.1)


# --- Tasks with one layout and a published split: the fewest clips that can be split and scored


def nsynth(root: Path) -> None:
    """Two instruments a split, each at two pitches."""
    for i, split in enumerate(SPLITS):
        notes = {}
        for family, pitch in product(("guitar", "organ"), (60, 67)):
            instrument = f"{family}_acoustic_{i:03}"
            name = f"{instrument}-{pitch:03}-100"
            notes[name] = {
                **{"note": 1, "note_str": name, "instrument": i, "instrument_str": instrument},
                **{"pitch": pitch, "velocity": 100, "sample_rate": 16_000},
                **{"instrument_family": 3, "instrument_family_str": family},
                **{"instrument_source": 0, "instrument_source_str": "acoustic"},
            }
            write_tone(root / f"nsynth-{split}/audio/{name}.wav", pitch - 60, 4.0)
        write_text(root / f"nsynth-{split}/examples.json", json.dumps(notes))


def medley_solos_db(root: Path) -> None:
    """As mirdata unpacks it."""
    rows = [["subset", "instrument", "instrument_id", "song_id", "uuid4"]]
    clips = product(("training", "validation", "test"), (("flute", "3"), ("violin", "7")), "ab")
    for song, (subset, (instrument, number), which) in enumerate(clips):
        uuid = f"{song:08x}-55ea-5f6a-f9a4-{song:012x}"
        rows.append([subset, instrument, number, str(song // 2), uuid])
        name = f"Medley-solos-DB_{subset}-{number}_{uuid}.wav"
        write_tone(root / "audio" / name, int(number) + (which == "b"), 2.972)
    write_table(root / "annotation/Medley-solos-DB_metadata.csv", rows, ",", csv.QUOTE_MINIMAL)


TINYSOL_COLUMNS = (
    "Path,Fold,Family,Instrument (abbr.),Instrument (in full),Technique (abbr.),"
    "Technique (in full),Pitch,Pitch ID,Dynamics,Dynamics ID,Instance ID,"
    "String ID (if applicable),Needed digital retuning"
)


def tinysol(root: Path) -> None:
    """Two instruments and pitches in each of the five folds."""
    rows = [TINYSOL_COLUMNS.split(",")]
    for fold, (short, full), (pitch, note) in product(
        range(5), (("Fl", "Flute"), ("Ob", "Oboe")), (("C#4", 61), ("A5", 81))
    ):
        path = f"Winds/{full}/ordinario/{short}-ord-{pitch}-mf-{fold}-N.wav"
        name = [path, str(fold), "Winds", short, full, "ord", "ordinario", pitch, str(note)]
        rows.append([*name, "mf", "2", "0", "", "FALSE"])
        write_tone(root / "audio" / path, note - 61, 0.3)
    write_table(root / "annotation/TinySOL_metadata.csv", rows, ",", csv.QUOTE_MINIMAL)


def vocalset(root: Path) -> None:
    """Every singer with two techniques of the paper's and one other; what macOS adds, too."""
    for singer, technique, part in product(
        VOCALSET_SINGERS, ("belt", "vibrato", "messa"), ("scales", "arpeggios")
    ):
        pitch = 4 * ("belt", "vibrato", "messa").index(technique)
        folder = root / "FULL" / singer / part / technique
        write_tone(folder / f"{part}_{technique}_a.wav", pitch, 0.2)
    write_tone(root / "FULL/female2/scales/vibrato/f2_scales_vibrato_a(1).wav", 0, 0.2)
    write_text(root / "FULL/female1/scales/belt/._scales_belt_a.wav", "no audio")


FMA_HEADER = (
    ",album,artist,artist,set,set,track",
    ",title,bio,id,split,subset,genre_top",
    "track_id,,,,,,",
)


def fma_small(root: Path) -> None:
    """With a track of another subset, a biography of two lines, and a file that is short."""
    lines = [*FMA_HEADER, '1,Other,,9,training,large,""']
    clips = product(("training", "validation", "test"), ("Folk", "Rock"), (0, 1))
    for number, (split, genre, _) in enumerate(clips, start=140):
        bio = '"From Leeds,\nthen Hull"' if number == 141 else ""
        lines.append(f"{number},Some,{bio},{number // 2},{split},small,{genre}")
        write_tone(root / f"fma_small/000/{number:06}.mp3", 5 * (genre == "Rock"), 30.0)
    lines.append("98565,Some,,999,training,small,Rock")
    write_tone(root / "fma_small/098/098565.mp3", 0, 1.6)
    write_text(root / "fma_metadata/tracks.csv", "\n".join(lines) + "\n")


def openmic(root: Path) -> None:
    """Three clips an artist: two with every other instrument, and one asked about for one alone."""
    labels, artists = ["sample_key,instrument,relevance,num_responses"], ["sample_key,artist_id,x"]
    partitions: dict[str, list[str]] = {"train": [], "test": []}
    for artist, (clip, pitch) in product(range(7), enumerate((0, 7, 3))):
        key = f"{100 * artist + clip:06}_{3_840 * (clip + 1)}"
        partitions["train" if artist < 5 else "test"].append(key)
        artists.append(f'{key},{artist},"of two\nlines"')
        asked = [artist] if clip == 2 else range(len(OPENMIC_INSTRUMENTS))
        for k in asked:
            relevance = 0.5 if (k + clip) % 2 == 0 else 0.49
            labels.append(f"{key},{OPENMIC_INSTRUMENTS[k]},{relevance},3")
        write_tone(root / f"audio/{key[:3]}/{key}.ogg", pitch, 10.0)
    for name, keys in partitions.items():
        write_text(root / f"partitions/split01_{name}.csv", "\n".join(keys) + "\n")
    write_text(root / "openmic-2018-aggregated-labels.csv", "\n".join(labels) + "\n")
    write_text(root / "openmic-2018-metadata.csv", "\n".join(artists) + "\n")


def jamendo(root: Path, subset: str, tags: Sequence[str]) -> None:
    """Three tracks a split: one with every tag, one with every second, one with the first alone.

    So that every tag is on a track, and none but the first on all: that one is left out of a third.
    """
    words = {"train": "train", "valid": "validation", "test": "test"}
    for i, split in enumerate(SPLITS):
        lines = ["\t".join(("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"))]
        for k, own in enumerate((tags, tags[1::2], tags[:1])):
            number = 1_000 + 10 * i + k
            track = [f"track_{number:07}", f"artist_{i:06}", "album_000031"]
            path = f"{number % 100:02}/{number}.mp3"
            lines.append("\t".join([*track, path, "31.0", *own]))
            suffix = ".low.mp3" if k else ".mp3"
            write_tone(root / "audio" / path.replace(".mp3", suffix), 5 * k, 0.5)
        name = f"autotagging_{subset}-{words[split]}.tsv"
        write_text(root / "data/splits/split-0" / name, "\r\n".join(lines) + "\r\n")


BALLROOM = (
    *("Albums-Fire-08", "Albums-Fire-09", "Albums-Latin_Jam-01", "Albums-Latin_Jam-02"),
    *(f"Media-10{n:04}" for n in range(9)),
)
"""The second is a replica of the first, and left out."""


def ballroom_beats(root: Path) -> None:
    """A click on every beat, at a tempo of its own, in noise; each bar has four beats."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(BALLROOM):
        beats = np.arange(0.3 + 0.05 * number, 29.5, 0.3 + 0.03 * number)
        lines = [f"{time:.10f} {i % 4 + 1}\n" for i, time in enumerate(beats)]
        write_text(root / f"BallroomAnnotations/{name}.beats", "".join(lines))
        sound = 0.01 * rng.normal(size=30 * RATE)
        for start in (beats * RATE).astype(int):
            sound[start : start + 800] += 0.3 * np.exp(-np.arange(800) / 200) * rng.normal(size=800)
        path = root / f"BallroomData/{('Samba', 'Waltz')[number % 2]}/{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound.clip(-1, 1), RATE)


GUITARSET = ("BN1-129-Eb_comp", "Jazz1-200-F#_solo")


def guitarset_notes(root: Path) -> None:
    """Decaying tones on two strings, in noise; the other four are not played."""
    rng = np.random.default_rng(0)
    for player, excerpt in product(range(6), GUITARSET):
        onsets = np.arange(0.05 + 0.02 * player, 7.5, 0.4)
        strings: list[list[dict]] = [[] for _ in range(6)]
        sound = 0.003 * rng.normal(size=8 * RATE)
        for number, onset in enumerate(onsets.tolist()):
            string, pitch = ((0, 45), (5, 69), (5, 81))[rng.integers(3)]
            note = {"time": onset, "duration": 0.22, "value": pitch + 0.1 * (-1) ** number}
            strings[string].append(note | {"confidence": None})
            time = np.arange(round(0.22 * RATE)) / RATE
            tone = np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time) * np.exp(-3 * time)
            start = round(onset * RATE)
            sound[start : start + len(tone)] += 0.3 * tone
        write_jams(root / f"annotation/0{player}_{excerpt}.jams", strings)
        path = root / f"audio_mono-mic/0{player}_{excerpt}_mic.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound, RATE)


def write_jams(path: Path, strings: Sequence[list[dict]]) -> None:
    """A JAMS file with all that GuitarSet's hold."""

    def annotation(namespace: str, data: object, source: str = "") -> dict:
        curator = {"name": "", "email": ""}
        about = {"curator": curator, "annotator": {}, "version": "", "data_source": source}
        times = {"time": 696.6692, "duration": 8.0}
        return {"annotation_metadata": about, "namespace": namespace, "data": data, **times}

    contour = {"time": [0.1], "duration": [0.0], "confidence": [None]}
    contour |= {"value": [{"voiced": True, "index": 0, "frequency": 110.2}]}
    whole = {"time": 0.0, "duration": 8.0, "confidence": None}
    beat = {"position": 1, "measure": 1, "num_beats": 4, "beat_units": 4}
    annotations = [
        *(
            own
            for number, notes in enumerate(strings)
            for own in (
                annotation("pitch_contour", contour, str(number)),
                annotation("note_midi", notes, str(number)),
            )
        ),
        annotation("beat_position", [whole | {"value": beat}]),
        annotation("tempo", [whole | {"value": 129.0}]),
        annotation("chord", [whole | {"value": "Eb:maj"}]),
        annotation("key_mode", [whole | {"value": "Eb:major"}]),
    ]
    about = {"title": path.stem, "duration": 8.0, "identifiers": {}, "jams_version": "0.3.1"}
    content = {"annotations": annotations, "file_metadata": about, "sandbox": {}}
    write_text(path, json.dumps(content, indent=2))


ONE_LAYOUT: dict[str, tuple[Callable[[Path], None], tuple[int, int, int]]] = {
    "nsynth_instrument": (nsynth, (4, 4, 4)),
    "nsynth_pitch": (nsynth, (4, 4, 4)),
    "medley_solos_db": (medley_solos_db, (4, 4, 4)),
    "tinysol_instrument": (tinysol, (12, 4, 4)),
    "tinysol_pitch": (tinysol, (12, 4, 4)),
    "vocalset_technique": (vocalset, (48, 12, 20)),
    "vocalset_singer": (vocalset, (96, 12, 12)),
    "fma_small": (fma_small, (5, 4, 4)),
    "openmic": (openmic, (12, 3, 6)),
    "jamendo_top50": (partial(jamendo, subset="top50tags", tags=TOP_50), (3, 3, 3)),
    "jamendo_genre": (partial(jamendo, subset="genre", tags=JAMENDO_GENRES), (3, 3, 3)),
    "jamendo_instrument": (
        partial(jamendo, subset="instrument", tags=JAMENDO_INSTRUMENTS),
        (3, 3, 3),
    ),
    "jamendo_moodtheme": (partial(jamendo, subset="moodtheme", tags=MOODS), (3, 3, 3)),
    "ballroom_beats": (ballroom_beats, (10, 1, 1)),
    "guitarset_notes": (guitarset_notes, (8, 2, 2)),
}
"""Builder, and clips of each split in its copy."""


BUILDERS: dict[str, dict[str, Callable[[Path], None]]] = {
    "magnatagatune": {
        "folder": magnatagatune_folder,
        "jukemir": magnatagatune_jukemir,
        "marble": magnatagatune_marble,
    },
    "gtzan": {"folder": gtzan_folder, "jukemir": gtzan_jukemir, "marble": gtzan_marble},
    "giantsteps": {
        "folder": giantsteps_folder,
        "jukemir": giantsteps_jukemir,
        "marble": giantsteps_marble,
    },
    "emomusic": {"folder": emomusic_folder, "jukemir": emomusic_jukemir, "marble": emomusic_marble},
}

SIZES: dict[str, dict[str, int]] = {
    "magnatagatune": {"train": 3, "valid": 3, "test": 3},
    "gtzan": {"train": 12, "valid": 6, "test": 6},
    "giantsteps": {"train": 8, "valid": 10, "test": 8},
    "emomusic": {"train": 5, "valid": 2, "test": 3},
}
"""Clips of each split in these copies."""


def write_kfold_task(folder: Path, prediction_type: str = "multiclass", **fields) -> None:
    """A task of five folds, three clips each, at 8 kHz."""
    names = [f"fold{i:02}" for i in range(5)]
    metadata = {
        "task_name": "gunshots",
        "version": "1.0",
        "embedding_type": "scene",
        "prediction_type": prediction_type,
        "split_mode": "new_split_kfold",
        "sample_duration": 0.5,
        "evaluation": ["top1_acc"] if prediction_type == "multiclass" else ["mAP", "top1_acc"],
        "splits": names,
        **fields,
    }
    folder.mkdir(exist_ok=True)
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    (folder / "labelvocabulary.csv").write_text("idx,label\n0,near\n1,far\n2,3\n")
    for name in names:
        labels = {f"{name}-{k}.wav": [label] for k, label in enumerate(("near", "far", 3))}
        (folder / f"{name}.json").write_text(json.dumps(labels))
        for file in labels:
            write_tone(folder / str(RATE) / name / file, 0, 0.5)

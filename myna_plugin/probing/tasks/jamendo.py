"""MTG-Jamendo: tags of whole tracks, the 50 most frequent or by genre, instrument, mood and theme.

Source: Bogdanov et al., "The MTG-Jamendo dataset for automatic music tagging", 2019
(github.com/MTG/mtg-jamendo-dataset), with its split 0, which papers report; no artist is in two.
Scores are ROC-AUC and average precision (there: PR-AUC), means over tags.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from myna_plugin.common.files import read_rows
from myna_plugin.probing.tasks.folders import audio_folders, find_audio, find_file, one_of
from myna_plugin.probing.tasks.layouts import PublicLayout
from myna_plugin.probing.tasks.task import SPLITS, ClipRule, Item, Task, TaskError


def _tags(category: str, names: str) -> tuple[str, ...]:
    return tuple(f"{category}---{name}" for name in names.split())


GENRES = _tags(
    "genre",
    """
    60s 70s 80s 90s acidjazz alternative alternativerock ambient atmospheric blues bluesrock
    bossanova breakbeat celtic chanson chillout choir classical classicrock club contemporary
    country dance darkambient darkwave deephouse disco downtempo drumnbass dub dubstep
    easylistening edm electronic electronica electropop ethno eurodance experimental folk funk
    fusion groove grunge hard hardrock hiphop house idm improvisation indie industrial
    instrumentalpop instrumentalrock jazz jazzfusion latin lounge medieval metal minimal newage
    newwave orchestral pop popfolk poprock postrock progressive psychedelic punkrock rap reggae
    rnb rock rocknroll singersongwriter soul soundtrack swing symphonic synthpop techno trance
    triphop world worldfusion
    """,
)

INSTRUMENTS = _tags(
    "instrument",
    """
    accordion acousticbassguitar acousticguitar bass beat bell bongo brass cello clarinet
    classicalguitar computer doublebass drummachine drums electricguitar electricpiano flute
    guitar harmonica harp horn keyboard oboe orchestra organ pad percussion piano pipeorgan
    rhodes sampler saxophone strings synthesizer trombone trumpet viola violin voice
    """,
)

MOODS = _tags(
    "mood/theme",
    """
    action adventure advertising background ballad calm children christmas commercial cool
    corporate dark deep documentary drama dramatic dream emotional energetic epic fast film fun
    funny game groovy happy heavy holiday hopeful inspiring love meditative melancholic melodic
    motivational movie nature party positive powerful relaxing retro romantic sad sexy slow soft
    soundscape space sport summer trailer travel upbeat uplifting
    """,
)

TOP_50 = (
    *_tags(
        "genre",
        """
        alternative ambient atmospheric chillout classical dance downtempo easylistening electronic
        experimental folk funk hiphop house indie instrumentalpop jazz lounge metal newage
        orchestral pop popfolk poprock reggae rock soundtrack techno trance triphop world
        """,
    ),
    *_tags(
        "instrument",
        """
        acousticguitar bass computer drummachine drums electricguitar electricpiano guitar keyboard
        piano strings synthesizer violin voice
        """,
    ),
    *_tags("mood/theme", "emotional energetic film happy relaxing"),
)

FOLDERS = ("audio", "raw_30s/audio", "autotagging_moodtheme/audio", ".")

SUFFIXES = (".mp3", ".low.mp3", ".wav")
"""Of full quality, of the smaller archives, and what one may have made of them."""

LIST_FOLDERS = ("data/splits/split-0", "split-0", "mtg-jamendo-dataset/data/splits/split-0", ".")

FILE_WORDS: dict[str, str] = {"train": "train", "valid": "validation", "test": "test"}

HEADER = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]


def read_tracks(root: Path, subset: str, labels: tuple[str, ...]) -> list[Item]:
    """Tracks of `data/splits/split-0/autotagging_SUBSET-SPLIT.tsv` and `audio/14/214.mp3`.

    Args:
        root: the repository, or a folder with its lists; the audio in it.
        subset: "top50tags", "genre", "instrument" or "moodtheme".
        labels: the subset's tags.

    Raises:
        TaskError: a list is missing, or a line is not such a track; names file and line.
    """
    folders = audio_folders(root, FOLDERS)
    return [
        _read_track(place, row, folders, split, labels)
        for split in SPLITS
        for place, row in _rows(root, f"autotagging_{subset}-{FILE_WORDS[split]}.tsv")
    ]


def _rows(root: Path, name: str) -> list[tuple[str, list[str]]]:
    """Rows of a list, tags one a column from the sixth on."""
    path = find_file(root, [f"{folder}/{name}" for folder in LIST_FOLDERS])
    header, *rows = [*read_rows(path, "\t")] or [(f"{path}: line 1", [])]
    if header[1] != HEADER:
        raise TaskError(f"{header[0]}: columns are {header[1]}, expected {HEADER}")
    return rows


def _read_track(
    place: str, row: list[str], folders: list[Path], split: str, labels: tuple[str, ...]
) -> Item:
    if len(row) < len(HEADER):
        raise TaskError(f"{place}: {len(row)} fields, a track has at least {len(HEADER)}")
    track, artist, _, path, _, *tags = row
    found = {one_of(place, "TAGS", tag, labels) for tag in tags}
    return Item(
        clip_id=track,
        track_id=track,
        path=find_audio(folders, path.removesuffix(".mp3"), SUFFIXES, place),
        target=tuple(label for label in labels if label in found),
        split=split,
        artist=artist,
    )


def _layout(subset: str, labels: tuple[str, ...]) -> PublicLayout:
    return PublicLayout(FOLDERS, SUFFIXES, partial(read_tracks, subset=subset, labels=labels))


TOP_50_TAGS = Task(
    name="jamendo_top50",
    title="MTG-Jamendo top 50",
    source="Bogdanov et al. 2019 (lists CC BY-NC-SA 4.0; each track its own licence)",
    labels=TOP_50,
    loss="bce",
    metrics=("roc_auc_macro", "average_precision_macro"),
    primary="roc_auc_macro",
    reported_as={},
    split_rule="published split 0: no artist in two",
    split_sizes={"train": 32_136, "valid": 10_888, "test": 11_356},
    clip_rule=ClipRule("whole tracks, half a minute and longer", duration_s=None),
    public=_layout("top50tags", TOP_50),
)

GENRE = replace(
    TOP_50_TAGS,
    name="jamendo_genre",
    title="MTG-Jamendo genre",
    labels=GENRES,
    split_sizes={"train": 32_572, "valid": 11_043, "test": 11_479},
    public=_layout("genre", GENRES),
)

INSTRUMENT = replace(
    TOP_50_TAGS,
    name="jamendo_instrument",
    title="MTG-Jamendo instrument",
    labels=INSTRUMENTS,
    split_sizes={"train": 14_395, "valid": 5_466, "test": 5_115},
    public=_layout("instrument", INSTRUMENTS),
)

MOOD = replace(
    TOP_50_TAGS,
    name="jamendo_moodtheme",
    title="MTG-Jamendo mood and theme",
    labels=MOODS,
    split_sizes={"train": 9_949, "valid": 3_802, "test": 4_231},
    public=_layout("moodtheme", MOODS),
)

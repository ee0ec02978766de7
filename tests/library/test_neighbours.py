import numpy as np
import pyarrow as pa
import pytest
import tiny_library

from myna_plugin.library import neighbours
from myna_plugin.library.neighbours import Seed, find_rows, is_same, join_libraries, nearest
from myna_plugin.library.table import (
    Entry,
    Library,
    embedding_array,
    schema_of,
    write_library,
)
from myna_plugin.library.tracks import LibraryError

FACTS = tiny_library.FACTS | {"width": 16}


@pytest.fixture
def library():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((40, 16)) * generator.uniform(0.1, 9, (40, 1))
    paths = [f"{i}.mp3" for i in range(40)]
    return Library(paths, np.ones(40), vectors.astype(np.float32), FACTS, [Entry()] * 40)


def search(library, vector, count, row=None, **options):
    """Similarities and paths of the nearest."""
    seed = Seed(vector, 1.0, Entry(), row)
    hits = nearest(library, [seed], count, **options)
    return [(hit.similarity, library.paths[hit.row]) for hit in hits]


def by_hand(vectors, vector, count):
    cosines = [float(row @ vector / np.sqrt((row @ row) * (vector @ vector))) for row in vectors]
    order = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:count]
    return [(cosines[i], f"{i}.mp3") for i in order]


@pytest.mark.parametrize("block", [7, 100])
def test_the_nearest_by_cosine_of_standardised_vectors_are_found(library, monkeypatch, block):
    monkeypatch.setattr(neighbours, "BLOCK_TRACKS", block)
    library.embeddings[:, 3] += 1000  # what all have in common
    library.embeddings[:, 4] = 5
    vector = np.random.default_rng(1).standard_normal(16).astype(np.float32)
    vector[3] += 1000

    result = search(library, vector, 7)

    mean, deviation = library.embeddings.mean(0), library.embeddings.std(0)
    deviation[4] = 1
    expected = by_hand((library.embeddings - mean) / deviation, (vector - mean) / deviation, 7)
    assert [path for _, path in result] == [path for _, path in expected]
    assert np.allclose([s for s, _ in result], [s for s, _ in expected], atol=1e-4)


def test_a_small_library_is_ranked_by_cosine(library):
    small = Library(
        *(part[:19] for part in (library.paths, library.duration_s, library.embeddings)),
        FACTS,
        library.entries[:19],
    )
    vector = np.random.default_rng(1).standard_normal(16).astype(np.float32)

    result = search(small, vector, 7)

    expected = by_hand(small.embeddings, vector, 7)
    assert [path for _, path in result] == [path for _, path in expected]
    assert np.allclose([s for s, _ in result], [s for s, _ in expected], atol=1e-6)


def test_the_query_itself_is_left_out(library):
    vector = library.embeddings[3]
    result = search(library, vector, 5, row=3)

    assert len(result) == 5
    assert "3.mp3" not in [path for _, path in result]
    assert search(library, vector, 1)[0][1] == "3.mp3"
    assert len(search(library, vector, 99, row=3)) == 39


def test_several_seeds_are_averaged_at_length_one(library):
    rows = [3, 8, 20]
    seeds = [Seed(library.embeddings[row], 1.0, Entry(), row) for row in rows]

    result = nearest(library, seeds, 7)

    spread = library.embeddings.std(0)
    standard = (library.embeddings - library.embeddings.mean(0)) / spread
    units = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    middle = units[rows].mean(0)
    cosines = units @ middle / np.linalg.norm(middle)
    order = [row for row in np.argsort(-cosines) if row not in rows][:7]
    assert [hit.row for hit in result] == order
    assert np.allclose([hit.similarity for hit in result], cosines[order], atol=1e-5)


def test_silence_is_like_nothing(library):
    library.embeddings[:3] = library.embeddings[0]
    library.entries[1] = Entry(warning="read short: 3 of 4 s; silent: nothing above -80 dBFS")
    library.entries[2] = Entry(warning="read short: 3 of 4 s")
    hits = nearest(library, [Seed(library.embeddings[0], 1.0, Entry(), 0)], 39)
    assert (hits[0].row, len(hits)) == (2, 38)
    assert 1 not in [hit.row for hit in hits]


def test_clicks_are_no_hits_beside_longer_sounds(library):
    """Rows of one vector: a song, its copy, two clicks."""
    library.embeddings[:4] = library.embeddings[0]
    library.duration_s[:] = 180
    library.duration_s[[2, 3]] = 0.045
    library.entries[:2] = [Entry("A")] * 2
    song = Seed(library.embeddings[0], 180.0, Entry("A"), 0)
    click = Seed(library.embeddings[2], 0.045, Entry(), 2)

    def listed(*seeds, **options):
        said.clear()
        return [hit.row for hit in nearest(library, seeds, 5, say=said.append, **options)]

    said = []
    assert not {2, 3} & set(listed(song))
    assert said == ["left out, as shorter than 0.5 s: 2; --min-seconds 0 lists them"]
    assert listed(song, min_seconds=0)[:2] == [2, 3]
    assert said == []
    assert sorted(listed(click)[:2]) == [0, 3]
    library.duration_s[4:] = 0.3
    assert listed(song, click)[0] == 3, "who seeks by a click means clicks"
    assert listed(song)[:2] == [2, 3], "there is nothing longer"
    assert said == []
    library.duration_s[39] = 2.0
    assert listed(song) == [39]
    assert said == ["left out, as shorter than 0.5 s: 37; --min-seconds 0 lists them"]
    assert listed(song, min_seconds=3) == []
    assert said == ["all others are shorter than 3 s: 38"]


def test_a_recording_is_one_hit_by_content_or_sound_and_never_by_its_vector(library):
    """Rows of one vector: a file, its copy, it in another format, a longer one, a stranger."""
    sound = np.random.default_rng(2).bytes(200)
    stranger = np.random.default_rng(3).bytes(200)
    library.embeddings[:8] = library.embeddings[0]
    library.entries[:8] = [
        Entry("A", sound),
        Entry("A", sound),
        Entry("B", sound),
        Entry("C", sound),  # longer
        Entry("D", stranger),
        Entry("E", b"", sound="s"),
        Entry("F", b"", sound="t"),
        Entry("A", sound, 3.0, 9.0),  # a piece of an album
    ]
    library.duration_s[3] = 9.0
    library.duration_s[7] = 6.0
    near = 0.99 * library.embeddings[0]

    hits = nearest(library, [Seed(near, 1.0, Entry())], 6)

    assert [(hit.row, hit.copies) for hit in hits] == [
        *((0, [1, 2]), (3, [7]), (4, []), (5, []), (6, [])),
        (hits[5].row, []),
    ]
    assert hits[5].row >= 8
    of_its_own = nearest(library, [Seed(near, 1.0, Entry("B", sound))], 2)
    assert [hit.row for hit in of_its_own] == [3, 4], "copies of the seed are no hits"


def test_a_file_with_other_tags_is_the_same_recording():
    tagged, other = Entry("A", b"", sound="s"), Entry("B", b"", sound="s")
    assert is_same(1.0, tagged, 1.0, other)
    assert not is_same(1.0, tagged, 1.0, other._replace(sound="t"))
    assert not is_same(1.0, tagged, 1.0, other._replace(start_s=0.0))
    assert not is_same(1.0, Entry(), 1.0, Entry())


def test_of_an_artist_at_most_so_many(library):
    names = ["Beyonc\u00e9", "BEYONCE\u0301", "Anna", None]
    library.entries[:] = [Entry(artist=names[row % 4]) for row in range(40)]

    hits = nearest(library, [Seed(library.embeddings[3], 1.0, Entry(), 3)], 99, per_artist=2)

    artists = [library.entries[hit.row].artist for hit in hits]
    assert sum(artist == "Anna" for artist in artists) == 2
    assert sum("B" in (artist or "") for artist in artists) == 2, "two spellings, one name"
    assert sum(artist is None for artist in artists) == 9


def test_a_track_is_found_however_its_path_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = ["a/x.mp3", "b/x.mp3", "c/e\u0301.mp3", "b/x.mp3"]
    library = Library(paths, np.ones(4), np.ones((4, 2), np.float32), FACTS, [Entry()] * 4)

    assert find_rows(library, "b/x.mp3") == [1, 3]
    assert find_rows(library, str(tmp_path / "b" / "x.mp3")) == [1, 3]
    assert find_rows(library, "x.mp3") == []
    assert find_rows(library, "c/\u00e9.mp3") == [2]
    assert find_rows(library, str(tmp_path / "c" / "\u00e9.mp3")) == [2]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "\u00e9.mp3").touch()
    assert find_rows(library, "c/\u00e9.mp3") == [], "it is another file"


def test_libraries_of_one_model_are_joined_and_of_two_refused(tmp_path):
    def write(name, facts):
        content = {
            "path": [name],
            "duration_s": [1.0],
            "embedding": embedding_array([np.ones(16, np.float32)], 16, False),
        }
        schema = schema_of(facts)
        content |= {name: [None] for name in schema.names if name not in content}
        write_library(tmp_path / name, [pa.Table.from_pydict(content, schema)], facts)
        return tmp_path / name

    one, two = write("one.parquet", FACTS), write("two.parquet", FACTS)
    other = write("other.parquet", {**FACTS, "weights": "xyz"})

    assert join_libraries([one, two]).paths == ["one.parquet", "two.parquet"]
    # Of before there was a choice.
    later = ("scene_pooling", "tokens", "seconds")
    silent = {name: fact for name, fact in FACTS.items() if name not in later}
    assert join_libraries([one, write("old.parquet", silent)]).facts == FACTS
    layers = write("layers.parquet", {**FACTS, "scene_layers": [1]})
    pooling = write("pooling.parquet", {**FACTS, "scene_pooling": "mean-std"})
    for foreign in (other, layers, pooling):
        with pytest.raises(LibraryError, match=rf"{foreign.name}: made with another model"):
            join_libraries([one, foreign])
    said = []
    quick = write("quick.parquet", {**FACTS, "tokens": 0.25})
    assert join_libraries([one, two, quick], said.append).facts == FACTS
    assert said == [
        f"{quick}: made of 0.25 of the tokens, {one} of 1.0: tracks of the two are compared less "
        "exactly"
    ]
    middles = write("middles.parquet", {**FACTS, "seconds": 60.0})
    assert join_libraries([middles, one], said.append).facts["seconds"] == 60
    assert said[1:] == [
        f"{one}: made of whole tracks, {middles} of 60 s of each track: tracks of the two are "
        "compared less exactly, and copies known by their stored sound alone"
    ]

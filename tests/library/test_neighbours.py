import numpy as np
import pyarrow as pa
import pytest
import tiny_library

from myna_plugin.library import neighbours
from myna_plugin.library.neighbours import find_row, join_libraries, nearest
from myna_plugin.library.table import Library, embedding_array, schema_of, write_library
from myna_plugin.library.tracks import LibraryError

FACTS = tiny_library.FACTS | {"width": 16}


@pytest.fixture
def library():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((40, 16)) * generator.uniform(0.1, 9, (40, 1))
    paths = [f"{i}.mp3" for i in range(40)]
    return Library(paths, np.ones(40), vectors.astype(np.float32), FACTS)


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

    result = nearest(library, vector, 7)

    mean, deviation = library.embeddings.mean(0), library.embeddings.std(0)
    deviation[4] = 1
    expected = by_hand((library.embeddings - mean) / deviation, (vector - mean) / deviation, 7)
    assert [n.path for n in result] == [path for _, path in expected]
    assert np.allclose([n.similarity for n in result], [s for s, _ in expected], atol=1e-4)


def test_a_small_library_is_ranked_by_cosine(library):
    small = Library(library.paths[:19], library.duration_s[:19], library.embeddings[:19], FACTS)
    vector = np.random.default_rng(1).standard_normal(16).astype(np.float32)

    result = nearest(small, vector, 7)

    expected = by_hand(small.embeddings, vector, 7)
    assert [n.path for n in result] == [path for _, path in expected]
    assert np.allclose([n.similarity for n in result], [s for s, _ in expected], atol=1e-6)


def test_the_query_itself_can_be_left_out(library):
    result = nearest(library, library.embeddings[3], 5, leave_out=3)

    assert len(result) == 5
    assert "3.mp3" not in [n.path for n in result]
    assert nearest(library, library.embeddings[3], 1)[0].path == "3.mp3"
    assert len(nearest(library, library.embeddings[3], 99, leave_out=3)) == 39


def test_a_track_is_found_however_its_path_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    library = Library(["a/x.mp3", "b/x.mp3"], np.ones(2), np.ones((2, 2), np.float32), FACTS)

    assert find_row(library, "b/x.mp3") == 1
    assert find_row(library, str(tmp_path / "b" / "x.mp3")) == 1
    assert find_row(library, "x.mp3") is None


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
    silent = {name: fact for name, fact in FACTS.items() if name not in ("scene_pooling", "tokens")}
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

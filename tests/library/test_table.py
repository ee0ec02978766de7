import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_library import FACTS, SEQUENCES, same

from myna_plugin.library.table import embedding_array, read_library, schema_of, write_library
from myna_plugin.library.tracks import LibraryError


def tables_of(paths, rows, facts, step=2):
    """What `write_library` takes: tables of some rows at a time."""
    for start in range(0, len(paths), step):
        some = slice(start, start + step)
        yield pa.Table.from_pydict(
            {
                "path": paths[some],
                "duration_s": [float(i) for i in range(len(paths))][some],
                "embedding": embedding_array(rows[some], 3, facts["timestamps"]),
                "warning": [None if i % 2 else f"silent: {i}" for i in range(len(paths))][some],
                **dict.fromkeys(schema_of(facts).names[4:], [None] * len(paths[some])),
            },
            schema_of(facts),
        )


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_a_library_is_read_as_it_was_written(tmp_path):
    paths, rows = ["a.mp3", "b/ö.flac", "a longer name.ogg"], list(draw(3, 3))
    path = tmp_path / "library.parquet"

    assert write_library(path, tables_of(paths, rows, FACTS), FACTS) == 3
    library = read_library(path)

    assert library.paths == paths
    assert library.duration_s.tolist() == [0, 1, 2]
    assert np.array_equal(library.embeddings, np.array(rows))
    assert library.facts == FACTS


def test_of_sequences_the_means_are_read(tmp_path):
    paths, rows = ["a", "b", "c"], [draw(4, 3), draw(1, 3), draw(7, 3)]
    path = tmp_path / "library.parquet"
    write_library(path, tables_of(paths, rows, SEQUENCES), SEQUENCES)

    library = read_library(path)

    assert np.allclose(library.embeddings, [row.mean(0) for row in rows])


def test_parquet_has_the_types_that_are_promised(tmp_path):
    path = tmp_path / "library.parquet"
    write_library(path, tables_of(["a"], [draw(3)], FACTS), FACTS)
    schema = pq.read_schema(path)

    assert schema.field("path").type == pa.string()
    assert schema.field("duration_s").type == pa.float64()
    assert schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert json.loads(schema.metadata[b"myna"]) == FACTS


@pytest.mark.parametrize("facts", [FACTS, SEQUENCES])
def test_a_library_without_rows(tmp_path, facts):
    path = tmp_path / "library.parquet"

    assert write_library(path, tables_of([], [], facts), facts) == 0
    assert read_library(path).embeddings.shape == (0, 3)


def test_the_same_rows_are_the_same_bytes_whatever_their_pieces(tmp_path):
    paths, rows = list("abcde"), list(draw(5, 3))
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    write_library(one, tables_of(paths, rows, FACTS), FACTS)
    write_library(other, tables_of(paths, rows, FACTS), FACTS)

    assert one.read_bytes() == other.read_bytes()
    write_library(other, tables_of(paths, rows, FACTS, step=3), FACTS)
    assert same(read_library(one), read_library(other))


def test_missing_embeddings_keep_their_places_and_are_not_null():
    array = embedding_array([None, np.ones(3, np.float32), None], 3, sequences=False)
    assert array.null_count == 0
    assert array.to_pylist() == [[0.0] * 3, [1.0] * 3, [0.0] * 3]
    array = embedding_array([draw(2, 3), None, draw(1, 3)], 3, sequences=True)
    assert array.null_count == 0
    assert list(map(len, array.to_pylist())) == [2, 0, 1]
    for sequences in (False, True):
        assert len(embedding_array([], 3, sequences)) == 0


def test_what_breaks_while_writing_leaves_no_file(tmp_path):
    def tables():
        yield from tables_of(["a"], [draw(3)], FACTS)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_library(tmp_path / "library.parquet", tables(), FACTS)
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_libraries_are_named(tmp_path):
    with pytest.raises(LibraryError, match=r"gone\.parquet: no such file"):
        read_library(tmp_path / "gone.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"?" * 99)
    with pytest.raises(LibraryError, match=r"broken\.parquet: not a library, or damaged"):
        read_library(tmp_path / "broken.parquet")
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(
        LibraryError, match=r"not a library.* no metadata called myna; pandas drops"
    ):
        read_library(tmp_path / "other.parquet")
    write_library(tmp_path / "now.parquet", tables_of(["a"], [draw(3)], FACTS), FACTS)
    old = pq.read_table(tmp_path / "now.parquet").drop_columns(["content"])
    pq.write_table(old, tmp_path / "old.parquet")
    with pytest.raises(LibraryError, match="it has no column content, as those of earlier"):
        read_library(tmp_path / "old.parquet")
    with pytest.raises(LibraryError, match="is a folder, not a file; name a file"):
        read_library(tmp_path)
    with pytest.raises(LibraryError, match="is a pipe or a device, not a file; name"):
        read_library(Path("/dev/zero"))
    with pytest.raises(LibraryError, match=r"ends in \.parquet"):
        write_library(tmp_path / "library.csv", tables_of([], [], FACTS), FACTS)


def table_of(rows, facts=FACTS, **columns):
    """A library's table, some of its columns replaced."""
    (table,) = tables_of(["a", "b"], rows, facts, 2)
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, [values])
    return table


def saying(metadata):
    """A library's table that says it was made with something else."""
    metadata = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    return table_of(list(draw(2, 3))).replace_schema_metadata({b"myna": metadata})


EMPTY_SEQUENCE = pa.array([[], [[1.0] * 3]], pa.list_(pa.list_(pa.float32(), 3)))
NO_VECTOR = pa.array([None, [1.0] * 3], pa.list_(pa.float32(), 3))

DAMAGED = {
    "NaN": lambda: table_of([np.float32([0, 1, np.nan]), np.zeros(3, np.float32)]),
    "infinite": lambda: table_of([np.float32([0, 1, 1e30]), np.zeros(3, np.float32)]),
    "NaN in a sequence": lambda: table_of([draw(4, 3), np.float32([[0, np.nan, 1]])], SEQUENCES),
    "empty sequence": lambda: table_of([draw(2, 3)] * 2, SEQUENCES, embedding=EMPTY_SEQUENCE),
    "without vector": lambda: table_of(list(draw(2, 3)), embedding=NO_VECTOR),
    "ragged": lambda: table_of(list(draw(2, 3)), embedding=pa.array([[1.0], [1.0, 2.0]])),
    "texts": lambda: table_of(list(draw(2, 3)), embedding=pa.array(["x", "y"])),
    "without path": lambda: table_of(list(draw(2, 3)), path=pa.array(["x", None])),
    "without column": lambda: table_of(list(draw(2, 3))).drop_columns(["embedding"]),
    "sequences that are none": lambda: saying(SEQUENCES),
    "other width": lambda: saying(FACTS | {"width": 2}),
    "no facts": lambda: table_of(list(draw(2, 3))).replace_schema_metadata(None),
    "no JSON": lambda: saying(b"{\xff"),
    "deep JSON": lambda: saying(b"[" * 100_000),
    "a list": lambda: saying([FACTS]),
    **{f"{name} {value}": lambda n=name, v=value: saying(FACTS | {n: v})
        for name, value in (
            *(("width", bad) for bad in (None, -1, 10**12, 3.0, True, [3])),
            *(("patchings", bad) for bad in (None, [], "square", [["square"]], ["round"])),
            *(("model", None), ("weights", 3), ("precision", "x"), ("timestamps", 0)),
            *(("hop_ms", float("nan")), ("timestamp_layer", 0), ("scene_layers", [1, "2"])),
            *(("scene_pooling", "std"), ("tokens", 0.3)),
            *(("seconds", bad) for bad in (0.0, -1.0, 60, True, "60")),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_libraries_are_told_in_a_line(tmp_path, name):
    path = tmp_path / "library.parquet"
    pq.write_table(DAMAGED[name](), path)

    with pytest.raises(LibraryError, match="not a library, or damaged") as told:
        read_library(path)
    assert "\n" not in str(told.value)


def test_no_flipped_byte_and_no_cut_gives_other_rows(tmp_path):
    path, facts = tmp_path / "library.parquet", FACTS
    write_library(path, tables_of(["a", "b", "c"], list(draw(3, 3)), facts), facts)
    whole, content = read_library(path), path.read_bytes()
    damaged = [content[:end] for end in range(0, len(content), 197)]
    for place in range(0, len(content), 13):
        damaged.append(bytearray(content))
        damaged[-1][place] ^= 0x10

    refused = 0
    for bad in damaged:
        path.write_bytes(bad)
        try:
            read = read_library(path)
        except LibraryError:
            refused += 1
            continue
        assert np.array_equal(read.embeddings, whole.embeddings)
        assert read.paths == whole.paths
    assert refused > len(damaged) / 3

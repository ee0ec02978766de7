import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_library import FACTS

from myna_plugin.library.parts import UNIT_TRACKS, Parts, Row, encode_part, plan_units
from myna_plugin.library.table import read_library
from myna_plugin.library.tracks import LibraryError, Track, look_at


def names(count):
    return [f"music/{i:05d}.mp3" for i in range(count)]


def plan(paths, facts=FACTS):
    return plan_units(list(map(look_at, paths)), facts)


def vector(number):
    return np.full(3, number, np.float32)


def rows_of(unit):
    return [
        Row(track, fault="broken") if "3." in track.path else Row(track, 1.0, vector(i))
        for i, track in enumerate(unit.tracks, unit.start)
    ]


def test_units_hold_every_track_once_in_order():
    units = plan(names(2_000))

    assert [track.path for unit in units for track in unit.tracks] == names(2_000)
    assert [unit.start for unit in units] == list(
        np.cumsum([0, *(len(unit.tracks) for unit in units[:-1])])
    )
    sizes = [len(unit.tracks) for unit in units[:-1]]
    assert min(sizes) >= UNIT_TRACKS // 2
    assert np.mean(sizes) == pytest.approx(UNIT_TRACKS, rel=0.3)


def test_a_track_more_leaves_nearly_all_units_as_they_were():
    before = {unit.key for unit in plan(names(2_000))}
    after = {unit.key for unit in plan([*names(500), "new.mp3", *names(2_000)[500:]])}

    assert len(before - after) <= 3


def test_other_options_or_another_file_make_another_unit(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"1")
    keys = {plan([str(path)])[0].key}
    keys.add(plan([str(path)], {**FACTS, "hop_ms": 5})[0].key)
    path.write_bytes(b"22")
    keys.add(plan([str(path)])[0].key)

    assert len(keys) == 3


def test_large_files_make_small_units(tmp_path, monkeypatch):
    monkeypatch.setattr("myna_plugin.library.parts.UNIT_BYTES", 1_000)
    for i in range(6):
        (tmp_path / f"{i}.wav").write_bytes(b"?" * 400)

    units = plan([str(tmp_path / f"{i}.wav") for i in range(6)])

    assert [len(unit.tracks) for unit in units] == [3, 3]


def test_parts_in_any_order_become_the_library_and_its_report(tmp_path):
    out = tmp_path / "library.parquet"
    parts, units = Parts(out), plan(names(300))
    parts.begin(FACTS, units, shared=False)
    for unit in reversed(units):
        parts.write(unit, encode_part(rows_of(unit), FACTS))

    n_rows, failed, _ = parts.merge()

    library = read_library(out)
    assert library.paths == [path for path in names(300) if "3." not in path]
    assert library.embeddings[:, 0].tolist() == [i for i in range(300) if i % 10 != 3]
    assert n_rows == 270
    assert failed[0] == ("music/00003.mp3", "broken")
    assert len(parts.report.read_text().splitlines()) == 31
    assert not parts.folder.exists()


def test_what_is_missing_is_counted_and_nothing_is_lost(tmp_path):
    parts, units = Parts(tmp_path / "library.parquet"), plan(names(300))
    with pytest.raises(LibraryError, match="no such folder"):
        parts.merge()
    parts.begin(FACTS, units, shared=False)
    for unit in units[1:]:
        parts.write(unit, encode_part(rows_of(unit), FACTS))

    with pytest.raises(LibraryError, match=rf"1 of {len(units)} parts are missing"):
        parts.merge()
    assert all(parts.has(unit) for unit in units[1:])


def test_damaged_parts_are_not_there_and_a_damaged_plan_is_written_anew(tmp_path):
    parts, units = Parts(tmp_path / "library.parquet"), plan(names(300))
    parts.begin(FACTS, units, shared=True)
    content = encode_part(rows_of(units[0]), FACTS)
    flipped = bytearray(content)
    vectors = pq.read_metadata(io.BytesIO(content)).row_group(0).column(2)
    flipped[vectors.data_page_offset + vectors.total_compressed_size // 2] ^= 1
    other = encode_part([Row(Track("a"), 1.0, vector(np.nan))], FACTS)
    for bad in (b"", content[:-9], bytes(flipped), b"PAR1" * 9, other):
        parts.write(units[0], bad)
        assert not parts.has(units[0])
    parts.write(units[0], content)
    assert parts.has(units[0])

    written = parts.folder / "plan.json"
    whole = written.read_text()
    odd = [json.dumps({"facts": FACTS, "units": ["../../evil"]}), json.dumps({"units": []})]
    for bad in ("", whole[:-9], "[" * 100_000, "[]", "3", *odd):
        written.write_text(bad)
        with pytest.raises(LibraryError, match=r"plan\.json: damaged; give the command of a shard"):
            parts.merge()
        parts.begin(FACTS, units, shared=True)
        assert written.read_text() == whole


def test_shards_that_disagree_are_refused(tmp_path):
    parts = Parts(tmp_path / "library.parquet")
    parts.begin(FACTS, plan(names(90)), shared=True)
    parts.begin(FACTS, plan(names(90)), shared=True)

    with pytest.raises(LibraryError, match="other files were seen"):
        parts.begin(FACTS, plan(names(91)), shared=True)
    assert len(json.loads((parts.folder / "plan.json").read_text())["units"]) >= 1


def test_a_library_of_others_is_not_written_over_and_their_files_stay(tmp_path):
    out = tmp_path / "library.parquet"
    parts, units = Parts(out), plan(names(9))
    parts.begin(FACTS, units, shared=False)
    for unit in units:
        parts.write(unit, encode_part(rows_of(unit), FACTS))
    (parts.folder / "note.txt").write_text("precious")
    foreign = io.BytesIO()
    pq.write_table(pa.table({"path": ["a"]}), foreign)
    for content in (b"precious", foreign.getvalue()):
        out.write_bytes(content)
        with pytest.raises(LibraryError, match=r"library\.parquet: was not made by myna embed"):
            parts.merge()
        assert out.read_bytes() == content
    out.unlink()

    parts.merge()

    assert [path.name for path in parts.folder.iterdir()] == ["note.txt"]
    assert len(read_library(out).paths) == 8


def test_two_runs_at_a_time_are_refused(tmp_path):
    parts = Parts(tmp_path / "library.parquet")
    with (
        parts.locked("all"),
        pytest.raises(LibraryError, match="another process"),
        parts.locked("all"),
    ):
        pass


def test_names_that_are_no_utf8_are_reported_readably(tmp_path):
    parts = Parts(tmp_path / "library.parquet")
    (unit,) = units = plan(["caf\udce9.mp3"])
    parts.begin(FACTS, units, shared=False)
    parts.write(unit, encode_part([Row(Track("caf\udce9.mp3"), fault="broken")], FACTS))

    assert parts.merge() == (0, [("caf\ufffd.mp3", "broken")], [])

"""Tasks on recordings, in their public layouts: Emotify and Mridangam strokes."""

from collections import defaultdict

import numpy as np
import pytest
from task_layouts import write_emotify, write_strokes

from myna_plugin.probing.tasks import TaskError, check, load_folds, load_task
from myna_plugin.probing.tasks.emotify import GENRES
from myna_plugin.probing.tasks.task import SPLITS


def check_folds(name, root):
    """What holds of any cross-validated task; the clips of its first fold."""
    task, folds = load_folds(name, root)
    assert list(folds) == list(range(task.folds))
    first = load_task(name, root)[1]
    assert folds[0] == first
    tested, splits_of = set(), defaultdict(set)
    for fold, items in folds.items():
        assert {i.clip_id for i in items} == {i.clip_id for i in first}
        assert {i.split for i in items} == set(SPLITS)
        tested |= {i.clip_id for i in items if i.split == "test"}
        for item in items:
            splits_of[fold, item.artist or item.track_id].add(item.split)
    assert tested == {i.clip_id for i in first}
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert check(task, first).complete
    return first


def test_emotify_has_genres_by_artist(tmp_path):
    write_emotify(tmp_path, range(1, 101), artists=12)
    items = check_folds("emotify_genre", tmp_path)
    assert {i.target for i in items} == set(GENRES)
    assert {i.artist for i in items} == {f"{g} {n}" for g in GENRES for n in range(12)}


def test_emotify_has_shares_of_votes(tmp_path):
    write_emotify(tmp_path)
    items = check_folds("emotify_emotion", tmp_path)
    targets = np.array([i.target for i in items])
    np.testing.assert_allclose(targets.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(targets[:, :2].std(0), 1)
    by_name = {i.clip_id: i.target for i in items}
    assert by_name["classical.008"][:2] == pytest.approx((1, -1))
    assert by_name["rock.001"][:2] == pytest.approx((-1, 1))
    assert set(targets[:, 2]) == {0}  # all felt the same: no share differs


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("401, pop" + ", 0" * 11, "tracks are 1 to 400"),
        ("1, pop, 2" + ", 0" * 10, "0 or 1"),
        ("1, pop, x" + ", 0" * 10, "amazement: 'x' is not a number"),
    ],
)
def test_emotify_refuses_other_votes(tmp_path, line, message):
    write_emotify(tmp_path, [1])
    with (tmp_path / "data.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(TaskError, match=f"data.csv: .*{message}"):
        load_task("emotify_emotion", tmp_path)


def test_strokes_are_split_by_session_and_tonics_are_not(tmp_path):
    write_strokes(tmp_path)
    (tmp_path / "copy").mkdir()
    copied = next(tmp_path.glob("train/ta/*.wav"))
    (tmp_path / "copy" / copied.name).write_bytes(copied.read_bytes())
    strokes = check_folds("mridangam_stroke", tmp_path)
    assert len(strokes) == 24
    assert {(i.target, i.artist) for i in strokes if i.clip_id.startswith("2241")} == {
        ("ta", tonic) for tonic in ("b", "c", "csh", "d", "dsh", "e")
    }
    tonics = check_folds("mridangam_tonic", tmp_path)
    assert {i.target for i in tonics} == {"b", "c", "csh", "d", "dsh", "e"}


def test_other_strokes_are_refused(tmp_path):
    with pytest.raises(TaskError, match="no files like"):
        load_task("mridangam_stroke", tmp_path)
    write_strokes(tmp_path, strokes=("boom",))
    with pytest.raises(TaskError, match="'boom' on 'b' is no stroke"):
        load_task("mridangam_stroke", tmp_path)


def test_no_split_of_ones_own_is_overruled(tmp_path):
    write_strokes(tmp_path)
    items = load_task("mridangam_stroke", tmp_path)[1]
    own = tmp_path / "own.json"
    splits = ",".join(f'"{i.track_id}": "{SPLITS[n % 3]}"' for n, i in enumerate(items))
    own.write_text('{"splits": {' + splits + "}}")
    again = load_task("mridangam_stroke", tmp_path, split_file=own)[1]
    assert [i.split for i in again] == [SPLITS[n % 3] for n in range(24)]

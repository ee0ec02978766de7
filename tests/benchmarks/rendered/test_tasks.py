"""The rendered tasks: splits, soundfonts, labels, HEAR's format, and what is refused."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contestants import baseline
from benchmarks.rendered import table, tasks
from myna_plugin.probing.tasks import HEAR, load_task
from myna_plugin.probing.tasks.giantsteps import KEYS
from recipes.rendered.instruments import GROUPS, TAGS, sounding_tags
from recipes.rendered.scores import Score
from recipes.rendered.soundfonts import SoundfontError

pytest_plugins = ("rendered_fixtures",)

SECONDS = 2.0
SIZES = {"train": 24, "valid": 12, "test": 18}
NOTES_SIZES = {"train": 4, "valid": 2, "test": 2}
STYLES = {"lied": "Lieder", "chorale": "chorales", "romantic_piano": "dcml_chopin_mazurkas"}
SCALE = (0, 2, 4, 5, 7, 9, 11, 12)


def scale(
    name: str, split: str, style: str, corpus: str, keys: tuple[tuple[float, int, int], ...]
) -> Score:
    """Twenty seconds of a scale on C in three parts."""
    onsets = np.arange(0.0, 20.0, 0.25)
    rows = [
        (onset, 0.3, 60 + 12 * (part - 1) + SCALE[(i + 2 * part) % 8], 80, part)
        for i, onset in enumerate(onsets)
        for part in range(3)
    ]
    return Score(
        np.array(rows, np.float32), name, corpus, f"{corpus}|{name}", split, style, "CC0", keys
    )


def make_scores() -> list[Score]:
    return [
        scale(f"{split}-{n}", split, style, corpus, () if style == "lied" else ((0.0, 0, 0),))
        for style, corpus in STYLES.items()
        for split in SIZES
        for n in range(2)
    ]


@pytest.fixture(scope="module")
def soundfonts(soundfont) -> dict[str, tuple[str, ...]]:
    """A soundfont of our own for train and valid, the one that is held out for test."""
    pytest.importorskip("pretty_midi", reason="brings the soundfont to test with")
    train = Path(soundfont)
    return tasks.choose_soundfonts([train], [], train.parent)


def make(out: Path, soundfonts: dict, workers: int = 1, scores: list[Score] | None = None):
    return tasks.make_tasks(
        scores or make_scores(),
        out,
        sizes=SIZES,
        notes_sizes=NOTES_SIZES,
        soundfonts=soundfonts,
        seconds=SECONDS,
        seed=3,
        workers=workers,
    )


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, soundfonts) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "tasks"
    make(out, soundfonts)
    return out


def read_facts(out: Path) -> dict[str, dict]:
    lines = (out / "clips.jsonl").read_text().splitlines()
    return {facts["name"]: facts for facts in map(json.loads, lines)}


def test_sizes_and_balance(rendered):
    facts = read_facts(rendered).values()
    assert Counter(clip["split"] for clip in facts) == SIZES
    _, items = load_task(HEAR, rendered / "rendered_style")
    per_class = Counter((item.split, item.target) for item in items)
    assert {target for _, target in per_class} == {"lied", "chorale", "mazurka"}
    for (split, _), n in per_class.items():
        assert n == SIZES[split] / 3


def test_works_and_soundfonts_are_held_out(rendered, soundfonts):
    facts = read_facts(rendered).values()
    groups = {split: {c["group"] for c in facts if c["split"] == split} for split in SIZES}
    assert not groups["test"] & (groups["train"] | groups["valid"])
    for clip in facts:
        assert clip["soundfont"] == Path(soundfonts[clip["split"]][0]).name
    used = json.loads((rendered / "provenance.json").read_text())["soundfonts"]
    assert not set(used["test"].values()) & set(used["train"].values())


def test_keys_follow_the_transposition(rendered):
    facts = read_facts(rendered)
    task, items = load_task(HEAR, rendered / "rendered_key")
    assert task.labels == KEYS
    assert len(items) == sum(SIZES.values()) * 2 / 3  # the lieder have no keys
    for item in items:
        assert item.target == KEYS[facts[item.clip_id]["transposition"] % 12]
    assert len({item.target for item in items}) > 6


def test_instruments_are_those_that_play(rendered):
    facts = read_facts(rendered)
    task, items = load_task(HEAR, rendered / "rendered_instruments")
    assert len(items) == sum(SIZES.values())
    for item in items:
        programs = facts[item.clip_id]["programs"]
        playing = {tag for tag in TAGS if set(GROUPS[tag]) & set(programs)}
        # Each part sounds all through these clips, so none is too short to count.
        assert set(item.target) == playing & set(task.labels)


def test_notes_lie_within_the_clip_and_its_scale(rendered):
    facts = read_facts(rendered)
    for split, size in NOTES_SIZES.items():
        labels = json.loads((rendered / "rendered_notes" / f"{split}.json").read_text())
        assert len(labels) == size
        for name, events in labels.items():
            shift = facts[name.removesuffix(".wav")]["transposition"]
            assert len(events) > 10
            for event in events:
                assert 0 <= event["start"] < event["end"] <= 1000 * SECONDS
                assert (int(event["label"]) - shift) % 12 in SCALE


def test_soundfont_in_both_is_refused(tmp_path, soundfonts):
    train, test = Path(soundfonts["train"][0]), Path(soundfonts["test"][0])
    copy = tmp_path / "renamed.sf2"
    copy.write_bytes(test.read_bytes())
    with pytest.raises(SoundfontError, match=r"renamed\.sf2: is to be trained and tested with"):
        tasks.choose_soundfonts([train, copy], [test], tmp_path)


def test_short_sounds_do_not_count():
    notes = np.array([[0.0, 0.49, 60, 0], [1.0, 1.3, 60, 73], [9.0, 9.3, 62, 75]], np.float32)
    assert sounding_tags(notes, 10.0) == ("flutes",)


@pytest.mark.slow
def test_heareval_scores_the_notes(rendered, tmp_path):
    scores = table.score_notes(baseline("mel-statistics"), tmp_path, "cpu", rendered, "faster", 1)
    assert set(scores) == {"event_onset_50ms_fms", "segment_1s_er"}
    assert 0 <= scores["event_onset_50ms_fms"]["mean"] <= 1

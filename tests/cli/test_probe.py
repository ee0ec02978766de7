"""The probe command on every task and layout: what it writes, what it keeps, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from task_layouts import (
    BUILDERS,
    ONE_LAYOUT,
    SIZES,
    write_kfold_task,
    write_strokes,
    write_tone,
)

from myna_plugin.cli.probe import probe
from myna_plugin.probing import probes
from myna_plugin.probing.experiment import UNFINISHED, writing
from myna_plugin.probing.heads import FAST_GRID, GRID, GRIDS, RULES, select
from myna_plugin.probing.modules import ExperimentError
from myna_plugin.probing.probes import probe_vectors
from myna_plugin.probing.tasks import TASKS, Item
from myna_plugin.probing.tasks.task import SPLITS

pytest_plugins = ("tiny_data_sets", "tiny_module")


def run(task: str, root: Path, *arguments: object):
    """With heads that give up soon: the grid itself is tested elsewhere."""
    options = ["--task", task, "--root", root, "--grid", "fast", "--patience", 3]
    options += ["--device", "cpu", *arguments]
    return CliRunner().invoke(probe, [str(option) for option in options])


def score(task: str, root: Path, out: Path, *arguments: object) -> dict:
    result = run(task, root, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return json.loads((out / "results.json").read_text())


@pytest.fixture
def emomusic(tmp_path) -> Path:
    root = tmp_path / "emomusic"
    root.mkdir()
    BUILDERS["emomusic"]["jukemir"](root)
    return root


# --- Every task in every layout


@pytest.mark.parametrize(
    ("task", "layout"),
    [
        ("magnatagatune", "folder"),
        ("gtzan", "marble"),
        ("giantsteps", "folder"),
        ("emomusic", "jukemir"),
    ],
)
def test_whole_recipe(built, bands, tmp_path, task, layout):
    root, out = built(task, layout), tmp_path / "out"
    content = score(task, root, out, "--module", "bands", "--layout", layout)
    assert content["task"]["clips"] == SIZES[task]
    assert set(content["scores"]) == set(TASKS[task].metrics)
    assert content["reported"] == "scene"
    (part,) = content["parts"].values()
    (seed,) = part["runs"]
    assert len(seed["heads"]) == len(FAST_GRID)
    best = max(seed["heads"], key=lambda head: head["valid_score"])
    assert best["valid_score"] == seed["valid_score"]
    assert seed["winner"].items() <= best.items()
    assert seed["rule"] in (RULES if task == "giantsteps" else [None])
    for metric, value in content["scores"].items():
        assert value == {"mean": seed["scores"][metric], "deviation": None}
    figures = {path.stem for path in (out / "figures").iterdir()}
    drawn = {
        "magnatagatune": {"tag_areas"},
        "gtzan": {"confusion"},
        "giantsteps": {"confusion", "key_circle"},
        "emomusic": {"outputs"},
    }
    # Too few different sounds make no plane.
    n_sounds = len(bands.CALLS)
    assert figures == drawn[task] | ({"tsne"} if n_sounds >= 4 else set())
    table = (out / "results.md").read_text()
    for column, metric in {c: m for m, c in TASKS[task].reported_as.items()}.items():
        ours = round(100 * content["scores"][metric]["mean"], 1)
        theirs = {"MTT AUC": 91.0, "MTT AP": 39.8, "GTZAN": 77.9, "GS": 68.0}
        theirs |= {"Emo A": 70.8, "Emo V": 55.2}
        (row,) = [line for line in table.splitlines() if line.startswith("| Myna-Hybrid")]
        assert f"| {theirs[column]} |" in row
        # By another grid: what is not comparable is not compared.
        assert f"| {ours - theirs[column]:+.1f} |" not in row


@pytest.mark.parametrize("grid", ["fast", "full"])
def test_labels_that_nobody_decided_on(bands, tmp_path, monkeypatch, grid):
    """From the folder to the page, by both kinds of grid."""
    monkeypatch.setitem(GRIDS, "full", GRID[-4:])
    root = tmp_path / "openmic"
    root.mkdir()
    ONE_LAYOUT["openmic"][0](root)
    content = score("openmic", root, tmp_path / "out", "--module", "bands", "--grid", grid)
    assert content["task"]["clips"] == dict(zip(SPLITS, ONE_LAYOUT["openmic"][1], strict=True))
    # Labels stand for sounds, so that every head tells them.
    assert content["scores"]["average_precision_macro"]["mean"] > 0.9
    assert (tmp_path / "out/figures/tag_areas.png").is_file()


def test_hear_task(quick, built, bands, tmp_path):
    from myna_plugin.cli.export_task import export_task

    options = ("--task", "gtzan", "--root", built("gtzan", "folder"), "--to", "hear", tmp_path)
    assert CliRunner().invoke(export_task, list(map(str, options))).exit_code == 0
    content = score("hear", tmp_path / "gtzan", tmp_path / "out", "--module", "bands")
    assert content["task"]["clips"] == SIZES["gtzan"]
    assert content["scores"]["accuracy"]["mean"] == 1.0


@pytest.fixture
def kfold(tmp_path) -> Path:
    """A HEAR task of four folds; in each but the first some sounds are not what they are called."""
    folder = tmp_path / "kfold"
    write_kfold_task(folder, splits=[f"fold{i:02}" for i in range(4)])
    labels = ("near", "far", "3")
    for fold in range(4):
        named = {f"fold{fold:02}-{k}.wav": [labels[k % 3]] for k in range(12)}
        (folder / f"fold{fold:02}.json").write_text(json.dumps(named))
        for k, name in enumerate(named):
            pitch = 12 * ((k + (k < fold * 3)) % 3) + fold
            write_tone(folder / "8000" / f"fold{fold:02}" / name, pitch, 0.5)
    return folder


def test_the_fast_grid_tells_what_was_chosen_for_every_fold(bands, tmp_path, kfold):
    content = score("hear", kfold, tmp_path / "out", "--module", "bands")
    assert content["probe"]["configurations"] == len(FAST_GRID)
    assert "patience" not in content["probe"]  # which its heads have none of
    runs = content["parts"]["scene"]["runs"]
    assert [one["fold"] for one in runs] == [0, 1, 2, 3]
    for one in runs:
        winner = max(one["heads"], key=lambda head: head["valid_score"])
        assert one["winner"] == {name: winner[name] for name in ("standardize", "penalty")}
    table = (tmp_path / "out" / "results.md").read_text()
    assert "The fast grid is for a quick look: not comparable" in table
    assert "patience" not in table
    # The same again, to the bit: nothing is random.
    again = score("hear", kfold, tmp_path / "again", "--module", "bands")
    assert again["parts"] == content["parts"]


def test_every_fold_of_a_task_tests_once(quick, bands, tmp_path, kfold):
    options = ("--module", "bands", "--grid", "full", "--seeds", 2)
    content = score("hear", kfold, tmp_path / "out", *options)
    runs = content["parts"]["scene"]["runs"]
    assert [(one["fold"], one["seed"]) for one in runs] == [
        (f, s) for f in range(4) for s in (0, 1)
    ]
    assert content["task"]["test_folds"] == [0, 1, 2, 3]
    assert content["task"]["clips"] == {"train": 24, "valid": 12, "test": 12}
    of_folds = np.array([one["scores"]["accuracy"] for one in runs]).reshape(4, 2).mean(1)
    assert len(set(of_folds)) > 1
    pandas = pytest.importorskip("pandas")
    found = content["scores"]["accuracy"]
    # As heareval aggregates them: means and sample deviations of a table of one row a fold.
    assert found["mean"] == pytest.approx(pandas.Series(of_folds).mean())
    assert found["deviation"] == pytest.approx(pandas.Series(of_folds).std())
    assert len(bands.CALLS) == len({path.read_bytes() for path in kfold.rglob("*.wav")})
    text = (tmp_path / "out" / "results.md").read_text()
    assert "sample standard deviations over 4 folds" in text
    # One fold by itself comes to the same.
    arguments = ("--module", "bands", *options[2:], "--test-fold", 2)
    alone = score("hear", kfold, tmp_path / "alone", *arguments)
    assert alone["parts"]["scene"]["runs"] == runs[4:6]
    assert alone["task"]["test_folds"] == [2]
    refused = run("hear", kfold, "--out", tmp_path / "out", "--test-fold", 4)
    assert refused.exit_code == 2
    assert "the task has 4 ways to split, not 5" in refused.output


def test_unfinished_grids_are_kept_beside_the_results_until_they_are_written(
    quick, built, bands, tmp_path, monkeypatch
):
    """Something fails after two of three seeds; started again, the third alone is trained."""
    out, trained = tmp_path / "out", []

    def count(*arguments, known, **options):
        trained.append(4 - len(known))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return select(*arguments, known=known, **options)

    monkeypatch.setattr(probes, "select", count)
    arguments = ("gtzan", built("gtzan", "folder"), "--out", out, "--module", "bands")
    arguments += ("--grid", "full", "--seeds", 3)
    assert run(*arguments).exit_code == 130
    assert len(list((out / UNFINISHED).glob("*.npz"))) == 2
    assert run(*arguments).exit_code == 0
    assert trained == [4, 4, 4, 0, 0, 4]
    assert not (out / UNFINISHED).exists()
    assert (out / "results.json").is_file()


def test_of_two_probes_into_one_folder_the_second_is_refused(quick, bands, emomusic, tmp_path):
    out = tmp_path / "out"
    with writing(out):
        refused = run("emomusic", emomusic, "--out", out, "--module", "bands")
        assert refused.exit_code == 2
        assert refused.stderr == (
            f"probe: {out}: another probe is writing there; wait for its end, or choose another "
            "--out\n"
        )
        assert not bands.CALLS
    assert not out.exists()
    score("emomusic", emomusic, out, "--module", "bands")


def test_neighbours_vote_beside_the_heads(quick, built, bands, tmp_path):
    """Of every part and fold, into the results and their table; of tags and numbers not at all."""
    root, out = built("gtzan", "folder"), tmp_path / "out"
    options = ["--module", "bands", "--neighbours"]
    content = score("gtzan", root, out, *options)
    assert content["probe"]["neighbours"] == 10
    voted = content["parts"]["scene"]["neighbours"]
    # A genre is a pitch here, but ten of twelve training clips vote: only their shares tell.
    assert voted == {"accuracy": {"mean": 1.0, "deviation": None}}
    assert "| bands, scene, nearest neighbours |  | 100.0 |" in (out / "results.md").read_text()
    strokes = tmp_path / "strokes"
    write_strokes(strokes)
    content = score("mridangam_stroke", strokes, tmp_path / "folds", *options)
    assert content["parts"]["scene"]["neighbours"]["accuracy"]["deviation"] is not None
    result = run("emomusic", built("emomusic", "folder"), "--out", tmp_path / "no", *options)
    assert result.exit_code == 2
    assert "--neighbours: emomusic has not one label" in result.output


def test_seeds_give_mean_and_deviation(quick, built, bands, tmp_path):
    root = built("emomusic", "folder")
    options = ("--module", "bands", "--seeds", 3)
    content = score("emomusic", root, tmp_path / "out", *options, "--grid", "full")
    runs = content["parts"]["scene"]["runs"]
    values = [one["scores"]["r2"] for one in runs]
    assert [one["seed"] for one in runs] == [0, 1, 2]
    assert content["scores"]["r2"]["mean"] == pytest.approx(np.mean(values))
    assert content["scores"]["r2"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert "±" in (tmp_path / "out" / "results.md").read_text()


# --- Myna: three embeddings from one pass


def test_hybrid_model_is_probed_in_three_parts_from_one_pass(
    built, tmp_path, checkpoint, monkeypatch
):
    from myna_plugin.model.embedding import Embedder

    monkeypatch.setenv("MYNA_PLUGIN_CACHE", str(tmp_path / "cache"))
    calls = []
    embed = Embedder.embed_scenes
    monkeypatch.setattr(
        Embedder, "embed_scenes", lambda self, audio: calls.append(len(audio)) or embed(self, audio)
    )
    root = built("gtzan", "folder")
    content = score("gtzan", root, tmp_path / "out", "--model", checkpoint)
    assert sum(calls) == 3  # different sounds, of 24 files
    assert {name: part["width"] for name, part in content["parts"].items()} == {
        "square": 64,
        "vertical": 64,
        "hybrid": 128,
    }
    valid = {name: part["valid_score"] for name, part in content["parts"].items()}
    assert valid[content["reported"]] == max(valid.values())
    table = (tmp_path / "out" / "results.md").read_text()
    assert all(f"weights, {name}" in table for name in valid)
    # Each half is what that patching alone gives.
    for name in ("square", "vertical"):
        options = json.dumps({"embedding": name})
        arguments = ("--model", checkpoint, "--model-options", options)
        alone = score("gtzan", root, tmp_path / name, *arguments)
        expected, found = content["parts"][name], alone["parts"][name]
        assert found["scores"] == expected["scores"]
        for a, b in zip(found["runs"][0]["heads"], expected["runs"][0]["heads"], strict=True):
            assert a["valid_score"] == pytest.approx(b["valid_score"], abs=1e-6)


def test_layers_are_probed_from_one_pass(quick, built, tmp_path, checkpoint):
    root = built("gtzan", "folder")
    options = ("--model", checkpoint, "--scene-layers", "1,2", "--scene-pooling", "mean-std")
    content = score("gtzan", root, tmp_path / "out", *options)
    widths = {name: part["width"] for name, part in content["parts"].items()}
    kinds = {"square": 128, "vertical": 128, "hybrid": 256}
    each = {f"{kind}@{layer}": width for layer in (1, 2) for kind, width in kinds.items()}
    assert widths == {**each, "hybrid@1+2": 512}
    valid = {name: part["valid_score"] for name, part in content["parts"].items()}
    assert valid[content["reported"]] == max(valid.values())


def test_a_share_of_the_tokens_is_embedded_for_itself_and_recorded(
    quick, built, tmp_path, checkpoint
):
    root = built("gtzan", "folder")
    options = ("--model", checkpoint, "--cache", tmp_path / "kept")
    score("gtzan", root, tmp_path / "whole", *options)
    content = score("gtzan", root, tmp_path / "quick", *options, "--tokens", "1/4")
    assert content["module"]["options"] == {"tokens": 0.25}
    assert len(list((tmp_path / "kept" / "gtzan").iterdir())) == 2


def test_chunks_of_myna_and_of_any_module(quick, built, bands, tmp_path, checkpoint):
    root = built("gtzan", "folder")
    content = score("gtzan", root, tmp_path / "a", "--model", checkpoint, "--pool", "chunk")
    assert content["module"]["chunk_s"] is None
    assert content["parts"]["hybrid"]["runs"][0]["rule"] == "mean_probability"
    arguments = ("--module", "bands", "--pool", "chunk", "--chunk-seconds", 7)
    content = score("gtzan", root, tmp_path / "b", *arguments)
    # Of 30 s: four windows of 7 s; the last 2 s are less than half a window.
    assert bands.CALLS == [7 * 16_000] * 12
    assert content["module"]["chunk_s"] == 7.0
    assert content["parts"]["scene"]["runs"][0]["rule"] == "mean_probability"


# --- Selection


def make_items(task, rng, per_split=40):
    """Clips whose vectors tell their class, less well in the second half of the features."""
    items, vectors = [], {}
    directions = rng.normal(size=(len(task.labels), 12))
    for split in ("train", "valid", "test"):
        for n in range(per_split):
            number = n % len(task.labels)
            name = f"{split}-{n}"
            items.append(Item(name, name, Path("x.wav"), task.labels[number], split))
            noise = rng.normal(size=12) * np.repeat([0.7, 3.0], 6)
            vectors[name] = (directions[number] + noise).astype(np.float32)[None]
    return items, vectors


def test_shuffled_test_labels_leave_what_is_chosen_unchanged():
    rng = np.random.default_rng(0)
    task = TASKS["gtzan"]
    items, vectors = make_items(task, rng)
    parts = {"square": slice(0, 6), "vertical": slice(6, 12), "hybrid": slice(0, 12)}
    test = [item for item in items if item.split == "test"]
    targets = [test[i].target for i in rng.permutation(len(test))]
    shuffled = [item for item in items if item.split != "test"]
    shuffled += [replace(item, target=t) for item, t in zip(test, targets, strict=True)]

    def choose(clips):
        return probe_vectors(task, {0: clips}, vectors, parts, FAST_GRID, patience=3)

    before, after = choose(items), choose(shuffled)
    name = before.reported
    assert after.reported == name
    for part in parts:
        ((found,),), ((expected,),) = after.chosen[part], before.chosen[part]
        assert found.heads == expected.heads
        assert found.winner == expected.winner
    scores = [probed.results[name].scores["accuracy"][0] for probed in (before, after)]
    assert scores[0] > scores[1] + 0.2


def test_tracks_are_scored_from_their_clips():
    task = TASKS["giantsteps"]
    rng = np.random.default_rng(2)
    items, vectors = make_items(task, rng, per_split=96)
    # 48 tracks of two clips each: 24 keys twice.
    items = [
        replace(item, track_id=f"{item.split}-{int(item.clip_id.split('-')[1]) % 48}")
        for item in items
    ]
    parts = {"scene": slice(0, 12)}
    probed = probe_vectors(task, {0: items}, vectors, parts, FAST_GRID, patience=3)
    run = probed.results["scene"].folds[0][0]
    assert len(run.targets) == 48
    assert run.selection.rule in RULES
    assert run.scores["weighted_key_score"] <= run.scores["weighted_key_score_both_fifths"]


@pytest.fixture
def search(monkeypatch):
    """Lines of a search in which each grid takes so many seconds, on a clock of the test's."""
    task = TASKS["gtzan"]
    items, vectors = make_items(task, np.random.default_rng(2), per_split=20)
    parts = {name: slice(3 * i, 3 * i + 3) for i, name in enumerate("abcd")}

    def run(seconds, grid, n_folds=1, **options):
        now, said = [0.0], []

        def take_time(*arguments, on_stack, **options):
            def pass_on(heads):
                now[0] += seconds * len(heads) / len(grid)
                on_stack(heads)

            return select(*arguments, on_stack=pass_on, **options)

        monkeypatch.setattr(probes, "select", take_time)
        monkeypatch.setattr(probes, "time", SimpleNamespace(monotonic=lambda: now[0]))
        folds = dict.fromkeys(range(n_folds), items)
        probe_vectors(task, folds, vectors, parts, grid, patience=3, say=said.append, **options)
        return said

    return run


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (
            40,
            [
                "heads: b, grid 2 of 4, about 2 min left",
                "heads: c, grid 3 of 4, about 1 min left",
                "heads: d, grid 4 of 4, about 1 min left",
            ],
        ),
        (
            20,
            [
                "heads: b, grid 2 of 4, 11 of 22 heads are trained",
                "heads: d, grid 4 of 4, about 1 min left",
            ],
        ),
        (1, []),
    ],
)
def test_a_long_search_for_heads_says_now_and_then_how_far_it_is(search, seconds, expected):
    # Of two stacks the first ends at half time.
    assert search(seconds, FAST_GRID) == expected


def test_a_full_grid_says_at_once_which_part_it_is_of(search):
    full = GRID[:4]
    assert search(1, full) == ["heads: a, grid 1 of 4"]
    assert search(1, full, n_folds=2, seeds=2) == ["heads: a, fold 0, seed 0, grid 1 of 16"]
    assert search(40, full, n_folds=2, progress=True)[:2] == [
        "heads: a, fold 0, grid 1 of 8",
        "heads: a, fold 1, grid 2 of 8, about 5 min left",
    ]


def test_of_a_grid_that_takes_long_heads_are_counted_unless_a_bar_shows_them(search):
    full = GRID[::27]
    said = search(8 * 35, full)
    grids = [line for line in said if line.startswith("heads: b")]
    assert grids[0] == "heads: b, grid 2 of 4, about 14 min left"
    counted = [int(line.split(", ")[2].split(" ")[0]) for line in grids[1:]]
    assert len(counted) > 1
    assert counted == sorted(set(counted))
    assert counted[-1] < len(full)
    assert grids[1] == f"heads: b, grid 2 of 4, {counted[0]} of {len(full)} heads are trained"
    assert not [line for line in search(8 * 35, full, progress=True) if "trained" in line]


def test_in_a_log_the_command_counts_heads_by_part(bands, emomusic, tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "TELL_S", 0.0)
    result = run("emomusic", emomusic, "--out", tmp_path / "out", "--module", "bands")
    assert "heads: scene, grid 1 of 1, 11 of 22 heads are trained\n" in result.stderr


# --- The cache


def test_an_interrupted_run_goes_on_where_it_stopped(quick, bands, emomusic, tmp_path):
    fault = json.dumps({"fault": "raise", "after": 4})
    arguments = ("--module", "bands", "--batch-size", 1, "--workers", 1)
    options = ("--out", tmp_path / "out", *arguments, "--model-options", fault)
    broken = run("emomusic", emomusic, *options)
    assert broken.exit_code == 2
    assert "clips_45seconds" in broken.output
    assert "out of order" in broken.output
    assert not (tmp_path / "out" / "results.json").exists()
    assert len(bands.CALLS) == 5  # the fifth failed
    bands.CALLS.clear()
    assert run("emomusic", emomusic, *options).exit_code == 0
    assert len(bands.CALLS) == 3


def test_embeddings_are_kept_by_content(quick, bands, emomusic, tmp_path):
    arguments = ("--module", "bands")
    first = score("emomusic", emomusic, tmp_path / "a", *arguments)
    n_sounds = len(bands.CALLS)
    assert n_sounds == 7  # of 10 files: three have the sound of another
    moved = emomusic.rename(tmp_path / "moved")
    second = score("emomusic", moved, tmp_path / "b", *arguments)
    assert len(bands.CALLS) == n_sounds
    assert second["scores"] == first["scores"]
    assert second["data"]["digest"] == first["data"]["digest"]
    # Another sound in one file is embedded, alone.
    write_tone(moved / "clips_45seconds" / "3.mp3", 40, 45.0)
    third = score("emomusic", moved, tmp_path / "c", *arguments)
    assert len(bands.CALLS) == n_sounds + 1
    assert third["data"]["digest"] != first["data"]["digest"]


def test_embeddings_are_made_anew_when_the_model_changes(quick, bands, emomusic, tmp_path):
    def count(*arguments: object) -> int:
        bands.CALLS.clear()
        score("emomusic", emomusic, tmp_path / "out", "--module", "bands", *arguments)
        return len(bands.CALLS)

    assert count() == 7
    assert count() == 0
    assert count("--model-options", '{"gain": 2}') == 7
    assert count("--pool", "chunk", "--chunk-seconds", 45) == 7
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1")
    assert count("--model", weights) == 7
    weights.write_bytes(b"2")
    assert count("--model", weights) == 7
    assert count() == 0
    source = Path(bands.__file__)
    source.write_text(source.read_text() + "\n# changed\n")
    assert count() == 7


def test_a_damaged_block_is_embedded_again(quick, bands, emomusic, tmp_path):
    arguments = ("--module", "bands", "--out", tmp_path / "out")
    assert run("emomusic", emomusic, *arguments).exit_code == 0
    (block,) = (tmp_path / "cache").rglob("*.npz")
    block.write_bytes(block.read_bytes()[:-100])
    bands.CALLS.clear()
    again = run("emomusic", emomusic, *arguments)
    assert again.exit_code == 0
    assert f"{block}: damaged" in again.output
    assert len(bands.CALLS) == 7


# --- Bad input: one line, status 2, nothing written, the cache as it was


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--module", "no_such"), "unknown module no_such"),
        (("--module", "json"), "json is no HEAR module: it has no function load_model"),
        (("--model-options", '{"fault": "load"}'), "load_model failed: RuntimeError: no such"),
        (("--model-options", '{"fault": "nan"}'), "returned NaN or infinity"),
        (("--model-options", '{"fault": "width"}'), "width 23; its scene_embedding_size is 24"),
        (("--model-options", '{"fault": "width", "after": 5}'), "embeddings of width 23"),
        (("--model-options", '{"fault": "list"}'), "returned list, not (n_sounds, width)"),
        (("--model-options", '{"fault": "rank"}'), "not (n_sounds, width)"),
        (("--device", "cuda:99"), "device cuda:99: torch"),
        (("--test-fold", 1), "--test-fold 1: emomusic is not a k-fold task"),
        (("--layout", "marble"), "layout 'marble'"),
        (("--seeds", 3), "--seeds 3: nothing is random in the fast grid"),
    ],
)
def test_bad_input(quick, bands, emomusic, tmp_path, arguments, message):
    result = run(
        "emomusic",
        emomusic,
        *("--out", tmp_path / "out", "--module", "bands", "--batch-size", 1, *arguments),
    )
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("probe: ")]
    assert message in line
    if "after" in str(arguments) or "nan" in str(arguments):
        assert ".mp3: clip" in line
    assert not (tmp_path / "out" / "results.json").exists()
    # What went wrong is not kept.
    bands.CALLS.clear()
    score("emomusic", emomusic, tmp_path / "out", "--module", "bands")


def test_an_incomplete_set_is_refused_unless_allowed(quick, bands, emomusic, tmp_path):
    (emomusic / "clips_45seconds" / "5.mp3").unlink()
    looked = run("emomusic", emomusic, "--check")
    assert looked.exit_code == 2
    assert "9 of 10 clips present" in looked.output
    arguments = ("--module", "bands", "--out", tmp_path / "out")
    refused = run("emomusic", emomusic, *arguments)
    assert refused.exit_code == 2
    (line,) = [line for line in refused.output.splitlines() if line.startswith("probe: ")]
    assert "5.mp3: no such file" in line
    assert refused.output.endswith(f"{line}\n")
    assert not bands.CALLS
    content = score("emomusic", emomusic, tmp_path / "out", "--module", "bands", "--allow-missing")
    assert list(content["data"]["left_out"]) == ["0005"]
    assert "no such file" in content["data"]["left_out"]["0005"]
    assert content["task"]["clips"]["train"] == SIZES["emomusic"]["train"] - 1
    assert "§ Some clips were left out" in (tmp_path / "out" / "results.md").read_text()


def test_a_file_found_faulty_in_the_middle(quick, bands, tmp_path):
    """Both ends decode, which is all that the check looks at; what lies between is NaN."""
    import soundfile

    root = tmp_path / "gtzan"
    root.mkdir()
    BUILDERS["gtzan"]["jukemir"](root)
    path = root / "genres" / "jazz" / "jazz.00001.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    samples[len(samples) // 2] = np.nan
    soundfile.write(path, samples, rate, subtype="FLOAT")
    arguments = ("--module", "bands", "--out", tmp_path / "out")
    refused = run("gtzan", root, *arguments)
    assert refused.exit_code == 2
    assert f"probe: {path}: holds NaN or infinite samples" in refused.output
    content = score("gtzan", root, tmp_path / "out", "--module", "bands", "--allow-missing")
    assert list(content["data"]["left_out"]) == ["jazz.00001"]
    assert content["task"]["clips"]["train"] == SIZES["gtzan"]["train"] - 1


def test_check_looks_and_stops(built, bands, tmp_path):
    result = run("gtzan", built("gtzan", "folder"), "--check", "--module", "no_such")
    assert result.exit_code == 0
    assert "24 of 24 clips present" in result.output
    assert not (tmp_path / "cache").exists()
    result = run("gtzan", built("gtzan", "folder"))
    assert result.exit_code == 2
    assert "--out" in result.output


@pytest.mark.parametrize("split", ["valid", "test"])
def test_features_that_a_probe_makes_nothing_of_are_named(split):
    """What the probe refuses comes out with the task's name."""
    rng = np.random.default_rng(3)
    task = TASKS["gtzan"]
    items, vectors = make_items(task, rng)
    vectors[f"{split}-3"] = vectors[f"{split}-3"] * np.inf
    parts = {"scene": slice(0, 12)}
    with pytest.raises(ExperimentError, match=rf"gtzan: {split}.features: 1 of 40 rows hold NaN"):
        _ = probe_vectors(task, {0: items}, vectors, parts, FAST_GRID, patience=3).results


def test_part_is_chosen_on_validation_not_on_test():
    """The first half is noise on test, the second half is noisy on validation."""
    rng = np.random.default_rng(1)
    task = TASKS["gtzan"]
    items, vectors = make_items(task, rng)
    directions = 3 * rng.normal(size=(len(task.labels), 6))
    for item in items:
        clean = directions[task.labels.index(item.target)]
        noise = rng.normal(size=(2, 6))
        first = noise[0] if item.split == "test" else clean + noise[0]
        second = clean + noise[1] * (6 if item.split == "valid" else 1)
        vectors[item.clip_id] = np.concatenate([first, second])[None]
    parts = {"second": slice(6, 12), "first": slice(0, 6)}
    probed = probe_vectors(task, {0: items}, vectors, parts, FAST_GRID, patience=3)
    assert probed.reported == "first"
    assert probed.valid_scores["first"] > probed.valid_scores["second"]
    results = probed.results
    assert results["first"].valid_score == probed.valid_scores["first"]
    assert results["first"].scores["accuracy"] < results["second"].scores["accuracy"]

"""The table: what is embedded, kept, selected, written and refused."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import mir_eval.key
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from benchmarks.rendered import reading, rows, table
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.probing.heads import FAST_GRID, GRIDS
from myna_plugin.probing.report.tables import markdown
from myna_plugin.probing.tasks import Item, Task
from myna_plugin.probing.tasks.giantsteps import KEYS
from myna_plugin.probing.tasks.hear_format import write_task
from myna_plugin.probing.tasks.task import ClipRule

RATE = 16_000
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}
TRIADS = {"major": (0, 4, 7), "minor": (0, 3, 7)}
COPIES = {"train": 2, "valid": 1, "test": 1}
TAGS = ("loud", "low")

COUNTING = '''
"""A HEAR module for tests: band energies. CALLS counts the clips embedded."""
import torch

CALLS = []

class Bands(torch.nn.Module):
    sample_rate = 16000
    scene_embedding_size = timestamp_embedding_size = 24

def load_model(model_file_path=""):
    return Bands().eval()

def get_scene_embeddings(audio, model):
    CALLS.extend(range(len(audio)))
    bins = torch.fft.rfft(audio[:, :16000], n=16000).abs()[:, 200:1400]
    return torch.log1p(bins.unflatten(1, (24, -1)).mean(2))
'''


def passage(key: str, octave: int) -> np.ndarray:
    """A scale in quavers over its tonic triad, two seconds."""
    tonic, mode = key.split()
    root = 36 + 12 * octave + KEYS.index(f"{tonic} major")
    time = np.arange(2 * RATE) / RATE

    def tone(pitch: int) -> np.ndarray:
        return np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time)

    steps = np.repeat([*SCALES[mode], 12], RATE // 4)
    melody = np.choose(
        np.searchsorted(np.unique(steps), steps), [tone(12 + root + s) for s in np.unique(steps)]
    )
    return melody + sum(tone(root + step) for step in TRIADS[mode])


def describe(name: str, labels: tuple[str, ...], loss: str, metrics: tuple[str, ...]) -> Task:
    rule = ClipRule("2 s", duration_s=2.0)
    return Task(name, name, "test", labels, loss, metrics, metrics[0], {}, "given", rule)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Key, style (octave) and instruments (loudness and octave) of the same clips."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(0)
    targets: dict[str, list] = {name: [] for name in rows.SCENE_TASKS}
    for split, copies in COPIES.items():
        for key in KEYS:
            for copy in range(copies):
                octave, level = rng.integers(1, 4), rng.choice([0.02, 0.2])
                clip = f"{split}-{key.replace(' ', '-')}-{copy}"
                path = folder / ".audio" / f"{clip}.wav"
                path.parent.mkdir(exist_ok=True)
                sound = level * passage(key, octave) + 0.001 * rng.normal(size=2 * RATE)
                soundfile.write(path, sound, RATE, subtype="PCM_16")
                item = partial(Item, clip, clip, path, split=split)
                targets["rendered_key"].append(item(target=key))
                targets["rendered_style"].append(item(target=f"octave {octave}"))
                held = [level > 0.1, octave == 1]
                tags = tuple(tag for tag, is_so in zip(TAGS, held, strict=True) if is_so)
                targets["rendered_instruments"].append(item(target=tags))
    octaves = ("octave 1", "octave 2", "octave 3")
    scene = {
        "rendered_key": describe("rendered_key", KEYS, "cross_entropy", ("accuracy",)),
        "rendered_style": describe("rendered_style", octaves, "cross_entropy", ("accuracy",)),
        "rendered_instruments": describe("rendered_instruments", TAGS, "bce", ("roc_auc_macro",)),
    }
    for name, task in scene.items():
        write_task(task, targets[name], folder / name)
    return folder


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """A grid of two heads, and a cache of the test's own."""
    monkeypatch.setitem(GRIDS, "fast", FAST_GRID[-2:])
    monkeypatch.setenv("MYNA_PLUGIN_CACHE", str(tmp_path / "cache"))
    # As with `python -m`; else tests/benchmarks comes first, where modules are looked for by name.
    monkeypatch.syspath_prepend(str(Path(table.__file__).parents[2]))


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """The module above, importable as `counting`, with nothing embedded yet."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "counting.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    sys.modules.pop("counting", None)
    import counting

    yield counting
    sys.modules.pop("counting", None)


def run(tasks: Path, out: Path, *arguments: object):
    options = [tasks, "--out", out, "--grid", "fast", "--seeds", 1, "--device", "cpu"]
    options += ["--patience", 3]
    return CliRunner().invoke(table.main, [str(o) for o in (*options, *arguments)])


def make(tasks: Path, out: Path, *arguments: object) -> dict:
    result = run(tasks, out, *arguments)
    assert result.exit_code == 0, result.output
    return json.loads((out / "results.json").read_text())["models"]


def test_templates_know_scales_without_training(tasks, tmp_path):
    models = make(tasks, tmp_path, "--baselines", "krumhansl")
    untrained = models["krumhansl"]["rendered_key"]["untrained"]
    assert untrained["weighted_key_score"] > 0.9
    assert models["krumhansl"]["rendered_style"]["untrained"] is None
    rows = [row.split(" | ") for row in (tmp_path / "table.md").read_text().splitlines()]
    (row,) = [row for row in rows if row[0] == "| … untrained"]
    assert row[1] == f"{untrained['weighted_key_score']:.3f}"


def test_untrained_scores_are_mir_evals(tasks):
    (data,) = [d for d in reading.read_tasks(tasks, 1, False) if d.task.labels == KEYS]
    rng = np.random.default_rng(1)
    vectors = {item.clip_id: rng.normal(size=(1, 24)) for item in data.items}
    scores = table.score_untrained(data, vectors)
    expected = [
        mir_eval.key.weighted_score(str(item.target), KEYS[vectors[item.clip_id].argmax()])
        for item in data.items
        if item.split == "test"
    ]
    assert scores["weighted_key_score"] == pytest.approx(np.mean(expected))


def test_key_is_selected_by_the_weighted_score(tasks, tmp_path):
    models = make(tasks, tmp_path, "--baselines", "chroma")
    task = models["chroma"]["rendered_key"]["task"]
    assert task["primary"] == "weighted_key_score"
    assert set(models["chroma"]["rendered_key"]["scores"]) == set(reading.KEY_METRICS)


def test_clips_are_embedded_once_for_all_tasks(tasks, tmp_path, counting):
    make(tasks, tmp_path, "--module", "counting", "--weights", "mine=", "--baselines", "none")
    assert len(counting.CALLS) == 24 * sum(COPIES.values())


def test_second_run_keeps_what_is_there(tasks, tmp_path, counting):
    arguments = ("--module", "counting", "--weights", "mine=", "--baselines", "none")
    before = make(tasks, tmp_path, *arguments)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("mine/*/results.json")}
    assert len(files) == 3
    result = run(tasks, tmp_path, *arguments)
    assert result.output.count("kept from") == 3
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert json.loads((tmp_path / "results.json").read_text())["models"] == before
    again = run(tasks, tmp_path, *arguments, "--seeds", 2)
    assert "kept from" not in again.output
    assert again.exit_code == 0


def test_changed_code_is_scored_anew(tasks, tmp_path, counting):
    arguments = ("--module", "counting", "--weights", "mine=", "--baselines", "none")
    make(tasks, tmp_path, *arguments)
    with Path(counting.__file__).open("a") as file:
        file.write("# another version\n")
    assert "kept from" not in run(tasks, tmp_path, *arguments).output


def test_every_patching_of_a_hybrid_model_has_a_row(tasks, tmp_path):
    config = EncoderConfig(embed_dim=64, depth=1, num_heads=1, mlp_dim=64)
    weights = tmp_path / "tiny.safetensors"
    save_checkpoint(initialise(MynaEncoder(config), seed=0), weights)
    models = make(tasks, tmp_path / "out", "--weights", weights, "--baselines", "none")
    parts = models["tiny"]["rendered_key"]["parts"]
    assert set(parts) == {"square", "vertical", "hybrid"}
    reported = models["tiny"]["rendered_key"]["reported"]
    assert parts[reported]["valid_score"] == max(part["valid_score"] for part in parts.values())
    assert models["tiny"]["rendered_key"]["scores"] == parts[reported]["scores"]
    text = (tmp_path / "out" / "table.md").read_text()
    for part in parts:
        assert f"\n| … {part} |" in text


def content(reported: str, parts: dict[str, tuple[float, float | None]], metric: str) -> dict:
    scores = {p: {metric: {"mean": m, "deviation": d}} for p, (m, d) in parts.items()}
    return {
        "reported": reported,
        "scores": scores[reported],
        "parts": {part: {"scores": scores[part]} for part in parts},
        "untrained": None,
    }


def test_table_golden():
    of_hybrid = {"square": (0.5, 0.01), "hybrid": (0.61234, 0.002)}
    results = {
        "ours": {"rendered_style": content("hybrid", of_hybrid, "accuracy")},
        "mel": {"rendered_style": content("scene", {"scene": (0.4, None)}, "accuracy")},
    }
    assert markdown(rows.table_rows(results)).splitlines() == [
        "| embedding | style, accuracy |",
        "|---|---|",
        "| ours | 0.612 ± 0.002 |",
        "| … square | 0.500 ± 0.010 |",
        "| … hybrid | 0.612 ± 0.002 * |",
        "| mel | 0.400 |",
        "| goal | 0.60 |",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "absent.pt"), "absent.pt: no such file"),
        (("--baselines", "melody"), "--baselines melody: there are mel_statistics"),
        (("--baselines", "none"), "nothing to score"),
        (("--weights", "a=", "--weights", "a="), "two models are called 'a'"),
        (("--model-options", "[1]"), "'--model-options': '[1]' is no JSON object"),
        (("--device", "tpu"), "device tpu: must be"),
    ],
)
def test_bad_arguments_are_one_line(tasks, tmp_path, arguments, message):
    result = run(tasks, tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_folder_without_tasks_is_refused(tmp_path):
    result = run(tmp_path, tmp_path / "out")
    assert result.exit_code == 2
    assert "python -m benchmarks.rendered.tasks" in result.output


def test_missing_audio_is_named(tasks, tmp_path):
    folder = tmp_path / "tasks"
    for path in [p for p in (tasks / "rendered_key").rglob("*") if p.is_file()]:
        copy = folder / path.relative_to(tasks)
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.link(path.resolve(), copy)
    lost = next(folder.rglob("valid-*.wav"))
    lost.unlink()
    result = run(folder, tmp_path / "out")
    assert result.exit_code == 2
    assert str(lost) in result.output

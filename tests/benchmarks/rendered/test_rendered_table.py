"""The table: what is embedded, kept, selected, written and refused."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from benchmarks.rendered import rows, table
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.model.encoder import EncoderConfig, MynaEncoder, initialise
from myna_plugin.probing.heads import FAST_GRID, GRIDS
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

"""The claims: what is trained for them, and what scores say of them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.rendered import claims
from myna_plugin.pretraining.run.configuration import apply_file, read_yaml, to_yaml
from myna_plugin.pretraining.run.settings import PretrainSettings

BASE = apply_file(PretrainSettings(), claims.SETTINGS, read_yaml(claims.SETTINGS))
KEY, STYLE = claims.KEY, claims.STYLE


@pytest.mark.parametrize("variant", claims.VARIANTS)
def test_variants_are_runs_that_see_as_many_examples(variant):
    settings = claims.variant_settings(BASE, variant, seed=2)
    assert settings.seed == 2
    assert settings.max_steps * settings.batch_size == BASE.max_steps * BASE.batch_size
    alike = {field for field in settings.to_mapping() if field not in ("seed", "max_steps")}
    changed = {f for f in alike if getattr(settings, f) != getattr(BASE, f)}
    assert changed == set(claims.VARIANTS[variant])


def test_a_claim_is_judged_seed_by_seed_of_those_that_both_have():
    claim = claims.Claim("", "vertical", "square", KEY)
    results = {
        "vertical": {0: {KEY: 0.7, STYLE: 0.1}, 1: {KEY: 0.8, STYLE: 0.1}, 2: {KEY: 0.6}},
        "square": {0: {KEY: 0.6, STYLE: 0.9}, 2: {KEY: 0.5}, 3: {KEY: 0.9}},
    }
    assert claims.compare(claim, results) == pytest.approx([0.1, 0.1])
    assert claims.judge(claims.compare(claim, results)) == "too few seeds"
    results["square"][1] = {KEY: 0.9}
    assert claims.judge(claims.compare(claim, results)) == "undecided"
    assert claims.compare(claim, {"square": results["square"]}) == []


@pytest.fixture
def faked(monkeypatch):
    """Training and scoring without either: the score of a run follows from its settings."""
    trained = []

    def train(settings, store, run):
        trained.append(run.parent.name)
        run.mkdir(parents=True)
        run.with_name(claims.SETTINGS_COPY).write_text(to_yaml(settings))
        (run / "score").write_text(str(0.5 + 0.1 * len(settings.patchings) + 0.01 * settings.seed))
        return run / "score"

    def make_table(contestants, tasks, out, protocol, **options):
        (contestant,) = contestants
        score = {"mean": float(Path(contestant.model_file).read_text())}
        task = {"scores": {KEY[1]: score, "top1_acc": {"mean": 0.0}}}
        (out / "results.json").write_text(json.dumps({"models": {contestant.name: {KEY[0]: task}}}))

    monkeypatch.setattr(claims, "train", train)
    monkeypatch.setattr(claims, "read_tasks", lambda *_, **__: [])
    monkeypatch.setattr(claims, "make_table", make_table)
    return trained


def test_runs_are_made_once_and_reported(tmp_path, faked):
    out = tmp_path / "out"
    arguments = [str(tmp_path), str(tmp_path), "--out", str(out), "--variants"]
    first = CliRunner().invoke(claims.main, [*arguments, "hybrid,vertical", "--seeds", "2"])
    assert first.exit_code == 0, first.output
    assert faked == ["hybrid-0", "vertical-0", "hybrid-1", "vertical-1"]
    row = "| hybrid keeps vertical's key | key, weighted | 0.705 ± 0.007 | 0.605 ± 0.007 |"
    assert f"{row} 0.100 ± 0.000 | too few seeds |" in first.output
    assert "| variant | seeds | key, weighted |\n" in first.output  # what was scored, no more
    again = CliRunner().invoke(claims.main, [*arguments, "hybrid,vertical", "--seeds", "3"])
    assert faked[4:] == ["hybrid-2", "vertical-2"]
    assert "| 0.100 ± 0.000 | holds |" in again.output
    assert (out / "claims.md").read_text() in again.output
    report = CliRunner().invoke(claims.main, [*arguments, "all", "--only-report"])
    assert report.exit_code == 0, report.output
    assert len(faked) == 6
    assert "| 0.100 ± 0.000 | holds |" in report.output
    for more in ([], ["--only-report"]):
        other = CliRunner().invoke(claims.main, [*arguments, "hybrid", "max_steps=7", *more])
        assert other.exit_code == 2
        assert f"{out / 'hybrid-0' / 'settings.yaml'}: that run had other settings" in other.output
    assert len(faked) == 6
    assert (out / "claims.md").read_text() in report.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants", "triangle"], "--variants triangle: there are hybrid, square"),
        (["batch_sise=8"], "did you mean batch_size"),
        (["--only-report"], "no run is done"),
        (["batch_size=100"], "multiple of clips_per_block=16"),
    ],
)
def test_bad_input_is_one_line(tmp_path, more, message):
    options = ["--out", str(tmp_path / "out"), *more]
    result = CliRunner().invoke(claims.main, [str(tmp_path), str(tmp_path), *options])
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1

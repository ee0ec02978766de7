"""A real cluster of one node: the rows are those of one machine."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_library import same, write_model, write_noise

from myna_plugin.cli.main import main
from myna_plugin.library.ray_engine import _UnitEmbedder
from myna_plugin.library.table import read_library


def embed(folder, out, model, *options):
    arguments = ["embed", folder, "--out", out, "--model", model, "--device", "cpu", *options]
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.mark.slow
def test_ray_gives_the_rows_of_one_machine(tmp_path):
    pytest.importorskip("ray.data", reason="needs Ray: pip install 'ray[data]'")
    folder, model = tmp_path / "music", write_model(tmp_path)
    for i in range(100):
        write_noise(folder / f"{i:03d}.wav", 1_000 + 911 * i, i)
    (folder / "007.wav").write_bytes(b"no audio")
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    assert embed(folder, here, model).exit_code == 1

    result = embed(folder, there, model, "--engine", "ray", "--workers", "1")

    assert result.exit_code == 1, result.output
    assert "007.wav: cannot be decoded" in result.output
    assert same(read_library(here), read_library(there))
    assert here.read_bytes() == there.read_bytes()


class ActorHere:
    """`RayEngine` with one actor, in this process."""

    def __init__(self, model, facts, *, workers, batch_seconds):
        self.actor = _UnitEmbedder(model, facts, 1, batch_seconds)

    def run(self, units, progress):
        for unit in units:
            batch = {"number": np.array([0]), "tracks": np.array([json.dumps(unit.tracks)])}
            yield unit, self.actor(batch)["content"][0]


def test_an_actor_has_the_options_of_timestamps(tmp_path, monkeypatch):
    track, model = write_noise(tmp_path / "a.wav", 70_000), write_model(tmp_path)
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    options = ["--timestamps", "--hop-ms", "500", "--timestamp-layer", "1"]
    monkeypatch.setattr("myna_plugin.library.ray_engine.RayEngine", ActorHere)

    assert embed(track, here, model, *options).exit_code == 0
    assert embed(track, there, model, *options, "--engine", "ray").exit_code == 0

    assert here.read_bytes() == there.read_bytes()


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    track = write_noise(tmp_path / "a.wav", 1_000)

    result = embed(track, tmp_path / "a.parquet", write_model(tmp_path), "--engine", "ray")

    assert result.exit_code == 2
    assert "pip install 'myna-plugin[ray]'" in result.output


def test_ray_and_shards_exclude_each_other(tmp_path):
    options = ["--engine", "ray", "--shard", "1/2"]
    result = embed("a.wav", tmp_path / "a.parquet", write_model(tmp_path), *options)

    assert result.exit_code == 2
    assert "leave --shard out" in result.output

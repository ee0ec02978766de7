"""The recipes command: what the package carries is listed, found by name, and copied whole."""

import pytest
from commands import run_command
from full_disk import full_disk

from myna_plugin.cli.pretrain import pretrain
from myna_plugin.cli.recipe_files import FILES, Recipe, list_recipes
from myna_plugin.cli.recipes import recipes
from myna_plugin.cli.sweep import sweep


def contents(folder):
    """Names and bytes of the files under a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_file_belongs_to_a_recipe_and_names_are_unique():
    files = {path for path in FILES.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    paths = [recipe.path for recipe in list_recipes().values()]
    assert {f for p in paths for f in ([p] if p.is_file() else p.rglob("*"))} >= files
    stems = [path.stem for path in files if path.parent.name in ("pretrain", "sweeps")]
    assert len(stems) == len(set(stems)) == len(paths) - 2


def test_all_are_listed_with_what_takes_them():
    status, said, _ = run_command(recipes)
    assert status == 0
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert list(lines) == list(list_recipes())
    assert lines["smoke"].endswith(" 28 s for 22 clips on 2 CPU cores (2026-11-22)")
    assert "  myna pretrain --config default  " in lines["default"]
    assert lines["default"].endswith("  12 min 58 s")
    assert "  myna sweep mask_ratio  " in lines["mask_ratio"]
    assert lines["marble"].endswith("MARBLE: its README.md says how")
    assert run_command(recipes, "smoke")[1].startswith("smoke  myna pretrain")


def test_what_is_listed_is_what_commands_take():
    status, said, _ = run_command(pretrain, "--config", "smoke", "--print-config")
    assert (status, "max_steps: 100\n" in said) == (0, True)
    for command, arguments, known in (
        (pretrain, ["--config", "smok", "--print-config"], "base"),
        (pretrain, ["--config", "mask_ratio", "--print-config"], "base"),
        (sweep, ["smoke", "--store", "s", "--out", "o"], "mask_ratio"),
    ):
        status, _, errors = run_command(command, *arguments)
        assert (status, errors.count("\n")) == (2, 1)
        assert "no such file, and none of " in errors
        assert known in errors
    status, _, errors = run_command(sweep, "mask_ratio", "--store", "no-store", "--out", "o")
    assert (status, "no-store" in errors) == (2, True)


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke").write_text("max_steps: 7\n")
    assert "max_steps: 7\n" in run_command(pretrain, "--config", "smoke", "--print-config")[1]


def test_copies_are_the_files(tmp_path):
    status, said, _ = run_command(recipes, "base", "marble", "base", "--out", tmp_path / "mine")
    assert (status, said) == (0, f"{tmp_path}/mine/base.yaml\n{tmp_path}/mine/marble\n")
    assert (tmp_path / "mine" / "base.yaml").read_bytes() == (
        FILES / "pretrain" / "base.yaml"
    ).read_bytes()
    assert contents(tmp_path / "mine" / "marble") == contents(FILES / "marble")
    assert run_command(recipes, "--out", tmp_path / "all")[0] == 0
    assert len(list((tmp_path / "all").iterdir())) == len(list_recipes())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "base.yaml").write_text("mine")
    status, _, errors = run_command(recipes, "vertical", "base", "--out", tmp_path)
    assert (status, errors) == (
        2,
        f"recipes: {tmp_path}/base.yaml: already there; take another --out\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["base.yaml"]
    status, said, errors = run_command(recipes, "bas", "--out", tmp_path / "new")
    assert (status, said, "bas: no recipe; known are base, " in errors) == (2, "", True)
    assert not (tmp_path / "new").exists()


def test_nothing_is_half_there(tmp_path, monkeypatch):
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "file").write_bytes(bytes(10_000))
    big = {"big": Recipe("big", tmp_path / "big", "")}
    monkeypatch.setattr("myna_plugin.cli.recipes.list_recipes", lambda: big)
    with full_disk():
        status, _, errors = run_command(recipes, "big", "--out", tmp_path / "full")
    assert (status, errors) == (1, f"recipes: {tmp_path}/full/big: File too large\n")
    assert list((tmp_path / "full").iterdir()) == []


@pytest.mark.parametrize("name", ["marble", "xares"])
def test_a_folder_is_not_settings(name):
    assert run_command(pretrain, "--config", name, "--print-config")[0] == 2

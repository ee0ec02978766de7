"""What is installed is what is needed: versions, the wheel, its data, its imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import myna_plugin

ROOT = Path(__file__).parent.parent

NOT_IN_CI = {"ray"}
"""Too heavy for CI, which cannot see there what it needs; that is pinned by hand."""

KERNELS = "myna_plugin.pretraining.step.kernels"

IMPORT_ALL = """
import importlib, pkgutil, sys
import myna_plugin

names = ["myna_plugin"]
names += [m.name for m in pkgutil.walk_packages(myna_plugin.__path__, "myna_plugin.")]
for name in names:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Triton comes with CUDA builds of torch alone; nothing imports the kernels without it.
        assert (name, error.name) == ("myna_plugin.pretraining.step.kernels", "triton"), error
        continue
    assert module.__spec__.origin.startswith(sys.argv[1]), module.__spec__.origin
print(*names, sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive built from the checkout; without the network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    """Names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def requirements(wheel: Path) -> list[Requirement]:
    """What the wheel's metadata asks for, extras included."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        fields = Parser().parsestr(archive.read(name).decode())
    assert fields["Version"] == myna_plugin.__version__
    return [Requirement(text) for text in fields.get_all("Requires-Dist", [])]


def constraints() -> dict[str, Requirement]:
    """The pins of constraints.txt that hold for this Python, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(pin.name): pin
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def test_every_module_of_the_wheel_imports_outside_the_checkout(
    wheel: Path, tmp_path: Path
) -> None:
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)

    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(target)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
    )

    assert result.returncode == 0, result.stderr
    sources = (p for p in (ROOT / "myna_plugin").rglob("*.py") if "files" not in p.parts)
    names = (".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sources)
    in_checkout = {name.removesuffix(".__init__") for name in names}
    imported = set(result.stdout.split())
    # Modules of a package that cannot be imported are not walked to.
    kernels = {name for name in in_checkout - imported if name.startswith(f"{KERNELS}.")}
    assert imported == in_checkout - kernels


def test_wheel_holds_the_package_and_nothing_else(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}

    assert tops == {"myna_plugin", f"myna_plugin-{myna_plugin.__version__}.dist-info"}
    assert "myna_plugin/py.typed" in wheel_names
    assert "myna_plugin/model/weights/default.safetensors" in wheel_names
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)
    # The makers whose music the packaged weights heard: CC BY asks for their names beside it.
    assert any(name.endswith("licenses/docs/model.md") for name in wheel_names)


def test_wheel_holds_the_recipes(wheel_names: set[str]) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "myna_plugin" / "recipes" / "files").rglob("*.*")
        if path.suffix != ".pyc"
    }

    assert len(files) > 15
    assert {name for name in wheel_names if name.startswith("myna_plugin/recipes/files")} == files


def test_the_page_of_the_index_has_no_dead_link(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        fields = Parser().parsestr(archive.read(name).decode())
    page = fields.get_payload()
    named = re.findall(r"\(`([^`#]+)[^`]*`\)|, `([^`]+)`\)", page)

    assert fields["Author"]
    assert set(re.findall(r"\]\(([^)]*)\)", page)) == {"https://hearbenchmark.com"}
    assert len(named) > 10
    assert [file for pair in named for file in pair if file and not (ROOT / file).exists()] == []


def test_the_tests_of_the_source_archive_run(wheel: Path, tmp_path: Path) -> None:
    (archive,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    for top in ("tests", "benchmarks", "recipes", "docs", "tools"):
        missing = [
            path
            for path in (ROOT / top).rglob("*")
            if path.is_file()
            and path.suffix != ".pyc"
            and not (unpacked / path.relative_to(ROOT)).is_file()
        ]
        assert missing == []
    tests = ["tests/test_layers.py", "tests/test_golden.py", "tests/test_documents.py"]
    tests += ["-k", "not import"]  # what imports load is told of the checkout and of the wheel

    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        capture_output=True,
        text=True,
        cwd=unpacked,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_wheel_holds_every_clip_of_the_demo_tasks(wheel: Path, wheel_names: set[str]) -> None:
    folder = "myna_plugin/hear_eval/demo_tasks"
    with zipfile.ZipFile(wheel) as archive:
        splits = [n for n in wheel_names if re.match(rf"{folder}/[^/]+/(train|valid|test).json", n)]
        clips = {
            f"{Path(split).parent}/16000/{Path(split).stem}/{Path(clip).stem}.ogg"
            for split in splits
            for clip in json.loads(archive.read(split))
        }

    assert len(splits) == 6
    assert clips == {name for name in wheel_names if name.endswith(".ogg")}


def test_console_script_and_entry_point_are_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        lines = archive.read(name).decode().splitlines()

    assert "hear-eval = myna_plugin.hear_eval.__main__:main" in lines
    assert "myna = myna_plugin.cli.__main__:main" in lines
    assert {"myna = myna_plugin", "mfcc = myna_plugin.peers.mfcc"} <= set(lines)


def test_constraints_pin_one_version_each_and_name_no_place() -> None:
    text = (ROOT / "constraints.txt").read_text()

    assert constraints()["torch"].specifier == Requirement("torch==2.13.0").specifier
    assert "+" not in text
    assert "://" not in text
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in constraints().values())


def test_constraints_meet_every_requirement(requirements: list[Requirement]) -> None:
    pins = constraints()

    for requirement in requirements:
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), requirement


def test_constraints_pin_what_the_requirements_need_in_turn(
    requirements: list[Requirement],
) -> None:
    pins, todo, seen = constraints(), list(requirements), set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen or key[0] == "myna-plugin":
            continue
        seen.add(key)
        if key[0] in NOT_IN_CI:
            continue
        for text in metadata.requires(key[0]) or ():
            needed = Requirement(text)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in (*requirement.extras, "")
            ):
                todo.append(needed)

    # A CUDA build of torch pins its own libraries; they are different on every kind of machine.
    needed_names = {name for name, _ in seen if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert len(needed_names) > 50
    assert needed_names - set(pins) == set()

"""What is installed is what is needed: versions, the wheel, its data, its imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
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
    sources = (ROOT / "myna_plugin").rglob("*.py")
    names = (".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sources)
    in_checkout = {name.removesuffix(".__init__") for name in names}
    imported = set(result.stdout.split())
    # Modules of a package that cannot be imported are not walked to.
    kernels = {name for name in in_checkout - imported if name.startswith(f"{KERNELS}.")}
    assert imported == in_checkout - kernels

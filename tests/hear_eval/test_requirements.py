"""What is missing, and the exact commands that add it."""

import importlib_metadata
import pytest

from myna_plugin.common.errors import InputError
from myna_plugin.hear_eval import requirements
from myna_plugin.hear_eval.requirements import check_requirements

HEAREVAL = "pip install --no-deps heareval==2021.1.3"
NEEDS = 'pip install "myna-plugin[hear-eval]"'


@pytest.fixture
def missing(monkeypatch):
    """A function that makes modules look as if they were not installed."""

    def hide(*names):
        found = requirements.is_installed
        monkeypatch.setattr(
            requirements, "is_installed", lambda name: name not in names and found(name)
        )

    return hide


def complaint(cuda=False):
    with pytest.raises(InputError) as caught:
        check_requirements(cuda)
    (line,) = caught.value.lines
    return line


def test_nothing_to_say_where_all_is_there():
    check_requirements(cuda=False)


def test_heareval_alone(missing):
    missing("heareval")
    assert complaint() == f"heareval is not installed. Run: {HEAREVAL}"


def test_its_needs_alone(missing):
    missing("sed_eval", "slugify")
    assert complaint() == (f"heareval needs python-slugify, sed_eval, not installed. Run: {NEEDS}")


def test_everything(missing):
    missing("heareval", *requirements.NEEDS)
    assert complaint().endswith(f"Run: {HEAREVAL} && {NEEDS}")


def test_setuptools_without_pkg_resources(missing):
    missing("pkg_resources")
    assert "setuptools below 81" in complaint()


def test_pynvml_is_needed_beside_cuda_alone(missing):
    missing("pynvml")
    check_requirements(cuda=False)
    assert "nvidia-ml-py" in complaint(cuda=True)


def test_lightning_2_will_not_do(monkeypatch):
    monkeypatch.setattr(importlib_metadata, "version", lambda name: "2.5.1")
    assert complaint() == (
        f"pytorch-lightning 2.5.1 is installed, heareval needs 1.9.5. Run: {NEEDS}"
    )

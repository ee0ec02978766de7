"""Entry points: found, named, never imported, and no broken one is fatal."""

import os
import subprocess
import sys

import importlib_metadata
import pytest

from myna_plugin.common.errors import InputError
from myna_plugin.common.registry import HearModel, find_fault, list_models, resolve


@pytest.fixture
def add_distribution(import_folder):
    """A function that installs a fake distribution: metadata alone, or with modules."""

    def add(name, entries, version="1.2", metadata=None, modules=()):
        folder = import_folder / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        if metadata is None:
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        if metadata:
            (folder / "METADATA").write_text(metadata)
        text = entries if isinstance(entries, bytes) else f"[hear.models]\n{entries}\n".encode()
        (folder / "entry_points.txt").write_bytes(text)
        for module in modules:
            path = import_folder.joinpath(*module.split("."))
            path.mkdir(parents=True)
            (path / "__init__.py").write_text("raise RuntimeError('imported')\n")

    return add


def named(name):
    return [model for model in list_models() if model.name == name]


def can_hold(value):
    """Whether importlib_metadata makes an entry point with this value."""
    try:
        importlib_metadata.EntryPoint("name", value, "group")
    except ValueError:
        return False
    return True


def test_lists_name_module_distribution_and_version(add_distribution):
    add_distribution("panns-hear", "panns = panns_hear", modules=["panns_hear"])
    assert named("panns") == [HearModel("panns", "panns_hear", "panns-hear", "1.2")]


def test_listing_and_resolving_import_nothing(add_distribution):
    # every module of these fake distributions raises when it is imported
    add_distribution("deep-hear", "deep = deep.models.hear", modules=["deep.models.hear"])
    (model,) = named("deep")
    assert model.fault is None
    assert resolve("deep", [model]) is model
    assert "deep" not in sys.modules


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ("broken = no_such_module", "no module no_such_module"),
        ("broken = json.no_such_module", "no module json.no_such_module"),
        pytest.param(
            "broken = not a path!",
            "not an import path",
            marks=pytest.mark.skipif(
                not can_hold("not a path!"),
                reason="this importlib_metadata reads no entry points beside such a one",
            ),
        ),
        ("broken = panns_hear:load_model", "no module panns_hear.load_model"),
    ],
)
def test_broken_entry_is_listed_with_its_fault_beside_the_good(add_distribution, entries, fault):
    add_distribution("good-hear", "good = good_hear", modules=["good_hear", "panns_hear"])
    add_distribution("broken-hear", entries)
    assert fault in named("broken")[0].fault
    assert named("good")[0].fault is None


@pytest.mark.parametrize(
    "entries", [b"[hear.models]\nno equals sign\n", b"[hear.models]\nx = \xff"]
)
def test_unreadable_entry_points_are_reported_not_fatal(add_distribution, entries):
    add_distribution("good-hear", "good = good_hear", modules=["good_hear"])
    add_distribution("unreadable-hear", entries)
    assert named("good")[0].fault is None
    (broken,) = [model for model in list_models() if model.distribution == "unreadable-hear"]
    assert "cannot be read" in broken.fault


@pytest.mark.parametrize("metadata", ["", "Metadata-Version: 2.1\n"])
def test_distribution_without_a_name_is_not_fatal(add_distribution, metadata):
    add_distribution("nameless", "nameless = nameless_hear", metadata=metadata)
    add_distribution("good-hear", "good = good_hear", modules=["good_hear"])
    assert named("good")[0].fault is None


def test_our_names_cannot_be_taken(add_distribution):
    add_distribution("aaa-hear", "mine = aaa_hear", modules=["aaa_hear"])
    add_distribution("Myna_Plugin", "mine = our_hear", version="9", modules=["our_hear"])
    ours, theirs = named("mine")
    assert (ours.distribution, ours.fault) == ("Myna_Plugin", None)
    assert "Myna_Plugin already has this name" in theirs.fault
    assert resolve("mine", list_models()).module == "our_hear"


def test_our_import_paths_cannot_be_taken(add_distribution):
    add_distribution("evil-hear", "myna_plugin = evil_hear", modules=["evil_hear"])
    assert resolve("myna_plugin", list_models()).module == "myna_plugin"


def test_registered_name_goes_before_an_import_path_of_that_name(add_distribution):
    add_distribution("panns-hear", "panns = panns_hear", modules=["panns_hear", "panns"])
    assert resolve("panns", list_models()).module == "panns_hear"


def test_import_path_need_not_be_registered(add_distribution):
    add_distribution("other", b"", modules=["unregistered"])
    assert resolve("unregistered", []).module == "unregistered"


def test_package_and_module_with_a_colon_is_that_submodule(add_distribution):
    add_distribution("colon-hear", "colon = colon:hear", modules=["colon.hear"])
    assert named("colon")[0].module == "colon.hear"


@pytest.mark.parametrize("files", [["hear.py"], ["__init__.py", "hear.py"]])
def test_a_namespace_may_lie_in_several_folders(import_folder, monkeypatch, files):
    """As for `import`: all portions of a namespace count, and a package goes before them."""
    (import_folder / "space" / "models").mkdir(parents=True)
    other = import_folder / "other" / "space" / "models"
    other.mkdir(parents=True)
    for name in files:
        (other / name).touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(import_folder / "other")])
    command = [sys.executable, "-c", "import space.models.hear"]
    subprocess.run(command, env={"PYTHONPATH": os.pathsep.join(sys.path)}, check=True)
    assert find_fault("space.models.hear") is None
    assert find_fault("space.models.gone") == "there is no module space.models.gone"
    assert "space" not in sys.modules


def test_unknown_module_is_bad_input_and_names_what_there_is(add_distribution):
    add_distribution("panns-hear", "panns = panns_hear", modules=["panns_hear"])
    with pytest.raises(InputError, match=r"unknown module pans: .*registered: .*panns"):
        resolve("pans", list_models())


def test_broken_entry_that_is_asked_for_is_bad_input(add_distribution):
    add_distribution("broken-hear", "broken = no_such_module")
    with pytest.raises(InputError, match=r"broken-hear 1\.2.*no_such_module.*reinstall"):
        resolve("broken", list_models())

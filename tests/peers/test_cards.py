"""Every peer is one file with a card, one entry point, and one row of the documents."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from myna_plugin import hear
from myna_plugin.common import registry
from myna_plugin.common.registry import HearModel, describe_needs
from myna_plugin.model.identity import digest_code
from myna_plugin.peers import chroma, mfcc
from myna_plugin.peers.card import Card, LicenceWarning

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "peers.md"
FILES = [
    path
    for path in sorted((ROOT / "myna_plugin" / "peers").glob("*.py"))
    if re.search(r"^CARD\b", path.read_text(), re.MULTILINE)
]
NAMES = [path.stem.replace("_", "-") for path in FILES]


def read_entry_names():
    """The names in the loop of setup.py."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.GeneratorExp) and "peers" in ast.unparse(node.elt):
            return list(ast.literal_eval(node.generators[0].iter))
    return None


def test_every_peer_is_an_entry_point():
    assert read_entry_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_card_tells_what_a_reader_needs(name):
    module = importlib.import_module(f"myna_plugin.peers.{name.replace('-', '_')}")
    card = module.CARD
    assert card.name == name
    assert card.source
    (row,) = re.findall(rf"^\| `{name}` \|.*$", DOCUMENT.read_text(), re.MULTILINE)
    assert f"| {card.rule.partition(';')[0]} |" in row
    assert card.repository in row
    assert card.weights_licence in row
    assert re.match(r"[\d.]+ kHz; ", card.rule)
    assert bool(card.weights_licence) == bool(card.repository or card.address)
    assert "\n" not in card.needs()
    assert callable(module.load_model)
    assert callable(module.get_scene_embeddings)


def test_only_cards_of_ours_are_read(monkeypatch):
    monkeypatch.setattr(registry.importlib, "import_module", lambda name: pytest.fail(name))
    assert describe_needs(HearModel("a", "somebodys.hear", "somebodys", "1")) == ""


def test_what_is_missing_is_told(monkeypatch):
    card = Card("x", "", "", package="no_such_package", install="no-such", weights_licence="")
    monkeypatch.setattr(mfcc, "CARD", card)
    ours = HearModel("mfcc", "myna_plugin.peers.mfcc", "myna-plugin", "1")
    assert describe_needs(ours) == "needs no_such_package: pip install no-such"


def test_terms_are_told_where_they_forbid_commerce(recwarn):
    Card("x", "", "", weights_licence="Apache-2.0").tell_terms()
    assert not recwarn
    with pytest.warns(LicenceWarning, match=r"x are under CC BY-NC 4.0, not for commercial use"):
        Card("x", "", "", weights_licence="CC BY-NC 4.0", commercial=False).tell_terms()


def test_the_code_of_a_peer_is_part_of_its_identity(tmp_path, monkeypatch):
    before = digest_code(chroma)
    assert before == digest_code(mfcc) != digest_code(hear)
    (tmp_path / "chroma.py").write_text("changed")
    monkeypatch.setattr(chroma, "__file__", str(tmp_path / "chroma.py"))
    assert digest_code(chroma) != before

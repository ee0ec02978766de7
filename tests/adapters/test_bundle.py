"""One file out of several modules: what is taken along, and what cannot be."""

from __future__ import annotations

import ast
import importlib
import importlib.util

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed (extra transformers)",
)


@pytest.fixture
def bundle():
    return importlib.import_module("myna_plugin.adapters.transformers.bundle")


@pytest.fixture
def write(bundle, monkeypatch):
    """Writes modules of ours that are texts."""
    texts = {}
    monkeypatch.setattr(bundle.Source, "of", lambda name: bundle.Source(name, texts[name]))
    return texts.update


def test_what_is_needed_is_taken_in_order_and_nothing_else(bundle, write):
    write(
        {
            "myna_plugin.top": "from math import pi\nimport heavy\n"
            "from myna_plugin.low import WIDTH, halve\n\n\n"
            "@staticmethod\ndef area(r=WIDTH):\n    return pi * halve(r)\n\n\n"
            "def unused():\n    return heavy\n",
            "myna_plugin.low": "import os\nWIDTH = 4\n'''Of it.'''\n\n"
            "OTHER = 5\n\ndef halve(x):\n    # A reason.\n    return x / 2\n",
        }
    )
    text = bundle.bundle_source("myna_plugin.top", ("area",), "Head.")
    assert text == (
        '"""Head."""\n\nfrom __future__ import annotations\n\nfrom math import pi\n\n\n'
        "WIDTH = 4\n'''Of it.'''\n\n\ndef halve(x):\n    # A reason.\n    return x / 2\n\n\n"
        "@staticmethod\ndef area(r=WIDTH):\n    return pi * halve(r)\n"
    )


def test_a_name_of_two_meanings_is_refused(bundle, write):
    write(
        {
            "myna_plugin.top": "from myna_plugin.low import f\n_g = 1\ndef h():\n    f(_g)\n",
            "myna_plugin.low": "_g = 2\ndef f():\n    return _g\n",
        }
    )
    with pytest.raises(bundle.BundleError, match=r"_g is of myna_plugin\.\w+, elsewhere"):
        bundle.bundle_source("myna_plugin.top", ("h",), "Head.")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("def f():\n    from myna_plugin.low import g\n    return g\n", "inside a function"),
        ("def f():\n    import myna_plugin.low\n", "inside a function"),
        ("from myna_plugin.low import g as h\ndef f():\n    return h\n", "imports g as h"),
    ],
)
def test_imports_that_cannot_be_followed_are_refused(bundle, write, text, fault):
    write({"myna_plugin.top": text})
    with pytest.raises(bundle.BundleError, match=fault):
        bundle.bundle_source("myna_plugin.top", ("f",), "Head.")


def test_the_exported_module_imports_what_a_user_of_transformers_has(bundle):
    export = importlib.import_module("myna_plugin.adapters.transformers.export")
    text = bundle.bundle_source(
        export.modeling_myna.__name__, tuple(export.AUTO_MAP.values()), "Head."
    )
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or node.names[0].name]
    }
    assert imported & {"torch", "transformers", "nnAudio"} == {"torch", "transformers", "nnAudio"}
    others = imported - {"torch", "transformers", "nnAudio"}
    assert others <= set(importlib.import_module("sys").stdlib_module_names)

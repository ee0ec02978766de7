"""Doctests as sections of the documents: a griffe extension, named in mkdocs.yml.

Our docstrings end with their doctests, without a heading; the documents' Google style wants one.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe


def with_heading(docstring: str) -> str:
    r"""The docstring with "Examples:" above its doctests.

    >>> with_heading("Add.\n\n>>> 1 + 1\n2")
    'Add.\n\nExamples:\n    >>> 1 + 1\n    2'
    """
    start = re.search(r"^>>> ", docstring, re.MULTILINE)
    if start is None:
        return docstring
    examples = textwrap.indent(docstring[start.start() :], "    ")
    return f"{docstring[: start.start()]}Examples:\n{examples}"


class DocstringExamples(griffe.Extension):
    """Gives every docstring's doctests their heading."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = with_heading(obj.docstring.value)

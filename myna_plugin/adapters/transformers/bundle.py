"""One file of source out of the package's: some names of a module and all that they need.

Definitions are copied as they stand. A name is taken along where a definition mentions it, whatever
it means there: rather too much than too little.
"""

from __future__ import annotations

import ast
import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path

from myna_plugin.common.registry import OUR_PACKAGE


class BundleError(RuntimeError):
    """Source that cannot stand in one file; a fault of ours."""


@dataclass(frozen=True)
class Source:
    """A module of ours as text."""

    module: str
    text: str

    @classmethod
    def of(cls, module: str) -> Source:
        """Read a module's source, without importing the module itself."""
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise BundleError(f"{module}: has no source")
        return cls(module, Path(spec.origin).read_text(encoding="utf-8"))

    @cached_property
    def statements(self) -> list[ast.stmt]:
        """What stands at the outermost level."""
        return ast.parse(self.text).body

    @cached_property
    def definitions(self) -> dict[str, ast.stmt]:
        """Names -> the statement that defines each."""
        return {name: statement for statement in self.statements for name in _defined(statement)}

    @cached_property
    def imports(self) -> dict[str, tuple[str, ast.alias]]:
        """Names -> the module that each is imported from, "" for modules, and how."""
        return {
            alias.asname or alias.name: (getattr(statement, "module", ""), alias)
            for statement in self.statements
            if isinstance(statement, ast.Import | ast.ImportFrom)
            for alias in statement.names
        }

    def copy(self, names: set[str]) -> Iterator[str]:
        """The lines of the definitions of names, and what is said of a constant below it."""
        lines = self.text.splitlines()
        for statement, following in zip(self.statements, [*self.statements[1:], None], strict=True):
            if names.isdisjoint(_defined(statement)):
                continue
            decorators = getattr(statement, "decorator_list", [])
            first = min(node.lineno for node in (statement, *decorators))
            told = following if isinstance(following, ast.Expr) else statement
            yield "\n".join(lines[first - 1 : told.end_lineno])


def bundle_source(module: str, names: tuple[str, ...], head: str) -> str:
    """The source of some names and of all that they need, to stand in one file.

    Args:
        module: import path of the module of ours that defines them.
        names: of definitions at its outermost level.
        head: the docstring of the file.

    Returns:
        Python that imports nothing of ours.

    Raises:
        BundleError: a name means two things, or something of ours is imported under another name
            or inside a function.
    """
    sources: dict[str, Source] = {}
    taken: dict[str, set[str]] = defaultdict(set)  # module of ours -> names
    foreign: dict[str, set[str]] = defaultdict(set)  # other module, "" for none -> names
    needs: dict[str, set[str]] = {module: set()}  # module of ours -> those to stand before it
    meanings: dict[str, str] = {}
    todo = [(module, name) for name in names]
    while todo:
        place, name = todo.pop()
        source = sources[place] = sources.get(place) or Source.of(place)
        origin, alias = source.imports.get(name, (place, None))
        if alias is None and (name not in source.definitions or name in taken[place]):
            continue  # a local variable, a builtin, or done
        if meanings.setdefault(name, origin) != origin:
            raise BundleError(f"{place}: {name} is of {origin}, elsewhere of {meanings[name]}")
        if alias is None:
            taken[place].add(name)
            todo += [(place, own) for own in _mentioned(place, source.definitions[name])]
        elif _is_ours(origin):
            if alias.asname:
                raise BundleError(f"{place}: imports {alias.name} as {alias.asname}")
            needs.setdefault(place, set()).add(origin)
            todo.append((origin, name))
        else:
            foreign[origin].add(f"{alias.name} as {alias.asname}" if alias.asname else alias.name)
    order = [place for place in TopologicalSorter(needs).static_order() if place in sources]
    parts = [text for place in order for text in sources[place].copy(taken[place])]
    imports = [f"import {name}" for name in sorted(foreign.pop("", ()))]
    imports += [f"from {m} import {', '.join(sorted(own))}" for m, own in sorted(foreign.items())]
    top = f'"""{head}"""\n\nfrom __future__ import annotations\n'
    return "\n\n\n".join(["\n".join([top, *imports]), *parts]) + "\n"


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == OUR_PACKAGE


def _defined(statement: ast.stmt) -> set[str]:
    """Names that a statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {t.id for t in statement.targets if isinstance(t, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    return set()


def _mentioned(place: str, definition: ast.stmt) -> set[str]:
    """Names in a definition."""
    for node in ast.walk(definition):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            if any(map(_is_ours, modules)):
                raise BundleError(f"{place}: line {node.lineno} imports ours inside a function")
    return {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}

"""Parts that other distributions add by name: tables of ours that entry points continue.

A distribution offers a part with::

    [project.entry-points."myna_plugin.tasks"]
    my-task = "my_package.tasks:MY_TASK"

Its name is listed at once; its code is imported when the part is asked for. Ours win: a name that
is built in cannot be taken.

Source: the plug-in groups of lm-evaluation-harness, and PyPA's "Entry points specification".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from myna_plugin.common.errors import InputError, one_line

Part = TypeVar("Part")


class PluginTable(Mapping[str, Part]):
    """Built-in parts by name, continued by those of an entry-point group.

    Iterating gives the built-in names in their order, then the added ones sorted, and imports
    nothing; looking a name up imports that part alone.

    >>> table = PluginTable("myna_plugin.examples", int, {"one": 1})
    >>> list(table), table["one"], "two" in table
    (['one'], 1, False)
    """

    def __init__(
        self,
        group: str,
        kind: type[Part],
        built_in: Mapping[str, Part],
        error: type[Exception] = InputError,
    ) -> None:
        """Continue a table.

        Args:
            group: name of the entry-point group.
            kind: what every part must be an instance of.
            built_in: the parts that cannot be replaced.
            error: raised where an added part cannot be used.
        """
        self.group = group
        self.kind = kind
        self.built_in = dict(built_in)
        self.error = error
        self._loaded: dict[str, Part] = {}

    def __getitem__(self, name: str) -> Part:
        """The part of that name.

        Raises:
            KeyError: no part has it.
            Exception: `error`, if its distribution's code fails or gives something else.
        """
        if name in self.built_in:
            return self.built_in[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(self._added[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self._added

    def __len__(self) -> int:
        return len(self.built_in) + len(self._added)

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._added

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        """The group's entries by name, sorted; of two of a name the first by distribution."""
        entries = sorted(entry_points(group=self.group), key=_origin, reverse=True)
        added = {entry.name: entry for entry in entries if entry.name not in self.built_in}
        return dict(sorted(added.items()))

    def _load(self, entry: EntryPoint) -> Part:
        place = f"{self.group}: {entry.name} = {entry.value}"
        try:
            part = entry.load()
        except Exception as error:  # somebody's code, which may fail in any way
            raise self.error(f"{place} cannot be imported ({one_line(error)})") from error
        if not isinstance(part, self.kind):
            raise self.error(
                f"{place} is of type {type(part).__name__}; a {self.kind.__name__} is needed"
            )
        if getattr(part, "name", entry.name) != entry.name:
            raise self.error(f"{place} calls itself {part.name!r}; the two names must agree")  # type: ignore[attr-defined]
        return part


def _origin(entry: EntryPoint) -> tuple[str, str]:
    return entry.dist.name if entry.dist is not None else "", entry.value

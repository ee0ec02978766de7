"""HEAR modules by name: the entry-point group `hear.models`, read without importing any of them.

A distribution offers its module under a name with::

    [project.entry-points."hear.models"]
    my-model = "my_package.hear"

Ours win: no other distribution can take a name that myna-plugin registers, nor stand in for an
import path inside `myna_plugin`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import importlib_metadata

from myna_plugin.common.errors import InputError, one_line

GROUP = "hear.models"
OUR_DISTRIBUTION = "myna-plugin"
OUR_PACKAGE = "myna_plugin"


@dataclass(frozen=True)
class HearModel:
    """A HEAR module that an installed distribution offers, or that the user named.

    Attributes:
        name: entry-point name, or the import path where the user gave one.
        module: import path of the module with the three HEAR functions.
        distribution: the distribution that it belongs to; None if it belongs to none.
        version: the distribution's version.
        fault: why it cannot be used; None if its module is there to be imported.
    """

    name: str
    module: str
    distribution: str | None
    version: str | None
    fault: str | None = None


def list_models() -> list[HearModel]:
    """Every registered module: ours first, then by name and distribution.

    Nothing is imported. What cannot work (no such module, a value that is no import path, a name
    already taken, unreadable metadata) is listed with its fault.
    """
    models: list[HearModel] = []
    seen: set[str] = set()
    for distribution in importlib_metadata.distributions():
        found = _read_entries(distribution)
        owner = found[0].distribution if found else None
        if owner is not None and owner not in seen:  # else a copy, hidden behind the first
            seen.add(owner)
            models += found
    models.sort(key=lambda model: (not _is_ours(model), model.name, model.distribution or ""))
    return list(_mark_taken(models))


def resolve(name: str, models: Sequence[HearModel]) -> HearModel:
    """The module that a user means: ours by import path, a registered name, or an import path.

    Args:
        name: what the user typed.
        models: as from `list_models`.

    Raises:
        InputError: nothing has that name, or what has it cannot be used.
    """
    is_our_path = name == OUR_PACKAGE or name.startswith(f"{OUR_PACKAGE}.")
    registered = [model for model in models if model.name == name]
    if registered and not is_our_path:
        return _usable(registered[0])
    fault = find_fault(name)
    if fault:
        known = ", ".join(sorted({model.name for model in models if not model.fault})) or "none"
        raise InputError(
            f"unknown module {name}: {fault}, and no installed package registers that name "
            f"(registered: {known}); install it, or run this in the folder that holds it"
        )
    distribution = _distribution_of(name)
    version = importlib_metadata.version(distribution) if distribution else None
    return HearModel(name, name, distribution, version)


def describe_needs(model: HearModel) -> str:
    """What a module of ours says, by its `CARD`, that it lacks here; "" for any other's.

    Others' modules are not imported.
    """
    if not _is_ours(model):
        return ""
    card = getattr(importlib.import_module(model.module), "CARD", None)
    return card.needs() if card is not None else ""


def find_fault(module: str) -> str | None:
    """Why `module` cannot be imported, as far as can be told without importing anything.

    >>> find_fault("myna_plugin.common.registry") is None
    True
    >>> find_fault("no_such_package.hear")
    'there is no module no_such_package'
    >>> find_fault("json.decoder.hear")
    'there is no module json.decoder.hear'
    >>> find_fault("my model")
    "'my model' is not an import path"
    """
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        return f"{module!r} is not an import path"
    folders: list[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        prefix = ".".join(parts[:depth])
        try:
            spec = _find_spec(prefix, folders)
        except (ImportError, ValueError) as error:  # another package's broken import hook
            return one_line(error)
        if spec is None:
            return f"there is no module {prefix}"
        folders = list(spec.submodule_search_locations or [])
    return None


def _find_spec(module: str, folders: list[str] | None) -> ModuleSpec | None:
    if folders is None:
        return importlib.util.find_spec(module)
    portions: list[str] = []
    for folder in folders:  # importlib.util.find_spec("a.b") would import a
        finder = pkgutil.get_importer(folder)
        spec = finder.find_spec(module) if finder else None
        if spec is not None and spec.loader is not None:
            return spec
        if spec is not None:  # a namespace's portion here; a later folder may hold the module
            portions += spec.submodule_search_locations or []
    if not portions:
        return None
    namespace = ModuleSpec(module, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def _identify(distribution: Any) -> tuple[str, str | None]:
    try:
        return distribution.metadata["Name"], distribution.version
    except Exception:  # noqa: BLE001 somebody's metadata; each release fails in its own way
        return str(getattr(distribution, "_path", "an unnamed distribution")), None


def _read_entries(distribution: Any) -> list[HearModel]:
    try:
        entries = list(distribution.entry_points.select(group=GROUP))
    except Exception as error:  # noqa: BLE001 somebody's metadata; reported, never fatal
        fault = f"its entry_points.txt cannot be read ({one_line(error)})"
        return [HearModel("?", "?", *_identify(distribution), fault)]
    return [_read_entry(entry, *_identify(distribution)) for entry in entries]


def _read_entry(
    entry: importlib_metadata.EntryPoint, distribution: str, version: str | None
) -> HearModel:
    # "package:module" is the same module as "package.module": heareval imports by path
    module = re.sub(r"\s*(\[.*\])?\s*$", "", entry.value).replace(":", ".")
    fault = find_fault(module) if entry.name else "it has no name"
    return HearModel(entry.name or "?", module, distribution, version, fault)


def _is_ours(model: HearModel) -> bool:
    return re.sub(r"[-_.]+", "-", model.distribution or "").lower() == OUR_DISTRIBUTION


def _mark_taken(models: Sequence[HearModel]) -> Iterator[HearModel]:
    owners: dict[str, HearModel] = {}
    for model in models:
        owner = owners.setdefault(model.name, model)
        if owner is not model and not model.fault:
            model = replace(model, fault=f"{owner.distribution} already has this name")
        yield model


def _usable(model: HearModel) -> HearModel:
    if model.fault:
        raise InputError(
            f"{model.name}, registered by {model.distribution} {model.version}, cannot be used: "
            f"{model.fault}; reinstall {model.distribution}"
        )
    return model


def _distribution_of(module: str) -> str | None:
    names = _distributions(tuple(sys.path)).get(module.partition(".")[0], [])
    return names[0] if names else None


@functools.lru_cache(maxsize=1)
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Distributions of each top-level module on `sys.path`; reading them takes about a second."""
    return importlib_metadata.packages_distributions()


def locate_package(module: ModuleType) -> Path:
    """The folder of the module's top-level package, or the module's file where it is in none."""
    top = sys.modules[module.__name__.partition(".")[0]]
    file = Path(top.__file__ or "") if getattr(top, "__file__", None) else None
    if file is None:  # a namespace package: shared by distributions, so take the module itself
        file = Path(str(module.__file__))
    return file.parent if file.name == "__init__.py" else file


def positive_int(module: str, model: Any, attribute: str) -> int:
    """What a HEAR model says of itself, such as its `sample_rate`.

    Raises:
        InputError: it says no positive int.
    """
    value = getattr(model, attribute, None)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(
            f"{module}: the model's {attribute} is {value!r}; the HEAR API asks for a positive int"
        )
    return value

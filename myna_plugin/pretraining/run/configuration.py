"""Settings from YAML files and from `key=value` arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from myna_plugin.common.files import parse_yaml, read_text
from myna_plugin.pretraining.run.settings import PretrainSettings, SettingsError


def read_yaml(path: Path) -> dict[str, object]:
    """The top level of a YAML file by name; InputError if it cannot be read as that."""
    content = parse_yaml(read_text(path), path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: holds a {type(content).__name__}, not `name: value` lines")
    return content


def read_changes(changes: Sequence[str]) -> dict[str, object]:
    """Settings by name from `key=value` arguments, values as YAML reads them.

    >>> read_changes(["mask_ratio=0.8", "patchings=[square]"])
    {'mask_ratio': 0.8, 'patchings': ['square']}
    """
    read: dict[str, object] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise SettingsError(f"{change}: settings are given as key=value")
        read[key] = parse_yaml(text, f"{key}: {text!r}")
    return read


def apply_file(
    settings: PretrainSettings, path: Path, changes: Mapping[str, object]
) -> PretrainSettings:
    """Settings changed by what stands in a file; its name comes first in an error."""
    try:
        return settings.with_changes(changes)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def to_yaml(settings: PretrainSettings) -> str:
    """All settings as YAML that --config takes."""
    return yaml.safe_dump(settings.to_mapping(), sort_keys=False, default_flow_style=None)

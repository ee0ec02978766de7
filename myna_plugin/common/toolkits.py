"""Import a toolkit on use, saying what to install where it is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from myna_plugin.common.errors import MissingPackageError
from myna_plugin.common.torchaudio_bridge import load_torchaudio


def import_toolkit(module: str, install: str, purpose: str) -> ModuleType:
    """Import somebody else's module.

    Several toolkits import torchaudio wherever it is installed, and fail with it beside a torch
    of another build; so it is made importable first.

    Args:
        module: import path.
        install: what `pip install` is to be given.
        purpose: what needs it, the subject of the message.

    Raises:
        MissingPackageError: the module, or one that it needs, is not installed.

    >>> import_toolkit("no_such_toolkit", "no-such-toolkit", "this example")
    Traceback (most recent call last):
    myna_plugin...MissingPackageError: this example needs no_such_toolkit: pip install ...
    """
    load_torchaudio()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise MissingPackageError(f"{purpose} needs {missing}: pip install {install}") from error

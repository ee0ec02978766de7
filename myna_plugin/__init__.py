"""Myna music representations: HEAR module, pre-training recipes and MIR probe tasks."""

from myna_plugin._version import __version__

__all__ = ["__version__"]

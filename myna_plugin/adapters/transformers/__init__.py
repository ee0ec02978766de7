"""Hugging Face transformers: a folder for its Auto classes, which needs nothing of this package."""

from myna_plugin.common.toolkits import import_toolkit

# First of all: it makes torchaudio importable, which transformers imports where it is installed.
import_toolkit("transformers", "'myna-plugin[transformers]'", "myna_plugin.adapters.transformers")

"""What pytest must not import where it cannot be."""

import importlib.util

collect_ignore = []
if importlib.util.find_spec("triton") is None:
    # Its docstrings' examples need no Triton, but importing it does.
    collect_ignore.append("myna_plugin/pretraining/kernels.py")

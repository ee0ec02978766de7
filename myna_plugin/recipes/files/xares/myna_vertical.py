"""X-ARES with a chosen model. In the folder of this file, with X-ARES installed:

    python -m xares.run --max-jobs 0 myna_vertical.py tasks/gtzan_task.py

Change the arguments below for another model. X-ARES keeps its results under the class's name, so
give each model a name of its own, ending in "Encoder", and have one such name in the file.
"""

from myna_plugin.adapters import xares


class MynaVerticalEncoder(xares.MynaEncoder):
    """The published vertical model."""

    def __init__(self) -> None:
        super().__init__("myna-vertical", embedding="vertical", hop_ms=50)
